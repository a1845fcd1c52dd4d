#include "anchor/event.h"
#include "anchor/compact.h"
#include "merkle/sha256.h"
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const type_names[] = {
#define TYPE_NAME(name, text, purpose) text,
    FP__EVENT_TABLE(TYPE_NAME)
#undef TYPE_NAME
};

const char *fp__event_type_name(fp__event_type type)
{
    return (unsigned)type < FP__EVENT_UNKNOWN ? type_names[type] : "unknown";
}

fp_purpose fp__event_purpose(fp__event_type type)
{
    static const fp_purpose purposes[] = {
#define TYPE_PURPOSE(name, text, purpose) FP_PURPOSE_##purpose,
        FP__EVENT_TABLE(TYPE_PURPOSE)
#undef TYPE_PURPOSE
    };
    FP_CHECK((unsigned)type < FP__EVENT_UNKNOWN);
    return purposes[type];
}

void fp__event_free(fp__event *event)
{
    if (event == NULL)
        return;
    fp__buf_free(&event->policy_bytes);
    free(event->ids);
    memset(event, 0, sizeof *event);
}

fp_status fp__event_new(fp__event_type type, const char *origin, const uint8_t policy[32],
                        const uint8_t target[32], fp__event *out)
{
    if (strlen(origin) > FP__ORIGIN_MAX)
        return fp__fail(FP_LIMIT, "origin of %zu bytes; at most %d are allowed", strlen(origin),
                        FP__ORIGIN_MAX);
    *out = (fp__event){.type = type, .valid_until = FP_TIME_FOREVER};
    memcpy(out->origin, origin, strlen(origin) + 1);
    memcpy(out->policy, policy, 32);
    memcpy(out->target, target, 32);
    if (RAND_bytes(out->nonce, sizeof out->nonce) != 1)
        return fp__fail(FP_IO, "the system gives no random bytes");
    return FP_OK;
}

fp_status fp__event_set_ids(fp__event *event, const uint8_t (*ids)[32], size_t n)
{
    if (n > FP__EVENT_IDS_MAX)
        return fp__fail(FP_LIMIT, "event: %zu ids; at most %d are allowed", n, FP__EVENT_IDS_MAX);
    uint8_t(*copy)[32] = malloc(n == 0 ? 1 : n * 32);
    if (copy == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for %zu ids", n);
    if (n > 0)
        memcpy(copy, ids, n * 32);
    free(event->ids);
    event->ids = copy;
    event->ids_count = n;
    return FP_OK;
}

void fp__event_ids_digest(const uint8_t (*ids)[32], size_t n, uint8_t out[32])
{
    memset(out, 0, 32);
    if (n > 0)
        fp__sha256(ids, n * 32, out);
}

/* What the target is, as text; anchor events and endorsements say the label. */
static const char *target_type(const fp__event *e)
{
    switch (e->type) {
    case FP__EVENT_POLICY:
        return "policy";
    case FP__EVENT_COMPILE:
        return "set";
    case FP__EVENT_DISTRUST:
        return "key";
    case FP__EVENT_OVERRIDE:
        return "anchors";
    case FP__EVENT_RECEIPTS:
        return "receipts";
    case FP__EVENT_RETRACTION:
        return "receipt";
    default:
        return fp_label_name(e->label);
    }
}

/* Name and digest algorithm of the subject. */
static void subject_of(fp__event_type type, const char **name, const char **algorithm)
{
    *name = "anchor";
    *algorithm = "fieldprintId1"; /* SHA-256 of a DSSE PAE */
    if (type == FP__EVENT_POLICY || type == FP__EVENT_ENDORSE || type == FP__EVENT_DISTRUST) {
        *name = type == FP__EVENT_POLICY ? "policy" : type == FP__EVENT_ENDORSE ? "content" : "key";
        *algorithm = "sha256";
    } else if (type == FP__EVENT_COMPILE) {
        *name = "kv";
        *algorithm = "fieldprintKv1";
    } else if (type == FP__EVENT_OVERRIDE || type == FP__EVENT_RECEIPTS) {
        *name = type == FP__EVENT_OVERRIDE ? "anchors" : "receipts";
        *algorithm = "fieldprintIds1"; /* SHA-256 of ids in a row */
    } else if (type == FP__EVENT_RETRACTION) {
        *name = "receipt";
    }
}

static json_t *ids_json(const fp__event *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->ids_count; i++)
        json_array_append_new(list, fp__json_hex_value(e->ids[i], 32));
    return list;
}

