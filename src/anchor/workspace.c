#include "anchor/keys.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "core/trace.h"
#include "merkle/sha256.h"
#include <ftw.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = {"keys",      "anchors",  "documents", "pending",
                                      "artifacts", "receipts", NULL};

/* ---- Paths ---- */

const char *fp_workspace_default_path(const char *path)
{
    if (path != NULL && path[0] != 0)
        return path;
    const char *environment = getenv("FIELDPRINT_WORKSPACE");
    return environment != NULL && environment[0] != 0 ? environment : ".fieldprint";
}

static fp_status join(fp__buf *buf, const char *dir, const char *folder, const char *name)
{
    buf->size = 0;
    FP_TRY(fp__buf_printf(buf, "%s/%s", dir, folder));
    return name == NULL ? FP_OK : fp__buf_printf(buf, "/%s", name);
}

bool fp_workspace_exists(const char *path)
{
    fp__buf buf = {0};
    bool there = join(&buf, fp_workspace_default_path(path), "trust.json", NULL) == FP_OK &&
                 fp__file_exists((const char *)buf.data);
    fp__buf_free(&buf);
    return there;
}

fp_status fp__workspace_path(const fp_workspace *w, const char *folder, const char *name, fp__buf *buf)
{
    return join(buf, w->path, folder, name);
}

fp_status fp__workspace_id_path(const fp_workspace *w, const char *folder, const uint8_t id[32],
                                const char *suffix, fp__buf *buf)
{
    char name[96], hex[65];
    fp__hex_encode(id, 32, hex);
    snprintf(name, sizeof name, "%s%s", hex, suffix);
    return join(buf, w->path, folder, name);
}

static fp_status copy_path(const fp_workspace *w, const char *folder, const char *name, char *out,
                           size_t size)
{
    int n = snprintf(out, size, "%s/%s/%s", w->path, folder, name);
    if (n < 0 || (size_t)n >= size)
        return fp__fail(FP_LIMIT, "the path of the workspace is too long: %s", w->path);
    return FP_OK;
}

fp_status fp_workspace_artifact_path(const fp_workspace *w, const uint8_t set_id[32],
                                     const uint8_t model_digest[32], char *out, size_t size)
{
    char name[160], set[65], model[65];
    fp__hex_encode(set_id, 32, set);
    fp__hex_encode(model_digest, 32, model);
    snprintf(name, sizeof name, "%s.%s.fpkv", set, model);
    return copy_path(w, "artifacts", name, out, size);
}

fp_status fp_workspace_receipt_path(const fp_workspace *w, const uint8_t receipt_id[32], char *out,
                                    size_t size)
{
    char name[96], hex[65];
    fp__hex_encode(receipt_id, 32, hex);
    snprintf(name, sizeof name, "%s.dsse.json", hex);
    return copy_path(w, "receipts", name, out, size);
}

/* ---- Making one: everything in a folder beside it, then one rename ---- */

struct making {
    const char *dir, *holder;
    char origin[FP__ORIGIN_MAX + 1];
    fp_key *keys[FP_PURPOSE_COUNT]; /* NULL for override, which needs two holders */
    fp__buf policy, path;
};

static fp_status make_keys(struct making *m, uint8_t public_keys[FP_PURPOSE_COUNT][32])
{
    char name[96];
    snprintf(name, sizeof name, "keys/%s", m->holder);
    FP_TRY(join(&m->path, m->dir, name, NULL));
    FP_TRY(fp__dir_make((const char *)m->path.data));
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++) {
        if ((fp_purpose)i == FP_PURPOSE_OVERRIDE)
            continue;
        FP_TRY(fp_key_generate(&m->keys[i]));
        fp_key_public(m->keys[i], public_keys[i]);
        snprintf(name, sizeof name, "%s/%s.pem", m->holder, fp_purpose_name((fp_purpose)i));
        FP_TRY(join(&m->path, m->dir, "keys", name));
        FP_TRY(fp_key_save(m->keys[i], (const char *)m->path.data));
    }
    return FP_OK;
}

