#include "anchor/registry_db.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SCHEMA_VERSION 2
#define BUSY_MS 10000

static const char *const sql_texts[] = {
#define SQL_TEXT(name, text) text,
    FP__SQL_TABLE(SQL_TEXT)
#undef SQL_TEXT
};

static const char create_tables[] =
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY, size INTEGER, root BLOB, trust BLOB, poisoned "
    "INTEGER);"
    "CREATE TABLE IF NOT EXISTS events (idx INTEGER PRIMARY KEY, key INTEGER, id BLOB, type TEXT, target "
    "BLOB, valid "
    "INTEGER, authentic INTEGER, why TEXT);"
    "CREATE INDEX IF NOT EXISTS events_key ON events (key);"
    "CREATE TABLE IF NOT EXISTS policies (idx INTEGER PRIMARY KEY, digest BLOB, bytes BLOB);"
    "CREATE TABLE IF NOT EXISTS anchors (id BLOB PRIMARY KEY, first INTEGER, type INTEGER, registered "
    "INTEGER, promoted INTEGER,"
    " superseded INTEGER, revoked INTEGER, valid_from INTEGER, valid_until INTEGER, successor BLOB) WITHOUT "
    "ROWID;"
    "CREATE TABLE IF NOT EXISTS compiles (idx INTEGER PRIMARY KEY, set_id BLOB, model BLOB, arithmetic "
    "INTEGER, salt BLOB,"
    " token_ids BLOB, kv_head BLOB, tokens INTEGER, pages INTEGER);"
    "CREATE INDEX IF NOT EXISTS compiles_set ON compiles (set_id);"
    "CREATE TABLE IF NOT EXISTS receipts (key INTEGER, id BLOB, idx INTEGER, PRIMARY KEY (key, id)) "
    "WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS retractions (id BLOB PRIMARY KEY, idx INTEGER) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS endorsements (idx INTEGER PRIMARY KEY, content BLOB, label INTEGER, "
    "valid_from INTEGER,"
    " valid_until INTEGER);"
    "CREATE TABLE IF NOT EXISTS overrides (idx INTEGER PRIMARY KEY, id BLOB, halt INTEGER, deployment TEXT, "
    "anchors BLOB,"
    " valid_from INTEGER, valid_until INTEGER);"
    "CREATE TABLE IF NOT EXISTS distrusts (idx INTEGER PRIMARY KEY, keyid BLOB, from_index INTEGER);";

static const char clear_tables[] =
    "DELETE FROM head; DELETE FROM events; DELETE FROM policies; DELETE FROM anchors; DELETE FROM compiles;"
    "DELETE FROM receipts; DELETE FROM retractions; DELETE FROM endorsements; DELETE FROM overrides;";

uint64_t fp__db_key(const uint8_t id[32])
{
    return fp__load_le64(id);
}

/* FP_FORMAT means that the file itself is no good and may be made anew. */
static fp_status fail_db(const fp__registry *registry, int code)
{
    int primary = code & 0xff;
    const char *text = registry->db != NULL ? sqlite3_errmsg(registry->db) : sqlite3_errstr(code);
    if (primary == SQLITE_BUSY || primary == SQLITE_LOCKED)
        return fp__fail(FP_BUSY, "registry %s: %s", registry->path, text);
    if (primary == SQLITE_NOMEM)
        return fp__fail(FP_NO_MEMORY, "registry %s: %s", registry->path, text);
    if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB || primary == SQLITE_ERROR)
        return fp__fail(FP_FORMAT, "registry %s: %s; delete the file, it is a cache", registry->path, text);
    return fp__fail(FP_IO, "registry %s: %s", registry->path, text);
}

static fp_status run_text(fp__registry *registry, const char *sql)
{
    int code = sqlite3_exec(registry->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? FP_OK : fail_db(registry, code);
}

static fp_status check_version(fp__registry *registry, bool *made)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(registry->db, "PRAGMA user_version", -1, &statement, NULL);
    int version = 0, tables = 0;
    if (code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        version = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(registry->db, "SELECT count(*) FROM sqlite_master", -1, &statement, NULL);
    if (code != SQLITE_OK)
        return fail_db(registry, code);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        tables = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW)
        return fail_db(registry, code);
    if (tables != 0 && version != SCHEMA_VERSION)
        return fp__fail(FP_FORMAT, "registry %s: written by another version", registry->path);
    *made = tables != 0;
    return FP_OK;
}

