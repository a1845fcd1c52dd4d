/* Which events count, and what they change. The rules read the tables, the policy in force and nothing else.
 */
#include "anchor/registry_db.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void FP_PRINTF(2, 3) refuse(fp__verdict *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out->why, sizeof out->why, format, arguments);
    va_end(arguments);
}

/* The role's threshold is met; else says how many holders are missing. */
static bool signed_by(const fp__policy *policy, const fp__dsse *dsse, fp_purpose purpose, fp_label type,
                      const fp__distrusts *distrusts, uint64_t index, fp__verdict *out)
{
    const fp__policy_role *role = fp__policy_role_of(policy, purpose, type);
    fp__signers signers;
    if (role->threshold == 0) {
        refuse(out, "the policy gives the role %s to nobody", fp_purpose_name(purpose));
        return false;
    }
    fp__policy_count(policy, dsse, purpose, type, distrusts, index, &signers);
    if (fp__signers_suffice(&signers, role))
        return true;
    out->missing = role->threshold - signers.count;
    refuse(out, "signed by %u of %u holders of the role %s%s", signers.count, role->threshold,
           fp_purpose_name(purpose), signers.distrusted ? " (a distrusted key does not count)" : "");
    return false;
}

static void judge_unknown(const fp__registry *r, const fp__dsse *dsse, uint64_t index, fp__verdict *out)
{
    for (size_t k = 0; r->policy != NULL && k < r->policy->keys_count; k++)
        if (!fp__distrusted(&r->distrusts, r->policy->keys[k].keyid, index) &&
            fp__dsse_verify(dsse, r->policy->keys[k].public_key)) {
            out->poison = out->authentic = true;
            refuse(out,
                   "unknown event type, signed by a key of the policy: everything is denied from here on");
            return;
        }
    refuse(out, "unknown event type, signed by no key of the policy");
}

static bool policy_continues(const fp__registry *r, const fp__policy *next, fp__verdict *out)
{
    const fp__policy_key *log_key = fp__policy_find_key(next, r->trust->log_key.public_key);
    if (strcmp(next->origin, r->trust->origin) != 0)
        refuse(out, "the policy is for another log");
    else if (log_key == NULL || log_key->purpose != FP_PURPOSE_LOG)
        refuse(out, "the policy does not name the log's key with the purpose log");
    else if (r->policy == NULL && memcmp(next->digest, r->trust->first_policy, 32) != 0)
        refuse(out, "not the first policy that the trust file pins");
    else if (r->policy == NULL && next->number != 0)
        refuse(out, "the first policy has number 0");
    else if (r->policy != NULL &&
             (next->number != r->policy->number + 1 || memcmp(next->previous, r->policy->digest, 32) != 0))
        refuse(out, "the policy does not continue the one in force (number %llu)",
               (unsigned long long)r->policy->number);
    else
        return true;
    return false;
}

static void judge_parsed_policy(const fp__registry *r, const fp__dsse *dsse, const fp__policy *next,
                                uint64_t index, fp__verdict *out)
{
    if (!policy_continues(r, next, out))
        return;
    /* Proof of possession: every key that was not in the policy before signs; the log's shows in the
     * checkpoint. */
    for (size_t k = 0; k < next->keys_count; k++) {
        const fp__policy_key *key = &next->keys[k];
        bool old = r->policy != NULL && fp__policy_find_key(r->policy, key->public_key) != NULL;
        if (!old && key->purpose != FP_PURPOSE_LOG && !fp__dsse_verify(dsse, key->public_key)) {
            out->missing++;
            refuse(out, "the new key %.16s… (%s of %s) has not signed", key->keyid,
                   fp_purpose_name(key->purpose), next->holders[key->holder]);
        }
    }
    fp__verdict threshold = {0};
    const fp__policy *judge = r->policy != NULL ? r->policy : next;
    if (!signed_by(judge, dsse, FP_PURPOSE_POLICY, FP_LABEL_EXTERNAL, &r->distrusts, index, &threshold)) {
        out->missing += threshold.missing;
        memcpy(out->why, threshold.why, sizeof out->why);
    }
    out->counts = out->authentic = out->why[0] == 0;
}

