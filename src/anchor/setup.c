/* Making a workspace: keys, policy and trust file, ledger. Each step writes whole files or nothing. */
#include "anchor/keys.h"
#include "anchor/log_public.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = {"keys",      "anchors",  "documents", "pending",
                                      "artifacts", "receipts", NULL};

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

/* ---- Keys ---- */

static fp_status check_holder(const char *holder)
{
    size_t n = strlen(holder);
    if (n < 1 || n > FP_HOLDER_MAX ||
        strspn(holder, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != n)
        return fp__fail(FP_USAGE, "\"%.80s\" is no name for a holder: use at most %d of A-Z a-z 0-9 _ -",
                        holder, FP_HOLDER_MAX);
    return FP_OK;
}

static fp_status make_folders(const char *path, const char *holder, fp__buf *name)
{
    FP_TRY(fp__dir_make(path));
    if (chmod(path, 0700) != 0)
        return fp__fail(FP_IO, "cannot protect %s from others: %s", path, strerror(errno));
    for (size_t i = 0; folders[i] != NULL; i++) {
        FP_TRY(fp__workspace_join(name, path, folders[i], NULL));
        FP_TRY(fp__dir_make((const char *)name->data));
    }
    FP_TRY(fp__workspace_join(name, path, "keys", holder));
    return fp__dir_make((const char *)name->data);
}

static fp_status key_path(const char *path, const char *holder, fp_purpose purpose, fp__buf *out)
{
    char name[FP_HOLDER_MAX + 32];
    snprintf(name, sizeof name, "%.*s/%s.pem", FP_HOLDER_MAX, holder, fp_purpose_name(purpose));
    return fp__workspace_join(out, path, "keys", name);
}

static fp_status generate(const char *path, const char *holder, uint32_t purposes, fp__buf *name)
{
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++) {
        FP_TRY(key_path(path, holder, (fp_purpose)i, name));
        if ((purposes >> i & 1) != 0 && fp__file_exists((const char *)name->data))
            return fp__fail(FP_EXISTS, "%s is there already; a key is never written over",
                            (char *)name->data);
    }
    FP_TRY(make_folders(path, holder, name));
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++) {
        fp_key *key = NULL;
        if ((purposes >> i & 1) == 0)
            continue;
        FP_TRY(key_path(path, holder, (fp_purpose)i, name));
        FP_TRY(fp_key_generate(&key));
        fp_status status = fp_key_save(key, (const char *)name->data);
        fp_key_free(key);
        FP_TRY(status);
    }
    return FP_OK;
}

fp_status fp_keys_generate(const char *path, const char *holder, uint32_t purposes)
{
    const uint32_t all = (1u << FP_PURPOSE_COUNT) - 1;
    fp__buf name = {0};
    path = fp_workspace_default_path(path);
    holder = holder != NULL ? holder : "operator";
    FP_TRY(check_holder(holder));
    if ((purposes & ~all) != 0)
        return fp__fail(FP_USAGE, "a key for a purpose that does not exist");
    fp_status status =
        generate(path, holder, purposes != 0 ? purposes : all & ~(1u << FP_PURPOSE_OVERRIDE), &name);
    fp__buf_free(&name);
    return status;
}

static int by_holder(const void *a, const void *b)
{
    const fp_key_row *x = a, *y = b;
    int order = strcmp(x->holder, y->holder);
    return order != 0 ? order : (int)x->purpose - (int)y->purpose;
}

/* Rows of one holder, at rows[*n]; there is room for one per purpose. */
static fp_status list_holder(const char *path, const char *holder, fp_key_row *rows, size_t *n)
{
    fp__buf name = {0};
    fp_status status = FP_OK;
    for (unsigned i = 0; status == FP_OK && i < FP_PURPOSE_COUNT; i++) {
        fp_key *key = NULL;
        status = key_path(path, holder, (fp_purpose)i, &name);
        if (status != FP_OK || !fp__file_exists((const char *)name.data))
            continue;
        status = fp_key_load((const char *)name.data, &key);
        if (status != FP_OK)
            break;
        fp_key_row *row = &rows[(*n)++];
        *row = (fp_key_row){.purpose = (fp_purpose)i};
        snprintf(row->holder, sizeof row->holder, "%.*s", FP_HOLDER_MAX, holder);
        fp_key_public(key, row->public_key);
        fp_key_id(row->public_key, row->keyid);
        fp_key_free(key);
    }
    fp__buf_free(&name);
    return status;
}

