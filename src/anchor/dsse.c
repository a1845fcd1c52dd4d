#include "anchor/dsse.h"
#include "anchor/compact.h"
#include "anchor/keys.h"
#include "merkle/sha256.h"
#include <stddef.h>
#include <stdio.h>

void fp__dsse_free(fp__dsse *dsse)
{
    if (dsse == NULL)
        return;
    fp__buf_free(&dsse->payload);
    fp__buf_free(&dsse->pae);
    memset(dsse, 0, offsetof(fp__dsse, signatures)); /* as many as are counted are there */
}

/* PAE and id of the payload that is there. */
static fp_status seal_payload(fp__dsse *dsse)
{
    static const char head[] = "DSSEv1 28 " FP__DSSE_PAYLOAD_TYPE " ";
    _Static_assert(sizeof FP__DSSE_PAYLOAD_TYPE - 1 == 28, "the PAE states the length of the type");
    const fp__buf *payload = &dsse->payload;
    char size[24];
    if (payload->size > FP__DSSE_PAYLOAD_MAX_BYTES)
        return fp__fail(FP_LIMIT, "envelope: payload of %zu bytes; at most %u are allowed", payload->size,
                        FP__DSSE_PAYLOAD_MAX_BYTES);
    int digits = snprintf(size, sizeof size, "%zu ", payload->size);
    FP_TRY(fp__buf_reserve(&dsse->pae, sizeof head + (size_t)digits + payload->size));
    FP_TRY(fp__buf_append(&dsse->pae, head, sizeof head - 1));
    FP_TRY(fp__buf_append(&dsse->pae, size, (size_t)digits));
    FP_TRY(fp__buf_append(&dsse->pae, payload->data, payload->size));
    fp__sha256(dsse->pae.data, dsse->pae.size, dsse->id);
    return FP_OK;
}

fp_status fp__dsse_create(const void *payload, size_t size, fp__dsse *out)
{
    fp__dsse made = {0};
    fp_status status = size > FP__DSSE_PAYLOAD_MAX_BYTES
                           ? fp__fail(FP_LIMIT, "envelope: payload of %zu bytes; at most %u are allowed",
                                      size, FP__DSSE_PAYLOAD_MAX_BYTES)
                           : fp__buf_append(&made.payload, payload, size);
    if (status == FP_OK)
        status = seal_payload(&made);
    if (status != FP_OK) {
        fp__dsse_free(&made);
        return status;
    }
    *out = made;
    return FP_OK;
}

fp_status fp__dsse_create_json(json_t *payload, fp__dsse *out)
{
    fp__buf text = {0};
    fp_status status = fp__json_dump(payload, 0, &text);
    if (status == FP_OK)
        status = fp__dsse_create(text.data, text.size, out);
    fp__buf_free(&text);
    return status;
}

bool fp__dsse_verify_one(const fp__dsse *dsse, size_t i, const uint8_t public_key[32])
{
    const fp__dsse_signature *s = &dsse->signatures[i];
    if (s->checked != FP__SIG_UNCHECKED && memcmp(s->checked_key, public_key, 32) == 0)
        return s->checked == FP__SIG_GOOD;
    return fp__ed25519_verify(public_key, dsse->pae.data, dsse->pae.size, s->sig) == FP_OK;
}

void fp__dsse_check(fp__dsse *dsse, size_t i, const uint8_t public_key[32], const fp__ed25519_peer *peer)
{
    fp__dsse_signature *s = &dsse->signatures[i];
    fp_status status = fp__ed25519_peer_verify(peer, dsse->pae.data, dsse->pae.size, s->sig);
    /* Without memory nothing is known: it is verified again when it is asked for. */
    s->checked = status == FP_OK ? FP__SIG_GOOD : status == FP_SIGNATURE ? FP__SIG_BAD : FP__SIG_UNCHECKED;
    memcpy(s->checked_key, public_key, 32);
}

