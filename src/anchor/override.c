/* Override files: a chain of policy events from the one that the trust file pins, and an override that the
 * last policy's holders signed; one envelope a line. They are judged by the registry's own rules in a
 * registry in memory, so that no log is needed. */
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include <stdio.h>
#include <stdlib.h>

#define LINES_MAX 4096u
#define FILE_MAX_BYTES ((size_t)64 << 20)

/* ---- Verifying ---- */

static fp_status feed_line(fp__registry *registry, const uint8_t *line, size_t size, uint64_t index,
                           bool last, fp__dsse *dsse, fp__event *event)
{
    fp__verdict verdict;
    bool is_event = false;
    FP_TRY(fp__dsse_parse(line, size, dsse));
    FP_TRY(fp__event_parse(dsse->payload.data, dsse->payload.size, &is_event, event));
    if (!is_event || event->type != (last ? FP__EVENT_OVERRIDE : FP__EVENT_POLICY))
        return fp__fail(FP_FORMAT, "override file, line %llu: %s event is expected",
                        (unsigned long long)index + 1, last ? "an override" : "a policy");
    FP_TRY(fp__registry_feed(registry, dsse, event, index, &verdict));
    return verdict.counts ? FP_OK
                          : fp__fail(FP_SIGNATURE, "override file, line %llu: %s",
                                     (unsigned long long)index + 1, verdict.why);
}

/* The override of a file, verified. */
static fp_status verify(const fp__trust *trust, const uint8_t *data, size_t size, fp__dsse *dsse,
                        fp__event *event)
{
    fp__registry *registry = NULL;
    uint64_t index = 0;
    if (size > FILE_MAX_BYTES)
        return fp__fail(FP_LIMIT, "override file of %zu bytes", size);
    FP_TRY(fp__registry_open(":memory:", trust, &registry));
    fp_status status = size == 0 ? fp__fail(FP_FORMAT, "override file: it is empty") : FP_OK;
    for (size_t at = 0; at < size && status == FP_OK; index++) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t n = end != NULL ? (size_t)(end - data) - at : size - at;
        bool last = at + n + 1 >= size;
        if (index == LINES_MAX)
            status = fp__fail(FP_LIMIT, "override file: more than %u lines", LINES_MAX);
        fp__dsse_free(dsse);
        fp__event_free(event);
        if (status == FP_OK)
            status = feed_line(registry, data + at, n, index, last, dsse, event);
        at += n + 1;
    }
    fp__registry_close(registry);
    return status;
}

static void describe(const fp__dsse *dsse, const fp__event *event, fp_override_info *out)
{
    *out = (fp_override_info){.halt = event->halt,
                              .anchors = event->ids_count,
                              .valid_from = event->valid_from,
                              .valid_until = event->valid_until};
    memcpy(out->event_id, dsse->id, 32);
    memcpy(out->anchor_ids, event->ids, event->ids_count * 32);
    snprintf(out->deployment, sizeof out->deployment, "%s", event->deployment);
    snprintf(out->why, sizeof out->why, "%s", event->reason);
}

fp_status fp_override_verify(const char *trust_path, const void *data, size_t size, fp_override_info *out)
{
    fp__buf text = {0};
    fp__dsse dsse = {0};
    fp__event event = {0};
    fp__trust *trust = malloc(sizeof *trust);
    fp_status status = trust == NULL ? fp__fail(FP_NO_MEMORY, "no memory for a trust file")
                                     : fp__file_read(trust_path, FP__TRUST_MAX_BYTES, &text);
    if (status == FP_OK)
        status = fp__trust_parse(text.data, text.size, trust);
    if (status == FP_OK)
        status = verify(trust, data, size, &dsse, &event);
    if (status == FP_OK)
        describe(&dsse, &event, out);
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    fp__buf_free(&text);
    free(trust);
    return status;
}

/* ---- Using ---- */

static fp_status spool(const fp_workspace *w, const fp__dsse *dsse)
{
    fp__buf path = {0};
    fp_status status = fp__workspace_path(w, "spool", NULL, &path);
    if (status == FP_OK && !fp__file_exists((const char *)path.data))
        status = fp__dir_make((const char *)path.data);
    fp__buf_free(&path);
    return status == FP_OK ? fp__workspace_store_envelope(w, "spool", dsse) : status;
}

