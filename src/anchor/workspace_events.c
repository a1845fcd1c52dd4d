/* Events of a workspace: built and signed with the keys held here, judged under the writer's lock, appended.
 */
#include "anchor/keys.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include <dirent.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES 500 /* of 10 ms: another process that appends is done long before */

/* ---- Keys ---- */

fp_status fp__workspace_held_key(const fp_workspace *w, const fp__policy *policy, const fp__policy_key *key,
                                 fp_key **out)
{
    fp__buf path = {0};
    char name[128];
    uint8_t public_key[32];
    fp_key *loaded = NULL;
    snprintf(name, sizeof name, "%s/%s.pem", policy->holders[key->holder], fp_purpose_name(key->purpose));
    fp_status status = fp__workspace_path(w, "keys", name, &path);
    if (status == FP_OK)
        status = fp_key_load((const char *)path.data, &loaded);
    fp__buf_free(&path);
    FP_TRY(status);
    fp_key_public(loaded, public_key);
    if (memcmp(public_key, key->public_key, 32) != 0) {
        fp_key_free(loaded);
        return fp__fail(FP_NOT_FOUND, "keys/%s is not the key that the policy names", name);
    }
    *out = loaded;
    return FP_OK;
}

fp_status fp_workspace_key(fp_workspace *w, fp_purpose purpose, fp_key **out)
{
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    for (size_t i = 0; policy != NULL && i < policy->keys_count; i++)
        if (policy->keys[i].purpose == purpose) {
            fp_status status = fp__workspace_held_key(w, policy, &policy->keys[i], out);
            if (status != FP_NOT_FOUND)
                return status;
        }
    return fp__fail(FP_NOT_FOUND,
                    "no %s key of the policy is in %s/keys: put its PEM file at keys/HOLDER/%s.pem",
                    fp_purpose_name(purpose), w->path, fp_purpose_name(purpose));
}

/* Signs with every key of a policy that is held here and that `purpose` (FP_PURPOSE_COUNT: any but the log's)
 * fits. */
static fp_status sign_held(const fp_workspace *w, const fp__policy *policy, fp_purpose purpose,
                           fp__dsse *dsse)
{
    for (size_t i = 0; i < policy->keys_count; i++) {
        const fp__policy_key *key = &policy->keys[i];
        bool fits = purpose == FP_PURPOSE_COUNT ? key->purpose != FP_PURPOSE_LOG : key->purpose == purpose;
        fp_key *held = NULL;
        if (!fits)
            continue;
        fp_status status = fp__workspace_held_key(w, policy, key, &held);
        if (status == FP_NOT_FOUND)
            continue;
        if (status == FP_OK)
            status = fp__dsse_sign(dsse, held);
        fp_key_free(held);
        FP_TRY(status);
    }
    return FP_OK;
}

fp_status fp__workspace_confirm(const fp_workspace *w, const char *what, const fp__dsse *dsse)
{
    if (w->confirm == NULL ||
        w->confirm(w->confirm_context, what, dsse->payload.data, dsse->payload.size) == 0)
        return FP_OK;
    return fp__fail(FP_CANCELLED, "the %s was not signed", what);
}

void fp_workspace_set_confirm(fp_workspace *w, fp_confirm_fn *confirm, void *context)
{
    w->confirm = confirm;
    w->confirm_context = context;
}

/* A policy event is signed by the policy role of the policy in force, and by the new keys to show that they
 * are there. */
