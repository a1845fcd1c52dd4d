#include "anchor/gate.h"
#include "anchor/statement.h"
#include "ledger/checkpoint.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char *const reason_names[] = {
#define REASON_NAME(name, text, remedy) text,
    FP_GATE_TABLE(REASON_NAME)
#undef REASON_NAME
};
static const char *const reason_remedies[] = {
#define REASON_REMEDY(name, text, remedy) remedy,
    FP_GATE_TABLE(REASON_REMEDY)
#undef REASON_REMEDY
};

const char *fp_gate_reason_name(fp_gate_reason reason)
{
    return (unsigned)reason < FP_GATE_COUNT ? reason_names[reason] : "unknown";
}

const char *fp_gate_reason_remedy(fp_gate_reason reason)
{
    return (unsigned)reason < FP_GATE_COUNT ? reason_remedies[reason] : "";
}

/* One decision in the making. */
struct decision {
    const fp__gate *gate;
    const fp_gate_query *query;
    const fp__policy *policy;
    uint64_t now;
    fp_gate_result *result;
    fp_statement *statements; /* [anchors] */
    bool *have;               /* [anchors] */
};

/* What a bypass override can replace: doubts about time and approval. Never bytes, signatures, labels or
 * revocation. */
static bool can_bypass(fp_gate_reason reason)
{
    return reason == FP_GATE_STALE_CHECKPOINT || reason == FP_GATE_NOT_PROMOTED ||
           reason == FP_GATE_SUPERSEDED || reason == FP_GATE_NOT_YET_VALID || reason == FP_GATE_EXPIRED;
}

static bool held_covers(const struct decision *d, const fp__event *held, bool halt, const uint8_t *id)
{
    const char *here = d->gate->deployment;
    if (held->halt != halt || d->now < held->valid_from || d->now >= held->valid_until)
        return false;
    bool fits =
        strcmp(held->deployment, "*") == 0 || (here != NULL ? strcmp(held->deployment, here) == 0 : halt);
    bool covers = held->ids_count == 0;
    for (size_t i = 0; id != NULL && i < held->ids_count; i++)
        covers = covers || memcmp(held->ids[i], id, 32) == 0;
    return fits && covers;
}

/* The override of this kind in force for an anchor (NULL: all), from the log or else one that is held. */
static bool find_override(const struct decision *d, bool halt, const uint8_t *id, fp__override_entry *out)
{
    if (fp__registry_override(d->gate->registry, halt, id, d->gate->deployment, d->now, out) == FP_OK)
        return true;
    for (size_t i = 0; i < d->gate->held_count; i++) {
        const fp__held_override *held = &d->gate->held[i];
        if (!held_covers(d, held->event, halt, id))
            continue;
        *out = (fp__override_entry){
            .index = FP_INDEX_NONE, .valid_until = held->event->valid_until, .halt = halt};
        memcpy(out->event_id, held->id, 32);
        return true;
    }
    return false;
}

/* What a decision goes by is named in it, and so in the receipt; false: there is no room. */
static bool name_override(fp_gate_result *result, const uint8_t id[32])
{
    for (size_t i = 0; i < result->overrides_count; i++)
        if (memcmp(result->overrides[i], id, 32) == 0)
            return true;
    if (result->overrides_count == FP_GATE_OVERRIDES_MAX)
        return false;
    memcpy(result->overrides[result->overrides_count++], id, 32);
    return true;
}

static bool bypassed(struct decision *d, fp_gate_reason reason, const uint8_t *id)
{
    fp__override_entry override;
    if (!can_bypass(reason) || !find_override(d, false, id, &override) ||
        !name_override(d->result, override.event_id))
        return false;
    d->result->bypassed = true;
    return true;
}

/* Notes a reason against the set (id NULL) or one anchor; the earliest of the table stays. */
static void FP_PRINTF(4, 5)
    refuse(struct decision *d, fp_gate_reason reason, const uint8_t *id, const char *format, ...)
{
    if ((d->result->reason != FP_GATE_ALLOW && d->result->reason <= reason) || bypassed(d, reason, id))
        return;
    char why[200], hex[17] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    memset(d->result->anchor_id, 0, 32);
    if (id != NULL) {
        memcpy(d->result->anchor_id, id, 32);
        fp__hex_encode(id, 8, hex);
    }
    d->result->reason = reason;
    snprintf(d->result->detail, sizeof d->result->detail, "%s: %s%s%s%s. To do: %s",
             fp_gate_reason_name(reason), id != NULL ? "anchor " : "", hex, id != NULL ? "… " : "", why,
             fp_gate_reason_remedy(reason));
}

