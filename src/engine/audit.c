/* Audit of one receipt. Light: who claimed what under which policy, from the log alone. Full: the claim is
 * computed again.
 *
 * A check that fails is a verdict, not an error: helpers return FP_INVALID with a sentence, FP_NOT_FOUND
 * where something that is needed is missing (undecided), and any other status for operating errors. */
#include "fieldprint/audit.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "engine/receipt.h"
#include <stdlib.h>

const char *fp_verdict_name(fp_verdict verdict)
{
    static const char *const names[] = {"UNDECIDED", "INVALID", "VALID-LIGHT", "VALID-FULL"};
    return (size_t)verdict < 4 ? names[verdict] : "unknown";
}

typedef struct audit {
    fp_workspace *w;
    const fp_audit_options *o;
    fp_audit_result *result;
    fp__dsse dsse;
    fp__receipt r;
    fp__transcript t;
    bool has_transcript;
    bool other_transcript; /* its root is not the receipt's: a full audit still finds the first position */
    fp__registry *history; /* the log as it was at the receipt's last tree head */
    fp_gate_result gate;   /* of the anchors when they were let in */
    char deployment[FP__DEPLOYMENT_MAX + 1]; /* that the receipt's overrides name; empty: none */
    fp__event overrides[FP__RECEIPT_OVERRIDES_MAX];
    uint64_t override_index[FP__RECEIPT_OVERRIDES_MAX]; /* where they are logged */
} audit;

static fp_status differs(const char *what)
{
    return fp__fail(FP_INVALID, "%s is not what the receipt says", what);
}

/* ---- light
 * --------------------------------------------------------------------------------------------------------------
 */

static fp_status read_receipt(audit *a)
{
    fp__buf bytes = {0};
    fp_status status = fp__file_read(a->o->receipt_path, FP__DSSE_ENVELOPE_MAX_BYTES, &bytes);
    if (status == FP_OK)
        status = fp__dsse_parse(bytes.data, bytes.size, &a->dsse);
    if (status == FP_OK)
        status = fp__receipt_parse(a->dsse.payload.data, a->dsse.payload.size, &a->r);
    fp__buf_free(&bytes);
    if (status == FP_FORMAT || status == FP_LIMIT)
        return fp__fail_context(FP_INVALID, "malformed receipt");
    if (status == FP_OK)
        memcpy(a->result->receipt_id, a->dsse.id, 32);
    return status;
}

static fp_status check_head(audit *a, uint64_t size, const uint8_t root[32], const char *what)
{
    fp__ledger_head head;
    uint8_t ours[32];
    fp__ledger_reader_head(a->w->reader, &head);
    if (size > head.size)
        return fp__fail(FP_NOT_FOUND,
                        "the receipt names tree size %llu, but the log at hand has %llu entries: it is "
                        "behind, or was rolled back",
                        (unsigned long long)size, (unsigned long long)head.size);
    FP_TRY(fp__ledger_reader_root_at(a->w->reader, size, ours));
    if (memcmp(ours, root, 32) != 0)
        return fp__fail(FP_INVALID, "the %s tree head is of another log: the roots at size %llu differ", what,
                        (unsigned long long)size);
    return FP_OK;
}

static fp_status check_log(audit *a)
{
    if (a->w->log_fault[0])
        return fp__fail(FP_INVALID, "the log is inconsistent: %s", a->w->log_fault);
    if (strcmp(a->r.origin, a->w->trust.origin) != 0)
        return fp__fail(FP_INVALID, "the receipt is of log \"%s\", but the trust file pins \"%s\"",
                        a->r.origin, a->w->trust.origin);
    FP_TRY(check_head(a, a->r.first_size, a->r.first_root, "first"));
    FP_TRY(check_head(a, a->r.last_size, a->r.last_root, "last"));
    return fp__registry_open(":memory:", &a->w->trust, &a->history);
}

