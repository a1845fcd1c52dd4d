#include "anchor/ahead.h"
#include "anchor/registry_db.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- Life ---- */

fp_status fp__registry_open(const char *path, const fp__trust *trust, fp__registry **out)
{
    fp__registry *r = calloc(1, sizeof *r);
    if (r == NULL || (r->path = strdup(path)) == NULL) {
        free(r);
        return fp__fail(FP_NO_MEMORY, "no memory for the registry");
    }
    r->trust = trust;
    r->poisoned = FP_INDEX_NONE;
    fp__buf text = {0};
    fp_status status = fp__trust_write(trust, &text);
    if (status == FP_OK)
        fp__sha256(text.data, text.size, r->trust_digest);
    fp__buf_free(&text);
    if (status == FP_OK)
        status = fp__db_open(r);
    if (status != FP_OK) {
        fp__registry_close(r);
        return status;
    }
    *out = r;
    return FP_OK;
}

void fp__registry_close(fp__registry *r)
{
    if (r == NULL)
        return;
    fp__db_close(r);
    fp__buf_free(&r->policy_bytes);
    free(r->policy);
    free(r->distrusts.items);
    free(r->distrust_indices);
    free(r->path);
    free(r);
}

/* ---- Loading what the handle keeps ---- */

static fp_status load_head(fp__registry *r, bool *ours)
{
    sqlite3_stmt *statement = NULL;
    bool row = false;
    uint8_t trust[32] = {0};
    r->head = (fp__ledger_head){0};
    r->poisoned = FP_INDEX_NONE;
    FP_TRY(fp__db_bind(r, FP__SQL_HEAD_GET, &statement, ""));
    FP_TRY(fp__db_step(r, statement, &row));
    *ours = true;
    if (!row)
        return FP_OK;
    r->head.size = (uint64_t)sqlite3_column_int64(statement, 0);
    r->poisoned = (uint64_t)sqlite3_column_int64(statement, 3); /* -1 is FP_INDEX_NONE */
    fp_status status = fp__db_hash(statement, 1, r->head.root);
    if (status == FP_OK)
        status = fp__db_hash(statement, 2, trust);
    fp__db_reset(statement);
    *ours = memcmp(trust, r->trust_digest, 32) == 0;
    return status;
}

static fp_status load_policy(fp__registry *r)
{
    sqlite3_stmt *statement = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_POLICY_LAST, &statement, ""));
    FP_TRY(fp__db_step(r, statement, &row));
    if (!row) {
        free(r->policy);
        r->policy = NULL;
        return FP_OK;
    }
    fp_status status = FP_OK;
    r->policy_index = (uint64_t)sqlite3_column_int64(statement, 0);
    const void *bytes = sqlite3_column_blob(statement, 1);
    size_t size = (size_t)sqlite3_column_bytes(statement, 1);
    bool same =
        r->policy != NULL && size == r->policy_bytes.size && memcmp(bytes, r->policy_bytes.data, size) == 0;
    if (!same) {
        r->policy_bytes.size = 0;
        status = fp__buf_append(&r->policy_bytes, bytes, size);
        if (status == FP_OK && r->policy == NULL && (r->policy = malloc(sizeof *r->policy)) == NULL)
            status = fp__fail(FP_NO_MEMORY, "no memory for a policy");
        if (status == FP_OK)
            status = fp__policy_parse(r->policy_bytes.data, r->policy_bytes.size, r->policy);
        if (status != FP_OK) {
            free(r->policy);
            r->policy = NULL;
        }
    }
    fp__db_reset(statement);
    return status;
}

