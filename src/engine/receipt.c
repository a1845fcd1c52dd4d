/* Making a receipt of an answer, signing and logging it. */
#include "engine/receipt.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "fieldprint/audit.h"
#include <stdlib.h>
#include <time.h>

static fp_status fill_anchors(const fp_session *s, fp_workspace *w, fp__receipt *r)
{
    const fp_anchors *a = s->anchors;
    const fp__hparams *hp = &s->engine->model->hp;
    if (!a) {
        fp_gate_query none = {.anchors = 0};
        fp_gate_result
            gate; /* for the override in force; a policy that requires anchors is the audit's matter */
        fp_status status = fp_gate_check(w, &none, &gate);
        if (status != FP_OK && status != FP_DENIED)
            return status;
        memcpy(r->override_id, gate.override_id, 32);
        r->first_size = r->last_size;
        memcpy(r->first_root, r->last_root, 32);
        return FP_OK;
    }
    r->first_size = s->first.size;
    memcpy(r->first_root, s->first.root, 32);
    /* Of watched anchors: the last time that the gate was asked, so that a revocation logged since does not
     * seem to have been overlooked. */
    if (a->watched && memcmp(s->last.policy, r->policy, 32) == 0) {
        r->last_size = s->last.size;
        memcpy(r->last_root, s->last.root, 32);
    }
    r->anchors = a->n;
    memcpy(r->anchor_ids, a->ids, a->n * 32);
    memcpy(r->set_id, a->gate.set_id, 32);
    memcpy(r->anchor_kv_head, a->gate.kv_head, 32);
    memcpy(r->override_id, s->last.override_id, 32);
    r->compile_index = a->gate.compile_index;
    r->mode = a->gate.injection.mode;
    r->raised = a->raised;
    fp__receipt_injection(r->mode, a->g, hp->layers * hp->heads, r->injection);
    return fp__ledger_reader_tlog_proof(w->reader, r->compile_index, NULL, 0, &r->proof);
}

static fp_status fill(fp_session *s, fp_workspace *w, const fp__transcript *t, fp__receipt *r)
{
    fp_workspace_info info;
    FP_TRY(fp_workspace_get_info(w, &info));
    r->has_nonce = s->has_nonce;
    memcpy(r->nonce, s->nonce, 32);
    fp__receipt_tenant(s->tenant, r->tenant);
    memcpy(r->model, s->engine->model->digest, 32);
    r->arithmetic = FP__ARITHMETIC_VERSION;
    memcpy(r->policy, info.policy_digest, 32);
    snprintf(r->origin, sizeof r->origin, "%s", info.origin);
    r->last_size = info.tree_size;
    memcpy(r->last_root, info.tree_root, 32);
    FP_TRY(fill_anchors(s, w, r));
    r->sampling = s->answer.sampling;
    r->max_tokens = s->answer.max_tokens;
    r->ignore_eog = s->answer.ignore_eog;
    FP_TRY(fp__transcript_stops_digest(t, r->stops));
    const fp__turn *answer = &s->turns[s->answer.turn];
    r->anchor_tokens = fp__session_anchor_tokens(s);
    r->prompt_tokens = answer->first;
    r->output_tokens = answer->count;
    r->context_tokens = fp__kvseq_tokens(s->context);
    r->context_limit = s->engine->context_tokens;
    r->finish = s->answer.finish;
    r->label = answer->label;
    r->leaves = t->n;
    snprintf(r->engine, sizeof r->engine, "fieldprint %s (%s)", fp_version(),
             s->engine->gpu ? "cuda" : s->engine->model->ops->name);
    r->time = (uint64_t)time(NULL);
    return fp__transcript_root(t, r->root);
}

static fp_status write_files(fp_workspace *w, const fp__dsse *dsse, const fp__transcript *t,
                             char *receipt_path, char *transcript_path)
{
    char path[1024], text_path[1024];
    fp__buf bytes = {0};
    FP_TRY(fp_workspace_receipt_path(w, dsse->id, path, sizeof path));
    size_t stem = strlen(path) - strlen(".dsse.json");
    if (stem + sizeof ".transcript.json" > sizeof text_path)
        return fp__fail(FP_LIMIT, "receipt: the workspace's path is too long");
    snprintf(text_path, sizeof text_path, "%.*s.transcript.json", (int)stem, path);
    fp_status status = fp__transcript_write(t, &bytes);
    if (status == FP_OK)
        status = fp__file_write(text_path, bytes.data, bytes.size, 0600);
    bytes.size = 0;
    if (status == FP_OK)
        status = fp__dsse_write(dsse, &bytes);
    if (status == FP_OK)
        status = fp__file_write(path, bytes.data, bytes.size, 0644);
    fp__buf_free(&bytes);
    FP_TRY(status);
    if (receipt_path)
        snprintf(receipt_path, 1024, "%s", path);
    if (transcript_path)
        snprintf(transcript_path, 1024, "%s", text_path);
    return FP_OK;
}

fp_status fp_session_receipt(fp_session *s, fp_workspace *w, uint8_t id[32], char *receipt_path,
                             char *transcript_path)
{
    if (s->answer.start_ns == 0 || fp__session_active(s) || s->answer.finish == FP_FINISH_ERROR ||
        s->turns[s->answer.turn].count == 0)
        return fp__fail(FP_USAGE, "receipt: there is no answer");
    fp__transcript t = {0};
    fp__receipt r = {0};
    fp__dsse dsse = {0};
    fp_key *key = NULL;
    fp_status status = fp__transcript_of_session(s, &t);
    if (status == FP_OK)
        status = fill(s, w, &t, &r);
    if (status == FP_OK)
        status = fp__receipt_create(&r, &dsse);
    if (status == FP_OK)
        status = fp_workspace_key(w, FP_PURPOSE_ENGINE, &key);
    if (status == FP_OK)
        status = fp__dsse_sign(&dsse, key);
    if (status == FP_OK)
        status = write_files(w, &dsse, &t, receipt_path, transcript_path);
    if (status == FP_OK) {
        fp_event_receipt event;
        status = fp_receipts_log(w, (const uint8_t(*)[32]) & dsse.id, 1, &event);
    }
    if (status == FP_OK) {
        s->has_receipt = true;
        memcpy(s->receipt_id, dsse.id, 32);
    }
    if (status == FP_OK && id)
        memcpy(id, dsse.id, 32);
    fp_key_free(key);
    fp__dsse_free(&dsse);
    fp__receipt_free(&r);
    fp__transcript_free(&t);
    return status;
}

fp_status fp_receipt_read(const char *path, char **json, uint8_t id[32])
{
    fp__buf bytes = {0};
    fp__dsse dsse = {0};
    fp__receipt r = {0};
    fp_status status = fp__file_read(path, FP__DSSE_ENVELOPE_MAX_BYTES, &bytes);
    if (status == FP_OK)
        status = fp__dsse_parse(bytes.data, bytes.size, &dsse);
    if (status == FP_OK)
        status = fp__receipt_parse(dsse.payload.data, dsse.payload.size, &r);
    if (status == FP_OK) {
        *json = strndup((const char *)dsse.payload.data, dsse.payload.size);
        if (!*json)
            status = fp__fail(FP_NO_MEMORY, "receipt: no memory");
        else if (id)
            memcpy(id, dsse.id, 32);
    }
    fp__receipt_free(&r);
    fp__dsse_free(&dsse);
    fp__buf_free(&bytes);
    return status == FP_OK ? FP_OK : fp__fail_context(status, "%s", path);
}
