/* Answers and counts of fault injection (bench_faults.h). */
#include "engine/bench_faults.h"
#include <stddef.h>

void fp__answer_free(fp__fault_answer *a)
{
    fp__buf_free(&a->ids);
    fp__buf_free(&a->text);
    fp__buf_free(&a->masses);
    fp__buf_free(&a->given);
    *a = (fp__fault_answer){0};
}

static bool same_bytes(const fp__buf *a, const fp__buf *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

bool fp__answer_equal(const fp__fault_answer *a, const fp__fault_answer *b)
{
    return same_bytes(&a->ids, &b->ids) && same_bytes(&a->text, &b->text) &&
           same_bytes(&a->masses, &b->masses) && same_bytes(&a->given, &b->given) &&
           memcmp(a->head, b->head, 32) == 0 && a->finish == b->finish;
}

fp_status fp__answer_read(fp_session *s, fp__fault_answer *a)
{
    fp_result r;
    fp_session_result(s, &r);
    a->finish = r.finish;
    FP_TRY(fp__buf_append(&a->ids, r.ids, r.n_ids * sizeof *r.ids));
    FP_TRY(fp__buf_append(&a->text, r.text, r.text_size));
    FP_TRY(fp__buf_append(&a->masses, r.mass, r.layers * r.heads * sizeof *r.mass));
    return fp_session_kv_head(s, a->head);
}

void fp__fault_counts_add(fp_fault_counts *to, const fp_fault_counts *one)
{
    const uint64_t *from = (const uint64_t *)(const void *)one;
    uint64_t *sum = (uint64_t *)(void *)to;
    for (size_t i = 0; i < offsetof(fp_fault_counts, detect_ms_max) / sizeof(uint64_t); i++)
        sum[i] += from[i];
    to->detect_ms_max = one->detect_ms_max > to->detect_ms_max ? one->detect_ms_max : to->detect_ms_max;
    to->detect_ms_mean += one->detect_ms_mean; /* a sum until the end */
    if (one->window_share_max > to->window_share_max)
        to->window_share_max = one->window_share_max;
    if (one->rollback_ms_max > to->rollback_ms_max)
        to->rollback_ms_max = one->rollback_ms_max;
}

void fp__fault_counts_finish(fp_fault_counts *c)
{
    uint64_t n = c->corrected + c->retractions > 0 ? c->corrected : 0;
    c->detect_ms_mean = n > 0 ? c->detect_ms_mean / (double)n : 0;
}
