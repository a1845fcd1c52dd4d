/* Anchor sets: compiled once into pages, loaded only after the gate said yes and the bytes are what the log
 * names. */
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- tokens
 * ------------------------------------------------------------------------------------------------------------
 */

/* The tokens of an anchor: the model's own template rendered for a system message that holds the document. A
 * base model without a template takes the plain text and a newline. */
static fp_status tokenize_document(const fp_model *model, const uint8_t *document, size_t size, bool first,
                                   fp__ids *out)
{
    size_t bad;
    if (!fp__utf8_valid(document, size, &bad))
        return fp__fail(FP_TEXT, "anchor document: byte %zu is not UTF-8", bad);
    if (model->chat) {
        fp__chat_message message = {FP__ROLE_SYSTEM, (const char *)document, size};
        return fp__chat_tokenize(model->tokenizer, model->chat, &message, 1, first ? 0 : FP__CHAT_CONTINUE,
                                 out, NULL);
    }
    fp__buf text = {0};
    fp_status status = fp__buf_append(&text, document, size);
    if (status == FP_OK)
        status = fp__buf_append_text(&text, "\n");
    if (status == FP_OK)
        status = fp__tokenizer_encode(model->tokenizer, (const char *)text.data, text.size,
                                      first ? FP__TOKENIZE_ADD : FP__TOKENIZE_CONTINUE, out);
    fp__buf_free(&text);
    return status;
}

fp_status fp__anchors_tokenize(const fp_model *model, fp_workspace *workspace, const uint8_t (*ids)[32],
                               size_t n, fp__ids *out, size_t *counts)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t *document;
        size_t size, before = out->size;
        FP_TRY(fp_anchor_document(workspace, ids[i], &document, &size));
        fp_status status = tokenize_document(model, document, size, i == 0, out);
        fp_bytes_free(document);
        FP_TRY(status);
        counts[i] = out->size - before;
        if (counts[i] == 0)
            return fp__fail(FP_USAGE, "anchor %zu of the set has no tokens", i);
    }
    return FP_OK;
}

fp_status fp__anchors_prefill(fp_engine *e, const fp__ids *ids, const size_t *counts, const fp_label *labels,
                              size_t n, fp__kvseq **out)
{
    fp__kvseq_options options = {
        .segment = FP__SEGMENT_ANCHOR, .max_tokens = ids->size, .max_anchors = n, .label = FP_LABEL_CORE};
    fp__kvseq *seq;
    FP_TRY(fp__kvseq_create(e->pool, e->hasher, &options, &seq));
    fp_status status = FP_OK;
    size_t at = 0;
    for (size_t i = 0; i < n && status == FP_OK; i++) {
        status = fp__kvseq_start_anchor(seq);
        size_t end = at + counts[i];
        while (at < end && status == FP_OK) {
            size_t step = end - at < e->chunk_tokens ? end - at : e->chunk_tokens;
            fp__feed feed = {.seq = seq, .ids = ids->data + at, .n = step, .label = labels[i]};
            status = fp__engine_cancelled(e) ? fp__fail(FP_CANCELLED, "interrupted")
                                             : fp__engine_feed(e, &feed, 1);
            at += step;
            fp__engine_progress(e, (double)at / (double)ids->size);
        }
    }
    if (status != FP_OK) {
        fp__kvseq_destroy(seq);
        return status;
    }
    *out = seq;
    return FP_OK;
}

/* ---- compile
 * -----------------------------------------------------------------------------------------------------------
 */

static fp_status set_labels(fp_workspace *workspace, const uint8_t (*ids)[32], size_t n, fp_label *labels)
{
    for (size_t i = 0; i < n; i++) {
        fp_anchor_row row;
        FP_TRY(fp_anchor_show(workspace, ids[i], &row, NULL));
        labels[i] = row.type;
    }
    return FP_OK;
}

static fp_status write_artifact(fp_engine *e, fp_workspace *workspace, const fp_gate_result *gate,
                                fp__kvseq *seq)
{
    char path[4096];
    fp__artifact_info info = {0};
    memcpy(info.subject, gate->set_id, 32);
    FP_TRY(fp_workspace_artifact_path(workspace, gate->set_id, e->model->digest, path, sizeof path));
    return fp__artifact_write(path, seq, &info, NULL, 0);
}