bool fp__dsse_verify(const fp__dsse *dsse, const uint8_t public_key[32])
{
    for (size_t i = 0; i < dsse->signatures_count; i++)
        if (fp__dsse_verify_one(dsse, i, public_key))
            return true;
    return false;
}

fp_status fp__dsse_sign(fp__dsse *dsse, const fp_key *key)
{
    uint8_t public_key[32];
    char keyid[65];
    fp_key_public(key, public_key);
    fp_key_id(public_key, keyid);
    size_t at = 0;
    while (at < dsse->signatures_count && strcmp(dsse->signatures[at].keyid, keyid) != 0)
        at++;
    if (at < dsse->signatures_count && fp__dsse_verify_one(dsse, at, public_key))
        return FP_OK;
    if (at == FP__DSSE_SIGNATURES_MAX)
        return fp__fail(FP_LIMIT, "envelope: it has %d signatures already", FP__DSSE_SIGNATURES_MAX);
    fp__dsse_signature *slot = &dsse->signatures[at];
    FP_TRY(fp__key_sign(key, dsse->pae.data, dsse->pae.size, slot->sig));
    slot->checked = FP__SIG_UNCHECKED;
    memcpy(slot->keyid, keyid, sizeof keyid);
    if (at == dsse->signatures_count)
        dsse->signatures_count++;
    return FP_OK;
}

static fp_status parse_signature(const json_t *json, size_t i, fp__dsse *out)
{
    static const char *const required[] = {"sig", NULL}, *const optional[] = {"keyid", NULL};
    char where[48];
    snprintf(where, sizeof where, "envelope.signatures[%zu]", i);
    FP_TRY(fp__json_fields(json, where, required, optional));
    fp__dsse_signature *slot = &out->signatures[i];
    const char *text;
    if (json_object_get(json, "keyid") != NULL) {
        FP_TRY(fp__json_text(json, where, "keyid", 0, FP__DSSE_KEYID_MAX, &text));
        memcpy(slot->keyid, text, strlen(text) + 1);
    }
    FP_TRY(fp__json_text(json, where, "sig", 88, 88, &text));
    fp__buf sig = {0};
    fp_status status = fp__base64_decode(text, 88, &sig);
    if (status != FP_OK)
        status = fp__fail_context(status, "%s.sig", where);
    else if (sig.size != sizeof slot->sig)
        status = fp__fail(FP_FORMAT, "%s.sig: %zu bytes; an Ed25519 signature has 64", where, sig.size);
    else
        memcpy(slot->sig, sig.data, sizeof slot->sig);
    fp__buf_free(&sig);
    return status;
}