/* ---- The log ---- */

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

bool fp__quorum_time(const fp__buf *note, const fp__trust *trust, const fp__quorum *quorum, uint64_t *seconds)
{
    fp__note_key *keys = malloc((quorum->count + 1) * sizeof *keys);
    fp__note_verdict verdicts[FP__WITNESSES_MAX + 1];
    uint64_t times[FP__WITNESSES_MAX];
    size_t n = 0;
    fp__checkpoint checkpoint;
    if (keys == NULL)
        return false;
    keys[0] = trust->log_key;
    memcpy(keys + 1, quorum->keys, quorum->count * sizeof *keys);
    fp_status status = fp__checkpoint_open(note->data, note->size, trust->origin, keys, quorum->count + 1,
                                           verdicts, &checkpoint);
    free(keys);
    for (size_t i = 0; status == FP_OK && i < quorum->count; i++)
        if (verdicts[i + 1].valid)
            times[n++] = verdicts[i + 1].timestamp;
    if (status != FP_OK || n < quorum->threshold || n == 0)
        return false;
    qsort(times, n, sizeof times[0], newest_first);
    *seconds = times[quorum->threshold == 0 ? 0 : quorum->threshold - 1];
    return true;
}

static void check_quorum(struct decision *d, const fp__quorum *quorum, const char *whose)
{
    uint64_t seconds = 0, limit = d->policy != NULL ? d->policy->freshness_seconds : 0;
    if (quorum->threshold == 0)
        return;
    if (d->gate->note == NULL || !fp__quorum_time(d->gate->note, d->gate->trust, quorum, &seconds))
        refuse(d, FP_GATE_STALE_CHECKPOINT, NULL,
               "the %s asks for %u witnesses' cosignatures, which are not there", whose, quorum->threshold);
    else if (limit > 0 && !d->gate->history &&
             (seconds > d->now ? seconds - d->now : d->now - seconds) > limit)
        refuse(d, FP_GATE_STALE_CHECKPOINT, NULL,
               "the checkpoint was cosigned at %llu, more than %llu seconds off", (unsigned long long)seconds,
               (unsigned long long)limit);
}

static void check_log(struct decision *d)
{
    if (d->gate->log_fault != NULL)
        refuse(d, FP_GATE_INCONSISTENT_LOG, NULL, "%s", d->gate->log_fault);
    else if (d->policy == NULL)
        refuse(d, FP_GATE_INCONSISTENT_LOG, NULL,
               "the log does not begin with the policy that the trust file pins");
    if (fp__registry_poisoned(d->gate->registry) != FP_INDEX_NONE)
        refuse(d, FP_GATE_UNKNOWN_EVENT, NULL, "entry %llu of the log",
               (unsigned long long)fp__registry_poisoned(d->gate->registry));
    check_quorum(d, &d->gate->trust->witnesses, "trust file");
    if (d->policy == NULL)
        return;
    check_quorum(d, &d->policy->witnesses, "policy");
    if (d->policy->freshness_seconds > 0 && d->gate->trust->witnesses.threshold == 0 &&
        d->policy->witnesses.threshold == 0)
        refuse(d, FP_GATE_STALE_CHECKPOINT, NULL,
               "the policy asks for freshness, but no witness tells the time");
}

/* ---- One anchor ---- */

static void check_signatures(struct decision *d, const uint8_t id[32], const fp__dsse *dsse, fp_label type,
                             uint64_t index)
{
    const fp__policy_role *role = fp__policy_role_of(d->policy, FP_PURPOSE_AUTHOR, type);
    fp__signers signers;
    fp__policy_count(d->policy, dsse, FP_PURPOSE_AUTHOR, type, fp__registry_distrusts(d->gate->registry),
                     index, &signers);
    if (fp__signers_suffice(&signers, role))
        return;
    if (dsse->signatures_count == 0)
        refuse(d, FP_GATE_SIGNATURE, id, "is not signed");
    else if (signers.bad)
        refuse(d, FP_GATE_SIGNATURE, id, "has a signature that does not verify");
    else if (signers.distrusted)
        refuse(d, FP_GATE_DISTRUSTED, id, "was signed with a key that is distrusted since");
    else if (signers.count == 0)
        refuse(d, FP_GATE_KEY_NOT_IN_POLICY, id, "is signed by no key that may sign %s anchors",
               fp_label_name(type));
    else
        refuse(d, FP_GATE_THRESHOLD, id, "is signed by %u of %u holders", signers.count, role->threshold);
}

