/* Audit of receipts. Light: who claimed what under which policy, from the log alone. Full, in audit_full.c:
 * the claim is computed again. */
#include "engine/audit.h"
#include "core/file.h"
#include <openssl/rand.h>
#include <stdlib.h>

const char *fp_verdict_name(fp_verdict verdict)
{
    static const char *const names[] = {"UNDECIDED", "INVALID", "VALID-LIGHT", "VALID-FULL", "VALID-SAMPLED"};
    return (size_t)verdict < 5 ? names[verdict] : "unknown";
}

fp_status fp__audit_differs(const char *what)
{
    return fp__fail(FP_INVALID, "%s is not what the receipt says", what);
}

/* ---- light
 * --------------------------------------------------------------------------------------------------------------
 */

static fp_status read_receipt(fp__audit *a)
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

static fp_status check_head(fp__audit *a, uint64_t size, const uint8_t root[32], const char *what)
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

static fp_status check_log(fp__audit *a)
{
    if (a->w->log_fault[0])
        return fp__fail(FP_INVALID, "the log is inconsistent: %s", a->w->log_fault);
    if (strcmp(a->r.origin, a->w->trust.origin) != 0)
        return fp__fail(FP_INVALID, "the receipt is of log \"%s\", but the trust file pins \"%s\"",
                        a->r.origin, a->w->trust.origin);
    FP_TRY(check_head(a, a->r.first_size, a->r.first_root, "first"));
    FP_TRY(check_head(a, a->r.last_size, a->r.last_root, "last"));
    return FP_OK;
}

static fp_status check_signer(fp__audit *a)
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
static fp_status load_overrides(fp__audit *a)
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
static fp_status ask_gate(fp__audit *a, bool running, fp_gate_result *out)
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

/* The log as it was at that size; a->history, until the next call. */
static fp_status go_to(fp__audit *a, fp__registry **history, uint64_t size)
{
    fp__ledger_head head;
    if (*history) {
        fp__registry_head(*history, &head);
        if (head.size > size) {
            fp__registry_close(*history);
            *history = NULL;
        }
    }
    if (!*history)
        FP_TRY(fp__registry_open(":memory:", &a->w->trust, history));
    FP_TRY(fp__registry_replay(*history, a->w->reader, size));
    a->history = *history;
    return fp__registry_begin(a->history);
}

static void leave(fp__audit *a)
{
    if (a->history)
        fp__registry_end(a->history);
    a->history = NULL;
}

/* The anchors were let in at the first tree head. */
static fp_status check_let_in(fp__audit *a)
{
    const fp__receipt *r = &a->r;
    FP_TRY(go_to(a, &a->histories->first, r->first_size));
    fp_status status = ask_gate(a, false, &a->gate);
    leave(a);
    return status == FP_DENIED ? denied(&a->gate, r->first_size) : status;
}

static bool asks_for_witnesses(const fp__audit *a)
{
    const fp__policy *policy = fp__registry_policy(a->history, NULL, NULL);
    return a->w->trust.witnesses.threshold > 0 ||
           (policy && (policy->witnesses.threshold > 0 || policy->freshness_seconds > 0));
}

/* At the last one they still were (superseding ends no turn that has begun), or the answer was stopped. */
static fp_status check_kept(fp__audit *a)
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
static fp_status check_anchors(fp__audit *a)
{
    const fp__receipt *r = &a->r;
    FP_TRY(check_kept(a));
    if (r->anchors == 0)
        return r->anchor_tokens == 0 ? FP_OK : fp__audit_differs("the number of anchor tokens");
    fp_status status = FP_OK;
    if (memcmp(a->gate.set_id, r->set_id, 32) != 0)
        return fp__audit_differs("the anchor set");
    if (memcmp(a->gate.kv_head, r->anchor_kv_head, 32) != 0 || a->gate.compile_index != r->compile_index)
        return fp__audit_differs("the logged compile event of the anchors");
    if (a->gate.injection.mode != r->mode)
        return fp__audit_differs("the injection mode");
    if (a->gate.tokens != r->anchor_tokens)
        return fp__audit_differs("the number of anchor tokens");
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

static fp_status check_transcript(fp__audit *a)
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
        return fp__audit_differs("the number of leaves of the transcript");
    FP_TRY(fp__transcript_stops_digest(&a->t, stops));
    if (memcmp(stops, a->r.stops, 32) != 0)
        return fp__audit_differs("the stop strings of the transcript");
    if (a->t.leaves[answer].ids.size != a->r.output_tokens)
        return fp__audit_differs("the number of output tokens");
    return FP_OK;
}

