/* The calls of a forward pass, on whatever computes it. */
#include "model/forward.h"

void fp__forward_destroy(fp__forward *f)
{
    if (f)
        f->ops->destroy(f);
}

fp_status fp__forward_step_logits(fp__forward *f, const fp__forward_span *spans, size_t n, const size_t *rows,
                                  size_t n_rows, const float **out, size_t *bad_span)
{
    FP_TRY(f->ops->step(f, spans, n, rows, n_rows, bad_span));
    return out ? f->ops->read_rows(f, 0, n_rows, out) : FP_OK;
}

fp_status fp__forward_step(fp__forward *f, const fp__forward_span *spans, size_t n, size_t *bad_span)
{
    return f->ops->step(f, spans, n, NULL, 0, bad_span);
}

fp_status fp__forward_logits(fp__forward *f, const size_t *rows, size_t n, const float **out)
{
    FP_TRY(f->ops->project_rows(f, rows, n));
    return out ? f->ops->read_rows(f, 0, n, out) : FP_OK;
}

fp_status fp__forward_row(fp__forward *f, size_t i, const float **out)
{
    return f->ops->read_rows(f, i, 1, out);
}

fp_status fp__forward_greedy(fp__forward *f, const uint32_t **out)
{
    *out = NULL;
    return f->ops->greedy ? f->ops->greedy(f, out) : FP_OK;
}
