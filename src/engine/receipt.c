/* Making a receipt of an answer, signing and logging it. */
#include "engine/receipt.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "fieldprint/audit.h"
#include <stdlib.h>
#include <time.h>

_Static_assert(FP__ANSWER_OVERRIDES_MAX <= FP__RECEIPT_OVERRIDES_MAX, "a receipt names all of an answer");

/* The gate's decision now, for what the receipt says of log and overrides; whether it allows the anchors is
 * the audit's matter. */
static fp_status ask_now(const fp_session *s, fp_workspace *w, fp__receipt *r)
{
    const fp_anchors *a = s->anchors;
    fp_gate_query query = {.reader = s->has_tenant ? s->tenant : NULL, .running = true};
    fp_gate_result gate;
    if (a)
        query = (fp_gate_query){.anchor_ids = (const uint8_t(*)[32])a->ids,
                                .anchors = a->n,
                                .model_digest = s->engine->model->digest,
                                .arithmetic_version = FP__ARITHMETIC_VERSION,
                                .reader = a->has_reader ? a->reader : NULL,
                                .gamma = a->raised,
                                .running = true};
    fp_status status = fp_gate_check(w, &query, &gate);
    if (status != FP_OK && status != FP_DENIED)
        return status;
    r->last_size = gate.tree_size;
    r->last_time = gate.time;
    memcpy(r->last_root, gate.tree_root, 32);
    memcpy(r->policy, gate.policy_digest, 32);
    for (size_t i = 0; i < gate.overrides_count; i++) {
        bool known = false;
        for (size_t k = 0; k < r->overrides && !known; k++)
            known = memcmp(r->override_ids[k], gate.overrides[i], 32) == 0;
        if (!known && r->overrides == FP__RECEIPT_OVERRIDES_MAX)
            return fp__fail(FP_LIMIT, "receipt: more than %d overrides during one answer",
                            FP__RECEIPT_OVERRIDES_MAX);
        if (!known)
            memcpy(r->override_ids[r->overrides++], gate.overrides[i], 32);
    }
    return FP_OK;
}

static fp_status fill_anchors(const fp_session *s, fp_workspace *w, fp__receipt *r)
{
    const fp_anchors *a = s->anchors;
    const fp__hparams *hp = &s->engine->model->hp;
    fp_workspace_info info;
    if (!a) {
        FP_TRY(ask_now(s, w, r));
        r->first_size = r->last_size;
        r->first_time = r->last_time;
        memcpy(r->first_root, r->last_root, 32);
        return FP_OK;
    }
    r->first_size = s->first.size;
    r->first_time = s->first.time;
    memcpy(r->first_root, s->first.root, 32);
    r->overrides = s->overrides_count;
    memcpy(r->override_ids, s->overrides, s->overrides_count * 32);
    /* Of watched anchors: the last time that the gate was asked, so that a revocation logged since does not
     * seem to have been overlooked. */
    FP_TRY(fp_workspace_get_info(w, &info));
    if (a->watched && memcmp(s->last.policy, info.policy_digest, 32) == 0) {
        r->last_size = s->last.size;
        r->last_time = s->last.time;
        memcpy(r->last_root, s->last.root, 32);
        memcpy(r->policy, s->last.policy, 32);
    } else {
        FP_TRY(ask_now(s, w, r));
    }
    r->anchors = a->n;
    memcpy(r->anchor_ids, a->ids, a->n * 32);
    memcpy(r->set_id, a->gate.set_id, 32);
    memcpy(r->anchor_kv_head, a->gate.kv_head, 32);
    r->compile_index = a->gate.compile_index;
    r->mode = a->gate.injection.mode;
    r->raised = a->raised;
    fp__receipt_injection(r->mode, a->g, hp->layers * hp->heads, r->injection);
    return fp__ledger_reader_tlog_proof(w->reader, r->compile_index, NULL, 0, &r->proof);
}

static uint64_t milliseconds(uint64_t ns)
{
    return (ns + 999999) / 1000000;
}