static fp_status load_distrusts(fp__registry *r)
{
    sqlite3_stmt *statement = NULL;
    bool row = false;
    r->distrusts.count = 0;
    FP_TRY(fp__db_bind(r, FP__SQL_DISTRUST_ALL, &statement, ""));
    for (;;) {
        FP_TRY(fp__db_step(r, statement, &row));
        if (!row)
            return FP_OK;
        size_t n = r->distrusts.count;
        fp__distrust *items = realloc(r->distrusts.items, (n + 1) * sizeof *items);
        if (items != NULL)
            r->distrusts.items = items;
        uint64_t *indices = realloc(r->distrust_indices, (n + 1) * sizeof *indices);
        if (indices != NULL)
            r->distrust_indices = indices;
        if (items == NULL || indices == NULL)
            return fp__fail(FP_NO_MEMORY, "no memory for distrusted keys");
        indices[n] = (uint64_t)sqlite3_column_int64(statement, 0);
        items[n].from_index = (uint64_t)sqlite3_column_int64(statement, 2);
        FP_TRY(fp__db_hash(statement, 1, items[n].keyid));
        r->distrusts.count = n + 1;
    }
}

fp_status fp__registry_load(fp__registry *r)
{
    FP_TRY(load_policy(r));
    return load_distrusts(r);
}

fp_status fp__registry_begin(fp__registry *r)
{
    bool ours = true;
    FP_TRY(fp__db_run(r, FP__SQL_BEGIN, ""));
    fp_status status = load_head(r, &ours);
    if (status == FP_OK)
        status = fp__registry_load(r);
    if (status == FP_OK && !ours)
        status =
            fp__fail(FP_FORMAT,
                     "registry %s: a replay for another trust file; delete the file, it is a cache", r->path);
    if (status != FP_OK)
        fp__registry_end(r);
    return status;
}

void fp__registry_end(fp__registry *r)
{
    if (!sqlite3_get_autocommit(r->db) && fp__db_run(r, FP__SQL_ROLLBACK, "") != FP_OK)
        return; /* nothing was written: the connection's close ends it as well */
}

/* ---- Replay ---- */

/* Fewer entries than this are replayed by one thread. */
#define AHEAD_MIN_ENTRIES 256

struct replay {
    fp__registry *registry;
    fp__ahead *ahead; /* NULL: this thread does all */
    bool again;
};

static fp_status record(fp__registry *r, uint64_t index, const fp__dsse *dsse, const fp__event *e,
                        const char *type, const fp__verdict *verdict)
{
    return fp__db_run(r, FP__SQL_EVENT_ADD, "iibtbiit", index, fp__db_key(dsse->id), dsse->id, type,
                      e->target, (uint64_t)verdict->counts, (uint64_t)verdict->authentic, verdict->why);
}

static fp_status replay_known(struct replay *replay, const fp__ahead_entry *entry)
{
    fp__registry *r = replay->registry;
    fp__verdict verdict;
    FP_TRY(fp__registry_judge(r, &entry->dsse, &entry->event, entry->index, &verdict));
    FP_TRY(record(r, entry->index, &entry->dsse, &entry->event, fp__event_type_name(entry->event.type),
                  &verdict));
    if (verdict.poison && r->poisoned == FP_INDEX_NONE)
        r->poisoned = entry->index;
    if (!verdict.counts)
        return FP_OK;
    FP_TRY(fp__registry_apply(r, &entry->dsse, &entry->event, entry->index, &replay->again));
    if (replay->again)
        return FP_CANCELLED; /* stops the scan: see replay_to */
    return replay->ahead != NULL && entry->event.type == FP__EVENT_POLICY
               ? fp__ahead_expect(replay->ahead, r->policy)
               : FP_OK;
}

static fp_status replay_entry(void *arg, fp__ahead_entry *entry)
{
    struct replay *replay = arg;
    fp__verdict verdict = {0};
    if (entry->envelope == FP_NO_MEMORY || (entry->envelope == FP_OK && entry->parsed == FP_NO_MEMORY))
        return fp__fail(FP_NO_MEMORY, "no memory for an entry of the log");
    if (entry->envelope != FP_OK || !entry->is_event)
        return FP_OK; /* somebody else's entry */
    if (entry->parsed == FP_OK)
        return replay_known(replay, entry);
    memcpy(verdict.why, entry->why, sizeof verdict.why);
    return record(replay->registry, entry->index, &entry->dsse, &entry->event, "malformed", &verdict);
}

