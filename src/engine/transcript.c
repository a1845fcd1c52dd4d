#include "engine/transcript.h"
#include "merkle/sha256.h"
#include "merkle/tree.h"
#include <openssl/rand.h>
#include <stdlib.h>

static const char *const kind_names[] = {"message", "output", "kv-head", "anchor-masses"};
static const char *const role_names[] = {"system", "user", "assistant"};
enum { KINDS = 4, ROLES = 3, MAX_LEAVES = 1 << 20, MAX_STOPS = 64 };

void fp__transcript_free(fp__transcript *t)
{
    for (size_t i = 0; i < t->n; i++) {
        fp__buf_free(&t->leaves[i].bytes);
        fp__ids_free(&t->leaves[i].ids);
    }
    for (size_t i = 0; i < t->n_stops; i++)
        fp__buf_free(&t->stops[i]);
    free(t->leaves);
    free(t->stops);
    *t = (fp__transcript){0};
}

static fp_status allocate(fp__transcript *t, size_t leaves, size_t stops)
{
    t->leaves = calloc(leaves + 1, sizeof *t->leaves);
    t->stops = calloc(stops + 1, sizeof *t->stops);
    return t->leaves && t->stops ? FP_OK : fp__fail(FP_NO_MEMORY, "transcript: no memory");
}

size_t fp__transcript_answer(const fp__transcript *t)
{
    size_t i = t->n;
    while (i > 0 && t->leaves[i - 1].kind != FP__TEXT_OUTPUT)
        i--;
    FP_CHECK(i > 0);
    return i - 1;
}

/* ---- of a session
 * -------------------------------------------------------------------------------------------------- */

static fp_status add_turns(fp_session *s, fp__transcript *t)
{
    for (size_t i = 0; i < s->n_turns - s->pending_turns; i++) {
        const fp__turn *turn = &s->turns[i];
        fp__transcript_leaf *leaf = &t->leaves[t->n++];
        leaf->kind = turn->kind;
        leaf->role = turn->role;
        leaf->label = turn->label;
        FP_TRY(fp__buf_append(&leaf->bytes, turn->text.data, turn->text.size));
        FP_TRY(fp__ids_reserve(&leaf->ids, turn->count));
        for (size_t k = 0; k < turn->count; k++)
            FP_TRY(fp__ids_append(&leaf->ids, s->ids.data[turn->first + k]));
        if (turn->closed_by != FP__TOKEN_NONE)
            FP_TRY(fp__ids_append(&leaf->ids, turn->closed_by));
    }
    return FP_OK;
}

static fp_status add_state(fp_session *s, fp__transcript *t)
{
    uint8_t head[32];
    FP_TRY(fp_session_kv_head(s, head));
    fp__transcript_leaf *leaf = &t->leaves[t->n++];
    leaf->kind = FP__TEXT_KV_HEAD;
    leaf->label = fp__kvseq_label(s->context);
    FP_TRY(fp__buf_append(&leaf->bytes, head, 32));
    leaf = &t->leaves[t->n++];
    leaf->kind = FP__TEXT_ANCHOR_MASSES;
    leaf->label = fp__kvseq_label(s->context);
    if (!s->anchors)
        return FP_OK;
    size_t n = s->engine->model->hp.layers * s->engine->model->hp.heads;
    FP_TRY(fp__buf_append_le64(&leaf->bytes, s->mass_rows));
    for (size_t k = 0; k < n; k++)
        FP_TRY(fp__buf_append_le64(&leaf->bytes, s->mass[k]));
    return FP_OK;
}

static fp_status build(fp_session *s, fp__transcript *t)
{
    uint8_t master[32];
    t->raw = s->raw;
    FP_TRY(allocate(t, s->n_turns + 2, s->answer.n_stops));
    for (size_t i = 0; i < s->answer.n_stops; i++) {
        t->n_stops = i + 1;
        FP_TRY(fp__buf_append_text(&t->stops[i], s->answer.stops[i]));
    }
    FP_TRY(add_turns(s, t));
    FP_TRY(add_state(s, t));
    if (RAND_bytes(master, sizeof master) != 1)
        return fp__fail(FP_INTERNAL, "transcript: the system gives no random numbers");
    for (size_t i = 0; i < t->n; i++)
        fp__leaf_salt(master, i, t->leaves[i].salt);
    return FP_OK;
}

