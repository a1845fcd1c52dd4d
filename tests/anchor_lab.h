/* A log, a policy with three holders and the keys of all of them, for the tests of src/anchor. Keys come from
 * fixed seeds. */
#ifndef FP_TESTS_ANCHOR_LAB_H
#define FP_TESTS_ANCHOR_LAB_H
#include "anchor/keys.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "merkle/sha256.h"
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#define LAB_ORIGIN "lab.example/log"
#define LAB_NOW 1000000u
enum { ALICE = 1, BOB = 2, CAROL = 4, NOBODY = 0, LAB_HOLDERS = 3 };
static const char *const lab_names[LAB_HOLDERS] = {"alice", "bob", "carol"};

/* ok(x): x is FP_OK, with the library's sentence when it is not. */
#define ok(expr)                                                                                             \
    do {                                                                                                     \
        fp_status ok_status = (expr);                                                                        \
        if (ok_status != FP_OK)                                                                              \
            fail_msg("%s: %s: %s", #expr, fp_status_name(ok_status), fp_error_detail());                     \
    } while (0)
#define fails(expr, wanted, word)                                                                            \
    do {                                                                                                     \
        fp_status got_status = (expr);                                                                       \
        if (got_status != (wanted) || strstr(fp_error_detail(), (word)) == NULL)                             \
            fail_msg("%s: %s (%s) where %s with \"%s\" was expected", #expr, fp_status_name(got_status),     \
                     fp_error_detail(), fp_status_name(wanted), (word));                                     \
    } while (0)

typedef struct lab {
    char dir[64];
    fp_key *keys[LAB_HOLDERS][FP_PURPOSE_COUNT];
    fp__trust trust;
    uint8_t policy[32]; /* digest of the one logged last */
    uint64_t number;
    uint64_t entries;
    fp__ledger_writer *writer;
    fp_workspace *w;
} lab;

typedef void lab_change(json_t *policy); /* edits a policy before it is written; NULL: none */

static inline void lab_path(const lab *l, const char *name, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/%s", l->dir, name);
    assert_true(n > 0 && (size_t)n < size);
}

/* Roles: author and promote of core anchors need 2 of 3 holders, policy and override 2, everything else 1. */
static inline json_t *lab_role(unsigned threshold)
{
    json_t *holders = json_array();
    for (int h = 0; h < LAB_HOLDERS; h++)
        json_array_append_new(holders, json_string(lab_names[h]));
    return json_pack("{s:i, s:o}", "threshold", (int)threshold, "holders", holders);
}

static inline json_t *lab_policy_json(const lab *l, uint64_t number, const uint8_t previous[32])
{
    json_t *holders = json_array(), *roles = json_object();
    for (int h = 0; h < LAB_HOLDERS; h++) {
        json_t *keys = json_array();
        for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++) {
            uint8_t public_key[32];
            fp_key_public(l->keys[h][p], public_key);
            json_array_append_new(keys, json_pack("{s:s, s:o}", "purpose", fp_purpose_name((fp_purpose)p),
                                                  "public", fp__json_hex_value(public_key, 32)));
        }
        json_array_append_new(holders, json_pack("{s:s, s:o}", "name", lab_names[h], "keys", keys));
    }
    for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++) {
        unsigned threshold = p == FP_PURPOSE_POLICY || p == FP_PURPOSE_OVERRIDE ? 2 : 1;
        bool typed = p == FP_PURPOSE_AUTHOR || p == FP_PURPOSE_PROMOTE;
        json_object_set_new(roles, fp_purpose_name((fp_purpose)p),
                            typed ? json_pack("{s:o, s:o, s:o}", "core", lab_role(2), "user", lab_role(1),
                                              "external", lab_role(1))
                                  : lab_role(threshold));
    }
    json_t *anchors =
        json_pack("{s:[s,s,s], s:[], s:[s], s:i, s:i, s:i}", "types", "core", "user", "external", "required",
                  "readers", "*", "max_anchors", 3, "max_tokens", 2048, "max_gamma_65536", 32768);
    return json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:i, s:{s:i, s:[]}}", "format", FP__POLICY_FORMAT,
                     "origin", LAB_ORIGIN, "number", (json_int_t)number, "previous",
                     fp__json_hex_value(previous, 32), "holders", holders, "roles", roles, "anchors", anchors,
                     "freshness_seconds", 0, "witnesses", "threshold", 0, "keys");
}