static json_t *policy_body(const fp__event *e)
{
    fp__buf text = {0};
    json_t *body = NULL;
    if (fp__base64_encode(e->policy_bytes.data, e->policy_bytes.size, &text) == FP_OK)
        body = json_pack("{s:s%}", "policy", (const char *)text.data, text.size);
    fp__buf_free(&text);
    return body;
}

static json_t *body_json(const fp__event *e)
{
    switch (e->type) {
    case FP__EVENT_POLICY:
        return policy_body(e);
    case FP__EVENT_COMPILE:
        return json_pack("{s:o, s:o, s:i, s:o, s:i, s:i, s:o}", "salt", fp__json_hex_value(e->salt, 32),
                         "model", fp__json_hex_value(e->model, 32), "arithmetic", (int)e->arithmetic,
                         "token_ids", fp__json_hex_value(e->token_ids, 32), "tokens", (int)e->tokens, "pages",
                         (int)e->pages, "anchors", ids_json(e));
    case FP__EVENT_SUPERSEDE:
        return json_pack("{s:o, s:s}", "successor", fp__json_hex_value(e->successor, 32), "reason",
                         e->reason);
    case FP__EVENT_DISTRUST:
        return json_pack("{s:I, s:s}", "from_index", (json_int_t)e->from_index, "reason", e->reason);
    case FP__EVENT_REVOKE:
    case FP__EVENT_ENDORSE:
    case FP__EVENT_RETRACTION:
        return json_pack("{s:s}", "reason", e->reason);
    case FP__EVENT_OVERRIDE:
        return json_pack("{s:s, s:s, s:o, s:s}", "action", e->halt ? "halt" : "bypass", "deployment",
                         e->deployment, "anchors", ids_json(e), "reason", e->reason);
    case FP__EVENT_RECEIPTS:
        return json_pack("{s:o}", "receipts", ids_json(e));
    default:
        return json_object();
    }
}

/* ---- Bounds, for what is written and what is read ---- */

static fp_status check_ids(const fp__event *e)
{
    uint8_t digest[32];
    if (e->type == FP__EVENT_COMPILE)
        FP_TRY(fp_set_id((const uint8_t(*)[32])e->ids, e->ids_count, digest));
    else
        fp__event_ids_digest((const uint8_t(*)[32])e->ids, e->ids_count, digest);
    if (memcmp(digest, e->target, 32) != 0)
        return fp__fail(FP_FORMAT, "event.target: not the digest of the ids in the body");
    for (size_t i = 0; i < e->ids_count; i++)
        for (size_t j = 0; j < i; j++)
            if (memcmp(e->ids[i], e->ids[j], 32) == 0)
                return fp__fail(FP_FORMAT, "event.body: id %zu is there twice", i);
    return FP_OK;
}

static fp_status check_event(const fp__event *e)
{
    bool timed = e->type == FP__EVENT_REGISTER || e->type == FP__EVENT_PROMOTE ||
                 e->type == FP__EVENT_OVERRIDE || e->type == FP__EVENT_ENDORSE;
    if (e->valid_from >= e->valid_until || e->valid_until > FP_TIME_FOREVER)
        return fp__fail(FP_FORMAT, "event.valid_until: not after valid_from");
    if (!timed && (e->valid_from != 0 || e->valid_until != FP_TIME_FOREVER))
        return fp__fail(FP_FORMAT, "event.valid_from: a %s event has no validity (0 and 2^53-1)",
                        fp__event_type_name(e->type));
    if (e->type == FP__EVENT_OVERRIDE && e->valid_until - e->valid_from > FP__OVERRIDE_MAX_SECONDS)
        return fp__fail(FP_FORMAT, "event.valid_until: an override lasts at most 24 hours");
    if (e->type == FP__EVENT_POLICY) {
        uint8_t digest[32];
        fp__sha256(e->policy_bytes.data, e->policy_bytes.size, digest);
        if (memcmp(digest, e->target, 32) != 0)
            return fp__fail(FP_FORMAT, "event.target: not the digest of the policy in the body");
    }
    if (e->type == FP__EVENT_COMPILE && (e->ids_count == 0 || e->tokens == 0 || e->pages == 0 ||
                                         e->tokens > INT32_MAX || e->pages > INT32_MAX))
        return fp__fail(FP_FORMAT, "event.body: a compiled set has anchors, tokens and pages");
    if (e->type == FP__EVENT_RECEIPTS && e->ids_count == 0)
        return fp__fail(FP_FORMAT, "event.body: no receipts");
    if (e->type == FP__EVENT_SUPERSEDE && memcmp(e->successor, e->target, 32) == 0)
        return fp__fail(FP_FORMAT, "event.body: an anchor cannot supersede itself");
    if (e->type == FP__EVENT_COMPILE || e->type == FP__EVENT_RECEIPTS || e->type == FP__EVENT_OVERRIDE)
        return check_ids(e);
    return FP_OK;
}