fp_status fp__transcript_of_session(fp_session *s, fp__transcript *out)
{
    fp__transcript t = {0};
    fp_status status = build(s, &t);
    if (status != FP_OK)
        fp__transcript_free(&t);
    else
        *out = t;
    return status;
}

/* ---- digests
 * ----------------------------------------------------------------------------------------------------------
 */

/* Role and `raw` decide how the texts become tokens, so each leaf's hash binds them. */
static uint8_t kind_byte(const fp__transcript *t, const fp__transcript_leaf *leaf)
{
    unsigned kind = leaf->kind, raw = t->raw ? FP__TEXT_RAW : 0;
    if (leaf->kind == FP__TEXT_MESSAGE && leaf->role == FP_ROLE_SYSTEM)
        kind = FP__TEXT_OF_SYSTEM;
    if (leaf->kind == FP__TEXT_MESSAGE && leaf->role == FP_ROLE_ASSISTANT)
        kind = FP__TEXT_OF_ASSISTANT;
    return (uint8_t)(kind | raw);
}

fp_status fp__transcript_root(const fp__transcript *t, uint8_t out[32])
{
    uint8_t(*hashes)[32] = calloc(t->n, sizeof *hashes);
    if (!hashes)
        return fp__fail(FP_NO_MEMORY, "transcript: no memory");
    for (size_t i = 0; i < t->n; i++) {
        const fp__transcript_leaf *leaf = &t->leaves[i];
        fp__text_leaf text = {.kind = kind_byte(t, leaf),
                              .label = (uint8_t)leaf->label,
                              .i = i,
                              .salt = leaf->salt,
                              .bytes = leaf->bytes.data,
                              .bytes_size = leaf->bytes.size,
                              .ids = leaf->ids.data,
                              .ids_count = leaf->ids.size};
        fp__leaf_text(&text, hashes[i]);
    }
    fp__merkle_root(hashes[0], t->n, out);
    free(hashes);
    return FP_OK;
}

fp_status fp__transcript_stops_digest(const fp__transcript *t, uint8_t out[32])
{
    fp__buf bytes = {0};
    fp_status status = fp__buf_append_le32(&bytes, (uint32_t)t->n_stops);
    for (size_t i = 0; i < t->n_stops && status == FP_OK; i++) {
        status = fp__buf_append_le32(&bytes, (uint32_t)t->stops[i].size);
        if (status == FP_OK)
            status = fp__buf_append(&bytes, t->stops[i].data, t->stops[i].size);
    }
    if (status == FP_OK)
        fp__sha256(bytes.data, bytes.size, out);
    fp__buf_free(&bytes);
    return status;
}

/* ---- JSON
 * ------------------------------------------------------------------------------------------------------------------
 */

/* Text as "text"; where strict JSON cannot hold it (NUL), "base64"; other leaves as "hex". */
static json_t *leaf_bytes(const fp__transcript_leaf *leaf, const char **key)
{
    if (leaf->kind == FP__TEXT_KV_HEAD || leaf->kind == FP__TEXT_ANCHOR_MASSES) {
        *key = "hex";
        char *hex = malloc(2 * leaf->bytes.size + 1);
        if (!hex)
            return NULL;
        fp__hex_encode(leaf->bytes.data, leaf->bytes.size, hex);
        json_t *value = json_string(hex);
        free(hex);
        return value;
    }
    *key = "text";
    if (leaf->bytes.size == 0 || !memchr(leaf->bytes.data, 0, leaf->bytes.size))
        return json_stringn(leaf->bytes.data ? (const char *)leaf->bytes.data : "", leaf->bytes.size);
    *key = "base64";
    fp__buf text = {0};
    json_t *value = NULL;
    if (fp__base64_encode(leaf->bytes.data, leaf->bytes.size, &text) == FP_OK)
        value = json_stringn((const char *)text.data, text.size);
    fp__buf_free(&text);
    return value;
}