static fp_status compile(fp_engine *e, fp_workspace *workspace, const uint8_t (*ids)[32], size_t n,
                         fp__kvseq **seq_out, fp_event_receipt *event, uint8_t head[32])
{
    fp_gate_query query = {.anchor_ids = ids,
                           .anchors = n,
                           .model_digest = e->model->digest,
                           .arithmetic_version = FP__ARITHMETIC_VERSION,
                           .for_compile = true};
    fp_gate_result gate;
    fp_workspace_info info;
    FP_TRY(fp_gate_check(workspace, &query, &gate));
    FP_TRY(fp_workspace_get_info(workspace, &info));
    fp__ids tokens = {0};
    size_t *counts = calloc(n, sizeof *counts);
    fp_label *labels = calloc(n, sizeof *labels);
    fp_status status = counts && labels ? FP_OK : fp__fail(FP_NO_MEMORY, "anchors: no memory");
    if (status == FP_OK)
        status = fp__anchors_tokenize(e->model, workspace, ids, n, &tokens, counts);
    if (status == FP_OK && tokens.size > info.max_set_tokens)
        status = fp__fail(
            FP_LIMIT,
            "the set has %zu tokens, and the policy allows %u; shorten the documents or change the policy",
            tokens.size, info.max_set_tokens);
    if (status == FP_OK)
        status = set_labels(workspace, ids, n, labels);
    if (status == FP_OK)
        status = fp__anchors_prefill(e, &tokens, counts, labels, n, seq_out);
    if (status == FP_OK)
        status = fp__kvseq_head(*seq_out, head);
    if (status == FP_OK)
        status = write_artifact(e, workspace, &gate, *seq_out);
    if (status == FP_OK) {
        fp_compile_record record = {.anchor_ids = ids,
                                    .anchors = n,
                                    .arithmetic_version = FP__ARITHMETIC_VERSION,
                                    .token_ids = tokens.data,
                                    .tokens = (uint32_t)tokens.size,
                                    .pages = (uint32_t)fp__kvseq_pages(*seq_out)};
        memcpy(record.model_digest, e->model->digest, 32);
        memcpy(record.kv_head, head, 32);
        status = fp_anchor_record_compile(workspace, &record, event);
    }
    fp__ids_free(&tokens);
    free(counts);
    free(labels);
    return status;
}

fp_status fp_anchors_compile(fp_engine *e, fp_workspace *workspace, const uint8_t (*ids)[32], size_t n,
                             fp_event_receipt *event, uint8_t kv_head[32], uint32_t *tokens, uint32_t *pages)
{
    fp__kvseq *seq = NULL;
    fp_event_receipt ignored;
    uint8_t head[32];
    fp_status status = compile(e, workspace, ids, n, &seq, event ? event : &ignored, head);
    if (status == FP_OK) {
        if (kv_head)
            memcpy(kv_head, head, 32);
        if (tokens)
            *tokens = (uint32_t)fp__kvseq_tokens(seq);
        if (pages)
            *pages = (uint32_t)fp__kvseq_pages(seq);
    }
    fp__kvseq_destroy(seq);
    return status;
}

/* ---- load
 * ----------------------------------------------------------------------------------------------------------------
 */

static fp_status load_pages(fp_anchors *a)
{
    fp_engine *e = a->engine;
    fp__artifact *artifact;
    fp_status status = fp__artifact_open(a->path, &artifact);
    if (status == FP_NOT_FOUND)
        return fp__fail_context(status,
                                "the artifact of the set is missing; compile it: fieldprint anchor compile");
    FP_TRY(status);
    fp__artifact_expect expect = {.kind = FP__ARTIFACT_ANCHORS,
                                  .kv_head = a->gate.kv_head,
                                  .subject = a->gate.set_id,
                                  .max_tokens = a->gate.tokens};
    status = fp__artifact_load(artifact, &expect, e->pool, e->hasher, &a->seq);
    fp__artifact_close(artifact);
    if (status == FP_MISMATCH)
        return fp__fail_context(status, "root-mismatch: %s", fp_gate_reason_remedy(FP_GATE_ROOT_MISMATCH));
    return status;
}

