/* A workspace's log as a log: where it is, and who witnesses it. */
#include "anchor/log_public.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "core/trace.h"
#include <stdlib.h>

#define URL_FILE "ledger.url"
#define POLICY_FILE "witness.policy"

fp_status fp__workspace_log_place(const char *path, fp__buf *place, bool *remote)
{
    fp__buf file = {0};
    fp_status status = fp__workspace_join(&file, path, URL_FILE, NULL);
    place->size = 0;
    if (status == FP_OK)
        status = fp__file_read((const char *)file.data, FP__REMOTE_URL_MAX, place);
    fp__buf_free(&file);
    *remote = status == FP_OK;
    if (status == FP_NOT_FOUND)
        return fp__workspace_join(place, path, "ledger", NULL);
    FP_TRY(status);
    while (place->size > 0 && (place->data[place->size - 1] == '\n' || place->data[place->size - 1] == ' '))
        place->data[--place->size] = 0;
    return fp__remote_is_url((const char *)place->data)
               ? FP_OK
               : fp__fail(FP_FORMAT, "%s/%s: it does not hold a URL", path, URL_FILE);
}

static fp_status load_policy(const fp_workspace *w, const char *policy_path, fp__tlog_policy **out)
{
    fp__buf path = {0};
    if (policy_path != NULL)
        return fp__log_policy_load(policy_path, out);
    fp_status status = fp__workspace_path(w, POLICY_FILE, NULL, &path);
    if (status == FP_OK)
        status = fp__log_policy_load((const char *)path.data, out);
    fp__buf_free(&path);
    return status;
}

static fp_status witness_round(fp_workspace *w, const fp_key *log_key, const char *policy_path,
                               fp_log_witness *rows, size_t *n, bool *met)
{
    fp__buf place = {0};
    fp__tlog_policy *policy = NULL;
    bool remote = false;
    fp_status status = load_policy(w, policy_path, &policy);
    if (status == FP_OK)
        status = fp__workspace_log_place(w->path, &place, &remote);
    if (status == FP_OK && remote)
        status =
            fp__fail(FP_USAGE, "the log at %s is witnessed where it is written", (const char *)place.data);
    if (status == FP_OK)
        status = fp__log_witness_round((const char *)place.data, log_key, w->reader, policy, rows, n, met);
    fp__buf_free(&place);
    free(policy);
    return status;
}

void fp__workspace_cosign(fp_workspace *w, const fp_key *log_key)
{
    fp__buf path = {0};
    fp_log_witness rows[FP_LOG_WITNESSES_MAX];
    size_t n = 0;
    bool met = false, asked = fp__workspace_path(w, POLICY_FILE, NULL, &path) == FP_OK &&
                              fp__file_exists((const char *)path.data);
    fp__buf_free(&path);
    if (!asked)
        return;
    if (witness_round(w, log_key, NULL, rows, &n, &met) != FP_OK)
        fp__trace(FP__TRACE_WARN, "the log was not shown to its witnesses: %s", fp_error_detail());
    for (size_t i = 0; i < n; i++)
        if (rows[i].status != FP_OK)
            fp__trace(met ? FP__TRACE_INFO : FP__TRACE_WARN, "%s", rows[i].detail);
}

fp_status fp_workspace_witness_round(fp_workspace *w, const char *policy_path, fp_log_witness *rows,
                                     size_t *n, bool *met)
{
    fp_key *log_key = NULL;
    FP_TRY(fp_workspace_key(w, FP_PURPOSE_LOG, &log_key));
    fp_status status = witness_round(w, log_key, policy_path, rows, n, met);
    fp_key_free(log_key);
    return status == FP_OK ? fp_workspace_sync(w) : status;
}

fp_status fp_log_open_workspace(const char *path, const char *trust_path, const char *policy_path,
                                fp_log **out)
{
    fp__buf own = {0}, text = {0}, place = {0};
    fp__tlog_policy *policy = NULL;
    fp__trust *trust = malloc(sizeof *trust);
    bool remote;
    if (trust == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a trust file");
    path = fp_workspace_default_path(path);
    fp_status status = fp__workspace_join(&own, path, "trust.json", NULL);
    if (status == FP_OK)
        status = fp__file_read(trust_path != NULL ? trust_path : (const char *)own.data, FP__TRUST_MAX_BYTES,
                               &text);
    if (status == FP_OK)
        status = fp__trust_parse(text.data, text.size, trust);
    if (status == FP_OK)
        status = fp__workspace_log_place(path, &place, &remote);
    if (status == FP_OK && policy_path != NULL)
        status = fp__log_policy_load(policy_path, &policy);
    if (status == FP_OK)
        status = fp__log_open((const char *)place.data, &trust->log_key, NULL, policy, out);
    fp__buf_free(&own);
    fp__buf_free(&text);
    fp__buf_free(&place);
    free(trust);
    return status;
}