static json_t *leaf_json(const fp__transcript_leaf *leaf)
{
    const char *key;
    json_t *value = leaf_bytes(leaf, &key), *ids = json_array();
    for (size_t i = 0; i < leaf->ids.size; i++)
        json_array_append_new(ids, json_integer(leaf->ids.data[i]));
    json_t *object = json_pack("{s:s, s:s, s:o, s:o, s:o}", "kind", kind_names[leaf->kind], "label",
                               fp_label_name(leaf->label), key, value, "ids", ids, "salt",
                               fp__json_hex_value(leaf->salt, 32));
    if (object && leaf->kind == FP__TEXT_MESSAGE)
        json_object_set_new(object, "role", json_string(role_names[leaf->role]));
    return object;
}

fp_status fp__transcript_write(const fp__transcript *t, fp__buf *out)
{
    json_t *stops = json_array(), *leaves = json_array();
    for (size_t i = 0; i < t->n_stops; i++)
        json_array_append_new(stops, json_stringn((const char *)t->stops[i].data, t->stops[i].size));
    for (size_t i = 0; i < t->n; i++) {
        json_t *leaf = leaf_json(&t->leaves[i]);
        if (!leaf || json_array_append_new(leaves, leaf) != 0) {
            json_decref(stops);
            json_decref(leaves);
            return fp__fail(FP_NO_MEMORY, "transcript: no memory");
        }
    }
    return fp__json_dump(json_pack("{s:s, s:b, s:o, s:o}", "format", FP__TRANSCRIPT_FORMAT, "raw",
                                   (int)t->raw, "stops", stops, "leaves", leaves),
                         0, out);
}

static fp_status parse_name(const json_t *object, const char *where, const char *key,
                            const char *const *names, size_t n, size_t *out)
{
    const char *text;
    FP_TRY(fp__json_text(object, where, key, 1, 32, &text));
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return FP_OK;
        }
    return fp__fail(FP_FORMAT, "%s.%s: \"%s\" is not known", where, key, text);
}

static fp_status parse_ids(const json_t *object, const char *where, fp__ids *out)
{
    json_t *ids;
    FP_TRY(fp__json_array(object, where, "ids", 0, (size_t)1 << 28, &ids));
    FP_TRY(fp__ids_reserve(out, json_array_size(ids)));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)UINT32_MAX)
            return fp__fail(FP_FORMAT, "%s.ids[%zu] is not a token id", where, i);
        FP_TRY(fp__ids_append(out, (uint32_t)json_integer_value(id)));
    }
    return FP_OK;
}

static fp_status parse_bytes(const json_t *object, const char *where, fp__transcript_leaf *leaf)
{
    bool state = leaf->kind == FP__TEXT_KV_HEAD || leaf->kind == FP__TEXT_ANCHOR_MASSES;
    const json_t *text = json_object_get(object, "text"), *base64 = json_object_get(object, "base64"),
                 *hex = json_object_get(object, "hex");
    if ((text != NULL) + (base64 != NULL) + (hex != NULL) != 1 || (hex != NULL) != state)
        return fp__fail(FP_FORMAT, "%s: exactly one of text, base64 and hex belongs here", where);
    const json_t *value = text ? text : base64 ? base64 : hex;
    if (!json_is_string(value))
        return fp__fail(FP_FORMAT, "%s: its bytes must be a string", where);
    const char *data = json_string_value(value);
    size_t size = json_string_length(value);
    if (text)
        return fp__buf_append(&leaf->bytes, data, size);
    if (base64)
        return fp__base64_decode(data, size, &leaf->bytes);
    FP_TRY(fp__buf_reserve(&leaf->bytes, size / 2 + 1));
    FP_TRY(fp__hex_decode(data, size, leaf->bytes.data, size / 2));
    leaf->bytes.size = size / 2;
    return FP_OK;
}