static fp_status check_signer(audit *a)
{
    const fp__policy *policy = fp__registry_policy(a->history, NULL, NULL);
    if (!policy)
        return fp__fail(FP_INVALID, "the log has no policy at the receipt's tree size");
    if (memcmp(policy->digest, a->r.policy, 32) != 0)
        return fp__fail(FP_INVALID,
                        "the policy in force at tree size %llu is another one than the receipt names",
                        (unsigned long long)a->r.last_size);
    fp__signers signers;
    fp__policy_count(policy, &a->dsse, FP_PURPOSE_ENGINE, FP_LABEL_USER, fp__registry_distrusts(a->history),
                     a->r.last_size, &signers);
    if (!fp__signers_suffice(&signers, fp__policy_role_of(policy, FP_PURPOSE_ENGINE, FP_LABEL_USER)))
        return fp__fail(FP_INVALID,
                        "the signature of the receipt is not by an engine key of the policy in force");
    uint64_t index;
    fp_status status = fp_receipt_find(a->w, a->dsse.id, &index);
    if (status == FP_NOT_FOUND)
        return fp__fail(FP_NOT_FOUND, "the receipt is not in the log at hand");
    if (status == FP_OK && index < a->r.last_size)
        return fp__fail(FP_INVALID, "the receipt was logged before the tree head that it names");
    return status;
}

static fp_status load_statement(void *arg, const uint8_t id[32], fp__dsse *out)
{
    fp_statement statement;
    return fp__workspace_load_statement(arg, id, out, &statement);
}

/* The overrides that the receipt names, from the log as it is now: one that was in force while the log was
 * down is logged later, but before the receipt. */
static fp_status load_overrides(audit *a)
{
    const fp__receipt *r = &a->r;
    uint64_t logged = FP_INDEX_NONE;
    fp_status status = fp_receipt_find(a->w, a->dsse.id, &logged);
    if (status != FP_OK && status != FP_NOT_FOUND)
        return status;
    for (size_t i = 0; i < r->overrides; i++) {
        fp__event *event = &a->overrides[i];
        status =
            fp__registry_override_event(a->w->registry, r->override_ids[i], &a->override_index[i], event);
        if (status == FP_NOT_FOUND || (status == FP_OK && a->override_index[i] > logged))
            return fp__fail(FP_INVALID, "an override that the receipt names is not in the log before it");
        FP_TRY(status);
        if (a->deployment[0] == 0 && strcmp(event->deployment, "*") != 0)
            memcpy(a->deployment, event->deployment, sizeof a->deployment);
    }
    return FP_OK;
}

static bool is_named(const fp__receipt *r, const uint8_t override_id[32])
{
    for (size_t i = 0; i < r->overrides; i++)
        if (memcmp(r->override_ids[i], override_id, 32) == 0)
            return true;
    return false;
}

/* The gate's decision in the history as it is. The receipt does not name its deployment: an override counts
 * if it is for all, or for the deployment of one that the receipt names. */
static fp_status ask_gate(audit *a, bool running, fp_gate_result *out)
{
    const fp__receipt *r = &a->r;
    uint64_t size = running ? r->last_size : r->first_size;
    fp__held_override held[FP__RECEIPT_OVERRIDES_MAX];
    size_t held_count = 0;
    *out = (fp_gate_result){0};
    for (size_t i = 0; i < r->overrides; i++) {
        if (a->override_index[i] < size || (a->overrides[i].halt && !running))
            continue; /* in the tables; or of a later moment: a halt lets nothing in */
        held[held_count].event = &a->overrides[i];
        memcpy(held[held_count++].id, r->override_ids[i], 32);
    }
    fp__gate gate = {.registry = a->history,
                     .trust = &a->w->trust,
                     .note = fp__ledger_reader_note(a->w->reader),
                     .history = true,
                     .deployment = a->deployment,
                     .held = held,
                     .held_count = held_count,
                     .statement = load_statement,
                     .statement_arg = a->w};
    fp_gate_query query = {.anchor_ids = r->anchor_ids,
                           .anchors = r->anchors,
                           .model_digest = r->model,
                           .arithmetic_version = (uint16_t)r->arithmetic,
                           .gamma = (uint32_t)r->raised,
                           .running = running,
                           .now = running ? r->last_time : r->first_time};
    fp_status status = fp__gate_decide(&gate, &query, out);
    for (size_t i = 0; i < out->overrides_count && (status == FP_OK || status == FP_DENIED); i++)
        if (!is_named(r, out->overrides[i]))
            return fp__fail(FP_INVALID, "an override was in force, which the receipt does not name");
    return status;
}