fp_status fp__registry_feed(fp__registry *r, const fp__dsse *dsse, const fp__event *event, uint64_t index,
                            fp__verdict *out)
{
    bool again = false;
    FP_TRY(fp__registry_judge(r, dsse, event, index, out));
    return out->counts ? fp__registry_apply(r, dsse, event, index, &again) : FP_OK;
}

static fp_status visit(void *arg, uint64_t index, const uint8_t *data, size_t size)
{
    struct replay *replay = arg;
    /* Before there is a policy nobody knows which keys to expect. */
    if (replay->ahead != NULL && replay->registry->policy != NULL)
        return fp__ahead_push(replay->ahead, index, data, size);
    fp__ahead_entry *entry = malloc(sizeof *entry);
    if (entry == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for an entry of the log");
    fp__ahead_read(data, size, index, entry);
    fp_status status = replay_entry(replay, entry);
    fp__ahead_entry_free(entry);
    free(entry);
    return status;
}

static fp_status replay_pass(struct replay *replay, fp__ledger_reader *reader, uint64_t begin, uint64_t end)
{
    if (end - begin < AHEAD_MIN_ENTRIES)
        return fp__ledger_reader_scan(reader, begin, end, visit, replay);
    FP_TRY(fp__ahead_create(0, replay_entry, replay, &replay->ahead));
    fp_status status = fp__ahead_expect(replay->ahead, replay->registry->policy);
    if (status == FP_OK)
        status = fp__ledger_reader_scan(reader, begin, end, visit, replay);
    if (status == FP_OK)
        status = fp__ahead_finish(replay->ahead);
    fp__ahead_destroy(replay->ahead);
    replay->ahead = NULL;
    return status;
}

/* Replays from where the tables are. A distrust event that is new starts again from entry 0 with that key
 * distrusted; it stays accepted in the passes after, so there are at most as many passes as distrust events.
 */
static fp_status replay_to(fp__registry *r, fp__ledger_reader *reader, uint64_t size)
{
    for (;;) {
        struct replay replay = {.registry = r};
        fp_status status = replay_pass(&replay, reader, r->head.size, size);
        if (status != FP_CANCELLED || !replay.again)
            return status;
        FP_TRY(fp__db_clear(r, true));
        r->head = (fp__ledger_head){0};
        r->poisoned = FP_INDEX_NONE;
        FP_TRY(fp__registry_load(r));
    }
}

/* Is what the tables say a replay of a prefix of this log? */
static fp_status check_prefix(fp__registry *r, fp__ledger_reader *reader, bool *prefix)
{
    fp__ledger_head head;
    uint8_t root[32];
    fp__ledger_reader_head(reader, &head);
    if (r->head.size > head.size) { /* another process was quicker: look at the log again */
        FP_TRY(fp__ledger_reader_refresh(reader, NULL));
        fp__ledger_reader_head(reader, &head);
    }
    *prefix = r->head.size == 0;
    if (r->head.size == 0 || r->head.size > head.size)
        return FP_OK;
    FP_TRY(fp__ledger_reader_root_at(reader, r->head.size, root));
    *prefix = memcmp(root, r->head.root, 32) == 0;
    return FP_OK;
}

static fp_status replay_locked(fp__registry *r, fp__ledger_reader *reader, uint64_t size)
{
    bool ours = true, prefix = true;
    fp__ledger_head head;
    FP_TRY(load_head(r, &ours));
    FP_TRY(fp__registry_load(r));
    FP_TRY(check_prefix(r, reader, &prefix));
    if (!ours || !prefix) {
        FP_TRY(fp__db_clear(r, false));
        r->head = (fp__ledger_head){0};
        r->poisoned = FP_INDEX_NONE;
        FP_TRY(fp__registry_load(r));
    }
    fp__ledger_reader_head(reader, &head);
    uint64_t end = size == UINT64_MAX ? head.size : size;
    if (end > head.size || r->head.size > end)
        return fp__fail(FP_USAGE, "the log has %llu entries and the registry %llu; asked for %llu",
                        (unsigned long long)head.size, (unsigned long long)r->head.size,
                        (unsigned long long)end);
    if (end > r->head.size) {
        FP_TRY(replay_to(r, reader, end));
        r->head.size = end;
        FP_TRY(fp__ledger_reader_root_at(reader, end, r->head.root));
    }
    return fp__db_run(r, FP__SQL_HEAD_SET, "ibbi", r->head.size, r->head.root, r->trust_digest, r->poisoned);
}

/* True when the file already is a replay up to that head: the usual case, which should not take the write
 * lock. */
static bool is_current(fp__registry *r, fp__ledger_reader *reader, uint64_t size)
{
    fp__ledger_head head;
    if (size != UINT64_MAX || fp__registry_begin(r) != FP_OK)
        return false;
    fp__ledger_reader_head(reader, &head);
    fp__registry_end(r);
    return r->head.size == head.size && head.size > 0 && memcmp(r->head.root, head.root, 32) == 0;
}

fp_status fp__registry_replay(fp__registry *r, fp__ledger_reader *reader, uint64_t size)
{
    if (is_current(r, reader, size))
        return FP_OK;
    FP_TRY(fp__db_run(r, FP__SQL_BEGIN_WRITE, ""));
    fp_status status = replay_locked(r, reader, size);
    if (status == FP_OK)
        status = fp__db_run(r, FP__SQL_COMMIT, "");
    if (status != FP_OK)
        fp__registry_end(r);
    return status;
}

/* ---- Questions ---- */

void fp__registry_head(const fp__registry *r, fp__ledger_head *out)
{
    *out = r->head;
}

const fp__policy *fp__registry_policy(const fp__registry *r, uint64_t *index, const fp__buf **bytes)
{
    if (index != NULL)
        *index = r->policy_index;
    if (bytes != NULL)
        *bytes = &r->policy_bytes;
    return r->policy;
}

const fp__distrusts *fp__registry_distrusts(const fp__registry *r)
{
    return &r->distrusts;
}

uint64_t fp__registry_poisoned(const fp__registry *r)
{
    return r->poisoned;
}

static fp_status read_anchor(sqlite3_stmt *s, fp__anchor_entry *out)
{
    *out = (fp__anchor_entry){
        .type = (fp_label)sqlite3_column_int(s, 1),
        .register_index = (uint64_t)sqlite3_column_int64(s, 2), /* -1 is FP_INDEX_NONE */
        .promote_index = (uint64_t)sqlite3_column_int64(s, 3),
        .supersede_index = (uint64_t)sqlite3_column_int64(s, 4),
        .revoke_index = (uint64_t)sqlite3_column_int64(s, 5),
        .valid_from = (uint64_t)sqlite3_column_int64(s, 6),
        .valid_until = (uint64_t)sqlite3_column_int64(s, 7),
    };
    out->state = out->revoke_index != FP_INDEX_NONE      ? FP_ANCHOR_REVOKED
                 : out->supersede_index != FP_INDEX_NONE ? FP_ANCHOR_SUPERSEDED
                 : out->promote_index != FP_INDEX_NONE   ? FP_ANCHOR_PROMOTED
                 : out->register_index != FP_INDEX_NONE  ? FP_ANCHOR_CANDIDATE
                                                         : FP_ANCHOR_UNLOGGED;
    FP_TRY(fp__db_hash(s, 0, out->id));
    return fp__db_hash(s, 8, out->successor);
}

fp_status fp__registry_anchor(fp__registry *r, const uint8_t id[32], fp__anchor_entry *out)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_ANCHOR_GET, &s, "b", id));
    FP_TRY(fp__db_step(r, s, &row));
    if (!row)
        return fp__fail(FP_NOT_FOUND, "the log does not name this anchor");
    fp_status status = read_anchor(s, out);
    fp__db_reset(s);
    return status;
}