static void check_state(struct decision *d, const uint8_t id[32], const fp__anchor_entry *anchor)
{
    if (anchor->register_index == FP_INDEX_NONE)
        refuse(d, FP_GATE_NOT_LOGGED, id, "is not registered");
    if (anchor->state == FP_ANCHOR_REVOKED)
        refuse(d, FP_GATE_REVOKED, id, "was revoked by entry %llu", (unsigned long long)anchor->revoke_index);
    if (anchor->supersede_index != FP_INDEX_NONE && !d->query->running)
        refuse(d, FP_GATE_SUPERSEDED, id, "was superseded by entry %llu",
               (unsigned long long)anchor->supersede_index);
    if (anchor->promote_index == FP_INDEX_NONE)
        refuse(d, FP_GATE_NOT_PROMOTED, id, "is a candidate");
    if (d->now < anchor->valid_from)
        refuse(d, FP_GATE_NOT_YET_VALID, id, "is valid from %llu on", (unsigned long long)anchor->valid_from);
    if (d->now >= anchor->valid_until)
        refuse(d, FP_GATE_EXPIRED, id, "was valid until %llu", (unsigned long long)anchor->valid_until);
}

/* The one who asks is among these readers; what is made from the set is for these only. */
static void check_reader(struct decision *d, const uint8_t id[32], const char (*readers)[FP_READER_MAX + 1],
                         size_t n)
{
    const char *reader = d->query->reader;
    fp_gate_result *result = d->result;
    if (reader != NULL && !fp__readers_allow(readers, n, reader))
        refuse(d, FP_GATE_READER_NOT_ALLOWED, id, "may not be read by %.64s", reader);
    bool everybody = result->readers_count == 1 && strcmp(result->readers[0], "*") == 0;
    if (everybody) {
        memcpy(result->readers, readers, n * sizeof *readers);
        result->readers_count = (uint16_t)n;
        return;
    }
    uint16_t kept = 0;
    for (uint16_t i = 0; i < result->readers_count; i++)
        if (fp__readers_allow(readers, n, result->readers[i]))
            memmove(result->readers[kept++], result->readers[i], sizeof result->readers[0]);
    result->readers_count = kept;
}

static bool is_missing(fp_status status)
{
    return status == FP_NOT_FOUND || status == FP_FORMAT || status == FP_LIMIT || status == FP_MISMATCH;
}

static void check_statement(struct decision *d, const uint8_t id[32], const fp_statement *s)
{
    if (!d->policy->types[s->type])
        refuse(d, FP_GATE_NOT_PERMITTED, id, "is %s, which the policy does not allow",
               fp_label_name(s->type));
    if (s->type < d->query->min_label)
        refuse(d, FP_GATE_LABEL_TOO_LOW, id, "is %s where %s is needed", fp_label_name(s->type),
               fp_label_name(d->query->min_label));
    if (d->now < s->valid_from)
        refuse(d, FP_GATE_NOT_YET_VALID, id, "is valid from %llu on", (unsigned long long)s->valid_from);
    if (d->now >= s->valid_until)
        refuse(d, FP_GATE_EXPIRED, id, "was valid until %llu", (unsigned long long)s->valid_until);
    check_reader(d, id, s->readers, s->readers_count);
    check_reader(d, id, d->policy->readers, d->policy->readers_count);
}

/* ---- What an anchor was made from ---- */

#define LINEAGE_WALK_MAX 256 /* anchors behind one anchor */

struct walk {
    const uint8_t *id; /* the anchor of the set */
    const fp_statement *statement;
    size_t count, done;
    uint8_t ids[LINEAGE_WALK_MAX][32]; /* found, the first `done` of them looked at */
    fp_statement source;               /* the one that is looked at */
};

static void check_receipt_source(struct decision *d, const struct walk *walk, const uint8_t receipt_id[32])
{
    uint64_t index = 0;
    if (fp__registry_retraction(d->gate->registry, receipt_id, &index) == FP_OK)
        refuse(d, FP_GATE_REVOKED, walk->id, "was made from an answer that entry %llu retracted",
               (unsigned long long)index);
}

