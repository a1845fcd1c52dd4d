/* What this processor and operating system offer (cpuid checked with XGETBV; getauxval on AArch64). */
#ifndef FP_CORE_CPU_H
#define FP_CORE_CPU_H
#include <stdbool.h>
#include <stddef.h>

typedef struct fp__cpu {
    bool avx2;     /* AVX2 + FMA + F16C + BMI2, OS saves YMM */
    bool avx512;   /* F + BW + DQ + VL + VNNI, OS saves ZMM */
    bool sha;      /* SHA extensions */
    bool neon_dot; /* AArch64 with dot product */
    size_t cores;  /* usable by this process (affinity) */
    char name[64]; /* brand string or "unknown" */
} fp__cpu;
const fp__cpu *fp__cpu_get(void); /* detected once; thread-safe */
#endif
