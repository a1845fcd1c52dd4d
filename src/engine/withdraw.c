/* Anchors that the gate withdraws while answers attend to them. The token loop asks at commit boundaries only
 * (a page was sealed). The gate's verdict is taken for granted as long as nothing has changed that it goes
 * by: the log, what this process was given (an override file, its deployment's name), and the second of the
 * clock, in which validity, freshness and overrides are told. */
#include "anchor/workspace_inside.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WAITED_NS UINT64_C(1000000000)

/* The gate would look at what it looked at the last time. */
static bool is_answered(const fp_anchors *a, bool running)
{
    fp__ledger_head head;
    bool decided = a->verdict == FP_OK || a->verdict == FP_DENIED;
    if (!running || !a->asked_running || !decided ||
        fp__ledger_reader_refresh(a->watched->reader, NULL) != FP_OK)
        return false;
    fp__ledger_reader_head(a->watched->reader, &head);
    return head.size == a->now.tree_size && a->watched->inputs_epoch == a->asked_epoch &&
           (uint64_t)time(NULL) == a->now.time;
}

fp_status fp__anchors_ask(fp_anchors *a, bool running)
{
    if (!a->watched)
        return FP_OK;
    if (!is_answered(a, running)) {
        fp_gate_query query = {.anchor_ids = (const uint8_t(*)[32])a->ids,
                               .anchors = a->n,
                               .model_digest = a->engine->model->digest,
                               .arithmetic_version = FP__ARITHMETIC_VERSION,
                               .reader = a->has_reader ? a->reader : NULL,
                               .gamma = a->raised,
                               .running = running};
        a->verdict = fp_gate_check(a->watched, &query, &a->now);
        snprintf(a->why, sizeof a->why, "%s", a->verdict == FP_OK ? "" : fp_error_detail());
        a->asked_epoch = a->watched->inputs_epoch;
        a->asked_running = running;
        if (a->verdict == FP_OK && memcmp(a->now.kv_head, a->gate.kv_head, 32) != 0) {
            a->verdict = FP_DENIED;
            snprintf(a->why, sizeof a->why, "the log names other K/V bytes for the set now");
        }
    }
    return a->verdict == FP_OK ? FP_OK : fp__fail(a->verdict, "%s", a->why);
}

/* An override that was in force stays noted: the answer went by it, whatever comes after. */
static fp_status note_overrides(fp_session *s, const fp_gate_result *gate)
{
    for (size_t i = 0; i < gate->overrides_count; i++) {
        bool known = false;
        for (size_t k = 0; k < s->overrides_count && !known; k++)
            known = memcmp(s->overrides[k], gate->overrides[i], 32) == 0;
        if (!known && s->overrides_count == FP__ANSWER_OVERRIDES_MAX)
            return fp__fail(FP_LIMIT, "more than %d overrides during one answer", FP__ANSWER_OVERRIDES_MAX);
        if (!known)
            memcpy(s->overrides[s->overrides_count++], gate->overrides[i], 32);
    }
    return FP_OK;
}

fp_status fp__session_note_gate(fp_session *s, bool begins)
{
    if (!s->anchors)
        return FP_OK;
    const fp_gate_result *gate = s->anchors->watched ? &s->anchors->now : &s->anchors->gate;
    s->asked_ns = fp__now_ns();
    s->last.size = gate->tree_size;
    s->last.time = gate->time;
    memcpy(s->last.root, gate->tree_root, 32);
    memcpy(s->last.policy, gate->policy_digest, 32);
    if (begins) {
        s->first = s->last;
        s->overrides_count = 0;
    }
    return note_overrides(s, gate);
}

void fp__session_boundary(fp_session *s)
{
    if (!s->anchors || !s->anchors->watched || !fp__session_active(s))
        return;
    fp_status status = fp__anchors_ask(s->anchors, true);
    if (status != FP_OK && status != FP_DENIED) { /* in doubt about the log nothing is attended to */
        fp__session_fail(s, status);
        return;
    }
    fp_status noted = fp__session_note_gate(s, false);
    if (noted != FP_OK) {
        fp__session_fail(s, noted);
        return;
    }
    if (status == FP_OK)
        return;
    snprintf(s->answer.error, sizeof s->answer.error, "%s", fp_error_detail());
    fp__session_end(s, FP_FINISH_ANCHOR_REVOKED);
}

void fp__session_wake(fp_session *s)
{
    if (s->anchors && s->anchors->watched && fp__now_ns() - s->asked_ns > WAITED_NS)
        fp__session_boundary(s);
}

fp_status fp_session_without_anchors(const fp_session *s, fp_workspace *w, fp_session **out)
{
    fp_gate_query query = {.anchors = 0, .reader = s->has_tenant ? s->tenant : NULL};
    fp_gate_result gate;
    fp_session *made;
    if (fp__session_active(s))
        return fp__fail(FP_USAGE, "session: an answer is being generated");
    FP_TRY(fp_gate_check(w, &query, &gate));
    fp_session_options options = {.tenant = s->has_tenant ? s->tenant : NULL,
                                  .nonce = s->has_nonce ? s->nonce : NULL,
                                  .raw = s->raw,
                                  .release = s->release,
                                  .workspace = s->workspace};
    FP_TRY(fp_session_create(s->engine, &options, &made));
    fp_status status = FP_OK;
    for (size_t i = 0; i < s->n_turns && status == FP_OK; i++)
        if (s->turns[i].kind == FP__TEXT_MESSAGE)
            status = fp__session_add_labelled(made, s->turns[i].role, s->turns[i].label,
                                              (const char *)s->turns[i].text.data, s->turns[i].text.size);
    if (status != FP_OK) {
        fp_session_destroy(made);
        return status;
    }
    *out = made;
    return FP_OK;
}