fp_status fp__event_build(const fp__event *e, fp__dsse *out)
{
    FP_TRY(check_event(e));
    const char *name, *algorithm;
    subject_of(e->type, &name, &algorithm);
    json_t *predicate = json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:s, s:I, s:I, s:o}", "event", fp__event_type_name(e->type), "origin",
        e->origin, "nonce", fp__json_hex_value(e->nonce, 32), "policy", fp__json_hex_value(e->policy, 32),
        "target", fp__json_hex_value(e->target, 32), "target_type", target_type(e), "valid_from",
        (json_int_t)e->valid_from, "valid_until", (json_int_t)e->valid_until, "body", body_json(e));
    const uint8_t *digest = e->type == FP__EVENT_COMPILE ? e->kv_head : e->target;
    return fp__dsse_create_json(fp__intoto_build(name, algorithm, digest, FP__EVENT_PREDICATE, predicate),
                                out);
}

/* ---- Parsing ---- */

static fp_status parse_ids(const json_t *body, const char *key, size_t min, fp__event *out)
{
    json_t *list = NULL;
    FP_TRY(fp__json_array(body, "event.body", key, min, FP__EVENT_IDS_MAX, &list));
    size_t n = json_array_size(list);
    out->ids = malloc(n == 0 ? 1 : n * 32);
    if (out->ids == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++)
        FP_TRY(
            fp__json_hex_text(json_string_value(json_array_get(list, i)), "event.body ids", out->ids[i], 32));
    out->ids_count = n;
    return FP_OK;
}

static fp_status parse_reason(const json_t *body, fp__event *out)
{
    const char *text = NULL;
    FP_TRY(fp__json_text(body, "event.body", "reason", 0, FP__EVENT_REASON_MAX, &text));
    memcpy(out->reason, text, strlen(text) + 1);
    return FP_OK;
}

static fp_status parse_compile(const json_t *body, fp__event *out)
{
    static const char where[] = "event.body";
    uint64_t arithmetic = 0, tokens = 0, pages = 0;
    FP_TRY(fp__json_hex(body, where, "salt", out->salt, 32));
    FP_TRY(fp__json_hex(body, where, "model", out->model, 32));
    FP_TRY(fp__json_uint(body, where, "arithmetic", 0, UINT16_MAX, &arithmetic));
    FP_TRY(fp__json_hex(body, where, "token_ids", out->token_ids, 32));
    FP_TRY(fp__json_uint(body, where, "tokens", 1, INT32_MAX, &tokens));
    FP_TRY(fp__json_uint(body, where, "pages", 1, INT32_MAX, &pages));
    out->arithmetic = (uint16_t)arithmetic;
    out->tokens = (uint32_t)tokens;
    out->pages = (uint32_t)pages;
    return parse_ids(body, "anchors", 1, out);
}

static fp_status parse_policy_body(const json_t *body, fp__event *out)
{
    const char *text = NULL;
    FP_TRY(fp__json_text(body, "event.body", "policy", 4, FP__DSSE_PAYLOAD_MAX_BYTES, &text));
    fp_status status = fp__base64_decode(text, strlen(text), &out->policy_bytes);
    return status == FP_OK ? FP_OK : fp__fail_context(status, "event.body.policy");
}

static fp_status parse_override(const json_t *body, fp__event *out)
{
    const char *text = NULL;
    FP_TRY(fp__json_text(body, "event.body", "action", 1, 16, &text));
    out->halt = strcmp(text, "halt") == 0;
    if (!out->halt && strcmp(text, "bypass") != 0)
        return fp__fail(FP_FORMAT, "event.body.action: \"%s\" is not bypass or halt", text);
    FP_TRY(fp__json_text(body, "event.body", "deployment", 1, FP__DEPLOYMENT_MAX, &text));
    memcpy(out->deployment, text, strlen(text) + 1);
    FP_TRY(parse_ids(body, "anchors", 0, out));
    return parse_reason(body, out);
}