static fp_status make_first_event(struct making *m, const fp__policy *policy, fp__buf *entry)
{
    static const uint8_t zero[32] = {0};
    fp__event event;
    fp__dsse dsse = {0};
    FP_TRY(fp__event_new(FP__EVENT_POLICY, m->origin, zero, policy->digest, &event));
    fp_status status = fp__buf_append(&event.policy_bytes, m->policy.data, m->policy.size);
    if (status == FP_OK)
        status = fp__event_build(&event, &dsse);
    for (unsigned i = 0; status == FP_OK && i < FP_PURPOSE_COUNT; i++)
        if (m->keys[i] != NULL && (fp_purpose)i != FP_PURPOSE_LOG)
            status = fp__dsse_sign(&dsse, m->keys[i]);
    if (status == FP_OK)
        status = fp__dsse_write(&dsse, entry);
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    return status;
}

static fp_status make_ledger(struct making *m, const fp__policy *policy)
{
    fp__buf entry = {0};
    fp__ledger_writer *writer = NULL;
    const fp__ed25519_key *log_key = fp__key_ed25519(m->keys[FP_PURPOSE_LOG]);
    FP_TRY(join(&m->path, m->dir, "ledger", NULL));
    const char *dir = (const char *)m->path.data;
    FP_TRY(fp__ledger_create(dir, m->origin, log_key));
    fp_status status = make_first_event(m, policy, &entry);
    if (status == FP_OK)
        status = fp__ledger_writer_open(dir, m->origin, log_key, &writer);
    if (status == FP_OK)
        status = fp__ledger_append(writer, &(fp__ledger_entry){entry.data, entry.size}, 1, NULL, NULL);
    fp__ledger_writer_close(writer);
    fp__buf_free(&entry);
    return status;
}