static fp_status judge_policy(const fp__registry *r, const fp__dsse *dsse, const fp__event *e, uint64_t index,
                              fp__verdict *out)
{
    fp__policy *next = malloc(sizeof *next);
    if (next == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a policy");
    if (fp__policy_parse(e->policy_bytes.data, e->policy_bytes.size, next) != FP_OK)
        refuse(out, "%s", fp_error_detail());
    else
        judge_parsed_policy(r, dsse, next, index, out);
    free(next);
    return FP_OK;
}

static fp_status find_anchor(fp__registry *r, const uint8_t id[32], fp__anchor_entry *out, bool *found)
{
    fp_status status = fp__registry_anchor(r, id, out);
    *found = status == FP_OK;
    return status == FP_NOT_FOUND ? FP_OK : status;
}

/* register, promote, supersede, revoke: what the anchor's state must be. */
static fp_status judge_anchor(fp__registry *r, const fp__event *e, fp__verdict *out)
{
    fp__anchor_entry anchor, successor;
    bool found, known;
    FP_TRY(find_anchor(r, e->target, &anchor, &found));
    bool registered = found && anchor.register_index != FP_INDEX_NONE;
    if (found && anchor.state == FP_ANCHOR_REVOKED)
        refuse(out, "the anchor is revoked, which is final");
    else if (e->type == FP__EVENT_REVOKE)
        return FP_OK; /* also before it is registered */
    else if (e->type == FP__EVENT_REGISTER && registered)
        refuse(out, "the anchor is registered already");
    else if (e->type == FP__EVENT_REGISTER && !r->policy->types[e->label])
        refuse(out, "the policy allows no %s anchors", fp_label_name(e->label));
    else if (e->type != FP__EVENT_REGISTER && !registered)
        refuse(out, "the anchor is not registered");
    else if (e->type != FP__EVENT_REGISTER && anchor.type != e->label)
        refuse(out, "the anchor is registered as %s, not %s", fp_label_name(anchor.type),
               fp_label_name(e->label));
    else if (e->type == FP__EVENT_PROMOTE && anchor.state != FP_ANCHOR_CANDIDATE)
        refuse(out, "the anchor is %s already", fp_anchor_state_name(anchor.state));
    else if (e->type == FP__EVENT_SUPERSEDE && anchor.state != FP_ANCHOR_PROMOTED)
        refuse(out, "only a promoted anchor can be superseded; this one is %s",
               fp_anchor_state_name(anchor.state));
    else if (e->type == FP__EVENT_SUPERSEDE) {
        FP_TRY(find_anchor(r, e->successor, &successor, &known));
        if (!known || successor.state != FP_ANCHOR_PROMOTED)
            refuse(out, "the successor is not promoted");
    }
    return FP_OK;
}

static fp_status judge_compile(fp__registry *r, const fp__event *e, fp__verdict *out)
{
    for (size_t i = 0; i < e->ids_count && out->why[0] == 0; i++) {
        fp__anchor_entry anchor;
        bool found;
        FP_TRY(find_anchor(r, e->ids[i], &anchor, &found));
        if (!found || anchor.state != FP_ANCHOR_PROMOTED)
            refuse(out, "anchor %zu of the set is not promoted", i);
    }
    if (out->why[0] == 0 && e->tokens > r->policy->max_tokens)
        refuse(out, "the set has %u tokens; the policy allows %u", e->tokens, r->policy->max_tokens);
    return FP_OK;
}

static fp_status judge_state(fp__registry *r, const fp__event *e, fp__verdict *out)
{
    switch (e->type) {
    case FP__EVENT_REGISTER:
    case FP__EVENT_PROMOTE:
    case FP__EVENT_SUPERSEDE:
    case FP__EVENT_REVOKE:
        return judge_anchor(r, e, out);
    case FP__EVENT_COMPILE:
        return judge_compile(r, e, out);
    default:
        return FP_OK;
    }
}

static fp_status judge_known(fp__registry *r, const fp__dsse *dsse, const fp__event *e, uint64_t index,
                             fp__verdict *out)
{
    fp__verdict state = {0};
    out->authentic =
        signed_by(r->policy, dsse, fp__event_purpose(e->type), e->label, &r->distrusts, index, out);
    FP_TRY(judge_state(r, e, &state));
    if (state.why[0] != 0) { /* more signatures would not help */
        memcpy(out->why, state.why, sizeof out->why);
        out->missing = 0;
    }
    out->counts = out->why[0] == 0;
    return FP_OK;
}

fp_status fp__registry_judge(fp__registry *r, const fp__dsse *dsse, const fp__event *e, uint64_t index,
                             fp__verdict *out)
{
    static const uint8_t zero[32] = {0};
    sqlite3_stmt *statement = NULL;
    bool seen = false;
    *out = (fp__verdict){0};
    FP_TRY(fp__db_bind(r, FP__SQL_EVENT_SEEN, &statement, "ib", fp__db_key(dsse->id), dsse->id));
    FP_TRY(fp__db_step(r, statement, &seen));
    if (seen) {
        refuse(out, "a repetition of entry %lld: only the first occurrence counts",
               (long long)sqlite3_column_int64(statement, 0));
        fp__db_reset(statement);
        return FP_OK;
    }
    if (e->type == FP__EVENT_UNKNOWN) {
        judge_unknown(r, dsse, index, out);
        return FP_OK;
    }
    if (strcmp(e->origin, r->trust->origin) != 0)
        refuse(out, "it is for another log: %.80s", e->origin);
    else if (r->policy == NULL && e->type != FP__EVENT_POLICY)
        refuse(out, "no policy is in force yet");
    else if (memcmp(e->policy, r->policy != NULL ? r->policy->digest : zero, 32) != 0)
        refuse(out, "it names a policy that is not the one in force");
    else if (e->type == FP__EVENT_POLICY)
        return judge_policy(r, dsse, e, index, out);
    else
        return judge_known(r, dsse, e, index, out);
    return FP_OK;
}

/* ---- Changes ---- */

static fp_status apply_anchor(fp__registry *r, const fp__event *e, uint64_t index)
{
    FP_TRY(fp__db_run(r, FP__SQL_ANCHOR_ADD, "bii", e->target, index, (uint64_t)e->label));
    switch (e->type) {
    case FP__EVENT_REGISTER:
        return fp__db_run(r, FP__SQL_ANCHOR_REGISTER, "iiiib", index, e->valid_from, e->valid_until,
                          (uint64_t)e->label, e->target);
    case FP__EVENT_PROMOTE:
        return fp__db_run(r, FP__SQL_ANCHOR_PROMOTE, "iiib", index, e->valid_from, e->valid_until, e->target);
    case FP__EVENT_SUPERSEDE:
        return fp__db_run(r, FP__SQL_ANCHOR_SUPERSEDE, "ibb", index, e->successor, e->target);
    default:
        return fp__db_run(r, FP__SQL_ANCHOR_REVOKE, "ib", index, e->target);
    }
}

static fp_status apply_distrust(fp__registry *r, const fp__event *e, uint64_t index, bool *again)
{
    for (size_t i = 0; i < r->distrusts.count; i++)
        if (r->distrust_indices[i] == index)
            return FP_OK; /* known from the pass before */
    FP_TRY(fp__db_run(r, FP__SQL_DISTRUST_ADD, "ibi", index, e->target, e->from_index));
    *again = true;
    return FP_OK;
}

fp_status fp__registry_apply(fp__registry *r, const fp__dsse *dsse, const fp__event *e, uint64_t index,
                             bool *again)
{
    switch (e->type) {
    case FP__EVENT_POLICY:
        FP_TRY(fp__db_run(r, FP__SQL_POLICY_ADD, "ibB", index, e->target, e->policy_bytes.data,
                          e->policy_bytes.size));
        return fp__registry_load(r);
    case FP__EVENT_COMPILE:
        return fp__db_run(r, FP__SQL_COMPILE_ADD, "ibbibbbii", index, e->target, e->model,
                          (uint64_t)e->arithmetic, e->salt, e->token_ids, e->kv_head, (uint64_t)e->tokens,
                          (uint64_t)e->pages);
    case FP__EVENT_RECEIPTS:
        for (size_t i = 0; i < e->ids_count; i++)
            FP_TRY(fp__db_run(r, FP__SQL_RECEIPT_ADD, "ibi", fp__db_key(e->ids[i]), e->ids[i], index));
        return FP_OK;
    case FP__EVENT_RETRACTION:
        return fp__db_run(r, FP__SQL_RETRACTION_ADD, "bi", e->target, index);
    case FP__EVENT_ENDORSE:
        return fp__db_run(r, FP__SQL_ENDORSE_ADD, "ibiii", index, e->target, (uint64_t)e->label,
                          e->valid_from, e->valid_until);
    case FP__EVENT_OVERRIDE:
        return fp__db_run(r, FP__SQL_OVERRIDE_ADD, "ibitBii", index, dsse->id, (uint64_t)e->halt,
                          e->deployment, (const void *)e->ids, e->ids_count * 32, e->valid_from,
                          e->valid_until);
    case FP__EVENT_DISTRUST:
        return apply_distrust(r, e, index, again);
    default:
        return apply_anchor(r, e, index);
    }
}