static fp_status list_folder(const char *path, DIR *dir, fp_key_row **rows, size_t *n)
{
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.' || check_holder(entry->d_name) != FP_OK)
            continue;
        fp_key_row *more = realloc(*rows, (*n + FP_PURPOSE_COUNT) * sizeof **rows);
        if (more == NULL)
            return fp__fail(FP_NO_MEMORY, "no memory for a list of keys");
        *rows = more;
        FP_TRY(list_holder(path, entry->d_name, *rows, n));
    }
    return FP_OK;
}

fp_status fp_keys_list(const char *path, fp_key_row **rows, size_t *n)
{
    fp__buf name = {0};
    fp_key_row *list = NULL;
    size_t count = 0;
    path = fp_workspace_default_path(path);
    FP_TRY(fp__workspace_join(&name, path, "keys", NULL));
    DIR *dir = opendir((const char *)name.data);
    fp_status status =
        dir != NULL ? list_folder(path, dir, &list, &count)
                    : fp__fail(FP_NOT_FOUND, "%s holds no keys: make them with `fieldprint key generate`",
                               (const char *)name.data);
    if (dir != NULL)
        closedir(dir);
    fp__buf_free(&name);
    if (status != FP_OK) {
        free(list);
        return status;
    }
    if (list != NULL)
        qsort(list, count, sizeof *list, by_holder);
    *rows = list;
    *n = count;
    return FP_OK;
}

/* ---- Policy and trust file ---- */

static fp_status choose_origin(const char *origin, char out[FP__ORIGIN_MAX + 1])
{
    uint8_t random[8];
    char hex[17];
    if (origin != NULL) {
        if (strlen(origin) < 1 || strlen(origin) > FP__ORIGIN_MAX)
            return fp__fail(FP_USAGE, "an origin has 1 to %d bytes", FP__ORIGIN_MAX);
        memcpy(out, origin, strlen(origin) + 1);
        return FP_OK;
    }
    if (RAND_bytes(random, sizeof random) != 1)
        return fp__fail(FP_IO, "the system gives no random bytes");
    fp__hex_encode(random, sizeof random, hex);
    snprintf(out, FP__ORIGIN_MAX + 1, "fieldprint.local/%s", hex);
    return FP_OK;
}

/* The log has one key in the policy's first version: of log_holder, or of the first who holds one. */
static fp_status keep_one_log_key(const char *log_holder, fp_key_row *rows, size_t *n, uint8_t log_key[32])
{
    size_t kept = 0;
    bool found = false;
    for (size_t i = 0; i < *n; i++) {
        if (rows[i].purpose == FP_PURPOSE_LOG) {
            if (found || (log_holder != NULL && strcmp(rows[i].holder, log_holder) != 0))
                continue;
            memcpy(log_key, rows[i].public_key, 32);
            found = true;
        }
        rows[kept++] = rows[i];
    }
    *n = kept;
    if (!found)
        return fp__fail(FP_NOT_FOUND,
                        "%s holds no log key, which signs the ledger: fieldprint key generate --purpose log",
                        log_holder != NULL ? log_holder : "nobody here");
    return FP_OK;
}

/* The quorum of a trust policy as k of n, which is what policies and trust files say. */
static fp_status read_quorum(const char *path, fp__quorum *out)
{
    fp__tlog_policy *policy = NULL;
    FP_TRY(fp__log_policy_load(path, &policy));
    const fp__tlog_group *quorum = &policy->quorum;
    if (quorum->groups != 0) /* one member, which is a group */
        quorum = &policy->groups[__builtin_ctz(quorum->groups)];
    fp_status status = FP_OK;
    *out = (fp__quorum){.threshold = quorum->threshold};
    for (size_t i = 0; i < policy->witnesses_count; i++)
        if (quorum->witnesses >> i & 1)
            out->keys[out->count++] = policy->witnesses[i].key;
    if (quorum->groups != 0 || out->threshold == 0)
        status = fp__fail(FP_USAGE,
                          "%s: the quorum must be some number of witnesses out of one group of them", path);
    free(policy);
    return status;
}