static void fill_checks(const fp_session *s, fp__receipt *r)
{
    const fp__checks *c = &s->checks;
    fp_validation_status v;
    fp_engine_validation(s->engine, &v);
    r->validation = v.validation;
    r->replay_65536 = v.replay_65536;
    r->page_window_ms = milliseconds(v.page_window_ns);
    r->weight_window_ms = milliseconds(v.weight_window_ns);
    r->failures = c->failed;
    r->release = s->release;
    r->standing = c->standing;
    if (r->standing == FP_STANDING_PROVISIONAL) {
        size_t tokens = fp__kvseq_tokens(s->context), verified = c->verified < tokens ? c->verified : tokens;
        r->unverified_pages = (tokens + FP__PAGE_TOKENS - 1) / FP__PAGE_TOKENS - verified / FP__PAGE_TOKENS;
    }
    r->retractions = c->retractions;
    memcpy(r->retraction_ids, c->retraction, c->retractions * 32);
}

static fp_status fill(fp_session *s, fp_workspace *w, const fp__transcript *t, fp__receipt *r)
{
    r->has_nonce = s->has_nonce;
    memcpy(r->nonce, s->nonce, 32);
    fp__receipt_tenant(s->tenant, r->tenant);
    memcpy(r->model, s->engine->model->digest, 32);
    r->arithmetic = FP__ARITHMETIC_VERSION;
    snprintf(r->origin, sizeof r->origin, "%s", w->trust.origin);
    r->time = (uint64_t)time(NULL);
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
    fill_checks(s, r);
    r->leaves = t->n;
    snprintf(r->engine, sizeof r->engine, "fieldprint %s (%s)", fp_version(),
             s->engine->gpu ? "cuda" : s->engine->model->ops->name);
    return fp__transcript_root(t, r->root);
}

void fp__receipt_files_free(fp__receipt_files *f)
{
    fp__buf_free(&f->receipt);
    fp__buf_free(&f->transcript);
}

static fp_status name_files(fp_workspace *w, fp__receipt_files *f)
{
    FP_TRY(fp_workspace_receipt_path(w, f->id, f->receipt_path, sizeof f->receipt_path));
    size_t stem = strlen(f->receipt_path) - strlen(".dsse.json");
    if (stem + sizeof ".transcript.json" > sizeof f->transcript_path)
        return fp__fail(FP_LIMIT, "receipt: the workspace's path is too long");
    snprintf(f->transcript_path, sizeof f->transcript_path, "%.*s.transcript.json", (int)stem,
             f->receipt_path);
    return FP_OK;
}

fp_status fp__receipt_make(fp_session *s, fp_workspace *w, fp__receipt_files *out)
{
    bool retracted = s->checks.standing == FP_STANDING_RETRACTED;
    if (s->answer.start_ns == 0 || !fp__session_ended(s) ||
        (!retracted && (s->answer.finish == FP_FINISH_ERROR || s->turns[s->answer.turn].count == 0)))
        return fp__fail(FP_USAGE, "receipt: there is no answer");
    FP_TRY(fp__retractions_log(s, w)); /* first: a receipt names them as logged */
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
        status = fp__transcript_write(&t, &out->transcript);
    if (status == FP_OK)
        status = fp__dsse_write(&dsse, &out->receipt);
    memcpy(out->id, dsse.id, 32);
    if (status == FP_OK)
        status = name_files(w, out);
    fp_key_free(key);
    fp__dsse_free(&dsse);
    fp__receipt_free(&r);
    fp__transcript_free(&t);
    return status;
}

fp_status fp__receipt_store(const fp__receipt_files *f)
{
    FP_TRY(fp__file_write(f->transcript_path, f->transcript.data, f->transcript.size, 0600));
    return fp__file_write(f->receipt_path, f->receipt.data, f->receipt.size, 0644);
}

void fp__receipt_made(fp_session *s, const fp__receipt_files *f, uint8_t id[32], char *receipt_path,
                      char *transcript_path)
{
    s->has_receipt = true;
    memcpy(s->receipt_id, f->id, 32);
    if (id)
        memcpy(id, f->id, 32);
    if (receipt_path)
        snprintf(receipt_path, 1024, "%s", f->receipt_path);
    if (transcript_path)
        snprintf(transcript_path, 1024, "%s", f->transcript_path);
}

fp_status fp_session_receipt(fp_session *s, fp_workspace *w, uint8_t id[32], char *receipt_path,
                             char *transcript_path)
{
    fp__receipt_files files = {0};
    fp_event_receipt event;
    fp_status status = fp__receipt_make(s, w, &files);
    if (status == FP_OK)
        status = fp__receipt_store(&files);
    if (status == FP_OK)
        status = fp_receipts_log(w, (const uint8_t(*)[32]) & files.id, 1, &event);
    if (status == FP_OK)
        fp__receipt_made(s, &files, id, receipt_path, transcript_path);
    fp__receipt_files_free(&files);
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