static fp_status denied(const fp_gate_result *gate, uint64_t size)
{
    if (gate->reason == FP_GATE_MISSING_STATEMENT)
        return fp__fail(FP_NOT_FOUND, "a statement of the anchors is missing: %s", gate->detail);
    if (gate->reason == FP_GATE_STALE_CHECKPOINT) /* of the log at hand: a fresher copy decides it */
        return fp__fail(FP_NOT_FOUND, "the log at hand is not witnessed as it must be: %s", gate->detail);
    return fp__fail(FP_INVALID, "the gate denies the anchors at tree size %llu: %s (%s)",
                    (unsigned long long)size, fp_gate_reason_name(gate->reason), gate->detail);
}

/* The anchors were let in at the first tree head. */
static fp_status check_let_in(audit *a)
{
    const fp__receipt *r = &a->r;
    FP_TRY(fp__registry_replay(a->history, a->w->reader, r->first_size));
    FP_TRY(fp__registry_begin(a->history));
    fp_status status = ask_gate(a, false, &a->gate);
    fp__registry_end(a->history);
    return status == FP_DENIED ? denied(&a->gate, r->first_size) : status;
}

static bool asks_for_witnesses(const audit *a)
{
    const fp__policy *policy = fp__registry_policy(a->history, NULL, NULL);
    return a->w->trust.witnesses.threshold > 0 ||
           (policy && (policy->witnesses.threshold > 0 || policy->freshness_seconds > 0));
}

/* At the last one they still were (superseding ends no turn that has begun), or the answer was stopped. */
static fp_status check_kept(audit *a)
{
    const fp__receipt *r = &a->r;
    fp_gate_result last;
    bool stopped = r->finish == FP_FINISH_ANCHOR_REVOKED;
    fp_status status = ask_gate(a, true, &last);
    if (status == FP_DENIED && stopped && r->anchors > 0)
        return FP_OK;
    /* A stale checkpoint is no matter of the log: who asks for fresh cosignatures may have seen none. */
    if (status == FP_OK && stopped && !asks_for_witnesses(a))
        return fp__fail(FP_INVALID,
                        "the answer claims to have been stopped by the gate, which allows its "
                        "anchors at tree size %llu",
                        (unsigned long long)r->last_size);
    return status == FP_DENIED ? denied(&last, r->last_size) : status;
}

/* The gate's decisions then, and the carried proof of the compile event. */
static fp_status check_anchors(audit *a)
{
    const fp__receipt *r = &a->r;
    FP_TRY(check_kept(a));
    if (r->anchors == 0)
        return r->anchor_tokens == 0 ? FP_OK : differs("the number of anchor tokens");
    fp_status status = FP_OK;
    if (memcmp(a->gate.set_id, r->set_id, 32) != 0)
        return differs("the anchor set");
    if (memcmp(a->gate.kv_head, r->anchor_kv_head, 32) != 0 || a->gate.compile_index != r->compile_index)
        return differs("the logged compile event of the anchors");
    if (a->gate.injection.mode != r->mode)
        return differs("the injection mode");
    if (a->gate.tokens != r->anchor_tokens)
        return differs("the number of anchor tokens");
    fp__tlog_proof proof;
    uint8_t leaf[32];
    fp__note_verdict verdicts[FP__WITNESSES_MAX + 1];
    FP_TRY(fp__ledger_reader_leaf(a->w->reader, r->compile_index, leaf));
    status = fp__tlog_proof_parse(r->proof.data, r->proof.size, &proof);
    if (status == FP_OK && proof.index != r->compile_index)
        status = fp__fail(FP_INVALID, "it is of entry %llu", (unsigned long long)proof.index);
    if (status == FP_OK)
        status = fp__tlog_proof_verify(&proof, leaf, a->w->trust.origin, a->w->note_keys,
                                       1 + a->w->trust.witnesses.count, verdicts, NULL);
    fp__tlog_proof_free(&proof);
    return status == FP_OK ? FP_OK : fp__fail_context(FP_INVALID, "the log proof of the compile event");
}