static fp_status sign_event(const fp_workspace *w, const fp__event *event, fp__dsse *dsse)
{
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    if (policy == NULL)
        return fp__fail(FP_INVALID, "no policy is in force in this log: check the trust file");
    bool automatic = event->type == FP__EVENT_RECEIPTS || event->type == FP__EVENT_COMPILE;
    if (!automatic)
        FP_TRY(fp__workspace_confirm(w, fp__event_type_name(event->type), dsse));
    FP_TRY(sign_held(w, policy, fp__event_purpose(event->type), dsse));
    if (event->type != FP__EVENT_POLICY)
        return FP_OK;
    fp__policy *next = malloc(sizeof *next);
    if (next == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a policy");
    fp_status status = fp__policy_parse(event->policy_bytes.data, event->policy_bytes.size, next);
    for (size_t i = 0; status == FP_OK && i < next->keys_count; i++) {
        fp_key *held = NULL;
        if (next->keys[i].purpose == FP_PURPOSE_LOG ||
            fp__policy_find_key(policy, next->keys[i].public_key) != NULL ||
            fp__workspace_held_key(w, next, &next->keys[i], &held) != FP_OK)
            continue; /* judging says whose signature is missing */
        status = fp__dsse_sign(dsse, held);
        fp_key_free(held);
    }
    free(next);
    return status;
}

/* ---- Writing ---- */

struct writing {
    fp_key *log_key;
    fp__ledger_writer *writer;
    fp__ledger_head head; /* when it was opened */
};

static fp_status pending_path(const fp_workspace *w, const uint8_t id[32], fp__buf *path)
{
    return fp__workspace_id_path(w, "pending", id, ".dsse.json", path);
}

static fp_status append(fp_workspace *w, fp__ledger_writer *writer, const fp__dsse *dsse,
                        fp_event_receipt *out)
{
    fp__buf text = {0}, path = {0};
    fp__ledger_head head;
    fp_status status = fp__dsse_write(dsse, &text);
    if (status == FP_OK)
        status = fp__ledger_append(writer, &(fp__ledger_entry){text.data, text.size}, 1, &out->index, &head);
    if (status == FP_OK) {
        out->appended = true;
        out->tree_size = head.size;
        if (pending_path(w, dsse->id, &path) == FP_OK)
            (void)unlink((const char *)path.data);
    }
    fp__buf_free(&text);
    fp__buf_free(&path);
    return status;
}

/* Judges an event as the next entry and appends it as it is. FP_EXISTS: the log has it. FP_DENIED: it would
 * not count. */
static fp_status append_if_new(fp_workspace *w, fp__ledger_writer *writer, const fp__dsse *dsse,
                               fp_event_receipt *out)
{
    fp__event event = {0};
    fp__verdict verdict;
    fp__ledger_head head;
    bool is_event = false, there = false;
    FP_TRY(fp__event_parse(dsse->payload.data, dsse->payload.size, &is_event, &event));
    fp__registry_head(w->registry, &head);
    fp_status status = fp__registry_seen(w->registry, dsse->id, &there);
    if (status == FP_OK && there)
        status = fp__fail(FP_EXISTS, "the event is in the log already");
    if (status == FP_OK)
        status = fp__registry_judge(w->registry, dsse, &event, head.size, &verdict);
    if (status == FP_OK && !verdict.counts)
        status = fp__fail(FP_DENIED, "the event would not count: %s", verdict.why);
    fp__event_free(&event);
    memcpy(out->event_id, dsse->id, 32);
    return status == FP_OK ? append(w, writer, dsse, out) : status;
}

/* Overrides that could not be logged when they were used come before anything else. */
static fp_status append_spool(fp_workspace *w, fp__ledger_writer *writer)
{
    fp__buf path = {0};
    bool appended = false;
    fp_status status = fp__workspace_path(w, "spool", NULL, &path);
    DIR *dir = status == FP_OK ? opendir((const char *)path.data) : NULL;
    for (struct dirent *item; dir != NULL && status == FP_OK && (item = readdir(dir)) != NULL;) {
        fp__buf text = {0};
        fp__dsse dsse = {0};
        if (item->d_name[0] == '.' || fp__workspace_path(w, "spool", item->d_name, &path) != FP_OK)
            continue;
        if (fp__file_read((const char *)path.data, FP__DSSE_ENVELOPE_MAX_BYTES, &text) == FP_OK &&
            fp__dsse_parse(text.data, text.size, &dsse) == FP_OK) {
            fp_event_receipt receipt;
            status = append_if_new(w, writer, &dsse, &receipt);
            appended = appended || status == FP_OK;
            if (status == FP_OK || status == FP_EXISTS || status == FP_DENIED)
                status =
                    unlink((const char *)path.data) == 0 ? FP_OK : fp__fail(FP_IO, "spool/%s", item->d_name);
        }
        fp__dsse_free(&dsse);
        fp__buf_free(&text);
    }
    if (dir != NULL)
        closedir(dir);
    fp__buf_free(&path);
    return status == FP_OK && appended ? fp_workspace_sync(w) : status;
}

static fp_status open_writer(fp_workspace *w, struct writing *out)
{
    fp__buf dir = {0};
    bool remote = false;
    *out = (struct writing){0};
    if (w->audit)
        return fp__fail(FP_USAGE, "a workspace opened with a trust file of its own is for reading");
    fp_status status = fp__workspace_log_place(w->path, &dir, &remote);
    if (status == FP_OK && remote)
        status = fp__fail(FP_USAGE, "the log at %s is for reading; events are appended where it is written",
                          (const char *)dir.data);
    if (status == FP_OK)
        status = fp_workspace_key(w, FP_PURPOSE_LOG, &out->log_key);
    for (int i = 0; status == FP_OK; i++) {
        status = fp__ledger_writer_open((const char *)dir.data, w->trust.origin,
                                        fp__key_ed25519(out->log_key), &out->writer);
        if (status != FP_BUSY || i == LOCK_TRIES)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
        status = FP_OK;
    }
    fp__buf_free(&dir);
    if (status == FP_OK)
        fp__ledger_writer_head(out->writer, &out->head);
    if (status == FP_OK)
        status = fp_workspace_sync(w); /* under the lock: nobody appends between judging and appending */
    if (status == FP_OK)
        status = append_spool(w, out->writer);
    return status;
}

/* Close it also after a failure. */
static void close_writer(fp_workspace *w, struct writing *writing)
{
    fp__ledger_head head = writing->head;
    if (writing->writer != NULL)
        fp__ledger_writer_head(writing->writer, &head);
    fp__ledger_writer_close(writing->writer);
    if (head.size != writing->head.size)
        fp__workspace_cosign(w, writing->log_key);
    fp_key_free(writing->log_key);
}

static fp_status leave_pending(fp_workspace *w, const fp__dsse *dsse, const fp__verdict *verdict,
                               fp_event_receipt *out)
{
    fp__buf path = {0};
    fp_status status = pending_path(w, dsse->id, &path);
    if (status == FP_OK)
        status = fp__workspace_store_envelope(w, "pending", dsse);
    if (status == FP_OK) {
        out->signatures_missing = verdict->missing;
        snprintf(out->pending_path, sizeof out->pending_path, "%.511s", (const char *)path.data);
    }
    fp__buf_free(&path);
    return status;
}

static fp_status judge_and_append(fp_workspace *w, fp__ledger_writer *writer, const fp__dsse *dsse,
                                  const fp__event *event, fp_event_receipt *out)
{
    fp__verdict verdict;
    fp__ledger_head head;
    fp__registry_head(w->registry, &head);
    FP_TRY(fp__registry_judge(w->registry, dsse, event, head.size, &verdict));
    memcpy(out->event_id, dsse->id, 32);
    if (verdict.counts)
        return append(w, writer, dsse, out);
    if (verdict.missing > 0)
        return leave_pending(w, dsse, &verdict, out);
    return fp__fail(FP_DENIED, "the %s event would not count: %s", fp__event_type_name(event->type),
                    verdict.why);
}

static fp_status submit_locked(fp_workspace *w, fp__ledger_writer *writer, fp__event *event,
                               fp_event_receipt *out)
{
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    fp__dsse dsse = {0};
    if (policy != NULL)
        memcpy(event->policy, policy->digest, 32);
    FP_TRY(fp__event_build(event, &dsse));
    /* What is appended must be what a reader will accept: judge what was parsed back. */
    fp__event parsed = {0};
    bool is_event = false;
    fp_status status = fp__event_parse(dsse.payload.data, dsse.payload.size, &is_event, &parsed);
    if (status == FP_OK)
        status = sign_event(w, &parsed, &dsse);
    if (status == FP_OK)
        status = judge_and_append(w, writer, &dsse, &parsed, out);
    fp__event_free(&parsed);
    fp__dsse_free(&dsse);
    return status;
}

fp_status fp__workspace_submit(fp_workspace *w, fp__event *event, fp_event_receipt *out)
{
    fp_event_receipt receipt = {.index = FP_INDEX_NONE};
    struct writing writing;
    fp_status status = open_writer(w, &writing);
    if (status == FP_OK)
        status = submit_locked(w, writing.writer, event, &receipt);
    close_writer(w, &writing);
    if (status == FP_OK)
        status = fp_workspace_sync(w);
    if (status == FP_OK && out != NULL)
        *out = receipt;
    return status;
}

fp_status fp__workspace_append(fp_workspace *w, const fp__dsse *dsse, fp_event_receipt *out)
{
    struct writing writing;
    *out = (fp_event_receipt){.index = FP_INDEX_NONE};
    fp_status status = open_writer(w, &writing);
    if (status == FP_OK)
        status = append_if_new(w, writing.writer, dsse, out);
    close_writer(w, &writing);
    return status == FP_OK ? fp_workspace_sync(w) : status;
}

fp_status fp__workspace_event(fp_workspace *w, fp__event_type type, const uint8_t target[32], fp__event *out)
{
    static const uint8_t zero[32] = {0}; /* submit puts the policy in force here */
    return fp__event_new(type, w->trust.origin, zero, target, out);
}

fp_status fp_event_sign(fp_workspace *w, const void *envelope, size_t size, fp_event_receipt *out)
{
    fp__dsse dsse = {0};
    fp__event event = {0};
    bool is_event = false;
    fp_event_receipt receipt = {.index = FP_INDEX_NONE};
    struct writing writing;
    FP_TRY(fp__dsse_parse(envelope, size, &dsse));
    fp_status status = fp__event_parse(dsse.payload.data, dsse.payload.size, &is_event, &event);
    if (status == FP_OK && (!is_event || event.type == FP__EVENT_UNKNOWN))
        status = fp__fail(FP_FORMAT, "not a fieldprint event of a type that this version knows");
    if (status == FP_OK) {
        status = open_writer(w, &writing);
        if (status == FP_OK)
            status = sign_event(w, &event, &dsse);
        if (status == FP_OK)
            status = judge_and_append(w, writing.writer, &dsse, &event, &receipt);
        close_writer(w, &writing);
    }
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    if (status == FP_OK)
        status = fp_workspace_sync(w);
    if (status == FP_OK && out != NULL)
        *out = receipt;
    return status;
}

/* ---- Policy ---- */

fp_status fp_policy_get(fp_workspace *w, uint8_t **data, size_t *size)
{
    const fp__buf *bytes = NULL;
    FP_TRY(fp_workspace_sync(w));
    if (fp__registry_policy(w->registry, NULL, &bytes) == NULL)
        return fp__fail(FP_NOT_FOUND, "no policy is in force in this log");
    uint8_t *copy = malloc(bytes->size + 1);
    if (copy == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the policy");
    memcpy(copy, bytes->data, bytes->size);
    copy[bytes->size] = 0;
    *data = copy;
    *size = bytes->size;
    return FP_OK;
}

fp_status fp_policy_check(const void *data, size_t size, uint8_t digest[32])
{
    fp__policy *policy = malloc(sizeof *policy);
    if (policy == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a policy");
    fp_status status = fp__policy_parse(data, size, policy);
    if (status == FP_OK)
        memcpy(digest, policy->digest, 32);
    free(policy);
    return status;
}

fp_status fp_policy_propose(fp_workspace *w, const void *data, size_t size, fp_event_receipt *out)
{
    uint8_t digest[32];
    fp__event event = {0};
    fp__buf path = {0};
    FP_TRY(fp_policy_check(data, size, digest));
    FP_TRY(fp__workspace_event(w, FP__EVENT_POLICY, digest, &event));
    fp_status status = fp__buf_append(&event.policy_bytes, data, size);
    if (status == FP_OK)
        status = fp__workspace_submit(w, &event, out);
    if (status == FP_OK)
        status = fp__workspace_path(w, "policy.json", NULL, &path);
    if (status == FP_OK)
        status = fp__file_write((const char *)path.data, data, size, 0644);
    fp__buf_free(&path);
    fp__event_free(&event);
    return status;
}

/* ---- Compile, receipts, gate, rows ---- */

fp_status fp_anchor_record_compile(fp_workspace *w, const fp_compile_record *record, fp_event_receipt *out)
{
    uint8_t set_id[32];
    fp__event event = {0};
    FP_TRY(fp_set_id(record->anchor_ids, record->anchors, set_id));
    FP_TRY(fp__workspace_event(w, FP__EVENT_COMPILE, set_id, &event));
    memcpy(event.model, record->model_digest, 32);
    memcpy(event.kv_head, record->kv_head, 32);
    event.arithmetic = record->arithmetic_version;
    event.tokens = record->tokens;
    event.pages = record->pages;
    fp_status status = fp__event_set_ids(&event, record->anchor_ids, record->anchors);
    if (status == FP_OK && RAND_bytes(event.salt, sizeof event.salt) != 1)
        status = fp__fail(FP_IO, "the system gives no random bytes");
    if (status == FP_OK)
        status = fp_compile_token_ids_digest(event.salt, record->token_ids, record->tokens, event.token_ids);
    if (status == FP_OK)
        status = fp__workspace_submit(w, &event, out);
    fp__event_free(&event);
    return status;
}

fp_status fp_receipts_log(fp_workspace *w, const uint8_t (*receipt_ids)[32], size_t n, fp_event_receipt *out)
{
    uint8_t digest[32];
    fp__event event = {0};
    fp__event_ids_digest(receipt_ids, n, digest);
    FP_TRY(fp__workspace_event(w, FP__EVENT_RECEIPTS, digest, &event));
    fp_status status = fp__event_set_ids(&event, receipt_ids, n);
    if (status == FP_OK)
        status = fp__workspace_submit(w, &event, out);
    fp__event_free(&event);
    return status;
}

fp_status fp_receipt_find(fp_workspace *w, const uint8_t receipt_id[32], uint64_t *index)
{
    FP_TRY(fp_workspace_sync(w));
    return fp__registry_receipt(w->registry, receipt_id, index);
}

fp_status fp_ledger_rows(fp_workspace *w, uint64_t begin, fp_ledger_row *rows, size_t *n)
{
    FP_TRY(fp_workspace_sync(w));
    FP_TRY(fp__registry_begin(w->registry));
    fp_status status = fp__registry_rows(w->registry, begin, rows, n);
    fp__registry_end(w->registry);
    return status;
}

/* Takes the buffer. */
static void give_bytes(fp__buf *buf, uint8_t **data, size_t *size)
{
    *data = buf->data;
    *size = buf->size;
}

fp_status fp_ledger_entry(fp_workspace *w, uint64_t index, uint8_t **data, size_t *size)
{
    fp__buf entry = {0};
    FP_TRY(fp_workspace_sync(w));
    fp_status status = fp__ledger_reader_entry(w->reader, index, &entry);
    if (status == FP_OK)
        give_bytes(&entry, data, size);
    else
        fp__buf_free(&entry);
    return status;
}

fp_status fp_ledger_proof(fp_workspace *w, uint64_t index, char **text, size_t *size)
{
    fp__buf proof = {0};
    FP_TRY(fp_workspace_sync(w));
    fp_status status = fp__ledger_reader_tlog_proof(w->reader, index, NULL, 0, &proof);
    if (status == FP_OK)
        give_bytes(&proof, (uint8_t **)text, size);
    else
        fp__buf_free(&proof);
    return status;
}

static fp_status load_for_gate(void *arg, const uint8_t id[32], fp__dsse *out)
{
    fp_statement *statement = malloc(sizeof *statement);
    if (statement == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = fp__workspace_load_statement(arg, id, out, statement);
    free(statement);
    return status;
}

fp_status fp_gate_check(fp_workspace *w, const fp_gate_query *query, fp_gate_result *result)
{
    fp_status status = fp_workspace_sync(w);
    if (status != FP_OK && w->log_fault[0] == 0)
        return status;
    FP_TRY(fp__registry_begin(w->registry));
    const fp__gate gate = {.registry = w->registry,
                           .trust = &w->trust,
                           .note = fp__ledger_reader_note(w->reader),
                           .log_fault = w->log_fault[0] != 0 ? w->log_fault : NULL,
                           .deployment = w->has_deployment ? w->deployment : NULL,
                           .held = w->held,
                           .held_count = w->held_count,
                           .statement = load_for_gate,
                           .statement_arg = w};
    status = fp__gate_decide(&gate, query, result);
    fp__registry_end(w->registry);
    return status;
}
