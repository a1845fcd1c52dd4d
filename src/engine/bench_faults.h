/* What fault injection (bench_faults.c) compares and counts. */
#ifndef FP_ENGINE_BENCH_FAULTS_H
#define FP_ENGINE_BENCH_FAULTS_H
#include "engine/engine.h"
#include "fieldprint/faults.h"

/* All that an answer is. */
typedef struct fp__fault_answer {
    fp__buf ids, text, masses, given; /* given: what on_text got, without what was taken back */
    uint8_t head[32];
    fp_finish finish;
} fp__fault_answer;

void fp__answer_free(fp__fault_answer *a);
bool fp__answer_equal(const fp__fault_answer *a, const fp__fault_answer *b);
/* Appends what the session has to an empty answer; `given` is the caller's. */
fp_status fp__answer_read(fp_session *s, fp__fault_answer *a) FP_WARN_UNUSED;
/* Means are sums until the end. */
void fp__fault_counts_add(fp_fault_counts *to, const fp_fault_counts *one);
void fp__fault_counts_finish(fp_fault_counts *c);
#endif