/* In force for this handle from here on, beside those that are held already. Takes the event. */
static fp_status hold(fp_workspace *w, const uint8_t id[32], fp__event *event)
{
    for (size_t i = 0; i < w->held_count; i++)
        if (memcmp(w->held[i].id, id, 32) == 0)
            return FP_OK;
    if (w->held_count == FP__HELD_OVERRIDES_MAX)
        return fp__fail(FP_LIMIT, "%d overrides wait for the log already", FP__HELD_OVERRIDES_MAX);
    fp__event *own = malloc(sizeof *own);
    if (own == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for an override");
    *own = *event;
    *event = (fp__event){0};
    w->held[w->held_count].event = own;
    memcpy(w->held[w->held_count++].id, id, 32);
    return FP_OK;
}

fp_status fp_override_use(fp_workspace *w, const void *data, size_t size, fp_override_info *out, bool *logged)
{
    fp__dsse dsse = {0};
    fp__event event = {0};
    fp_event_receipt receipt;
    fp_status status = verify(&w->trust, data, size, &dsse, &event);
    if (status == FP_OK) {
        fp_status appended = fp__workspace_append(w, &dsse, &receipt);
        *logged = appended == FP_OK || appended == FP_EXISTS;
        /* Denied: the log, which is up, knows a newer policy or otherwise better. */
        if (appended == FP_DENIED)
            status = appended;
        else if (!*logged)
            status = spool(w, &dsse);
    }
    if (status == FP_OK) {
        describe(&dsse, &event, out);
        w->inputs_epoch++;
        if (!*logged) /* one that is logged is in the registry */
            status = hold(w, dsse.id, &event);
    }
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    return status;
}

/* ---- Writing ---- */

static fp_status append_entry(fp_workspace *w, uint64_t index, fp__buf *out)
{
    FP_TRY(fp__ledger_reader_entry(w->reader, index, out));
    return fp__buf_append_text(out, "\n");
}

/* Policy events that count, in order; *found: the index of the override, if it is logged. */
static fp_status append_chain(fp_workspace *w, const uint8_t event_id[32], fp__buf *out, uint64_t *found)
{
    fp_ledger_row rows[64];
    size_t n = 64;
    *found = FP_INDEX_NONE;
    for (uint64_t at = 0; n == 64; at += n) {
        FP_TRY(fp_ledger_rows(w, at, rows, &n));
        for (size_t i = 0; i < n; i++) {
            if (rows[i].valid && strcmp(rows[i].type, "override") == 0 &&
                memcmp(rows[i].event_id, event_id, 32) == 0) {
                *found = rows[i].index;
                return FP_OK; /* later policies are not its judges */
            }
            if (rows[i].valid && strcmp(rows[i].type, "policy") == 0)
                FP_TRY(append_entry(w, rows[i].index, out));
        }
    }
    return FP_OK;
}

fp_status fp_override_export(fp_workspace *w, const uint8_t event_id[32], uint8_t **data, size_t *size)
{
    fp__buf out = {0}, path = {0};
    uint64_t index = FP_INDEX_NONE;
    fp__dsse dsse = {0};
    fp__event event = {0};
    fp_status status = append_chain(w, event_id, &out, &index);
    if (status == FP_OK && index != FP_INDEX_NONE)
        status = append_entry(w, index, &out);
    else if (status == FP_OK) {
        status = fp__workspace_id_path(w, "pending", event_id, ".dsse.json", &path);
        if (status == FP_OK)
            status = fp__file_read((const char *)path.data, FP__DSSE_ENVELOPE_MAX_BYTES, &out);
        if (status == FP_NOT_FOUND)
            status = fp__fail(FP_NOT_FOUND, "no such override is in the log or in pending/");
    }
    if (status == FP_OK)
        status = verify(&w->trust, out.data, out.size, &dsse, &event);
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    fp__buf_free(&path);
    if (status != FP_OK) {
        fp__buf_free(&out);
        return status;
    }
    *data = out.data;
    *size = out.size;
    return FP_OK;
}