static fp_status parse_leaf(const json_t *object, size_t i, fp__transcript_leaf *leaf)
{
    static const char *const required[] = {"kind", "label", "ids", "salt", NULL};
    static const char *const optional[] = {"role", "text", "base64", "hex", NULL};
    char where[48];
    size_t kind, role = FP_ROLE_ASSISTANT;
    const char *label;
    snprintf(where, sizeof where, "transcript.leaves[%zu]", i);
    FP_TRY(fp__json_fields(object, where, required, optional));
    FP_TRY(parse_name(object, where, "kind", kind_names, KINDS, &kind));
    leaf->kind = (fp__text_kind)kind;
    if ((json_object_get(object, "role") != NULL) != (leaf->kind == FP__TEXT_MESSAGE))
        return fp__fail(FP_FORMAT, "%s: messages have a role, nothing else has", where);
    if (leaf->kind == FP__TEXT_MESSAGE)
        FP_TRY(parse_name(object, where, "role", role_names, ROLES, &role));
    leaf->role = (fp_role)role;
    FP_TRY(fp__json_text(object, where, "label", 1, 16, &label));
    if (fp_label_parse(label, &leaf->label) != FP_OK)
        return fp__fail(FP_FORMAT, "%s.label: \"%s\" is not known", where, label);
    FP_TRY(fp__json_hex(object, where, "salt", leaf->salt, 32));
    FP_TRY(parse_bytes(object, where, leaf));
    return parse_ids(object, where, &leaf->ids);
}

static fp_status parse_stops(const json_t *array, fp__transcript *t)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *stop = json_array_get(array, i);
        if (!json_is_string(stop) || json_string_length(stop) == 0)
            return fp__fail(FP_FORMAT, "transcript.stops[%zu] is not a text", i);
        t->n_stops = i + 1;
        FP_TRY(fp__buf_append(&t->stops[i], json_string_value(stop), json_string_length(stop)));
    }
    return FP_OK;
}

static fp_status parse_all(const json_t *object, fp__transcript *t)
{
    static const char *const required[] = {"format", "raw", "stops", "leaves", NULL};
    json_t *leaves, *stops;
    FP_TRY(fp__json_fields(object, "transcript", required, NULL));
    FP_TRY(fp__json_constant(object, "transcript", "format", FP__TRANSCRIPT_FORMAT));
    if (!json_is_boolean(json_object_get(object, "raw")))
        return fp__fail(FP_FORMAT, "transcript.raw must be true or false");
    t->raw = json_is_true(json_object_get(object, "raw"));
    FP_TRY(fp__json_array(object, "transcript", "stops", 0, MAX_STOPS, &stops));
    FP_TRY(fp__json_array(object, "transcript", "leaves", 4, MAX_LEAVES, &leaves));
    FP_TRY(allocate(t, json_array_size(leaves), json_array_size(stops)));
    FP_TRY(parse_stops(stops, t));
    for (size_t i = 0; i < json_array_size(leaves); i++) {
        t->n = i + 1;
        FP_TRY(parse_leaf(json_array_get(leaves, i), i, &t->leaves[i]));
        bool last = i + 1 == json_array_size(leaves), before = i + 2 == json_array_size(leaves);
        if ((t->leaves[i].kind == FP__TEXT_ANCHOR_MASSES) != last ||
            (t->leaves[i].kind == FP__TEXT_KV_HEAD) != before)
            return fp__fail(FP_FORMAT,
                            "transcript: the kv head and the anchor masses are the last two leaves");
    }
    if (t->leaves[t->n - 3].kind != FP__TEXT_OUTPUT || t->leaves[t->n - 2].bytes.size != 32)
        return fp__fail(
            FP_FORMAT, "transcript: it must end with an answer, a kv head of 32 bytes and the anchor masses");
    return FP_OK;
}

fp_status fp__transcript_parse(const void *data, size_t size, fp__transcript *out)
{
    json_t *json;
    fp__transcript t = {0};
    FP_TRY(fp__json_parse(data, size, FP__TRANSCRIPT_MAX_BYTES, "transcript", &json));
    fp_status status = parse_all(json, &t);
    json_decref(json);
    if (status != FP_OK)
        fp__transcript_free(&t);
    else
        *out = t;
    return status;
}