static fp_status make_tables(fp__registry *registry)
{
    char version[48];
    snprintf(version, sizeof version, "PRAGMA user_version = %d", SCHEMA_VERSION);
    FP_TRY(run_text(registry, "BEGIN IMMEDIATE"));
    FP_TRY(run_text(registry, create_tables)); /* closing the file rolls back */
    FP_TRY(run_text(registry, version));
    return run_text(registry, "COMMIT");
}

static fp_status open_once(fp__registry *registry)
{
    int code =
        sqlite3_open_v2(registry->path, &registry->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (code != SQLITE_OK)
        return fail_db(registry, code);
    sqlite3_busy_timeout(registry->db, BUSY_MS);
    if (sqlite3_db_readonly(registry->db, "main") == 1)
        return fp__fail(FP_IO, "registry %s: it cannot be written", registry->path);
    bool made = false;
    FP_TRY(check_version(registry, &made));
    FP_TRY(run_text(registry,
                    "PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -131072;"));
    return made ? FP_OK : make_tables(registry); /* nothing is written at every opening */
}

fp_status fp__db_open(fp__registry *registry)
{
    fp_status status = open_once(registry);
    if (status == FP_FORMAT && strcmp(registry->path, ":memory:") != 0) {
        fp__db_close(registry);
        if (unlink(registry->path) == 0)
            status = open_once(registry);
    }
    if (status != FP_OK)
        fp__db_close(registry);
    return status;
}

void fp__db_close(fp__registry *registry)
{
    for (size_t i = 0; i < FP__SQL_COUNT_OF; i++) {
        sqlite3_finalize(registry->statements[i]);
        registry->statements[i] = NULL;
    }
    sqlite3_close(registry->db);
    registry->db = NULL;
}

fp_status fp__db_clear(fp__registry *registry, bool keep_distrusts)
{
    FP_TRY(run_text(registry, clear_tables));
    return keep_distrusts ? FP_OK : run_text(registry, "DELETE FROM distrusts");
}

static int bind_one(sqlite3_stmt *statement, int at, char type, va_list *arguments)
{
    if (type == 'i')
        return sqlite3_bind_int64(statement, at, (sqlite3_int64)va_arg(*arguments, uint64_t));
    if (type == 't')
        return sqlite3_bind_text(statement, at, va_arg(*arguments, const char *), -1, SQLITE_TRANSIENT);
    const void *data = va_arg(*arguments, const void *);
    size_t size = type == 'b' ? 32 : va_arg(*arguments, size_t);
    if (size == 0)
        return sqlite3_bind_zeroblob(statement, at, 0);
    return sqlite3_bind_blob64(statement, at, data, size, SQLITE_TRANSIENT);
}

static fp_status bind_all(fp__registry *registry, fp__sql which, const char *types, va_list *arguments)
{
    sqlite3_stmt **slot = &registry->statements[which];
    int code = SQLITE_OK;
    if (*slot == NULL)
        code = sqlite3_prepare_v3(registry->db, sql_texts[which], -1, SQLITE_PREPARE_PERSISTENT, slot, NULL);
    else
        sqlite3_reset(*slot);
    for (int i = 0; code == SQLITE_OK && types[i] != 0; i++)
        code = bind_one(*slot, i + 1, types[i], arguments);
    return code == SQLITE_OK ? FP_OK : fail_db(registry, code);
}

fp_status fp__db_bind(fp__registry *registry, fp__sql which, sqlite3_stmt **out, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    fp_status status = bind_all(registry, which, types, &arguments);
    va_end(arguments);
    *out = registry->statements[which];
    return status;
}

fp_status fp__db_step(fp__registry *registry, sqlite3_stmt *statement, bool *row)
{
    int code = sqlite3_step(statement);
    *row = code == SQLITE_ROW;
    if (code == SQLITE_ROW)
        return FP_OK;
    sqlite3_reset(statement);
    return code == SQLITE_DONE ? FP_OK : fail_db(registry, code);
}

void fp__db_reset(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
}

fp_status fp__db_run(fp__registry *registry, fp__sql which, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    fp_status status = bind_all(registry, which, types, &arguments);
    va_end(arguments);
    bool row = false;
    if (status == FP_OK)
        status = fp__db_step(registry, registry->statements[which], &row);
    if (row)
        sqlite3_reset(registry->statements[which]);
    return status;
}

fp_status fp__db_hash(sqlite3_stmt *statement, int column, uint8_t out[32])
{
    const void *data = sqlite3_column_blob(statement, column);
    if (data == NULL || sqlite3_column_bytes(statement, column) != 32)
        return fp__fail(FP_FORMAT, "registry: a hash of the wrong size; delete the file, it is a cache");
    memcpy(out, data, 32);
    return FP_OK;
}
