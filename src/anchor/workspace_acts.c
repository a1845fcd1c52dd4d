/* Events that are not about the life of one anchor: distrust, endorse, retraction, override; and looking at
 * events before they are signed. */
#include "anchor/workspace_inside.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

fp_status fp__event_set_reason(fp__event *event, const char *why)
{
    why = why != NULL ? why : "";
    if (strlen(why) > FP__EVENT_REASON_MAX)
        return fp__fail(FP_LIMIT, "a reason of %zu bytes; at most %d are allowed", strlen(why),
                        FP__EVENT_REASON_MAX);
    memcpy(event->reason, why, strlen(why) + 1);
    return FP_OK;
}

/* Takes the event. */
static fp_status submit(fp_workspace *w, fp__event *event, const char *why, fp_event_receipt *out)
{
    fp_status status = fp__event_set_reason(event, why);
    if (status == FP_OK)
        status = fp__workspace_submit(w, event, out);
    fp__event_free(event);
    return status;
}

fp_status fp_event_distrust(fp_workspace *w, const uint8_t key_id[32], uint64_t from_index, const char *why,
                            fp_event_receipt *out)
{
    fp__event event = {0};
    if (from_index > FP__JSON_INTEGER_MAX)
        return fp__fail(FP_LIMIT, "distrust: the index is beyond 2^53-1");
    FP_TRY(fp__workspace_event(w, FP__EVENT_DISTRUST, key_id, &event));
    event.from_index = from_index;
    return submit(w, &event, why, out);
}

fp_status fp_event_endorse(fp_workspace *w, const uint8_t content[32], fp_label label, uint64_t valid_from,
                           uint64_t valid_until, const char *why, fp_event_receipt *out)
{
    fp__event event = {0};
    if ((unsigned)label >= FP_LABEL_COUNT)
        return fp__fail(FP_USAGE, "endorse: no such label");
    FP_TRY(fp__workspace_event(w, FP__EVENT_ENDORSE, content, &event));
    event.label = label;
    event.valid_from = valid_from;
    event.valid_until = valid_until != 0 ? valid_until : FP_TIME_FOREVER;
    return submit(w, &event, why, out);
}

fp_status fp_event_retract(fp_workspace *w, const uint8_t receipt_id[32], const char *why,
                           fp_event_receipt *out)
{
    fp__event event = {0};
    FP_TRY(fp__workspace_event(w, FP__EVENT_RETRACTION, receipt_id, &event));
    return submit(w, &event, why, out);
}

fp_status fp_event_override(fp_workspace *w, const fp_override *o, fp_event_receipt *out)
{
    uint8_t target[32];
    fp__event event = {0};
    const char *deployment = o->deployment != NULL ? o->deployment : "*";
    if (strlen(deployment) > FP__DEPLOYMENT_MAX || deployment[0] == 0)
        return fp__fail(FP_LIMIT, "override: a deployment's name has 1 to %d bytes", FP__DEPLOYMENT_MAX);
    if (o->valid_until <= o->valid_from || o->valid_until - o->valid_from > FP__OVERRIDE_MAX_SECONDS)
        return fp__fail(FP_LIMIT, "override: it lasts at most 24 hours, and ends after it begins");
    fp__event_ids_digest(o->anchor_ids, o->anchors, target);
    FP_TRY(fp__workspace_event(w, FP__EVENT_OVERRIDE, target, &event));
    event.halt = o->halt;
    event.valid_from = o->valid_from;
    event.valid_until = o->valid_until;
    memcpy(event.deployment, deployment, strlen(deployment) + 1);
    fp_status status = fp__event_set_ids(&event, o->anchor_ids, o->anchors);
    if (status == FP_OK)
        return submit(w, &event, o->why, out);
    fp__event_free(&event);
    return status;
}

void fp_content_digest(const void *text, size_t size, uint8_t out[32])
{
    fp__sha256(text, size, out);
}

fp_status fp_content_label(fp_workspace *w, const void *text, size_t size, fp_label *out)
{
    uint8_t digest[32];
    FP_TRY(fp_workspace_sync(w));
    fp__sha256(text, size, digest);
    return fp__registry_endorsed(w->registry, digest, (uint64_t)time(NULL), out);
}

fp_status fp_workspace_set_deployment(fp_workspace *w, const char *name)
{
    if (name != NULL && (name[0] == 0 || strlen(name) > FP__DEPLOYMENT_MAX || strcmp(name, "*") == 0))
        return fp__fail(FP_USAGE, "a deployment's name has 1 to %d bytes and is not *", FP__DEPLOYMENT_MAX);
    w->has_deployment = name != NULL;
    w->inputs_epoch++;
    snprintf(w->deployment, sizeof w->deployment, "%s", name != NULL ? name : "");
    return FP_OK;
}

fp_status fp_event_inspect(fp_workspace *w, const void *envelope, size_t size, fp_event_info *out)
{
    fp__dsse dsse = {0};
    fp__event event = {0};
    fp__verdict verdict = {0};
    fp__ledger_head head;
    bool is_event = false;
    FP_TRY(fp_workspace_sync(w));
    FP_TRY(fp__dsse_parse(envelope, size, &dsse));
    fp_status status = fp__event_parse(dsse.payload.data, dsse.payload.size, &is_event, &event);
    if (status == FP_OK && !is_event)
        status = fp__fail(FP_FORMAT, "not a fieldprint event");
    fp__registry_head(w->registry, &head);
    if (status == FP_OK)
        status = fp__registry_judge(w->registry, &dsse, &event, head.size, &verdict);
    if (status == FP_OK) {
        *out = (fp_event_info){.signatures = (uint32_t)dsse.signatures_count,
                               .signatures_missing = verdict.missing,
                               .counts = verdict.counts};
        memcpy(out->event_id, dsse.id, 32);
        memcpy(out->target, event.target, 32);
        snprintf(out->type, sizeof out->type, "%s", fp__event_type_name(event.type));
        snprintf(out->why, sizeof out->why, "%s", verdict.why);
    }
    fp__event_free(&event);
    fp__dsse_free(&dsse);
    return status;
}

fp_status fp_envelope_payload(const void *envelope, size_t envelope_size, uint8_t **data, size_t *size)
{
    fp__dsse dsse = {0};
    FP_TRY(fp__dsse_parse(envelope, envelope_size, &dsse));
    *data = dsse.payload.data; /* from malloc: the caller's now */
    *size = dsse.payload.size;
    dsse.payload = (fp__buf){0};
    fp__dsse_free(&dsse);
    return FP_OK;
}