static fp_status parse_body(const json_t *body, fp__event *out)
{
    static const char *const fields[][8] = {
        [FP__EVENT_POLICY] = {"policy"},
        [FP__EVENT_REGISTER] = {NULL},
        [FP__EVENT_COMPILE] = {"salt", "model", "arithmetic", "token_ids", "tokens", "pages", "anchors"},
        [FP__EVENT_PROMOTE] = {NULL},
        [FP__EVENT_SUPERSEDE] = {"successor", "reason"},
        [FP__EVENT_REVOKE] = {"reason"},
        [FP__EVENT_DISTRUST] = {"from_index", "reason"},
        [FP__EVENT_ENDORSE] = {"reason"},
        [FP__EVENT_OVERRIDE] = {"action", "deployment", "anchors", "reason"},
        [FP__EVENT_RECEIPTS] = {"receipts"},
        [FP__EVENT_RETRACTION] = {"reason"},
    };
    FP_TRY(fp__json_fields(body, "event.body", fields[out->type], NULL));
    switch (out->type) {
    case FP__EVENT_POLICY:
        return parse_policy_body(body, out);
    case FP__EVENT_COMPILE:
        return parse_compile(body, out);
    case FP__EVENT_SUPERSEDE:
        FP_TRY(fp__json_hex(body, "event.body", "successor", out->successor, 32));
        return parse_reason(body, out);
    case FP__EVENT_DISTRUST:
        FP_TRY(fp__json_uint(body, "event.body", "from_index", 0, FP__JSON_INTEGER_MAX, &out->from_index));
        return parse_reason(body, out);
    case FP__EVENT_OVERRIDE:
        return parse_override(body, out);
    case FP__EVENT_RECEIPTS:
        return parse_ids(body, "receipts", 1, out);
    case FP__EVENT_REGISTER:
    case FP__EVENT_PROMOTE:
        return FP_OK;
    default:
        return parse_reason(body, out);
    }
}

static fp_status parse_subject(const fp__intoto *in, fp__event *out)
{
    const char *name, *algorithm;
    subject_of(out->type, &name, &algorithm);
    if (strcmp(in->subject_name, name) != 0 || strcmp(in->algorithm, algorithm) != 0)
        return fp__fail(FP_FORMAT, "event.subject[0]: \"%s\" with a digest %s is needed", name, algorithm);
    if (out->type == FP__EVENT_COMPILE)
        memcpy(out->kv_head, in->digest, 32);
    else if (memcmp(in->digest, out->target, 32) != 0)
        return fp__fail(FP_FORMAT, "event.subject[0]: not the target");
    return FP_OK;
}

static fp_status parse_predicate(const fp__intoto *in, fp__event *out)
{
    static const char *const fields[] = {"event",       "origin",     "nonce",       "policy", "target",
                                         "target_type", "valid_from", "valid_until", "body",   NULL};
    const json_t *p = in->predicate;
    const char *text = NULL;
    json_t *body = NULL;
    FP_TRY(fp__json_fields(p, "event", fields, NULL));
    FP_TRY(fp__json_text(p, "event", "origin", 1, FP__ORIGIN_MAX, &text));
    memcpy(out->origin, text, strlen(text) + 1);
    FP_TRY(fp__json_hex(p, "event", "nonce", out->nonce, 32));
    FP_TRY(fp__json_hex(p, "event", "policy", out->policy, 32));
    FP_TRY(fp__json_hex(p, "event", "target", out->target, 32));
    FP_TRY(fp__json_uint(p, "event", "valid_from", 0, FP_TIME_FOREVER, &out->valid_from));
    FP_TRY(fp__json_uint(p, "event", "valid_until", 0, FP_TIME_FOREVER, &out->valid_until));
    FP_TRY(fp__json_text(p, "event", "target_type", 1, 16, &text));
    if (fp_label_parse(text, &out->label) != FP_OK)
        out->label = FP_LABEL_EXTERNAL;
    if (strcmp(text, target_type(out)) != 0)
        return fp__fail(FP_FORMAT, "event.target_type: \"%s\" does not fit a %s event", text,
                        fp__event_type_name(out->type));
    FP_TRY(fp__json_object(p, "event", "body", &body));
    FP_TRY(parse_body(body, out));
    FP_TRY(parse_subject(in, out));
    return check_event(out);
}

static fp__event_type type_of(const json_t *payload)
{
    const char *version = json_string_value(json_object_get(payload, "predicateType"));
    const char *text = json_string_value(json_object_get(json_object_get(payload, "predicate"), "event"));
    if (version == NULL || strcmp(version, FP__EVENT_PREDICATE) != 0 || text == NULL)
        return FP__EVENT_UNKNOWN;
    for (unsigned i = 0; i < FP__EVENT_UNKNOWN; i++)
        if (strcmp(text, type_names[i]) == 0)
            return (fp__event_type)i;
    return FP__EVENT_UNKNOWN;
}