static fp_status check_transcript(audit *a)
{
    fp__buf bytes = {0};
    uint8_t root[32], stops[32];
    if (!a->o->transcript_path)
        return FP_OK;
    fp_status status = fp__file_read(a->o->transcript_path, FP__TRANSCRIPT_MAX_BYTES, &bytes);
    if (status == FP_OK)
        status = fp__transcript_parse(bytes.data, bytes.size, &a->t);
    fp__buf_free(&bytes);
    if (status == FP_FORMAT || status == FP_LIMIT || status == FP_TEXT)
        return fp__fail_context(FP_INVALID, "malformed transcript");
    FP_TRY(status);
    a->has_transcript = true;
    size_t answer = fp__transcript_answer(&a->t);
    a->result->prompt_tokens = (uint32_t)a->r.prompt_tokens;
    a->result->output_tokens = (uint32_t)a->t.leaves[answer].ids.size;
    FP_TRY(fp__transcript_root(&a->t, root));
    a->other_transcript = memcmp(root, a->r.root, 32) != 0;
    if (a->other_transcript)
        return fp__fail(FP_INVALID,
                        "the transcript is not the one that the receipt commits to (the roots differ)");
    if (a->t.n != a->r.leaves)
        return differs("the number of leaves of the transcript");
    FP_TRY(fp__transcript_stops_digest(&a->t, stops));
    if (memcmp(stops, a->r.stops, 32) != 0)
        return differs("the stop strings of the transcript");
    if (a->t.leaves[answer].ids.size != a->r.output_tokens)
        return differs("the number of output tokens");
    return FP_OK;
}

/* What the engine itself says of the answer, and has said since. */
static fp_status check_standing(audit *a)
{
    const fp__receipt *r = &a->r;
    uint64_t index = 0;
    fp_status status = FP_OK;
    FP_TRY(fp__registry_begin(a->w->registry));
    if (fp__registry_retraction(a->w->registry, a->dsse.id, &index) == FP_OK)
        status =
            fp__fail(FP_INVALID, "entry %llu of the log retracts this answer", (unsigned long long)index);
    for (size_t i = 0; i < r->retractions && status == FP_OK; i++)
        if (fp__registry_retraction(a->w->registry, r->retraction_ids[i], &index) != FP_OK)
            status = fp__fail(FP_INVALID, "a retraction that the receipt names is not in the log");
    fp__registry_end(a->w->registry);
    FP_TRY(status);
    if (r->standing == FP_STANDING_RETRACTED)
        return fp__fail(FP_INVALID, "the engine withdrew this answer: its checks failed");
    if (r->standing == FP_STANDING_PROVISIONAL)
        return fp__fail(
            FP_NOT_FOUND,
            "checks are missing: the receipt is provisional, %llu pages had not been checked when it was "
            "made; ask for the final one",
            (unsigned long long)r->unverified_pages);
    return FP_OK;
}

static fp_status audit_light(audit *a)
{
    FP_TRY(read_receipt(a));
    if (a->o->nonce && (!a->r.has_nonce || memcmp(a->o->nonce, a->r.nonce, 32) != 0))
        return fp__fail(FP_INVALID, "the nonce is not yours: the receipt is of another request");
    FP_TRY(fp_workspace_sync(a->w));
    fp__ledger_head head;
    fp__ledger_reader_head(a->w->reader, &head);
    a->result->tree_size = head.size;
    a->result->witnessed = a->w->trust.witnesses.threshold > 0;
    a->result->seed_from_nonce = a->r.has_nonce;
    a->result->anchor_tokens = (uint32_t)a->r.anchor_tokens;
    FP_TRY(check_log(a));
    FP_TRY(load_overrides(a));
    if (a->r.anchors > 0)
        FP_TRY(check_let_in(a));
    FP_TRY(fp__registry_replay(a->history, a->w->reader, a->r.last_size));
    FP_TRY(fp__registry_begin(a->history));
    FP_TRY(check_signer(a));
    FP_TRY(check_anchors(a));
    if (a->r.has_nonce && a->r.sampling.seed != fp__seed_from_nonce(a->r.nonce))
        return fp__fail(FP_INVALID, "the seed is not derived from the nonce");
    FP_TRY(check_standing(a));
    return check_transcript(a);
}

/* ---- full
 * -----------------------------------------------------------------------------------------------------------------
 */

/* What is computed again. */
typedef struct replay {
    audit *a;
    fp_engine *engine;
    fp_anchors anchors; /* seq, g and injection are used */
    bool has_anchors;
    fp_session *session; /* renders the messages and consumes the tokens; samples nothing by itself */
    fp__ids ids;         /* context tokens of the transcript, as far as they were committed */
} replay;