static fp_status recompile(fp_anchors *a)
{
    fp_engine *e = a->engine;
    fp__ids tokens = {0};
    size_t *counts = calloc(a->n, sizeof *counts);
    fp_label *labels = calloc(a->n, sizeof *labels);
    const uint8_t(*ids)[32] = (const uint8_t(*)[32])a->ids;
    uint8_t head[32];
    fp_status status = counts && labels ? FP_OK : fp__fail(FP_NO_MEMORY, "anchors: no memory");
    if (status == FP_OK && !a->workspace)
        status = fp__fail(FP_NOT_FOUND, "anchors: their documents are not at hand");
    if (status == FP_OK)
        status = fp__anchors_tokenize(e->model, a->workspace, ids, a->n, &tokens, counts);
    if (status == FP_OK)
        status = set_labels(a->workspace, ids, a->n, labels);
    if (status == FP_OK)
        status = fp__anchors_prefill(e, &tokens, counts, labels, a->n, &a->seq);
    if (status == FP_OK)
        status = fp__kvseq_head(a->seq, head);
    if (status == FP_OK && memcmp(head, a->gate.kv_head, 32) != 0) {
        fp__kvseq_destroy(a->seq);
        a->seq = NULL;
        status = fp__fail(FP_MISMATCH, "the anchors compile to another K/V head than the logged one");
    }
    fp__ids_free(&tokens);
    free(counts);
    free(labels);
    return status;
}

fp_status fp__anchors_reload(fp_anchors *a, bool compile_anew)
{
    fp__kvseq *old = a->seq;
    a->seq = NULL;
    fp_status status = compile_anew ? recompile(a) : load_pages(a);
    if (status == FP_OK)
        fp__kvseq_destroy(old);
    else
        a->seq = old; /* nothing attends to it: its sessions end, or the next try replaces it */
    return status;
}

static fp_status load(fp_anchors *a, fp_workspace *workspace, const uint8_t (*ids)[32], size_t n,
                      const fp_anchors_options *o, fp_gate_result *gate)
{
    const fp__hparams *hp = &a->engine->model->hp;
    uint64_t start = fp__now_ns();
    fp_gate_query query = {.anchor_ids = ids,
                           .anchors = n,
                           .model_digest = a->engine->model->digest,
                           .arithmetic_version = FP__ARITHMETIC_VERSION,
                           .reader = o->reader,
                           .gamma = o->gamma,
                           .now = o->now};
    fp_status status = fp_gate_check(workspace, &query, &a->gate);
    if (gate)
        *gate = a->gate;
    FP_TRY(status);
    a->n = n;
    a->now = a->gate;
    a->asked_epoch = workspace->inputs_epoch;
    a->watched = o->watch ? workspace : NULL;
    a->has_reader = o->reader != NULL;
    snprintf(a->reader, sizeof a->reader, "%s", o->reader ? o->reader : "");
    a->raised = o->gamma;
    a->ids = calloc(n, sizeof *a->ids);
    a->g = calloc(hp->layers * hp->heads, sizeof *a->g);
    if (!a->ids || !a->g)
        return fp__fail(FP_NO_MEMORY, "anchors: no memory");
    memcpy(a->ids, ids, n * sizeof *a->ids);
    FP_TRY(fp_injection_resolve(&a->gate.injection, hp->layers, hp->heads, a->g));
    a->workspace = workspace;
    if (!o->artifact_path)
        FP_TRY(fp_workspace_artifact_path(workspace, a->gate.set_id, a->engine->model->digest, a->path,
                                          sizeof a->path));
    else if (snprintf(a->path, sizeof a->path, "%s", o->artifact_path) >= (int)sizeof a->path)
        return fp__fail(FP_LIMIT, "anchors: the artifact's path is too long");
    FP_TRY(load_pages(a));
    a->load_ns = fp__now_ns() - start;
    return FP_OK;
}

fp_status fp_anchors_load(fp_engine *engine, fp_workspace *workspace, const uint8_t (*ids)[32], size_t n,
                          const fp_anchors_options *options, fp_anchors **out, fp_gate_result *gate)
{
    static const fp_anchors_options defaults;
    fp_anchors *a = calloc(1, sizeof *a);
    if (!a)
        return fp__fail(FP_NO_MEMORY, "anchors: no memory");
    a->engine = engine;
    fp_status status = load(a, workspace, ids, n, options ? options : &defaults, gate);
    if (status != FP_OK) {
        fp_anchors_release(a);
        return status;
    }
    *out = a;
    return FP_OK;
}

void fp_anchors_release(fp_anchors *a)
{
    if (!a)
        return;
    fp__validation_void(a->engine); /* nothing looks at its pages any more */
    fp__kvseq_destroy(a->seq);
    free(a->ids);
    free(a->g);
    free(a);
}

uint32_t fp_anchors_tokens(const fp_anchors *a)
{
    return (uint32_t)fp__kvseq_tokens(a->seq);
}

uint32_t fp_anchors_pages(const fp_anchors *a)
{
    return (uint32_t)fp__kvseq_pages(a->seq);
}
