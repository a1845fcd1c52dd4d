#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "core/trace.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- Paths ---- */

const char *fp_workspace_default_path(const char *path)
{
    if (path != NULL && path[0] != 0)
        return path;
    const char *environment = getenv("FIELDPRINT_WORKSPACE");
    return environment != NULL && environment[0] != 0 ? environment : ".fieldprint";
}

fp_status fp__workspace_join(fp__buf *buf, const char *dir, const char *folder, const char *name)
{
    buf->size = 0;
    FP_TRY(fp__buf_printf(buf, "%s/%s", dir, folder));
    return name == NULL ? FP_OK : fp__buf_printf(buf, "/%s", name);
}

bool fp_workspace_exists(const char *path)
{
    fp__buf buf = {0};
    bool there = fp__workspace_join(&buf, fp_workspace_default_path(path), "trust.json", NULL) == FP_OK &&
                 fp__file_exists((const char *)buf.data);
    fp__buf_free(&buf);
    return there;
}

fp_status fp__workspace_path(const fp_workspace *w, const char *folder, const char *name, fp__buf *buf)
{
    return fp__workspace_join(buf, w->path, folder, name);
}

fp_status fp__workspace_id_path(const fp_workspace *w, const char *folder, const uint8_t id[32],
                                const char *suffix, fp__buf *buf)
{
    char name[96], hex[65];
    fp__hex_encode(id, 32, hex);
    snprintf(name, sizeof name, "%s%s", hex, suffix);
    return fp__workspace_join(buf, w->path, folder, name);
}

fp_status fp__workspace_store_envelope(const fp_workspace *w, const char *folder, const fp__dsse *dsse)
{
    fp__buf path = {0}, text = {0};
    fp_status status = fp__workspace_id_path(w, folder, dsse->id, ".dsse.json", &path);
    if (status == FP_OK)
        status = fp__dsse_write(dsse, &text);
    if (status == FP_OK)
        status = fp__file_write((const char *)path.data, text.data, text.size, 0644);
    fp__buf_free(&path);
    fp__buf_free(&text);
    return status;
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

fp_status fp_ledger_fsck(const char *path, const char *trust_path, fp_ledger_report *report)
{
    fp_workspace *w = calloc(1, sizeof *w);
    fp__buf trust = {0}, dir = {0};
    fp__ledger_report found = {0};
    if (w == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory to check the ledger");
    path = fp_workspace_default_path(path);
    fp_status status = fp__workspace_join(&trust, path, "trust.json", NULL);
    w->trust_path = (char *)(uintptr_t)(trust_path != NULL ? trust_path : (const char *)trust.data);
    if (status == FP_OK)
        status = load_trust(w);
    bool remote = false;
    if (status == FP_OK)
        status = fp__workspace_log_place(path, &dir, &remote);
    if (status == FP_OK)
        status = fp__ledger_fsck((const char *)dir.data, w->trust.origin, w->note_keys,
                                 w->trust.witnesses.count + 1, &found);
    fp__buf_free(&trust);
    fp__buf_free(&dir);
    free(w);
    if (status != FP_OK || report == NULL)
        return status;
    *report = (fp_ledger_report){.size = found.head.size,
                                 .tiles = found.tiles,
                                 .bundles = found.bundles,
                                 .entry_bytes = found.entry_bytes};
    memcpy(report->root, found.head.root, 32);
    return FP_OK;
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
    bool remote = false;
    fp_status status = fp__workspace_log_place(w->path, &dir, &remote);
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
    fp_status status = fp__workspace_join(&own, path, "trust.json", NULL);
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
    for (size_t i = 0; i < w->held_count; i++) {
        fp__event_free(w->held[i].event);
        free(w->held[i].event);
    }
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