static fp_status recompile(replay *p)
{
    audit *a = p->a;
    const fp__receipt *r = &a->r;
    const fp__hparams *hp = &p->engine->model->hp;
    fp__ids tokens = {0};
    size_t counts[FP__SET_ANCHORS_MAX];
    fp_label labels[FP__SET_ANCHORS_MAX];
    uint8_t digest[32], head[32];
    for (size_t i = 0; i < r->anchors; i++) {
        fp_statement statement;
        fp__dsse dsse = {0};
        fp_status status = fp__workspace_load_statement(a->w, r->anchor_ids[i], &dsse, &statement);
        labels[i] = statement.type;
        fp__dsse_free(&dsse);
        FP_TRY(status);
    }
    fp_status status =
        fp__anchors_tokenize(p->engine->model, a->w, r->anchor_ids, r->anchors, &tokens, counts);
    if (status == FP_MISMATCH) /* the signed document is missing; what lies in its place is nobody's */
        status = fp__fail_context(FP_NOT_FOUND, "the document of an anchor is needed");
    if (status == FP_TEXT)
        status = fp__fail_context(FP_INVALID, "an anchor that no engine compiles");
    if (status == FP_OK)
        status = fp_compile_token_ids_digest(a->gate.salt, tokens.data, (uint32_t)tokens.size, digest);
    if (status == FP_OK && memcmp(digest, a->gate.token_ids_digest, 32) != 0)
        status = fp__fail(FP_INVALID,
                          "the documents of the anchors do not give the tokens of the logged compile event");
    if (status == FP_OK)
        status = fp__anchors_prefill(p->engine, &tokens, counts, labels, r->anchors, &p->anchors.seq);
    fp__ids_free(&tokens);
    FP_TRY(status);
    p->has_anchors = true;
    FP_TRY(fp__kvseq_head(p->anchors.seq, head));
    if (memcmp(head, r->anchor_kv_head, 32) != 0)
        return fp__fail(FP_INVALID, "the anchors compile to another K/V head than the logged one");
    p->anchors.engine = p->engine;
    p->anchors.gate = a->gate;
    p->anchors.n = r->anchors;
    p->anchors.g = calloc(hp->layers * hp->heads, sizeof *p->anchors.g);
    if (!p->anchors.g)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    FP_TRY(fp_injection_resolve(&a->gate.injection, hp->layers, hp->heads, p->anchors.g));
    fp__receipt_injection(a->gate.injection.mode, p->anchors.g, hp->layers * hp->heads, digest);
    return memcmp(digest, r->injection, 32) == 0 ? FP_OK : differs("the injection (γ by layer and head)");
}

static bool leaf_ids_equal(const fp__transcript_leaf *leaf, const fp__ids *ids, const fp__turn *turn,
                           size_t *first_bad)
{
    size_t n = leaf->ids.size < turn->count ? leaf->ids.size : turn->count, i = 0;
    while (i < n && leaf->ids.data[i] == ids->data[turn->first + i])
        i++;
    *first_bad = turn->first + i;
    return i == leaf->ids.size && i == turn->count;
}

/* The messages between two answers must render to exactly the tokens of their leaves. */
static fp_status check_messages(replay *p, size_t first, size_t end)
{
    fp_session *s = p->session;
    const fp__transcript *t = &p->a->t;
    fp_status status = FP_OK;
    for (size_t i = first; i < end && status == FP_OK; i++)
        status = fp__session_add_labelled(s, t->leaves[i].role, t->leaves[i].label,
                                          (const char *)t->leaves[i].bytes.data, t->leaves[i].bytes.size);
    if (status == FP_OK)
        status = fp__session_render(s, &p->ids);
    if (status == FP_TEXT || status == FP_USAGE)
        return fp__fail_context(FP_INVALID, "the messages of the transcript");
    FP_TRY(status);
    for (size_t i = first; i < end; i++) {
        size_t bad;
        if (!leaf_ids_equal(&t->leaves[i], &p->ids, &s->turns[i], &bad)) {
            p->a->result->position = (int64_t)(p->a->r.anchor_tokens + bad);
            return fp__fail(FP_INVALID,
                            "the tokens of message %zu are not what its text gives (position %lld)", i,
                            (long long)p->a->result->position);
        }
    }
    s->pending_turns = 0;
    return FP_OK;
}