static fp_status parse_envelope(const json_t *json, fp__dsse *out)
{
    static const char *const required[] = {"payload", "payloadType", "signatures", NULL};
    const char *text;
    json_t *list;
    FP_TRY(fp__json_fields(json, "envelope", required, NULL));
    FP_TRY(fp__json_constant(json, "envelope", "payloadType", FP__DSSE_PAYLOAD_TYPE));
    FP_TRY(fp__json_text(json, "envelope", "payload", 1, FP__DSSE_ENVELOPE_MAX_BYTES, &text));
    fp_status status = fp__base64_decode(text, strlen(text), &out->payload);
    if (status != FP_OK)
        return fp__fail_context(status, "envelope.payload");
    FP_TRY(seal_payload(out));
    FP_TRY(fp__json_array(json, "envelope", "signatures", 0, FP__DSSE_SIGNATURES_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        FP_TRY(parse_signature(json_array_get(list, i), i, out));
        for (size_t j = 0; j < i; j++)
            if (out->signatures[i].keyid[0] != 0 &&
                strcmp(out->signatures[j].keyid, out->signatures[i].keyid) == 0)
                return fp__fail(FP_FORMAT, "envelope.signatures[%zu]: a second signature of keyid %s", i,
                                out->signatures[i].keyid);
    }
    out->signatures_count = json_array_size(list);
    return FP_OK;
}

/* ---- The text that fp__dsse_write makes ---- */

static bool compact_signature(fp__cursor *c, fp__dsse_signature *slot)
{
    const char *keyid, *text;
    size_t keyid_size, size;
    fp__buf sig = {0};
    memset(slot, 0, sizeof *slot);
    bool read = FP__CURSOR_SKIP(c, "{\"keyid\":\"") && fp__cursor_text(c, &keyid, &keyid_size) &&
                keyid_size <= FP__DSSE_KEYID_MAX && FP__CURSOR_SKIP(c, ",\"sig\":\"") &&
                fp__cursor_text(c, &text, &size) && size == 88 && FP__CURSOR_SKIP(c, "}") &&
                fp__base64_decode(text, size, &sig) == FP_OK && sig.size == sizeof slot->sig;
    if (read) {
        memcpy(slot->keyid, keyid, keyid_size);
        memcpy(slot->sig, sig.data, sizeof slot->sig);
    }
    fp__buf_free(&sig);
    return read;
}

static bool compact_signatures(fp__cursor *c, fp__dsse *out)
{
    size_t n = 0;
    while (n == 0 || FP__CURSOR_SKIP(c, ",")) {
        if (n == FP__DSSE_SIGNATURES_MAX || !compact_signature(c, &out->signatures[n]))
            return false;
        for (size_t j = 0; j < n; j++)
            if (strcmp(out->signatures[j].keyid, out->signatures[n].keyid) == 0)
                return false;
        n++;
    }
    out->signatures_count = n;
    return true;
}

static bool compact_envelope(const void *data, size_t size, fp__dsse *out)
{
    fp__cursor c = {data, (const char *)data + size};
    const char *text;
    size_t text_size;
    return size <= FP__DSSE_ENVELOPE_MAX_BYTES && FP__CURSOR_SKIP(&c, "{\"payload\":\"") &&
           fp__cursor_text(&c, &text, &text_size) && text_size > 0 &&
           FP__CURSOR_SKIP(&c, ",\"payloadType\":\"" FP__DSSE_PAYLOAD_TYPE "\",\"signatures\":[") &&
           compact_signatures(&c, out) && FP__CURSOR_SKIP(&c, "]}") && c.at == c.end &&
           fp__base64_decode(text, text_size, &out->payload) == FP_OK && seal_payload(out) == FP_OK;
}

static fp_status general_envelope(const void *data, size_t size, fp__dsse *out)
{
    json_t *json;
    FP_TRY(fp__json_parse(data, size, FP__DSSE_ENVELOPE_MAX_BYTES, "envelope", &json));
    memset(out, 0, sizeof *out);
    fp_status status = parse_envelope(json, out);
    json_decref(json);
    return status;
}

fp_status fp__dsse_parse(const void *data, size_t size, fp__dsse *out)
{
    fp__dsse parsed; /* large: its signatures are cleared as they are used */
    memset(&parsed, 0, offsetof(fp__dsse, signatures));
    fp_status status = FP_OK;
    if (!compact_envelope(data, size, &parsed)) {
        fp__buf_free(&parsed.payload);
        fp__buf_free(&parsed.pae);
        memset(&parsed, 0, offsetof(fp__dsse, signatures));
        status = general_envelope(data, size, &parsed);
    }
    if (status != FP_OK) {
        fp__buf_free(&parsed.payload);
        fp__buf_free(&parsed.pae);
        return status;
    }
    memcpy(out, &parsed,
           offsetof(fp__dsse, signatures) + parsed.signatures_count * sizeof parsed.signatures[0]);
    return FP_OK;
}

fp_status fp__dsse_write(const fp__dsse *dsse, fp__buf *out)
{
    /* Nothing here needs JSON escapes but a foreign keyid, so jansson writes it. */
    fp__buf text = {0};
    json_t *list = json_array();
    json_t *json = NULL;
    fp_status status = fp__base64_encode(dsse->payload.data, dsse->payload.size, &text);
    if (status == FP_OK)
        json = json_pack("{s:s%, s:s}", "payload", (const char *)text.data, text.size, "payloadType",
                         FP__DSSE_PAYLOAD_TYPE);
    for (size_t i = 0; status == FP_OK && i < dsse->signatures_count; i++) {
        text.size = 0;
        status = fp__base64_encode(dsse->signatures[i].sig, sizeof dsse->signatures[i].sig, &text);
        if (status == FP_OK)
            json_array_append_new(list, json_pack("{s:s, s:s%}", "keyid", dsse->signatures[i].keyid, "sig",
                                                  (const char *)text.data, text.size));
    }
    fp__buf_free(&text);
    if (status == FP_OK && json_array_size(list) != dsse->signatures_count)
        status = fp__fail(FP_NO_MEMORY, "no memory for an envelope");
    if (status != FP_OK || json == NULL) {
        json_decref(list);
        json_decref(json);
        return status != FP_OK ? status : fp__fail(FP_NO_MEMORY, "no memory for an envelope");
    }
    json_object_set_new(json, "signatures", list);
    size_t before = out->size;
    FP_TRY(fp__json_dump(json, 0, out));
    if (out->size - before > FP__DSSE_ENVELOPE_MAX_BYTES)
        return fp__fail(
            FP_LIMIT,
            "envelope of %zu bytes; at most %u are allowed: use fewer signatures or a shorter payload",
            out->size - before, FP__DSSE_ENVELOPE_MAX_BYTES);
    return FP_OK;
}

json_t *fp__intoto_build(const char *subject_name, const char *algorithm, const uint8_t digest[32],
                         const char *predicate_type, json_t *predicate)
{
    if (predicate == NULL)
        return NULL;
    char hex[65];
    fp__hex_encode(digest, 32, hex);
    return json_pack("{s:s, s:[{s:s, s:{s:s}}], s:s, s:o}", "_type", FP__INTOTO_TYPE, "subject", "name",
                     subject_name, "digest", algorithm, hex, "predicateType", predicate_type, "predicate",
                     predicate);
}

static fp_status read_intoto(fp__intoto *s, const char *name)
{
    static const char *const fields[] = {"_type", "subject", "predicateType", "predicate", NULL};
    static const char *const subject_fields[] = {"name", "digest", NULL};
    json_t *list, *digest;
    FP_TRY(fp__json_fields(s->json, name, fields, NULL));
    FP_TRY(fp__json_constant(s->json, name, "_type", FP__INTOTO_TYPE));
    FP_TRY(fp__json_text(s->json, name, "predicateType", 1, 128, &s->predicate_type));
    FP_TRY(fp__json_object(s->json, name, "predicate", &s->predicate));
    FP_TRY(fp__json_array(s->json, name, "subject", 1, 1, &list));
    const json_t *subject = json_array_get(list, 0);
    FP_TRY(fp__json_fields(subject, "subject[0]", subject_fields, NULL));
    FP_TRY(fp__json_text(subject, "subject[0]", "name", 1, 128, &s->subject_name));
    FP_TRY(fp__json_object(subject, "subject[0]", "digest", &digest));
    if (json_object_size(digest) != 1)
        return fp__fail(FP_FORMAT, "subject[0].digest: one digest is needed");
    s->algorithm = json_object_iter_key(json_object_iter(digest));
    return fp__json_hex(digest, "subject[0].digest", s->algorithm, s->digest, 32);
}

fp_status fp__intoto_parse(const void *payload, size_t size, const char *name, fp__intoto *out)
{
    json_t *json = NULL;
    FP_TRY(fp__json_parse(payload, size, FP__DSSE_PAYLOAD_MAX_BYTES, name, &json));
    return fp__intoto_read(json, name, out);
}

fp_status fp__intoto_read(json_t *json, const char *name, fp__intoto *out)
{
    fp__intoto s = {.json = json};
    fp_status status = read_intoto(&s, name);
    if (status != FP_OK) {
        fp__intoto_free(&s);
        return status;
    }
    *out = s;
    return FP_OK;
}

void fp__intoto_free(fp__intoto *statement)
{
    if (statement != NULL) {
        json_decref(statement->json);
        memset(statement, 0, sizeof *statement);
    }
}
