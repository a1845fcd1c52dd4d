/* The registry's tables and statements; only registry.c, registry_db.c and registry_rules.c use it. */
#ifndef FP_ANCHOR_REGISTRY_DB_H
#define FP_ANCHOR_REGISTRY_DB_H
#include "anchor/registry.h"
#include <sqlite3.h>

/* X(NAME, SQL). Prepared on first use and kept. */
#define FP__SQL_TABLE(X)                                                                                     \
    X(BEGIN, "BEGIN")                                                                                        \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                        \
    X(COMMIT, "COMMIT")                                                                                      \
    X(ROLLBACK, "ROLLBACK")                                                                                  \
    X(HEAD_GET, "SELECT size, root, trust, poisoned FROM head")                                              \
    X(HEAD_SET, "INSERT OR REPLACE INTO head (one, size, root, trust, poisoned) VALUES (1, ?, ?, ?, ?)")     \
    X(EVENT_SEEN, "SELECT idx FROM events WHERE key = ? AND id = ? AND authentic = 1 ORDER BY idx LIMIT 1")  \
    X(EVENT_ADD, "INSERT INTO events (idx, key, id, type, target, valid, authentic, why) VALUES (?, ?, ?, "  \
                 "?, ?, ?, ?, ?)")                                                                           \
    X(EVENT_ROWS,                                                                                            \
      "SELECT idx, id, type, target, valid, why FROM events WHERE idx >= ? AND idx < ? ORDER BY idx")        \
    X(POLICY_ADD, "INSERT INTO policies (idx, digest, bytes) VALUES (?, ?, ?)")                              \
    X(POLICY_LAST, "SELECT idx, bytes FROM policies ORDER BY idx DESC LIMIT 1")                              \
    X(ANCHOR_GET,                                                                                            \
      "SELECT id, type, registered, promoted, superseded, revoked, valid_from, valid_until, successor "      \
      "FROM anchors WHERE id = ?")                                                                           \
    X(ANCHOR_ALL,                                                                                            \
      "SELECT id, type, registered, promoted, superseded, revoked, valid_from, valid_until, successor "      \
      "FROM anchors ORDER BY first")                                                                         \
    X(ANCHOR_ADD,                                                                                            \
      "INSERT OR IGNORE INTO anchors (id, first, type, registered, promoted, superseded, revoked, "          \
      "valid_from, "                                                                                         \
      "valid_until, successor) VALUES (?, ?, ?, -1, -1, -1, -1, 0, 9007199254740991, zeroblob(32))")         \
    X(ANCHOR_REGISTER,                                                                                       \
      "UPDATE anchors SET registered = ?, valid_from = ?, valid_until = ?, type = ? WHERE id = ?")           \
    X(ANCHOR_PROMOTE, "UPDATE anchors SET promoted = ?, valid_from = max(valid_from, ?), "                   \
                      "valid_until = min(valid_until, ?) WHERE id = ?")                                      \
    X(ANCHOR_SUPERSEDE, "UPDATE anchors SET superseded = ?, successor = ? WHERE id = ?")                     \
    X(ANCHOR_REVOKE, "UPDATE anchors SET revoked = ? WHERE id = ?")                                          \
    X(COMPILE_ADD,                                                                                           \
      "INSERT INTO compiles (idx, set_id, model, arithmetic, salt, token_ids, kv_head, tokens, pages) "      \
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")                                                                  \
    X(COMPILE_SET, "SELECT idx, model, arithmetic, salt, token_ids, kv_head, tokens, pages FROM compiles "   \
                   "WHERE set_id = ? ORDER BY idx")                                                          \
    X(RECEIPT_ADD, "INSERT OR IGNORE INTO receipts (key, id, idx) VALUES (?, ?, ?)")                         \
    X(RECEIPT_GET, "SELECT idx FROM receipts WHERE key = ? AND id = ?")                                      \
    X(RETRACTION_ADD, "INSERT OR IGNORE INTO retractions (id, idx) VALUES (?, ?)")                           \
    X(RETRACTION_GET, "SELECT idx FROM retractions WHERE id = ?")                                            \
    X(ENDORSE_GET, "SELECT max(label) FROM endorsements WHERE content = ? AND valid_from <= ? AND "          \
                   "valid_until > ?")                                                                        \
    X(OVERRIDE_GET, "SELECT idx, halt, deployment, anchors, valid_from, valid_until FROM overrides "         \
                    "WHERE id = ? ORDER BY idx LIMIT 1")                                                     \
    X(ENDORSE_ADD,                                                                                           \
      "INSERT INTO endorsements (idx, content, label, valid_from, valid_until) VALUES (?, ?, ?, ?, ?)")      \
    X(OVERRIDE_ADD, "INSERT INTO overrides (idx, id, halt, deployment, anchors, valid_from, valid_until) "   \
                    "VALUES (?, ?, ?, ?, ?, ?, ?)")                                                          \
    X(OVERRIDE_ALL, "SELECT idx, id, halt, deployment, anchors, valid_until FROM overrides "                 \
                    "WHERE halt = ? AND valid_from <= ? AND valid_until > ? ORDER BY idx")                   \
    X(DISTRUST_ADD, "INSERT INTO distrusts (idx, keyid, from_index) VALUES (?, ?, ?)")                       \
    X(DISTRUST_ALL, "SELECT idx, keyid, from_index FROM distrusts ORDER BY idx")                             \
    X(COUNT, "SELECT (SELECT count(*) FROM anchors), (SELECT count(*) FROM receipts)")

typedef enum fp__sql {
#define FP__SQL_ENUM(name, text) FP__SQL_##name,
    FP__SQL_TABLE(FP__SQL_ENUM)
#undef FP__SQL_ENUM
        FP__SQL_COUNT_OF
} fp__sql;

struct fp__registry {
    sqlite3 *db;
    char *path;
    const fp__trust *trust;
    uint8_t trust_digest[32];
    sqlite3_stmt *statements[FP__SQL_COUNT_OF];
    /* As of the last replay or begin. */
    fp__ledger_head head;
    uint64_t poisoned;
    fp__policy *policy; /* NULL when there is none */
    uint64_t policy_index;
    fp__buf policy_bytes;
    fp__distrusts distrusts;
    uint64_t *distrust_indices; /* [distrusts.count] where in the log */
};

/* The first 8 bytes of an id, by which events and receipts are found: integers make an index that is smaller,
 * and faster to compare, by more than a half. The whole id still decides. */
uint64_t fp__db_key(const uint8_t id[32]);
/* Opens (and makes) the tables. A damaged file is removed and made anew once. */
fp_status fp__db_open(fp__registry *registry) FP_WARN_UNUSED;
void fp__db_close(fp__registry *registry);
/* Drops and makes all tables but, if asked, the distrusts. Inside a transaction. */
fp_status fp__db_clear(fp__registry *registry, bool keep_distrusts) FP_WARN_UNUSED;
/* Binds and leaves the statement ready to step. types: i uint64_t or int64_t, b 32 bytes, B bytes and size_t,
 * t text. */
fp_status fp__db_bind(fp__registry *registry, fp__sql which, sqlite3_stmt **out, const char *types,
                      ...) FP_WARN_UNUSED;
/* Binds and runs a statement that gives no rows. */
fp_status fp__db_run(fp__registry *registry, fp__sql which, const char *types, ...) FP_WARN_UNUSED;
/* *row false at the end. The statement is reset by the next bind. */
fp_status fp__db_step(fp__registry *registry, sqlite3_stmt *statement, bool *row) FP_WARN_UNUSED;
void fp__db_reset(sqlite3_stmt *statement);
/* 32-byte column; FP_FORMAT when it is not (the file was written by something else). */
fp_status fp__db_hash(sqlite3_stmt *statement, int column, uint8_t out[32]) FP_WARN_UNUSED;

/* Changes the tables for an event that counts. *again: the log must be replayed from its start (distrust). */
fp_status fp__registry_apply(fp__registry *registry, const fp__dsse *dsse, const fp__event *event,
                             uint64_t index, bool *again) FP_WARN_UNUSED;
/* Loads head, policy and distrusts from the tables into the handle. */
fp_status fp__registry_load(fp__registry *registry) FP_WARN_UNUSED;
#endif