/* The text of an earlier answer is what its tokens give, or the beginning of it (a stop string ended it). */
static fp_status check_earlier_text(const replay *p, size_t leaf)
{
    const fp__transcript_leaf *answer = &p->a->t.leaves[leaf];
    fp__buf text = {0};
    fp__detok detok;
    fp__detok_init(&detok, p->engine->model->tokenizer, 0);
    fp_status status = FP_OK;
    for (size_t i = 0; i < answer->ids.size && status == FP_OK; i++)
        status = fp__detok_push(&detok, answer->ids.data[i], &text);
    if (status == FP_OK)
        status = fp__detok_flush(&detok, &text);
    bool same = status == FP_OK && answer->bytes.size <= text.size &&
                (answer->bytes.size == 0 || memcmp(answer->bytes.data, text.data, answer->bytes.size) == 0);
    fp__buf_free(&text);
    FP_TRY(status);
    return same ? FP_OK : fp__fail(FP_INVALID, "the text of answer %zu is not what its tokens give", leaf);
}

/* The whole context as tokens: messages rendered again, answers as they are. */
static fp_status rebuild_tokens(replay *p)
{
    const fp__transcript *t = &p->a->t;
    size_t answer = fp__transcript_answer(t), first = 0;
    fp_label lowest = fp__kvseq_label(p->session->context); /* of the anchors */
    for (size_t i = 0; i <= answer; i++) {
        fp_label label = t->leaves[i].label;
        bool output = t->leaves[i].kind == FP__TEXT_OUTPUT;
        if (label > FP_LABEL_USER)
            return fp__fail(FP_INVALID, "text %zu is labelled %s, which only anchors are", i,
                            fp_label_name(label));
        if (output && label != (lowest < FP_LABEL_USER ? lowest : FP_LABEL_USER))
            return fp__fail(FP_INVALID, "the label of answer %zu is not the lowest that it attended to", i);
        lowest = label < lowest ? label : lowest;
        if (!output)
            continue;
        if (i > first)
            FP_TRY(check_messages(p, first, i));
        fp__turn *turn;
        FP_TRY(fp__session_add_turn(p->session, FP__TEXT_OUTPUT, FP_ROLE_ASSISTANT, "", 0, &turn));
        turn->label = label;
        FP_TRY(fp__session_replay_turn(p->session, turn, &t->leaves[i].ids, i == answer, &p->ids));
        if (i < answer)
            FP_TRY(check_earlier_text(p, i));
        first = i + 1;
    }
    if (p->session->turns[answer].first != p->a->r.prompt_tokens)
        return differs("the number of prompt tokens");
    return FP_OK;
}

/* Samples the tokens of the answer from the logits of the last feed: rows [begin, begin + n) of the context.
 */
static fp_status check_samples(replay *p, size_t begin, size_t n)
{
    fp_session *s = p->session;
    const fp__transcript *t = &p->a->t;
    size_t first = (size_t)p->a->r.prompt_tokens, end = first + t->leaves[fp__transcript_answer(t)].ids.size;
    size_t rows[FP__LOGIT_ROWS], k = 0;
    for (size_t i = begin; i < begin + n; i++) {
        if (i + 1 >= first && i + 1 < end)
            rows[k++] = i - begin;
        if (k == 0 || (k < FP__LOGIT_ROWS && i + 1 < begin + n))
            continue;
        FP_TRY(fp__forward_logits(p->engine->forward, rows, k, NULL));
        for (size_t j = 0; j < k; j++) {
            size_t at = begin + rows[j] + 1; /* context index of the sampled token */
            s->ids.size = at;
            memcpy(s->ids.data, p->ids.data, at * sizeof *s->ids.data);
            fp__session_sample(s, j);
            if (s->answer.status != FP_OK)
                return fp__fail(s->answer.status, "%s", s->answer.error);
            if (s->ids.data[at] != p->ids.data[at]) {
                p->a->result->position = (int64_t)(p->a->r.anchor_tokens + at);
                return fp__fail(
                    FP_INVALID,
                    "position %lld: the model and the sampler give token %u, the transcript has %u",
                    (long long)p->a->result->position, s->ids.data[at], p->ids.data[at]);
            }
            if (at + 1 < end && s->answer.finish != FP_FINISH_NONE)
                return fp__fail(FP_INVALID, "the answer should have ended after %zu tokens", at + 1 - first);
        }
        k = 0;
    }
    return FP_OK;
}