static fp_status make_trust(struct making *m, const fp__policy *policy)
{
    fp__trust *trust = calloc(1, sizeof *trust);
    fp__buf text = {0};
    uint8_t public_key[32];
    if (trust == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a trust file");
    memcpy(trust->origin, m->origin, sizeof trust->origin);
    memcpy(trust->first_policy, policy->digest, 32);
    fp_key_public(m->keys[FP_PURPOSE_LOG], public_key);
    fp_status status = fp__note_key_make(m->origin, FP__NOTE_ED25519, public_key, &trust->log_key);
    if (status == FP_OK)
        status = fp__trust_write(trust, &text);
    if (status == FP_OK)
        status = join(&m->path, m->dir, "trust.json", NULL);
    if (status == FP_OK)
        status = fp__file_create((const char *)m->path.data, text.data, text.size, 0644);
    free(trust);
    fp__buf_free(&text);
    return status;
}

static fp_status make_all(struct making *m)
{
    uint8_t public_keys[FP_PURPOSE_COUNT][32] = {{0}};
    FP_TRY(fp__dir_make(m->dir));
    if (chmod(m->dir, 0700) != 0)
        return fp__fail(FP_IO, "cannot protect %s from others", m->dir);
    for (size_t i = 0; folders[i] != NULL; i++) {
        FP_TRY(join(&m->path, m->dir, folders[i], NULL));
        FP_TRY(fp__dir_make((const char *)m->path.data));
    }
    FP_TRY(make_keys(m, public_keys));
    FP_TRY(fp__policy_one_holder(m->origin, m->holder, (const uint8_t(*)[32])public_keys, &m->policy));
    FP_TRY(join(&m->path, m->dir, "policy.json", NULL));
    FP_TRY(fp__file_create((const char *)m->path.data, m->policy.data, m->policy.size, 0644));
    fp__policy *policy = malloc(sizeof *policy);
    if (policy == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a policy");
    fp_status status = fp__policy_parse(m->policy.data, m->policy.size, policy);
    if (status == FP_OK)
        status = make_ledger(m, policy);
    if (status == FP_OK)
        status = make_trust(m, policy);
    free(policy);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static fp_status check_names(const char *holder, struct making *m, const char *origin)
{
    uint8_t random[8];
    char hex[17];
    size_t n = strlen(holder);
    if (n < 1 || n > FP__HOLDER_NAME_MAX ||
        strspn(holder, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != n)
        return fp__fail(FP_USAGE, "\"%.80s\" is no name for a holder: use A-Z a-z 0-9 _ -", holder);
    if (origin != NULL) {
        if (strlen(origin) < 1 || strlen(origin) > FP__ORIGIN_MAX)
            return fp__fail(FP_USAGE, "an origin has 1 to %d bytes", FP__ORIGIN_MAX);
        memcpy(m->origin, origin, strlen(origin) + 1);
        return FP_OK;
    }
    if (RAND_bytes(random, sizeof random) != 1)
        return fp__fail(FP_IO, "the system gives no random bytes");
    fp__hex_encode(random, sizeof random, hex);
    snprintf(m->origin, sizeof m->origin, "fieldprint.local/%s", hex);
    return FP_OK;
}

fp_status fp_workspace_init(const char *path, const char *holder, const char *origin)
{
    path = fp_workspace_default_path(path);
    struct making m = {.holder = holder != NULL ? holder : "operator"};
    struct stat info;
    fp__buf dir = {0};
    if (fp_workspace_exists(path))
        return fp__fail(FP_EXISTS, "%s is a workspace already", path);
    if (stat(path, &info) == 0 && rmdir(path) != 0)
        return fp__fail(FP_EXISTS, "%s is there and is not an empty folder", path);
    FP_TRY(check_names(m.holder, &m, origin));
    fp_status status = fp__buf_printf(&dir, "%s.new.%ld", path, (long)getpid());
    m.dir = (const char *)dir.data;
    if (status == FP_OK)
        status = make_all(&m);
    if (status == FP_OK && rename(m.dir, path) != 0)
        status = fp__fail(FP_IO, "cannot rename %s to %s", m.dir, path);
    if (status != FP_OK && m.dir != NULL)
        (void)nftw(m.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (status == FP_OK) {
        const char *slash = strrchr(path, '/');
        m.path.size = 0;
        status = slash == NULL   ? fp__dir_sync(".")
                 : slash == path ? fp__dir_sync("/")
                                 : (fp__buf_printf(&m.path, "%.*s", (int)(slash - path), path) == FP_OK
                                        ? fp__dir_sync((const char *)m.path.data)
                                        : FP_NO_MEMORY);
    }
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++)
        fp_key_free(m.keys[i]);
    fp__buf_free(&m.policy);
    fp__buf_free(&m.path);
    fp__buf_free(&dir);
    return status;
}

/* ---- Opening ---- */

static fp_status load_trust(fp_workspace *w)
{
    fp__buf text = {0};
    fp_status status = fp__file_read(w->trust_path, FP__TRUST_MAX_BYTES, &text);
    if (status == FP_NOT_FOUND)
        status = fp__fail(FP_NOT_FOUND, "%s: no trust file: make a workspace with `fieldprint init`",
                          w->trust_path);
    if (status == FP_OK)
        status = fp__trust_parse(text.data, text.size, &w->trust);
    fp__buf_free(&text);
    if (status == FP_OK) {
        w->note_keys[0] = w->trust.log_key;
        memcpy(w->note_keys + 1, w->trust.witnesses.keys, w->trust.witnesses.count * sizeof w->note_keys[0]);
    }
    return status;
}

static fp_status open_registry(fp_workspace *w)
{
    fp__buf path = {0};
    if (w->audit)
        return fp__registry_open(":memory:", &w->trust, &w->registry);
    fp_status status = fp__workspace_path(w, "registry.db", NULL, &path);
    if (status == FP_OK)
        status = fp__registry_open((const char *)path.data, &w->trust, &w->registry);
    if (status == FP_IO) { /* a folder that cannot be written: replay into memory */
        fp__trace(FP__TRACE_INFO, "%s; replaying the log into memory", fp_error_detail());
        status = fp__registry_open(":memory:", &w->trust, &w->registry);
    }
    fp__buf_free(&path);
    return status;
}

static fp_status open_reader(fp_workspace *w)
{
    fp__buf dir = {0}, state = {0};
    fp_status status = fp__workspace_path(w, "ledger", NULL, &dir);
    if (status == FP_OK)
        status = fp__workspace_path(w, "ledger.state", NULL, &state);
    if (status == FP_OK) {
        bool remember = !w->audit && access(w->path, W_OK) == 0;
        status = fp__ledger_reader_open((const char *)dir.data, w->trust.origin, w->note_keys,
                                        w->trust.witnesses.count + 1,
                                        remember ? (const char *)state.data : NULL, &w->reader);
    }
    fp__buf_free(&dir);
    fp__buf_free(&state);
    return status;
}

fp_status fp_workspace_open(const char *path, const char *trust_path, fp_workspace **out)
{
    path = fp_workspace_default_path(path);
    fp_workspace *w = calloc(1, sizeof *w);
    fp__buf own = {0};
    if (w == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a workspace");
    fp_status status = join(&own, path, "trust.json", NULL);
    w->audit = trust_path != NULL;
    w->path = strdup(path);
    w->trust_path = status == FP_OK ? strdup(trust_path != NULL ? trust_path : (const char *)own.data) : NULL;
    fp__buf_free(&own);
    if (status == FP_OK && (w->path == NULL || w->trust_path == NULL))
        status = fp__fail(FP_NO_MEMORY, "no memory for a workspace");
    if (status == FP_OK)
        status = load_trust(w);
    if (status == FP_OK)
        status = open_reader(w);
    if (status == FP_OK)
        status = open_registry(w);
    if (status == FP_OK)
        status = fp_workspace_sync(w);
    if (status != FP_OK) {
        fp_workspace_close(w);
        return status;
    }
    *out = w;
    return FP_OK;
}

void fp_workspace_close(fp_workspace *w)
{
    if (w == NULL)
        return;
    fp__registry_close(w->registry);
    fp__ledger_reader_close(w->reader);
    free(w->path);
    free(w->trust_path);
    free(w);
}

/* A registry file that is damaged is thrown away: it is a cache. */
static fp_status replay(fp_workspace *w)
{
    fp_status status = fp__registry_replay(w->registry, w->reader, UINT64_MAX);
    if (status != FP_FORMAT && status != FP_USAGE)
        return status;
    fp__trace(FP__TRACE_WARN, "%s; making the registry anew", fp_error_detail());
    fp__buf path = {0};
    FP_TRY(fp__workspace_path(w, "registry.db", NULL, &path));
    if (!w->audit)
        (void)unlink((const char *)path.data);
    fp__buf_free(&path);
    fp__registry_close(w->registry);
    w->registry = NULL;
    FP_TRY(open_registry(w));
    return fp__registry_replay(w->registry, w->reader, UINT64_MAX);
}

fp_status fp_workspace_sync(fp_workspace *w)
{
    fp_status status = fp__ledger_reader_refresh(w->reader, NULL);
    if (status == FP_OK)
        status = replay(w);
    w->log_fault[0] = 0;
    /* What a log in order never does: doubt about the ledger, not an error of the machine. */
    if (status == FP_MISMATCH || status == FP_SIGNATURE || status == FP_FORMAT || status == FP_INVALID)
        snprintf(w->log_fault, sizeof w->log_fault, "%.255s", fp_error_detail());
    return status;
}

fp_status fp_workspace_get_info(fp_workspace *w, fp_workspace_info *out)
{
    uint64_t index = 0;
    fp__ledger_head head;
    FP_TRY(fp_workspace_sync(w));
    const fp__policy *policy = fp__registry_policy(w->registry, &index, NULL);
    fp__registry_head(w->registry, &head);
    fp_workspace_info info = {.path = w->path,
                              .origin = w->trust.origin,
                              .trust_path = w->trust_path,
                              .tree_size = head.size,
                              .policy_index = index,
                              .max_set_tokens = policy != NULL ? policy->max_tokens : 0,
                              .witnesses = w->trust.witnesses.threshold};
    memcpy(info.tree_root, head.root, 32);
    if (policy != NULL)
        memcpy(info.policy_digest, policy->digest, 32);
    FP_TRY(fp__registry_count(w->registry, &info.anchors, &info.receipts));
    *out = info;
    return FP_OK;
}

void fp_bytes_free(void *data)
{
    free(data);
}
