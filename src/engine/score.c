/* Log-probabilities of given tokens: the same pages, steps and hashes as a conversation, nothing sampled. */
#include "engine/engine.h"
#include <stdlib.h>

typedef struct scored {
    fp__kvseq *seq;
    const uint32_t *ids;
    size_t n, span; /* span: tokens of it in the step in progress */
    double *out;
} scored;

/* Logits of row `row` predict ids[position + 1]. */
static fp_status take_rows(fp_engine *e, fp__sampler *sampler, scored *batch, size_t n, size_t first)
{
    size_t base = 0;
    for (size_t s = 0; s < n; base += batch[s].span, s++) {
        size_t done = fp__kvseq_tokens(batch[s].seq) - batch[s].span; /* before this step */
        for (size_t i = 0; i < batch[s].span;) {
            size_t rows[FP__LOGIT_ROWS], position[FP__LOGIT_ROWS], k = 0;
            for (; i < batch[s].span && k < FP__LOGIT_ROWS; i++)
                if (done + i + 1 >= first && done + i + 1 < batch[s].n) {
                    rows[k] = base + i;
                    position[k++] = done + i + 1;
                }
            const float *logits;
            if (k == 0)
                continue;
            FP_TRY(fp__forward_logits(e->forward, rows, k, &logits));
            for (size_t r = 0; r < k; r++)
                FP_TRY(fp__sampler_logprob(sampler, logits + r * e->model->hp.vocabulary,
                                           batch[s].ids[position[r]], &batch[s].out[position[r] - first]));
        }
    }
    return FP_OK;
}

static fp_status score_batch(fp_engine *e, fp__sampler *sampler, scored *batch, size_t n, size_t first)
{
    if (n == 0)
        return FP_OK;
    size_t share = e->chunk_tokens / n > 0 ? e->chunk_tokens / n : 1;
    for (;;) {
        fp__feed feeds[64];
        size_t k = 0;
        for (size_t s = 0; s < n; s++) {
            size_t done = fp__kvseq_tokens(batch[s].seq), left = batch[s].n - done;
            batch[s].span = left < share ? left : share;
            if (left == 0)
                continue;
            feeds[k++] = (fp__feed){
                .seq = batch[s].seq, .ids = batch[s].ids + done, .n = batch[s].span, .label = FP_LABEL_USER};
        }
        if (k == 0)
            return FP_OK;
        if (fp__engine_cancelled(e))
            return fp__fail(FP_CANCELLED, "interrupted");
        FP_TRY(fp__engine_feed(e, feeds, k));
        FP_TRY(take_rows(e, sampler, batch, n, first));
    }
}

static fp_status score_some(fp_engine *e, fp__sampler *sampler, scored *batch, size_t n, size_t first,
                            uint8_t (*kv_heads)[32])
{
    fp_status status = FP_OK;
    for (size_t s = 0; s < n && status == FP_OK; s++) {
        fp__kvseq_options options = {
            .segment = FP__SEGMENT_CONTEXT, .max_tokens = batch[s].n, .label = FP_LABEL_CORE};
        status = fp__kvseq_create(e->pool, e->hasher, &options, &batch[s].seq);
    }
    if (status == FP_OK)
        status = score_batch(e, sampler, batch, n, first);
    for (size_t s = 0; s < n; s++) {
        if (status == FP_OK && kv_heads)
            status = fp__kvseq_head(batch[s].seq, kv_heads[s]);
        fp__kvseq_destroy(batch[s].seq);
        batch[s].seq = NULL;
    }
    return status;
}

fp_status fp_engine_score(fp_engine *e, const uint32_t *const *ids, const size_t *n, size_t sequences,
                          size_t first, double *const *out, uint8_t (*kv_heads)[32])
{
    scored batch[64] = {0};
    size_t at_once = e->max_sessions < 64 ? e->max_sessions : 64;
    fp__sampler *sampler;
    if (first == 0)
        return fp__fail(FP_USAGE, "score: the first token of a sequence has no probability");
    for (size_t s = 0; s < sequences; s++)
        if (n[s] > e->context_tokens)
            return fp__fail(FP_LIMIT, "score: %zu tokens, but the context is %zu; make it larger (--ctx)",
                            n[s], e->context_tokens);
    FP_TRY(fp__sampler_create(e->model->hp.vocabulary, e->model->ops->exp_weights, &sampler));
    fp_status status = FP_OK;
    for (size_t s = 0; s < sequences && status == FP_OK; s += at_once) {
        size_t k = sequences - s < at_once ? sequences - s : at_once;
        for (size_t i = 0; i < k; i++)
            batch[i] = (scored){.ids = ids[s + i], .n = n[s + i], .out = out[s + i]};
        status = score_some(e, sampler, batch, k, first, kv_heads ? kv_heads + s : NULL);
        fp__engine_progress(e, (double)(s + k) / (double)sequences);
    }
    fp__sampler_destroy(sampler);
    return status;
}