/* Puts what a statement was made from on the list. */
static void note_sources(struct decision *d, struct walk *walk, const fp_statement *s)
{
    for (size_t i = 0; i < s->lineage_count; i++) {
        const fp_lineage *source = &s->lineage[i];
        bool known = source->kind != FP_LINEAGE_ANCHOR;
        if (source->kind == FP_LINEAGE_RECEIPT)
            check_receipt_source(d, walk, source->id);
        for (size_t k = 0; k < walk->count && !known; k++)
            known = memcmp(walk->ids[k], source->id, 32) == 0;
        if (!known && walk->count == LINEAGE_WALK_MAX)
            refuse(d, FP_GATE_NOT_PERMITTED, walk->id, "was made from more than %d anchors",
                   LINEAGE_WALK_MAX);
        else if (!known)
            memcpy(walk->ids[walk->count++], source->id, 32);
    }
}

/* Only a signed, logged endorsement of the document raises a label above what it was made from. */
static void check_raised(struct decision *d, const struct walk *walk, const char *source_hex)
{
    const fp_statement *s = walk->statement;
    fp_label endorsed = FP_LABEL_EXTERNAL;
    if (walk->source.type >= s->type)
        return;
    if (fp__registry_endorsed(d->gate->registry, s->document_sha256, d->now, &endorsed) == FP_OK &&
        endorsed >= s->type)
        return;
    refuse(d, FP_GATE_LABEL_TOO_LOW, walk->id,
           "is %s but was made from %s…, which is %s, and is not endorsed", fp_label_name(s->type),
           source_hex, fp_label_name(walk->source.type));
}

static fp_status check_source(struct decision *d, struct walk *walk, const uint8_t source_id[32])
{
    fp__anchor_entry entry;
    fp__dsse dsse = {0};
    char hex[17];
    fp__hex_encode(source_id, 8, hex);
    fp_status status = fp__registry_anchor(d->gate->registry, source_id, &entry);
    if (status != FP_OK && status != FP_NOT_FOUND)
        return status;
    if (status == FP_OK && entry.state == FP_ANCHOR_REVOKED)
        refuse(d, FP_GATE_REVOKED, walk->id, "was made from %s…, which entry %llu revoked", hex,
               (unsigned long long)entry.revoke_index);
    status = d->gate->statement(d->gate->statement_arg, source_id, &dsse);
    if (status == FP_OK && memcmp(dsse.id, source_id, 32) != 0)
        status = fp__fail(FP_MISMATCH, "the stored statement is another one");
    if (status == FP_OK)
        status = fp__statement_parse_payload(dsse.payload.data, dsse.payload.size, &walk->source);
    fp__dsse_free(&dsse);
    if (is_missing(status)) {
        refuse(d, FP_GATE_MISSING_STATEMENT, walk->id, "was made from %s…, whose statement is not here", hex);
        return FP_OK;
    }
    FP_TRY(status);
    check_raised(d, walk, hex);
    check_reader(d, walk->id, walk->source.readers, walk->source.readers_count);
    note_sources(d, walk, &walk->source);
    return FP_OK;
}

static fp_status check_lineage(struct decision *d, const uint8_t id[32], const fp_statement *s)
{
    if (s->lineage_count == 0)
        return FP_OK;
    struct walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the sources of an anchor");
    walk->id = id;
    walk->statement = s;
    note_sources(d, walk, s);
    fp_status status = FP_OK;
    while (status == FP_OK && walk->done < walk->count)
        status = check_source(d, walk, walk->ids[walk->done++]);
    free(walk);
    return status;
}

/* A halt refuses; a bypass in force is named by the decision whether it was needed or not. */
static void check_override(struct decision *d, const uint8_t *id)
{
    fp__override_entry found;
    if (find_override(d, true, id, &found)) {
        (void)name_override(d->result, found.event_id);
        refuse(d, FP_GATE_OVERRIDDEN, id, "is halted until %llu", (unsigned long long)found.valid_until);
    }
    if (find_override(d, false, id, &found))
        (void)name_override(d->result, found.event_id);
}

