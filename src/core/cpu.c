#include "core/cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static fp__cpu machine;
static pthread_once_t machine_once = PTHREAD_ONCE_INIT;

static size_t count_cores(void)
{
    /* The kernel refuses a mask smaller than its own; machines with more than 1,024 processors exist. */
    for (size_t limit = 1024; limit <= (size_t)1 << 20; limit *= 2) {
        cpu_set_t *set = CPU_ALLOC(limit);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(limit);
        int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0)
            return (size_t)count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

#if defined(__x86_64__)
static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has(uint32_t reg, unsigned bit)
{
    return reg >> bit & 1;
}

static void read_brand(char name[64])
{
    uint32_t regs[12];
    for (unsigned i = 0; i < 3; i++) {
        if (!__get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2], &regs[4 * i + 3]))
            return;
    }
    char brand[sizeof regs + 1] = {0};
    memcpy(brand, regs, sizeof regs);
    const char *text = brand + strspn(brand, " ");
    size_t size = strlen(text);
    while (size > 0 && text[size - 1] == ' ')
        size--;
    if (size > 0) {
        memcpy(name, text, size);
        name[size] = 0;
    }
}

/* Bits: Intel SDM vol. 2A, CPUID leaves 1 and 7; XCR0: vol. 1 §13.3. */
static void detect(fp__cpu *cpu)
{
    read_brand(cpu->name);
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return;
    bool fma = has(c, 12), osxsave = has(c, 27), avx = has(c, 28), f16c = has(c, 29), ssse3 = has(c, 9);
    uint64_t saved = osxsave ? read_xcr0() : 0;
    bool os_ymm = (saved & 0x06) == 0x06, os_zmm = (saved & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    cpu->sha = has(b, 29) && ssse3;
    cpu->avx2 = os_ymm && avx && fma && f16c && has(b, 5) && has(b, 8);
    cpu->avx512 = os_zmm && cpu->avx2 && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31) && has(c, 11);
}
#elif defined(__aarch64__)
static void detect(fp__cpu *cpu)
{
    unsigned long caps = getauxval(AT_HWCAP);
    cpu->neon_dot = (caps & HWCAP_ASIMD) && (caps & HWCAP_ASIMDDP);
    cpu->sha = caps & HWCAP_SHA2;
}
#else
static void detect(fp__cpu *cpu)
{
    (void)cpu;
}
#endif

static void detect_once(void)
{
    strcpy(machine.name, "unknown");
    machine.cores = count_cores();
    detect(&machine);
}

const fp__cpu *fp__cpu_get(void)
{
    pthread_once(&machine_once, detect_once);
    return &machine;
}