static inline uint64_t lab_append(lab *l, const void *data, size_t size)
{
    ok(fp__ledger_append(l->writer, &(fp__ledger_entry){data, size}, 1, NULL, NULL));
    return l->entries++;
}

static inline uint64_t lab_append_dsse(lab *l, const fp__dsse *dsse)
{
    fp__buf text = {0};
    ok(fp__dsse_write(dsse, &text));
    uint64_t index = lab_append(l, text.data, text.size);
    fp__buf_free(&text);
    return index;
}

static inline void lab_sign(lab *l, fp__dsse *dsse, fp_purpose purpose, int holders)
{
    for (int h = 0; h < LAB_HOLDERS; h++)
        if ((holders >> h & 1) != 0)
            ok(fp__dsse_sign(dsse, l->keys[h][purpose]));
}

static inline fp__event lab_event(const lab *l, fp__event_type type, const uint8_t target[32])
{
    fp__event event;
    ok(fp__event_new(type, LAB_ORIGIN, l->policy, target, &event));
    return event;
}

/* Signs with the purpose of the event and appends; frees the event. */
static inline uint64_t lab_log(lab *l, fp__event event, int holders)
{
    fp__dsse dsse = {0};
    ok(fp__event_build(&event, &dsse));
    lab_sign(l, &dsse, fp__event_purpose(event.type), holders);
    uint64_t index = lab_append_dsse(l, &dsse);
    fp__dsse_free(&dsse);
    fp__event_free(&event);
    return index;
}

/* Logs a policy, signed by the policy keys of these holders and, for the first one, by every key. */
static inline uint64_t lab_log_policy(lab *l, json_t *json, int holders)
{
    static const uint8_t zero[32] = {0};
    fp__buf text = {0};
    uint8_t digest[32];
    fp__dsse dsse = {0};
    ok(fp__json_dump(json, 1, &text));
    fp__sha256(text.data, text.size, digest);
    fp__event event;
    bool first = l->entries == 0;
    ok(fp__event_new(FP__EVENT_POLICY, LAB_ORIGIN, first ? zero : l->policy, digest, &event));
    event.policy_bytes = text;
    ok(fp__event_build(&event, &dsse));
    lab_sign(l, &dsse, FP_PURPOSE_POLICY, holders);
    for (unsigned p = 0; first && p < FP_PURPOSE_LOG; p++)
        lab_sign(l, &dsse, (fp_purpose)p, ALICE | BOB | CAROL);
    uint64_t index = lab_append_dsse(l, &dsse);
    fp__dsse_free(&dsse);
    fp__event_free(&event);
    memcpy(l->policy, digest, 32);
    return index;
}

/* A next policy that differs by `change`; from here on events name it. */
static inline uint64_t lab_next_policy(lab *l, lab_change *change, int holders)
{
    json_t *json = lab_policy_json(l, ++l->number, l->policy);
    if (change != NULL)
        change(json);
    return lab_log_policy(l, json, holders);
}

static inline void lab_keys(lab *l)
{
    for (int h = 0; h < LAB_HOLDERS; h++)
        for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++) {
            uint8_t seed[32] = {0};
            seed[0] = (uint8_t)(h + 1);
            seed[1] = (uint8_t)(p + 1);
            ok(fp_key_from_seed(seed, &l->keys[h][p]));
        }
}

