/* What the measurements share: random slabs, summaries of times, the machine's own copy rate. */
#include "engine/bench.h"
#include "core/cpu.h"
#include "engine/engine.h"
#include "model/device.h"
#include <stdio.h>
#include <stdlib.h>

uint64_t fp__bench_random(uint64_t *state) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void fp__bench_summary(double *us, uint32_t n, fp_bench_times *out)
{
    qsort(us, n, sizeof *us, ascending);
    *out = (fp_bench_times){n, n % 2 ? us[n / 2] : (us[n / 2 - 1] + us[n / 2]) / 2, us[0]};
}

void fp__bench_spread_of(double *us, size_t n, fp_bench_spread *out)
{
    qsort(us, n, sizeof *us, ascending);
    *out = (fp_bench_spread){(uint32_t)n, us[(n * 50 - 1) / 100], us[(n * 90 - 1) / 100],
                             us[(n * 99 - 1) / 100], us[n - 1]};
}

void fp__bench_fill_slabs(uint8_t *slabs, size_t n, size_t d, uint64_t *random)
{
    size_t bytes = fp__slab_bytes(d);
    for (size_t i = 0; i < n; i++) {
        uint8_t *slab = slabs + i * bytes;
        for (size_t j = 0; j < 128 * d; j += 8)
            fp__store_le64(slab + j, fp__bench_random(random));
        for (size_t t = 0; t < 128; t++)
            fp__store_le16(slab + 128 * d + 2 * t, (uint16_t)(0x3b80 + fp__bench_random(random) % 128));
    }
}

/* ---- the CPU's copy rate ---------------------------------------------------------------------------------
 */

enum { COPY_RUNS = 7 };
typedef struct copy_work {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
} copy_work;

static void copy_run(void *arg, size_t thread, size_t threads)
{
    copy_work *w = arg;
    size_t begin, end;
    fp__team_split(w->bytes, 4096, thread, threads, &begin, &end);
    memcpy(w->to + begin, w->from + begin, end - begin);
}

static fp_status cpu_copy_rate(fp__team *team, double *gb_s)
{
    size_t bytes = (size_t)192 << 20; /* far more than a last-level cache's share */
    copy_work w = {.to = fp__mem_alloc(bytes), .from = NULL, .bytes = bytes};
    uint8_t *from = fp__mem_alloc(bytes);
    fp_status status = w.to && from ? FP_OK : FP_NO_MEMORY;
    if (status == FP_OK) {
        double us[COPY_RUNS];
        fp_bench_times times;
        memset(from, 0x5a, bytes);
        w.from = from;
        fp__team_run(team, copy_run, &w);
        for (int i = 0; i < COPY_RUNS; i++) {
            uint64_t start = fp__now_ns();
            fp__team_run(team, copy_run, &w);
            us[i] = (double)(fp__now_ns() - start) / 1e3;
        }
        fp__bench_summary(us, COPY_RUNS, &times);
        *gb_s = 2 * (double)bytes / times.median_us / 1e3;
    }
    fp__mem_free(w.to, bytes);
    fp__mem_free(from, bytes);
    return status;
}

fp_status fp_bench_machine_get(const char *device, size_t threads, fp_bench_machine *out)
{
    *out = (fp_bench_machine){.device = "cpu"};
    const fp__kernel_ops *ops;
    fp__team *team;
    int gpu;
    FP_TRY(fp__device_parse(device, &gpu));
    if (gpu >= 0)
        return fp__bench_cuda_machine(gpu, out);
    FP_TRY(fp__kernel_ops_get(&ops));
    FP_TRY(fp__team_create(threads, &team));
    snprintf(out->name, sizeof out->name, "%s", fp__cpu_get()->name);
    snprintf(out->kernels, sizeof out->kernels, "%s", ops->name);
    out->units = (uint32_t)fp__team_threads(team);
    fp_status status = cpu_copy_rate(team, &out->copy_gb_s);
    fp__team_destroy(team);
    return status;
}