/* The type is looked at before anything else, so that an event of a later version, whose Statement may have
 * another shape, is recognised as one and not skipped as malformed. */
static void read_type(const json_t *json, bool *is_event, fp__event_type *type)
{
    const char *text = json_string_value(json_object_get(json, "predicateType"));
    *is_event = text != NULL && strncmp(text, FP__EVENT_PREDICATE_ANY, strlen(FP__EVENT_PREDICATE_ANY)) == 0;
    *type = type_of(json);
}

/* ---- The text that fp__event_build makes of receipts, which is what fills a log ---- */

static bool compact_ids(fp__cursor *c, fp__event *out)
{
    size_t room = (size_t)(c->end - c->at) / 67 + 1, n = 0;
    out->ids = room > FP__EVENT_IDS_MAX + 1 ? NULL : malloc(room * sizeof *out->ids);
    if (out->ids == NULL)
        return false;
    while ((n == 0 || FP__CURSOR_SKIP(c, ",")) && n < room && n < FP__EVENT_IDS_MAX) {
        if (!FP__CURSOR_SKIP(c, "\"") || !fp__cursor_hex32(c, out->ids[n]))
            return false;
        n++;
    }
    out->ids_count = n;
    return FP__CURSOR_SKIP(c, "]}}}") && c->at == c->end;
}

static bool compact_receipts(const void *payload, size_t size, fp__event *out)
{
    fp__cursor c = {payload, (const char *)payload + size};
    const char *origin;
    size_t origin_size;
    uint8_t subject[32];
    *out =
        (fp__event){.type = FP__EVENT_RECEIPTS, .label = FP_LABEL_EXTERNAL, .valid_until = FP_TIME_FOREVER};
    bool head = FP__CURSOR_SKIP(&c, "{\"_type\":\"" FP__INTOTO_TYPE "\",\"subject\":[{\"name\":\"receipts\","
                                    "\"digest\":{\"fieldprintIds1\":\"") &&
                fp__cursor_hex32(&c, subject) &&
                FP__CURSOR_SKIP(&c, "}}],\"predicateType\":\"" FP__EVENT_PREDICATE
                                    "\",\"predicate\":{\"event\":\"receipts\",\"origin\":\"") &&
                fp__cursor_text(&c, &origin, &origin_size) && origin_size >= 1 &&
                origin_size <= FP__ORIGIN_MAX && FP__CURSOR_SKIP(&c, ",\"nonce\":\"") &&
                fp__cursor_hex32(&c, out->nonce) && FP__CURSOR_SKIP(&c, ",\"policy\":\"") &&
                fp__cursor_hex32(&c, out->policy) && FP__CURSOR_SKIP(&c, ",\"target\":\"") &&
                fp__cursor_hex32(&c, out->target);
    if (!head || memcmp(subject, out->target, 32) != 0)
        return false;
    memcpy(out->origin, origin, origin_size);
    return FP__CURSOR_SKIP(&c, ",\"target_type\":\"receipts\",\"valid_from\":0,\"valid_until\":"
                               "9007199254740991,\"body\":{\"receipts\":[") &&
           compact_ids(&c, out) && check_event(out) == FP_OK;
}

fp_status fp__event_parse(const void *payload, size_t size, bool *is_event, fp__event *out)
{
    fp__intoto in = {0};
    fp__event parsed = {0};
    json_t *json = NULL;
    if (size <= FP__DSSE_PAYLOAD_MAX_BYTES && compact_receipts(payload, size, &parsed)) {
        *is_event = true;
        *out = parsed;
        return FP_OK;
    }
    fp__event_free(&parsed);
    FP_TRY(fp__json_parse(payload, size, FP__DSSE_PAYLOAD_MAX_BYTES, "event", &json));
    read_type(json, is_event, &parsed.type);
    fp_status status = FP_OK;
    if (*is_event && parsed.type != FP__EVENT_UNKNOWN) {
        status = fp__intoto_read(json, "event", &in);
        if (status == FP_OK)
            status = parse_predicate(&in, &parsed);
        fp__intoto_free(&in);
    } else {
        json_decref(json);
    }
    if (status != FP_OK) {
        fp__event_free(&parsed);
        return status;
    }
    *out = parsed;
    return FP_OK;
}