static fp_status check_anchor(struct decision *d, size_t i)
{
    const uint8_t *id = d->query->anchor_ids[i];
    fp__anchor_entry anchor;
    fp__dsse dsse = {0};
    fp_status status = fp__registry_anchor(d->gate->registry, id, &anchor);
    bool known = status == FP_OK;
    if (status == FP_NOT_FOUND)
        refuse(d, FP_GATE_NOT_LOGGED, id, "is not in the log");
    else if (status != FP_OK)
        return status;
    if (known)
        check_state(d, id, &anchor);
    check_override(d, id);
    status = d->gate->statement(d->gate->statement_arg, id, &dsse);
    if (status == FP_OK && memcmp(dsse.id, id, 32) != 0)
        status = fp__fail(FP_MISMATCH, "the stored statement is another one");
    if (status == FP_OK)
        status = fp__statement_parse_payload(dsse.payload.data, dsse.payload.size, &d->statements[i]);
    d->have[i] = status == FP_OK;
    if (is_missing(status)) {
        refuse(d, FP_GATE_MISSING_STATEMENT, id, "has no usable statement here (%.120s)", fp_error_detail());
        status = FP_OK;
    } else if (status == FP_OK) {
        const fp_statement *s = &d->statements[i];
        check_signatures(d, id, &dsse, s->type, known ? anchor.promote_index : FP_INDEX_NONE);
        check_statement(d, id, s);
        status = check_lineage(d, id, s);
        if (known && anchor.register_index != FP_INDEX_NONE && anchor.type != s->type)
            refuse(d, FP_GATE_NOT_PERMITTED, id, "is logged as %s but signed as %s",
                   fp_label_name(anchor.type), fp_label_name(s->type));
    }
    fp__dsse_free(&dsse);
    return status;
}

/* ---- The set ---- */

static void check_order(struct decision *d)
{
    const fp_gate_query *q = d->query;
    if (q->anchors > d->policy->max_anchors)
        refuse(d, FP_GATE_NOT_PERMITTED, NULL, "%zu anchors; the policy allows %u", q->anchors,
               d->policy->max_anchors);
    for (size_t i = 0; i < d->policy->required_count; i++)
        if (i >= q->anchors || memcmp(q->anchor_ids[i], d->policy->required[i], 32) != 0)
            refuse(d, FP_GATE_NOT_PERMITTED, d->policy->required[i],
                   "is required by the policy at place %zu of a set", i + 1);
    for (size_t i = 1; i < q->anchors; i++) {
        if (d->have[i] && d->have[i - 1] && d->statements[i].type > d->statements[i - 1].type)
            refuse(d, FP_GATE_NOT_PERMITTED, q->anchor_ids[i], "is %s and stands after one that is %s",
                   fp_label_name(d->statements[i].type), fp_label_name(d->statements[i - 1].type));
        for (size_t j = 0; j < i; j++)
            if (memcmp(q->anchor_ids[i], q->anchor_ids[j], 32) == 0)
                refuse(d, FP_GATE_NOT_PERMITTED, q->anchor_ids[i], "is in the set twice");
    }
}

/* A set has one injection: the one that all anchors with a wish (other than compete) agree on. */
static void check_injection(struct decision *d)
{
    fp_injection *set = &d->result->injection;
    *set = (fp_injection){.mode = FP_INJECT_COMPETE};
    for (size_t i = 0; i < d->query->anchors; i++) {
        const fp_injection *wish = &d->statements[i].injection;
        if (!d->have[i] || wish->mode == FP_INJECT_COMPETE)
            continue;
        if (set->mode != FP_INJECT_COMPETE && !fp_injection_equal(set, wish))
            refuse(d, FP_GATE_NOT_PERMITTED, d->query->anchor_ids[i],
                   "asks for another injection than one before it");
        *set = *wish;
    }
    uint32_t raised = d->query->gamma, most = raised;
    if (raised > 0 && set->mode == FP_INJECT_COMPETE)
        refuse(d, FP_GATE_NOT_PERMITTED, NULL,
               "gamma can be raised only where an anchor asks for floor or reserve");
    if (raised > set->gamma)
        set->gamma = raised;
    most = most > set->gamma ? most : set->gamma;
    for (size_t i = 0; i < set->overrides_count; i++) {
        if (raised > set->overrides[i].gamma)
            set->overrides[i].gamma = raised;
        most = most > set->overrides[i].gamma ? most : set->overrides[i].gamma;
    }
    if (most > d->policy->max_gamma)
        refuse(d, FP_GATE_NOT_PERMITTED, NULL, "gamma %u/65536 is above the policy's maximum %u/65536", most,
               d->policy->max_gamma);
}

static void use_compile(fp_gate_result *result, const fp__compile_entry *c)
{
    result->compiled = true;
    result->compile_index = c->index;
    result->tokens = c->tokens;
    result->pages = c->pages;
    memcpy(result->kv_head, c->kv_head, 32);
    memcpy(result->salt, c->salt, 32);
    memcpy(result->token_ids_digest, c->token_ids, 32);
}