fp_status fp__registry_anchors(fp__registry *r, fp__anchor_entry **out, size_t *n)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    fp__anchor_entry *list = NULL;
    size_t count = 0, room = 0;
    FP_TRY(fp__db_bind(r, FP__SQL_ANCHOR_ALL, &s, ""));
    fp_status status = fp__db_step(r, s, &row);
    while (status == FP_OK && row) {
        if (count == room) {
            room = room == 0 ? 16 : 2 * room;
            fp__anchor_entry *grown = realloc(list, room * sizeof *list);
            if (grown == NULL) {
                status = fp__fail(FP_NO_MEMORY, "no memory for %zu anchors", room);
                break;
            }
            list = grown;
        }
        status = read_anchor(s, &list[count++]);
        if (status == FP_OK)
            status = fp__db_step(r, s, &row);
    }
    fp__db_reset(s);
    if (status != FP_OK) {
        free(list);
        return status;
    }
    *out = list;
    *n = count;
    return FP_OK;
}

static fp_status read_compile(sqlite3_stmt *s, fp__compile_entry *out)
{
    out->index = (uint64_t)sqlite3_column_int64(s, 0);
    out->arithmetic = (uint16_t)sqlite3_column_int(s, 2);
    out->tokens = (uint32_t)sqlite3_column_int64(s, 6);
    out->pages = (uint32_t)sqlite3_column_int64(s, 7);
    FP_TRY(fp__db_hash(s, 1, out->model));
    FP_TRY(fp__db_hash(s, 3, out->salt));
    FP_TRY(fp__db_hash(s, 4, out->token_ids));
    return fp__db_hash(s, 5, out->kv_head);
}