/* trust_change edits the trust file before it is written (NULL: none). */
static inline void lab_open(lab *l, lab_change *change, void (*trust_change)(fp__trust *))
{
    static const uint8_t zero[32] = {0};
    static const char *const folders[] = {"anchors", "documents", "pending", "artifacts", "receipts", "keys"};
    char path[128];
    uint8_t log_public[32];
    memset(l, 0, sizeof *l);
    strcpy(l->dir, "/tmp/fp-lab-XXXXXX");
    assert_non_null(mkdtemp(l->dir));
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        lab_path(l, folders[i], path, sizeof path);
        ok(fp__dir_make(path));
    }
    lab_keys(l);
    const fp_key *log_key = l->keys[0][FP_PURPOSE_LOG];
    lab_path(l, "ledger", path, sizeof path);
    ok(fp__ledger_create(path, LAB_ORIGIN, fp__key_ed25519(log_key)));
    ok(fp__ledger_writer_open(path, LAB_ORIGIN, fp__key_ed25519(log_key), &l->writer));
    json_t *json = lab_policy_json(l, 0, zero);
    if (change != NULL)
        change(json);
    lab_log_policy(l, json, ALICE | BOB | CAROL);
    fp_key_public(log_key, log_public);
    strcpy(l->trust.origin, LAB_ORIGIN);
    ok(fp__note_key_make(LAB_ORIGIN, FP__NOTE_ED25519, log_public, &l->trust.log_key));
    memcpy(l->trust.first_policy, l->policy, 32);
    if (trust_change != NULL)
        trust_change(&l->trust);
    fp__buf text = {0};
    ok(fp__trust_write(&l->trust, &text));
    lab_path(l, "trust.json", path, sizeof path);
    ok(fp__file_write(path, text.data, text.size, 0644));
    fp__buf_free(&text);
    ok(fp_workspace_open(l->dir, NULL, &l->w));
}

static int lab_remove(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline void lab_close(lab *l)
{
    fp_workspace_close(l->w);
    fp__ledger_writer_close(l->writer);
    for (int h = 0; h < LAB_HOLDERS; h++)
        for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++)
            fp_key_free(l->keys[h][p]);
    nftw(l->dir, lab_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- Anchors ---- */

/* Stores a statement signed by these holders' author keys. */
static inline void lab_anchor(lab *l, const fp_statement *statement, int holders, uint8_t id[32])
{
    fp__dsse dsse = {0};
    fp__buf text = {0}, path = {0};
    ok(fp__statement_create(statement, &dsse));
    lab_sign(l, &dsse, FP_PURPOSE_AUTHOR, holders);
    ok(fp__dsse_write(&dsse, &text));
    ok(fp__workspace_id_path(l->w, "anchors", dsse.id, ".dsse.json", &path));
    ok(fp__file_write((const char *)path.data, text.data, text.size, 0644));
    memcpy(id, dsse.id, 32);
    fp__buf_free(&path);
    fp__buf_free(&text);
    fp__dsse_free(&dsse);
}

static inline fp_statement lab_statement(const char *name, fp_label type)
{
    fp_statement s;
    fp_statement_default(&s);
    strcpy(s.name, name);
    s.type = type;
    s.valid_from = 1000;
    s.valid_until = 2000000;
    memset(s.document_sha256, 0x11, 32);
    memset(s.salt, 0x22, 32);
    return s;
}

static inline uint64_t lab_log_anchor(lab *l, fp__event_type type, const uint8_t id[32], fp_label label,
                                      int holders)
{
    fp__event event = lab_event(l, type, id);
    event.label = label;
    return lab_log(l, event, holders);
}

static inline uint64_t lab_log_compile(lab *l, const uint8_t (*ids)[32], size_t n, uint8_t model,
                                       uint16_t arithmetic, uint8_t head)
{
    uint8_t set_id[32];
    ok(fp_set_id(ids, n, set_id));
    fp__event event = lab_event(l, FP__EVENT_COMPILE, set_id);
    ok(fp__event_set_ids(&event, ids, n));
    memset(event.model, model, 32);
    memset(event.kv_head, head, 32);
    memset(event.salt, 9, 32);
    event.arithmetic = arithmetic;
    event.tokens = 100;
    event.pages = 2;
    return lab_log(l, event, ALICE);
}
#endif