static fp_status feed_all(replay *p)
{
    fp_session *s = p->session;
    uint64_t committed = p->a->r.context_tokens;
    if (committed + 1 != p->ids.size) /* all but the token that was sampled last */
        return differs("the number of context tokens");
    FP_TRY(fp__ids_reserve(&s->ids, p->ids.size + 1));
    for (size_t at = 0; at < committed;) {
        size_t n =
            committed - at < p->engine->chunk_tokens ? (size_t)committed - at : p->engine->chunk_tokens;
        fp__feed feed = {.seq = s->context,
                         .anchors = s->anchors,
                         .ids = p->ids.data + at,
                         .n = n,
                         .session = s,
                         .mass = s->mass};
        if (fp__engine_cancelled(p->engine))
            return fp__fail(FP_CANCELLED, "interrupted");
        FP_TRY(fp__engine_feed(p->engine, &feed, 1));
        s->mass_rows += s->anchors ? n : 0;
        FP_TRY(check_samples(p, at, n));
        at += n;
        fp__engine_progress(p->engine, (double)at / (double)committed);
    }
    return FP_OK;
}

/* The kv head and the masses have the label of the whole context, the receipt that of the answer (which
 * rebuild_tokens has checked). */
static fp_status check_labels(const replay *p)
{
    const fp__transcript *t = &p->a->t;
    fp_label context = fp__kvseq_label(p->session->context);
    for (size_t i = t->n - 2; i < t->n; i++)
        if (t->leaves[i].label != context)
            return fp__fail(FP_INVALID, "the label of leaf %zu is not %s", i, fp_label_name(context));
    bool same = p->a->r.label == t->leaves[fp__transcript_answer(t)].label;
    return same ? FP_OK : differs("the label of the answer");
}

/* kv head, masses, text, finish and labels of the answer. */
static fp_status check_outcome(replay *p)
{
    fp_session *s = p->session;
    const fp__transcript *t = &p->a->t;
    const fp__receipt *r = &p->a->r;
    size_t answer = fp__transcript_answer(t), n = p->engine->model->hp.layers * p->engine->model->hp.heads;
    uint8_t head[32];
    FP_TRY(fp__kvseq_head(s->context, head));
    if (memcmp(head, t->leaves[t->n - 2].bytes.data, 32) != 0)
        return fp__fail(FP_INVALID, "the K/V pages hash to another head than the receipt commits to");
    const fp__buf *masses = &t->leaves[t->n - 1].bytes;
    if (masses->size != (s->anchors ? 8 * (n + 1) : 0))
        return differs("the number of anchor masses");
    for (size_t i = 0; s->anchors && i <= n; i++)
        if (fp__load_le64(masses->data + 8 * i) != (i == 0 ? s->mass_rows : s->mass[i - 1]))
            return differs("an anchor mass");
    bool cut = r->finish == FP_FINISH_CANCELLED || r->finish == FP_FINISH_ANCHOR_REVOKED;
    if (cut && s->answer.finish == FP_FINISH_NONE)
        fp__session_end(s,
                        r->finish); /* it could have gone on; of a revocation the log says why it did not */
    if (s->answer.finish != r->finish)
        return differs("the finish reason");
    const fp__buf *text = &s->turns[answer].text, *claimed = &t->leaves[answer].bytes;
    if (text->size != claimed->size || (text->size && memcmp(text->data, claimed->data, text->size) != 0))
        return fp__fail(FP_INVALID, "the text of the answer is not what its tokens give");
    return check_labels(p);
}

static fp_status start_session(replay *p)
{
    const fp__receipt *r = &p->a->r;
    fp_session_options options = {.anchors = p->has_anchors ? &p->anchors : NULL, .raw = p->a->t.raw};
    FP_TRY(fp_session_create(p->engine, &options, &p->session));
    FP_TRY(rebuild_tokens(p));
    fp__answer *answer = &p->session->answer;
    answer->sampling = r->sampling;
    if (fp__session_check_sampling(p->session, &r->sampling) != FP_OK)
        return fp__fail_context(FP_INVALID, "the receipt's sampling");
    answer->max_tokens = (uint32_t)r->max_tokens;
    answer->ignore_eog = r->ignore_eog;
    answer->turn = fp__transcript_answer(&p->a->t);
    p->session->turns[answer->turn].count = 0; /* counted up again by the sampler's side */
    answer->stops = calloc(p->a->t.n_stops + 1, sizeof *answer->stops);
    if (!answer->stops)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    for (size_t i = 0; i < p->a->t.n_stops; i++, answer->n_stops++)
        if (!(answer->stops[i] = strdup((const char *)p->a->t.stops[i].data)))
            return fp__fail(FP_NO_MEMORY, "audit: no memory");
    fp__detok_init(&answer->detok, p->engine->model->tokenizer, 0);
    return FP_OK;
}