fp_status fp__registry_compiles(fp__registry *r, const uint8_t set_id[32], fp__compile_entry **out, size_t *n)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    fp__compile_entry *list = NULL;
    size_t count = 0;
    FP_TRY(fp__db_bind(r, FP__SQL_COMPILE_SET, &s, "b", set_id));
    fp_status status = fp__db_step(r, s, &row);
    while (status == FP_OK && row) {
        fp__compile_entry *grown = realloc(list, (count + 1) * sizeof *list);
        if (grown == NULL) {
            status = fp__fail(FP_NO_MEMORY, "no memory for compile events");
            break;
        }
        list = grown;
        status = read_compile(s, &list[count++]);
        if (status == FP_OK)
            status = fp__db_step(r, s, &row);
    }
    fp__db_reset(s);
    if (status != FP_OK) {
        free(list);
        return status;
    }
    *out = list;
    *n = count;
    return FP_OK;
}

fp_status fp__registry_receipt(fp__registry *r, const uint8_t id[32], uint64_t *index)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_RECEIPT_GET, &s, "ib", fp__db_key(id), id));
    FP_TRY(fp__db_step(r, s, &row));
    if (!row)
        return fp__fail(FP_NOT_FOUND, "the log holds no such receipt");
    *index = (uint64_t)sqlite3_column_int64(s, 0);
    fp__db_reset(s);
    return FP_OK;
}

fp_status fp__registry_count(fp__registry *r, size_t *anchors, size_t *receipts)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_COUNT, &s, ""));
    FP_TRY(fp__db_step(r, s, &row));
    *anchors = row ? (size_t)sqlite3_column_int64(s, 0) : 0;
    *receipts = row ? (size_t)sqlite3_column_int64(s, 1) : 0;
    fp__db_reset(s);
    return FP_OK;
}