/* The same file tells the workspace whom to ask. */
static fp_status copy_witness_policy(const char *from, const char *path)
{
    fp__buf text = {0}, name = {0};
    fp_status status = fp__file_read(from, FP__TLOG_POLICY_MAX_BYTES, &text);
    if (status == FP_OK)
        status = fp__workspace_join(&name, path, "witness.policy", NULL);
    if (status == FP_OK)
        status = fp__file_write((const char *)name.data, text.data, text.size, 0644);
    fp__buf_free(&text);
    fp__buf_free(&name);
    return status;
}

static fp_status write_trust(const char *path, const char *origin, const uint8_t log_key[32],
                             const uint8_t policy_digest[32], const fp__quorum *witnesses)
{
    fp__trust *trust = calloc(1, sizeof *trust);
    fp__buf text = {0}, name = {0};
    if (trust == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a trust file");
    snprintf(trust->origin, sizeof trust->origin, "%s", origin);
    memcpy(trust->first_policy, policy_digest, 32);
    trust->witnesses = *witnesses;
    fp_status status = fp__note_key_make(origin, FP__NOTE_ED25519, log_key, &trust->log_key);
    if (status == FP_OK)
        status = fp__trust_write(trust, &text);
    if (status == FP_OK)
        status = fp__workspace_join(&name, path, "trust.json", NULL);
    if (status == FP_OK)
        status = fp__file_create((const char *)name.data, text.data, text.size, 0644);
    free(trust);
    fp__buf_free(&text);
    fp__buf_free(&name);
    return status;
}

/* policy.json first: without a trust file it is a proposal that may be written again. */
static fp_status write_policy(const char *path, const char *origin, const fp_policy_options *o,
                              const fp__quorum *witnesses, const fp_key_row *rows, size_t n,
                              const uint8_t log_key[32])
{
    fp__buf text = {0}, name = {0};
    uint8_t digest[32];
    fp_status status = fp__policy_new(origin, rows, n, o->threshold != 0 ? o->threshold : 1, witnesses,
                                      o->freshness_seconds, &text);
    if (status == FP_OK)
        status = fp_policy_check(text.data, text.size, digest);
    if (status == FP_OK)
        status = fp__workspace_join(&name, path, "policy.json", NULL);
    if (status == FP_OK)
        status = fp__file_write((const char *)name.data, text.data, text.size, 0644);
    if (status == FP_OK && o->witness_policy_path != NULL)
        status = copy_witness_policy(o->witness_policy_path, path);
    if (status == FP_OK)
        status = write_trust(path, origin, log_key, digest, witnesses);
    fp__buf_free(&text);
    fp__buf_free(&name);
    return status;
}

static fp_status check_holders(const fp_key_row *rows, size_t n, uint32_t threshold)
{
    size_t holders = 0;
    for (size_t i = 0; rows != NULL && i < n; i++)
        holders += rows[i].purpose == FP_PURPOSE_POLICY;
    if (holders >= (threshold != 0 ? threshold : 1))
        return FP_OK;
    return fp__fail(FP_NOT_FOUND,
                    "%zu holders have a policy key and %u must agree: fieldprint key generate --holder "
                    "NAME, or a lower --threshold",
                    holders, threshold != 0 ? (unsigned)threshold : 1);
}

fp_status fp_policy_create(const char *path, const fp_policy_options *options)
{
    static const fp_policy_options defaults;
    const fp_policy_options *o = options != NULL ? options : &defaults;
    char origin[FP__ORIGIN_MAX + 1];
    uint8_t log_key[32];
    fp_key_row *rows = NULL;
    size_t n = 0;
    path = fp_workspace_default_path(path);
    if (fp_workspace_exists(path))
        return fp__fail(FP_EXISTS,
                        "%s/trust.json is there already; a policy that is in force is changed with "
                        "`fieldprint policy propose FILE`",
                        path);
    if (o->freshness_seconds != 0 && o->witness_policy_path == NULL)
        return fp__fail(FP_USAGE, "freshness is told by witnesses: name them too");
    fp__quorum *witnesses = calloc(1, sizeof *witnesses);
    if (witnesses == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for witnesses");
    fp_status status = choose_origin(o->origin, origin);
    if (status == FP_OK && o->witness_policy_path != NULL)
        status = read_quorum(o->witness_policy_path, witnesses);
    if (status == FP_OK)
        status = fp_keys_list(path, &rows, &n);
    if (status == FP_OK)
        status = keep_one_log_key(o->log_holder, rows, &n, log_key);
    if (status == FP_OK)
        status = check_holders(rows, n, o->threshold);
    if (status == FP_OK)
        status = write_policy(path, origin, o, witnesses, rows, n, log_key);
    free(rows);
    free(witnesses);
    return status;
}

/* ---- Ledger ---- */

/* A workspace being made: only the fields that finding keys needs are set. */
struct making {
    fp_workspace workspace;
    fp__policy policy;
    fp__buf text; /* of the policy */
};

static fp_status read_plan(struct making *m, const char *path)
{
    fp__buf name = {0}, trust = {0};
    m->workspace.path = (char *)(uintptr_t)path;
    fp_status status = fp__workspace_join(&name, path, "trust.json", NULL);
    if (status == FP_OK)
        status = fp__file_read((const char *)name.data, FP__TRUST_MAX_BYTES, &trust);
    if (status == FP_OK)
        status = fp__trust_parse(trust.data, trust.size, &m->workspace.trust);
    if (status == FP_OK)
        status = fp__workspace_join(&name, path, "policy.json", NULL);
    if (status == FP_OK)
        status = fp__file_read((const char *)name.data, FP__POLICY_MAX_BYTES, &m->text);
    if (status == FP_NOT_FOUND)
        status = fp__fail(FP_NOT_FOUND, "%s is missing: make it with `fieldprint policy create`",
                          (const char *)name.data);
    if (status == FP_OK)
        status = fp__policy_parse(m->text.data, m->text.size, &m->policy);
    if (status == FP_OK && memcmp(m->policy.digest, m->workspace.trust.first_policy, 32) != 0)
        status = fp__fail(FP_MISMATCH,
                          "%s/policy.json is not the policy that trust.json pins; remove trust.json and make "
                          "both again with `fieldprint policy create`",
                          path);
    fp__buf_free(&name);
    fp__buf_free(&trust);
    return status;
}

/* Every key of the first policy shows that it is held; the log's does so in the checkpoint. */
static fp_status first_event(const struct making *m, fp__buf *entry)
{
    static const uint8_t zero[32] = {0};
    fp__event event;
    fp__dsse dsse = {0};
    FP_TRY(fp__event_new(FP__EVENT_POLICY, m->policy.origin, zero, m->policy.digest, &event));
    fp_status status = fp__buf_append(&event.policy_bytes, m->text.data, m->text.size);
    if (status == FP_OK)
        status = fp__event_build(&event, &dsse);
    for (size_t i = 0; status == FP_OK && i < m->policy.keys_count; i++) {
        const fp__policy_key *key = &m->policy.keys[i];
        fp_key *held = NULL;
        if (key->purpose == FP_PURPOSE_LOG)
            continue;
        status = fp__workspace_held_key(&m->workspace, &m->policy, key, &held);
        if (status == FP_OK)
            status = fp__dsse_sign(&dsse, held);
        fp_key_free(held);
    }
    if (status == FP_OK)
        status = fp__dsse_write(&dsse, entry);
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    return status;
}

static fp_status find_log_key(const struct making *m, fp_key **out)
{
    const fp__policy_key *key = fp__policy_find_key(&m->policy, m->workspace.trust.log_key.public_key);
    if (key == NULL || key->purpose != FP_PURPOSE_LOG)
        return fp__fail(FP_MISMATCH, "the log key of trust.json is not the policy's");
    return fp__workspace_held_key(&m->workspace, &m->policy, key, out);
}

static fp_status make_log(const struct making *m, const char *dir, const fp_key *log_key)
{
    fp__buf entry = {0};
    fp__ledger_writer *writer = NULL;
    const fp__ed25519_key *key = fp__key_ed25519(log_key);
    FP_TRY(fp__ledger_create(dir, m->policy.origin, key));
    fp_status status = first_event(m, &entry);
    if (status == FP_OK)
        status = fp__ledger_writer_open(dir, m->policy.origin, key, &writer);
    if (status == FP_OK)
        status = fp__ledger_append(writer, &(fp__ledger_entry){entry.data, entry.size}, 1, NULL, NULL);
    fp__ledger_writer_close(writer);
    fp__buf_free(&entry);
    return status;
}

/* Made beside its place and renamed: a ledger without its policy is never seen. */
static fp_status place_log(const struct making *m, const char *path)
{
    fp__buf place = {0}, beside = {0};
    struct stat info;
    fp_key *log_key = NULL;
    FP_TRY(fp__workspace_join(&place, path, "ledger", NULL));
    const char *dir = (const char *)place.data, *made = NULL;
    fp_status status = stat(dir, &info) == 0 && rmdir(dir) != 0
                           ? fp__fail(FP_EXISTS, "%s is there already; a ledger is never made again", dir)
                           : fp__buf_printf(&beside, "%s.new.%ld", dir, (long)getpid());
    if (status == FP_OK)
        status = find_log_key(m, &log_key);
    if (status == FP_OK) {
        made = (const char *)beside.data;
        status = make_log(m, made, log_key);
    }
    if (status == FP_OK && rename(made, dir) != 0)
        status = fp__fail(FP_IO, "cannot rename %s to %s: %s", made, dir, strerror(errno));
    if (status == FP_OK)
        status = fp__dir_sync(path);
    else if (made != NULL)
        (void)nftw(made, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    fp_key_free(log_key);
    fp__buf_free(&place);
    fp__buf_free(&beside);
    return status;
}

fp_status fp_ledger_init(const char *path)
{
    struct making *m = calloc(1, sizeof *m);
    if (m == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a workspace");
    path = fp_workspace_default_path(path);
    fp_status status = read_plan(m, path);
    if (status == FP_OK)
        status = place_log(m, path);
    fp__buf_free(&m->text);
    free(m);
    return status;
}

/* ---- All of it: in a folder beside its place, then one rename ---- */

static fp_status sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return fp__dir_sync(".");
    if (slash == path)
        return fp__dir_sync("/");
    fp__buf parent = {0};
    fp_status status = fp__buf_printf(&parent, "%.*s", (int)(slash - path), path);
    if (status == FP_OK)
        status = fp__dir_sync((const char *)parent.data);
    fp__buf_free(&parent);
    return status;
}

fp_status fp_workspace_init(const char *path, const char *holder, const char *origin)
{
    fp__buf beside = {0};
    struct stat info;
    path = fp_workspace_default_path(path);
    if (fp_workspace_exists(path))
        return fp__fail(FP_EXISTS, "%s is a workspace already", path);
    if (stat(path, &info) == 0 && rmdir(path) != 0)
        return fp__fail(FP_EXISTS, "%s is there and is not an empty folder", path);
    FP_TRY(fp__buf_printf(&beside, "%s.new.%ld", path, (long)getpid()));
    const char *made = (const char *)beside.data;
    fp_status status = fp_keys_generate(made, holder, 0);
    if (status == FP_OK)
        status = fp_policy_create(made, &(fp_policy_options){.origin = origin});
    if (status == FP_OK)
        status = fp_ledger_init(made);
    if (status == FP_OK && rename(made, path) != 0)
        status = fp__fail(FP_IO, "cannot rename %s to %s: %s", made, path, strerror(errno));
    if (status == FP_OK)
        status = sync_parent(path);
    else
        (void)nftw(made, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    fp__buf_free(&beside);
    return status;
}