static fp_status audit_full(audit *a)
{
    fp_engine_options options = a->o->engine ? *a->o->engine : (fp_engine_options){0};
    replay p = {.a = a};
    uint8_t digest[32];
    FP_TRY(fp_model_digest(a->o->model, digest));
    if (memcmp(digest, a->r.model, 32) != 0)
        return fp__fail(
            FP_INVALID,
            "the model is not the one that answered (another file, tokenizer, template or arithmetic)");
    if (a->r.arithmetic != FP__ARITHMETIC_VERSION)
        return differs("the version of the arithmetic");
    if (!a->has_transcript)
        return fp__fail(FP_NOT_FOUND, "the transcript is needed for a full audit (--transcript)");
    if (a->r.context_limit > FP__CONTEXT_MAX || a->r.anchor_tokens > FP__CONTEXT_MAX ||
        a->r.context_tokens > FP__CONTEXT_MAX ||
        a->r.context_limit < a->r.anchor_tokens + a->r.context_tokens + 1)
        return differs("the size of the context");
    options.context_tokens = (size_t)a->r.context_limit;
    options.max_sessions = 1;
    FP_TRY(fp_engine_create(a->o->model, &options, &p.engine));
    fp_status status = a->r.anchors ? recompile(&p) : FP_OK;
    if (status == FP_OK)
        status = start_session(&p);
    if (status == FP_OK)
        status = feed_all(&p);
    if (status == FP_OK)
        status = check_outcome(&p);
    if (status == FP_NUMERIC) /* no answer comes out of that */
        status = fp__fail_context(FP_INVALID, "the model cannot compute it");
    fp_session_destroy(p.session);
    fp__kvseq_destroy(p.anchors.seq);
    free(p.anchors.g);
    fp__ids_free(&p.ids);
    fp_engine_destroy(p.engine);
    return status;
}

/* ---- verdicts
 * ---------------------------------------------------------------------------------------------------------------
 */

/* FP_OK with a verdict for what is one; else the operating error. */
static fp_status decide(fp_status status, fp_verdict valid, fp_verdict *verdict, fp_audit_result *result)
{
    *verdict = status == FP_OK ? valid : status == FP_INVALID ? FP_VERDICT_INVALID : FP_VERDICT_UNDECIDED;
    if (status == FP_OK)
        return FP_OK;
    snprintf(result->detail, sizeof result->detail, "%s", fp_error_detail());
    return status == FP_INVALID || status == FP_NOT_FOUND ? FP_OK : status;
}

static void release(audit *a)
{
    if (a->history)
        fp__registry_end(a->history);
    fp__registry_close(a->history);
    for (size_t i = 0; i < FP__RECEIPT_OVERRIDES_MAX; i++)
        fp__event_free(&a->overrides[i]);
    fp__transcript_free(&a->t);
    fp__receipt_free(&a->r);
    fp__dsse_free(&a->dsse);
}

fp_status fp_audit(fp_workspace *workspace, const fp_audit_options *options, fp_audit_result *out)
{
    audit *a = calloc(1, sizeof *a);
    if (!a)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    *out = (fp_audit_result){.position = -1};
    a->w = workspace;
    a->o = options;
    a->result = out;
    uint64_t start = fp__now_ns();
    fp_status status = decide(audit_light(a), FP_VERDICT_VALID_LIGHT, &out->light, out);
    out->light_ns = fp__now_ns() - start;
    if (status == FP_OK && options->model && (out->light == FP_VERDICT_VALID_LIGHT || a->other_transcript)) {
        start = fp__now_ns();
        char light_detail[sizeof out->detail];
        memcpy(light_detail, out->detail, sizeof light_detail);
        status = decide(audit_full(a), FP_VERDICT_VALID_FULL, &out->full, out);
        if (out->light != FP_VERDICT_VALID_LIGHT) { /* this was to find the position only */
            if (out->full != FP_VERDICT_INVALID)
                memcpy(out->detail, light_detail, sizeof light_detail);
            out->full = FP_VERDICT_INVALID;
            if (status != FP_CANCELLED)
                status = FP_OK;
        }
        out->full_ns = fp__now_ns() - start;
    }
    release(a);
    free(a);
    return status;
}