static bool override_covers(sqlite3_stmt *s, bool halt, const uint8_t id[32], const char *deployment)
{
    const char *named = (const char *)sqlite3_column_text(s, 3);
    const uint8_t *ids = sqlite3_column_blob(s, 4);
    size_t size = (size_t)sqlite3_column_bytes(s, 4);
    bool everywhere = named != NULL && strcmp(named, "*") == 0;
    bool here = everywhere || (deployment != NULL ? named != NULL && strcmp(named, deployment) == 0 : halt);
    bool covers = size == 0; /* all anchors */
    for (size_t i = 0; id != NULL && i + 32 <= size; i += 32)
        covers = covers || memcmp(ids + i, id, 32) == 0;
    return here && covers;
}

fp_status fp__registry_override(fp__registry *r, bool halt, const uint8_t id[32], const char *deployment,
                                uint64_t now, fp__override_entry *out)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_OVERRIDE_ALL, &s, "iii", (uint64_t)halt, now, now));
    for (;;) {
        FP_TRY(fp__db_step(r, s, &row));
        if (!row)
            return fp__fail(FP_NOT_FOUND, "no override is in force");
        if (!override_covers(s, halt, id, deployment))
            continue;
        *out = (fp__override_entry){.index = (uint64_t)sqlite3_column_int64(s, 0),
                                    .valid_until = (uint64_t)sqlite3_column_int64(s, 5),
                                    .halt = halt};
        fp_status status = fp__db_hash(s, 1, out->event_id);
        fp__db_reset(s);
        return status;
    }
}

fp_status fp__registry_override_event(fp__registry *r, const uint8_t event_id[32], uint64_t *index,
                                      fp__event *out)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_OVERRIDE_GET, &s, "b", event_id));
    FP_TRY(fp__db_step(r, s, &row));
    if (!row)
        return fp__fail(FP_NOT_FOUND, "the log holds no such override");
    const unsigned char *name = sqlite3_column_text(s, 2);
    const uint8_t *ids = sqlite3_column_blob(s, 3);
    size_t count = (size_t)sqlite3_column_bytes(s, 3) / 32;
    *index = (uint64_t)sqlite3_column_int64(s, 0);
    *out = (fp__event){.type = FP__EVENT_OVERRIDE,
                       .halt = sqlite3_column_int(s, 1) != 0,
                       .valid_from = (uint64_t)sqlite3_column_int64(s, 4),
                       .valid_until = (uint64_t)sqlite3_column_int64(s, 5)};
    snprintf(out->deployment, sizeof out->deployment, "%.*s", FP__DEPLOYMENT_MAX,
             name == NULL ? "" : (const char *)name);
    fp_status status = fp__event_set_ids(out, (const uint8_t(*)[32])ids, count);
    fp__db_reset(s);
    return status;
}

fp_status fp__registry_endorsed(fp__registry *r, const uint8_t content[32], uint64_t now, fp_label *label)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_ENDORSE_GET, &s, "bii", content, now, now));
    FP_TRY(fp__db_step(r, s, &row));
    bool endorsed = row && sqlite3_column_type(s, 0) != SQLITE_NULL;
    if (endorsed)
        *label = (fp_label)sqlite3_column_int(s, 0);
    if (row)
        fp__db_reset(s);
    return endorsed ? FP_OK : fp__fail(FP_NOT_FOUND, "no endorsement of this content is in force");
}

fp_status fp__registry_seen(fp__registry *r, const uint8_t event_id[32], bool *seen)
{
    sqlite3_stmt *s = NULL;
    FP_TRY(fp__db_bind(r, FP__SQL_EVENT_SEEN, &s, "ib", fp__db_key(event_id), event_id));
    FP_TRY(fp__db_step(r, s, seen));
    fp__db_reset(s);
    return FP_OK;
}

fp_status fp__registry_retraction(fp__registry *r, const uint8_t receipt_id[32], uint64_t *index)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    FP_TRY(fp__db_bind(r, FP__SQL_RETRACTION_GET, &s, "b", receipt_id));
    FP_TRY(fp__db_step(r, s, &row));
    if (!row)
        return fp__fail(FP_NOT_FOUND, "the answer was not retracted");
    *index = (uint64_t)sqlite3_column_int64(s, 0);
    fp__db_reset(s);
    return FP_OK;
}