static fp_status check_compiled(struct decision *d)
{
    const fp_gate_query *q = d->query;
    fp__compile_entry *list = NULL;
    size_t n = 0, same_model = 0;
    FP_TRY(fp_set_id(q->anchor_ids, q->anchors, d->result->set_id));
    if (q->for_compile || q->anchors == 0)
        return FP_OK;
    FP_TRY(fp__registry_compiles(d->gate->registry, d->result->set_id, &list, &n));
    for (size_t i = 0; i < n; i++) {
        if (memcmp(list[i].model, q->model_digest, 32) != 0)
            continue;
        same_model++;
        if (list[i].arithmetic != q->arithmetic_version)
            continue;
        if (d->result->compiled && memcmp(d->result->kv_head, list[i].kv_head, 32) != 0)
            refuse(d, FP_GATE_ROOT_MISMATCH, NULL,
                   "entries %llu and %llu of the log name different K/V heads for this set",
                   (unsigned long long)d->result->compile_index, (unsigned long long)list[i].index);
        else if (!d->result->compiled)
            use_compile(d->result, &list[i]);
    }
    free(list);
    if (n == 0)
        refuse(d, FP_GATE_NOT_COMPILED, NULL, "no compile event for this set");
    else if (same_model == 0)
        refuse(d, FP_GATE_WRONG_MODEL, NULL, "the set is compiled for %zu other model%s", n,
               n == 1 ? "" : "s");
    else if (!d->result->compiled)
        refuse(d, FP_GATE_WRONG_ARITHMETIC, NULL, "the set is compiled, but not with version %u",
               q->arithmetic_version);
    return FP_OK;
}

static fp_status decide(struct decision *d)
{
    check_log(d);
    if (d->policy == NULL)
        return FP_OK;
    if (d->query->anchors == 0)
        check_override(d, NULL);
    for (size_t i = 0; i < d->query->anchors; i++)
        FP_TRY(check_anchor(d, i));
    check_order(d);
    check_injection(d);
    FP_TRY(check_compiled(d));
    if (d->query->anchors == 0)
        check_reader(d, d->policy->digest, d->policy->readers, d->policy->readers_count);
    d->result->label = d->query->anchors == 0 ? FP_LABEL_EXTERNAL : FP_LABEL_CORE;
    for (size_t i = 0; i < d->query->anchors; i++)
        if (d->have[i] && d->statements[i].type < d->result->label)
            d->result->label = d->statements[i].type;
    return FP_OK;
}

fp_status fp__gate_decide(const fp__gate *gate, const fp_gate_query *query, fp_gate_result *result)
{
    if (query->anchors > FP__SET_ANCHORS_MAX)
        return fp__fail(FP_LIMIT, "%zu anchors in a set; at most %d are allowed", query->anchors,
                        FP__SET_ANCHORS_MAX);
    if (query->anchors > 0 && !query->for_compile && query->model_digest == NULL)
        return fp__fail(FP_USAGE, "the gate needs the digest of the model");
    struct decision d = {.gate = gate, .query = query, .result = result};
    fp__ledger_head head;
    memset(result, 0, sizeof *result);
    result->readers_count = 1;
    memcpy(result->readers[0], "*", 2);
    d.now = query->now != 0 ? query->now : (uint64_t)time(NULL);
    d.policy = fp__registry_policy(gate->registry, NULL, NULL);
    d.statements = calloc(query->anchors + 1, sizeof *d.statements);
    d.have = calloc(query->anchors + 1, sizeof *d.have);
    fp__registry_head(gate->registry, &head);
    result->time = d.now;
    result->tree_size = head.size;
    memcpy(result->tree_root, head.root, 32);
    if (d.policy != NULL)
        memcpy(result->policy_digest, d.policy->digest, 32);
    fp_status status = FP_OK;
    if (d.statements == NULL || d.have == NULL)
        status = fp__fail(FP_NO_MEMORY, "no memory for a set of %zu anchors", query->anchors);
    else
        status = decide(&d);
    free(d.statements);
    free(d.have);
    FP_TRY(status);
    if (result->reason != FP_GATE_ALLOW)
        return fp__fail(FP_DENIED, "%s (decided at tree size %llu)", result->detail,
                        (unsigned long long)head.size);
    return FP_OK;
}
