/* Anchors that the gate withdraws while answers attend to them. The token loop asks at commit boundaries only
 * (a page was sealed): a look at the log's checkpoint costs microseconds, and the whole gate runs when the
 * log has grown, or once a second for what only time changes (validity, freshness, overrides). */
#include "anchor/workspace_inside.h"
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>

#define ASK_AGAIN_NS UINT64_C(1000000000)

/* What the log says now is what the gate looked at, a moment ago. */
static bool is_answered(const fp_anchors *a, bool running)
{
    fp__ledger_head head;
    if (!running || fp__ledger_reader_refresh(a->watched->reader, NULL) != FP_OK)
        return false;
    fp__ledger_reader_head(a->watched->reader, &head);
    return head.size == a->now.tree_size && fp__now_ns() - a->asked_ns < ASK_AGAIN_NS;
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
        a->asked_ns = fp__now_ns();
        if (a->verdict == FP_OK && memcmp(a->now.kv_head, a->gate.kv_head, 32) != 0) {
            a->verdict = FP_DENIED;
            snprintf(a->why, sizeof a->why, "the log names other K/V bytes for the set now");
        }
    }
    return a->verdict == FP_OK ? FP_OK : fp__fail(a->verdict, "%s", a->why);
}

void fp__session_note_gate(fp_session *s, bool begins)
{
    if (!s->anchors)
        return;
    const fp_gate_result *gate = s->anchors->watched ? &s->anchors->now : &s->anchors->gate;
    s->last.size = gate->tree_size;
    memcpy(s->last.root, gate->tree_root, 32);
    memcpy(s->last.policy, gate->policy_digest, 32);
    memcpy(s->last.override_id, gate->override_id, 32);
    if (begins)
        s->first = s->last;
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
    fp__session_note_gate(s, false);
    if (status == FP_OK)
        return;
    snprintf(s->answer.error, sizeof s->answer.error, "%s", fp_error_detail());
    fp__session_end(s, FP_FINISH_ANCHOR_REVOKED);
}

fp_status fp_session_without_anchors(const fp_session *s, fp_workspace *w, fp_session **out)
{
    fp_gate_query query = {.anchors = 0, .reader = s->has_tenant ? s->tenant : NULL};
    fp_gate_result gate;
    fp_session *made;
    if (fp__session_active(s))
        return fp__fail(FP_USAGE, "session: an answer is being generated");
    FP_TRY(fp_gate_check(w, &query, &gate));
    fp_session_options options = {
        .tenant = s->has_tenant ? s->tenant : NULL, .nonce = s->has_nonce ? s->nonce : NULL, .raw = s->raw};
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