/* What the engine itself says of the answer, and has said since. */
static fp_status check_standing(fp__audit *a)
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

static fp_status audit_light(fp__audit *a)
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
    FP_TRY(go_to(a, &a->histories->last, a->r.last_size));
    fp_status status = check_signer(a);
    if (status == FP_OK)
        status = check_anchors(a);
    leave(a);
    FP_TRY(status);
    if (a->r.has_nonce && a->r.sampling.seed != fp__seed_from_nonce(a->r.nonce))
        return fp__fail(FP_INVALID, "the seed is not derived from the nonce");
    FP_TRY(check_standing(a));
    return check_transcript(a);
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

void fp__audit_decide_full(fp__audit *a, fp_status status, uint64_t start_ns)
{
    fp_audit_result *out = a->result;
    char light_detail[sizeof out->detail];
    memcpy(light_detail, out->detail, sizeof light_detail);
    out->status =
        decide(status, out->sample_65536 ? FP_VERDICT_VALID_SAMPLED : FP_VERDICT_VALID_FULL, &out->full, out);
    if (out->light != FP_VERDICT_VALID_LIGHT) { /* this was to find the position only */
        if (out->full != FP_VERDICT_INVALID)
            memcpy(out->detail, light_detail, sizeof light_detail);
        out->full = FP_VERDICT_INVALID;
        if (out->status != FP_CANCELLED)
            out->status = FP_OK;
    }
    out->full_ns = (fp__now_ns() - start_ns) | 1; /* never 0: it was made */
    fp__audit_free(a);
}

void fp__audit_free(fp__audit *a)
{
    if (!a)
        return;
    leave(a);
    for (size_t i = 0; i < FP__RECEIPT_OVERRIDES_MAX; i++)
        fp__event_free(&a->overrides[i]);
    fp__transcript_free(&a->t);
    fp__receipt_free(&a->r);
    fp__dsse_free(&a->dsse);
    free(a);
}

/* ---- many receipts
 * ----------------------------------------------------------------------------------------------------------
 */

typedef struct many {
    fp_workspace *w;
    const fp_audit_many_options *o;
    fp_audit_options *items; /* [n] */
    fp_audit_result *results;
    size_t *order; /* [n] by the size of the log when they began */
    uint64_t *size;
    bool *told;      /* [n] */
    size_t *pending; /* [n] given to be computed, not yet decided */
    size_t pending_count;
    size_t n;
    uint8_t seed[32];
    fp__histories histories;
    fp__replays *replays;
} many;

/* Results that are there by now go to the caller, in no particular order. */
static void tell_one(many *m, size_t i)
{
    if (!m->told[i] && m->o->on_result)
        m->o->on_result(m->o->on_result_context, i, &m->results[i]);
    m->told[i] = true;
}

/* Of those that were given to be computed, the ones that are decided by now. */
static void tell(many *m)
{
    size_t kept = 0;
    for (size_t k = 0; k < m->pending_count; k++) {
        size_t i = m->pending[k];
        if (m->results[i].full_ns == 0)
            m->pending[kept++] = i;
        else if (m->results[i].status != FP_CANCELLED)
            tell_one(m, i);
    }
    m->pending_count = kept;
}

static uint64_t claimed_size(const char *path)
{
    fp__buf bytes = {0};
    fp__dsse dsse = {0};
    fp__receipt r = {0};
    uint64_t size = 0;
    if (fp__file_read(path, FP__DSSE_ENVELOPE_MAX_BYTES, &bytes) == FP_OK &&
        fp__dsse_parse(bytes.data, bytes.size, &dsse) == FP_OK &&
        fp__receipt_parse(dsse.payload.data, dsse.payload.size, &r) == FP_OK)
        size = r.first_size;
    fp__receipt_free(&r);
    fp__dsse_free(&dsse);
    fp__buf_free(&bytes);
    return size;
}

static int compare_sizes(const void *a, const void *b, void *arg)
{
    const uint64_t *size = arg, x = size[*(const size_t *)a], y = size[*(const size_t *)b];
    if (x != y)
        return x < y ? -1 : 1;
    return *(const size_t *)a < *(const size_t *)b ? -1 : 1;
}