static fp_status read_row(sqlite3_stmt *s, fp_ledger_row *out)
{
    out->index = (uint64_t)sqlite3_column_int64(s, 0);
    out->valid = sqlite3_column_int(s, 4) != 0;
    const unsigned char *type = sqlite3_column_text(s, 2), *why = sqlite3_column_text(s, 5);
    snprintf(out->type, sizeof out->type, "%.23s", type == NULL ? "" : (const char *)type);
    snprintf(out->why, sizeof out->why, "%.159s", why == NULL ? "" : (const char *)why);
    FP_TRY(fp__db_hash(s, 1, out->event_id));
    return fp__db_hash(s, 3, out->target);
}

fp_status fp__registry_rows(fp__registry *r, uint64_t begin, fp_ledger_row *rows, size_t *n)
{
    sqlite3_stmt *s = NULL;
    bool row = false;
    uint64_t end = begin >= r->head.size ? begin : r->head.size - begin < *n ? r->head.size : begin + *n;
    for (uint64_t i = begin; i < end; i++)
        rows[i - begin] = (fp_ledger_row){.index = i};
    FP_TRY(fp__db_bind(r, FP__SQL_EVENT_ROWS, &s, "ii", begin, end));
    for (;;) {
        FP_TRY(fp__db_step(r, s, &row));
        if (!row)
            break;
        uint64_t index = (uint64_t)sqlite3_column_int64(s, 0);
        FP_CHECK(index >= begin && index < end);
        fp_status status = read_row(s, &rows[index - begin]);
        if (status != FP_OK) {
            fp__db_reset(s);
            return status;
        }
    }
    *n = (size_t)(end - begin);
    return FP_OK;
}

/* ---- Digest ---- */

static fp_status digest_table(fp__registry *r, const char *sql, fp__sha256_ctx *hash)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(r->db, sql, -1, &s, NULL);
    if (code != SQLITE_OK)
        return fp__fail(FP_FORMAT, "registry: %s", sqlite3_errmsg(r->db));
    fp__sha256_update(hash, sql, strlen(sql) + 1);
    while ((code = sqlite3_step(s)) == SQLITE_ROW)
        for (int i = 0; i < sqlite3_column_count(s); i++) {
            const void *data = sqlite3_column_blob(s, i); /* integers come as decimal text */
            uint8_t size[8];
            fp__store_le64(size, (uint64_t)sqlite3_column_bytes(s, i));
            fp__sha256_update(hash, size, sizeof size);
            fp__sha256_update(hash, data, (size_t)sqlite3_column_bytes(s, i));
        }
    sqlite3_finalize(s);
    return code == SQLITE_DONE ? FP_OK : fp__fail(FP_IO, "registry: %s", sqlite3_errmsg(r->db));
}

fp_status fp__registry_digest(fp__registry *r, uint8_t out[32])
{
    static const char *const tables[] = {
        "SELECT * FROM head ORDER BY 1",        "SELECT * FROM events ORDER BY 1",
        "SELECT * FROM policies ORDER BY 1",    "SELECT * FROM anchors ORDER BY 1",
        "SELECT * FROM compiles ORDER BY 1",    "SELECT * FROM receipts ORDER BY 1, 2",
        "SELECT * FROM retractions ORDER BY 1", "SELECT * FROM endorsements ORDER BY 1",
        "SELECT * FROM overrides ORDER BY 1",   "SELECT * FROM distrusts ORDER BY 1"};
    fp__sha256_ctx hash = {0};
    fp_status status = FP_OK;
    fp__sha256_init(&hash);
    for (size_t i = 0; status == FP_OK && i < sizeof tables / sizeof tables[0]; i++)
        status = digest_table(r, tables[i], &hash);
    fp__sha256_final(&hash, out);
    fp__sha256_free(&hash);
    return status;
}