static fp_status prepare(many *m, const fp_audit_item *items)
{
    const size_t n = m->n;
    m->items = calloc(n, sizeof *m->items);
    m->order = calloc(n, sizeof *m->order);
    m->size = calloc(n, sizeof *m->size);
    m->told = calloc(n, sizeof *m->told);
    m->pending = calloc(n, sizeof *m->pending);
    if (!m->items || !m->order || !m->size || !m->told || !m->pending)
        return fp__fail(FP_NO_MEMORY, "audit: no memory for %zu receipts", m->n);
    if (m->o->sample_65536 > 65536)
        return fp__fail(FP_USAGE, "audit: a share is at most 1 (65536/65536)");
    if (m->o->sample_seed)
        memcpy(m->seed, m->o->sample_seed, 32);
    else if (m->o->sample_65536 && RAND_bytes(m->seed, sizeof m->seed) != 1)
        return fp__fail(FP_INTERNAL, "audit: the system gives no random numbers");
    for (size_t i = 0; i < n; i++) {
        m->items[i] = (fp_audit_options){.receipt_path = items[i].receipt_path,
                                         .transcript_path = items[i].transcript_path,
                                         .nonce = items[i].nonce,
                                         .engine = m->o->engine,
                                         .model = m->o->model};
        m->results[i] = (fp_audit_result){.position = -1, .sample_65536 = m->o->sample_65536};
        memcpy(m->results[i].sample_seed, m->seed, 32);
        m->order[i] = i;
        m->size[i] = n > 1 ? claimed_size(items[i].receipt_path) : 0;
    }
    qsort_r(m->order, m->n, sizeof *m->order, compare_sizes, m->size);
    if (!m->o->model)
        return FP_OK;
    fp__replays_options options = {.workspace = m->w,
                                   .model = m->o->model,
                                   .engine = m->o->engine,
                                   .sample_65536 = m->o->sample_65536,
                                   .seed = m->seed,
                                   .together = m->o->together ? m->o->together : 8};
    return fp__replays_create(&options, &m->replays);
}

static fp_status audit_one(many *m, size_t i)
{
    fp_audit_result *out = &m->results[i];
    fp__audit *a = calloc(1, sizeof *a);
    if (!a)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    a->w = m->w;
    a->o = &m->items[i];
    a->result = out;
    a->histories = &m->histories;
    uint64_t start = fp__now_ns();
    out->status = decide(audit_light(a), FP_VERDICT_VALID_LIGHT, &out->light, out);
    out->light_ns = fp__now_ns() - start;
    bool full =
        out->status == FP_OK && m->replays && (out->light == FP_VERDICT_VALID_LIGHT || a->other_transcript);
    if (full) {
        m->pending[m->pending_count++] = i;
        fp_status status = fp__replays_add(m->replays, a);
        tell(m);
        return status;
    }
    fp__audit_free(a);
    tell_one(m, i);
    return FP_OK;
}

static bool is_cancelled(const many *m)
{
    return m->o->engine && m->o->engine->cancel && *m->o->engine->cancel;
}

static fp_status audit_all(many *m)
{
    fp_status status = FP_OK;
    for (size_t i = 0; i < m->n && status == FP_OK; i++)
        status = is_cancelled(m) ? fp__fail(FP_CANCELLED, "interrupted") : audit_one(m, m->order[i]);
    if (status == FP_OK && m->replays)
        status = fp__replays_finish(m->replays);
    tell(m);
    if (status == FP_OK)
        return FP_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", fp_error_detail());
    for (size_t i = 0; i < m->n; i++)
        if (!m->told[i] && m->results[i].status == FP_OK) {
            m->results[i].status = status;
            snprintf(m->results[i].detail, sizeof m->results[i].detail, "%s", why);
        }
    return fp__fail(status, "%s", why);
}

fp_status fp_audit_many(fp_workspace *workspace, const fp_audit_many_options *options,
                        const fp_audit_item *items, size_t n, fp_audit_result *results)
{
    static const fp_audit_many_options defaults;
    many m = {.w = workspace, .o = options ? options : &defaults, .results = results, .n = n};
    if (n == 0)
        return FP_OK;
    fp_status status = prepare(&m, items);
    if (status == FP_OK)
        status = audit_all(&m);
    fp__replays_destroy(m.replays);
    fp__registry_close(m.histories.first);
    fp__registry_close(m.histories.last);
    free(m.items);
    free(m.order);
    free(m.size);
    free(m.told);
    free(m.pending);
    return status;
}

fp_status fp_audit(fp_workspace *workspace, const fp_audit_options *options, fp_audit_result *out)
{
    fp_audit_item item = {options->receipt_path, options->transcript_path, options->nonce};
    fp_audit_many_options many_options = {.engine = options->engine,
                                          .model = options->model,
                                          .sample_65536 = options->sample_65536,
                                          .sample_seed = options->sample_seed};
    *out = (fp_audit_result){.position = -1};
    FP_TRY(fp_audit_many(workspace, &many_options, &item, 1, out));
    return out->status == FP_OK ? FP_OK : fp__fail(out->status, "%s", out->detail);
}
