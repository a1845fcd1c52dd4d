#include "anchor/statement.h"
#include "merkle/sha256.h"
#include <stdio.h>

static const char *const label_names[] = {"external", "user", "core"};
static const char *const mode_names[] = {"compete", "floor", "reserve"};
static const char *const lineage_names[] = {"anchor", "document", "receipt"};

static int index_of(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

const char *fp_label_name(fp_label label)
{
    return (unsigned)label < FP_LABEL_COUNT ? label_names[label] : "unknown";
}

fp_status fp_label_parse(const char *name, fp_label *out)
{
    int i = index_of(label_names, 3, name);
    if (i < 0)
        return fp__fail(FP_USAGE, "\"%.40s\" is no type: use core, user or external", name);
    *out = (fp_label)i;
    return FP_OK;
}

const char *fp_inject_mode_name(fp_inject_mode mode)
{
    return (unsigned)mode < 3 ? mode_names[mode] : "unknown";
}

fp_status fp_inject_mode_parse(const char *name, fp_inject_mode *out)
{
    int i = index_of(mode_names, 3, name);
    if (i < 0)
        return fp__fail(FP_USAGE, "\"%.40s\" is no injection mode: use compete, floor or reserve", name);
    *out = (fp_inject_mode)i;
    return FP_OK;
}

/* ---- Injection ---- */

fp_status fp_injection_resolve(const fp_injection *injection, size_t layers, size_t heads, uint32_t *gamma)
{
    for (size_t i = 0; i < layers * heads; i++)
        gamma[i] = injection->layers_count == 0 ? injection->gamma : 0;
    for (size_t i = 0; i < injection->layers_count; i++) {
        size_t layer = injection->layers[i];
        if (layer >= layers)
            return fp__fail(FP_LIMIT, "the anchor's injection names layer %zu; the model has %zu", layer,
                            layers);
        for (size_t head = 0; head < heads; head++)
            gamma[layer * heads + head] = injection->gamma;
    }
    for (size_t i = 0; i < injection->overrides_count; i++) {
        const fp_inject_override *o = &injection->overrides[i];
        bool all = o->head == FP_INJECT_ALL_HEADS;
        if (o->layer >= layers || (!all && o->head >= heads))
            return fp__fail(FP_LIMIT,
                            "the anchor's injection names layer %u, head %u; the model has %zu and %zu",
                            o->layer, o->head, layers, heads);
        for (size_t head = all ? 0 : o->head; head < (all ? heads : o->head + 1u); head++)
            gamma[o->layer * heads + head] = o->gamma;
    }
    return FP_OK;
}

bool fp_injection_equal(const fp_injection *a, const fp_injection *b)
{
    if (a->mode != b->mode || a->gamma != b->gamma || a->layers_count != b->layers_count ||
        a->overrides_count != b->overrides_count ||
        memcmp(a->layers, b->layers, a->layers_count * sizeof a->layers[0]) != 0)
        return false;
    for (size_t i = 0; i < a->overrides_count; i++)
        if (a->overrides[i].layer != b->overrides[i].layer || a->overrides[i].head != b->overrides[i].head ||
            a->overrides[i].gamma != b->overrides[i].gamma)
            return false;
    return true;
}

static fp_status check_injection(const fp_injection *in)
{
    if ((unsigned)in->mode > FP_INJECT_RESERVE)
        return fp__fail(FP_FORMAT, "injection.mode: unknown");
    if (in->gamma > FP_GAMMA_ONE)
        return fp__fail(FP_FORMAT, "injection.gamma_65536: %u is out of range (0 to 65536)", in->gamma);
    if (in->mode == FP_INJECT_COMPETE &&
        (in->gamma != 0 || in->overrides_count != 0 || in->layers_count != 0))
        return fp__fail(FP_FORMAT, "injection.mode: compete takes no gamma, layers or overrides");
    if (in->layers_count > FP_INJECT_MAX_LAYERS || in->overrides_count > FP_INJECT_MAX_OVERRIDES)
        return fp__fail(FP_LIMIT, "injection: at most %d layers and %d overrides", FP_INJECT_MAX_LAYERS,
                        FP_INJECT_MAX_OVERRIDES);
    for (size_t i = 1; i < in->layers_count; i++)
        if (in->layers[i] <= in->layers[i - 1])
            return fp__fail(FP_FORMAT, "injection.layers: not strictly ascending at position %zu", i);
    for (size_t i = 0; i < in->overrides_count; i++)
        if (in->overrides[i].gamma > FP_GAMMA_ONE)
            return fp__fail(FP_FORMAT, "injection.overrides[%zu].gamma_65536: out of range (0 to 65536)", i);
    return FP_OK;
}

static json_t *injection_json(const fp_injection *in)
{
    json_t *layers = in->layers_count == 0 ? json_string("all") : json_array(), *overrides = json_array();
    for (size_t i = 0; i < in->layers_count; i++)
        json_array_append_new(layers, json_integer(in->layers[i]));
    for (size_t i = 0; i < in->overrides_count; i++) {
        json_t *o = json_pack("{s:i}", "layer", (int)in->overrides[i].layer);
        if (in->overrides[i].head != FP_INJECT_ALL_HEADS)
            json_object_set_new(o, "head", json_integer(in->overrides[i].head));
        json_object_set_new(o, "gamma_65536", json_integer(in->overrides[i].gamma));
        json_array_append_new(overrides, o);
    }
    return json_pack("{s:s, s:i, s:o, s:o}", "mode", fp_inject_mode_name(in->mode), "gamma_65536",
                     (int)in->gamma, "layers", layers, "overrides", overrides);
}

static fp_status parse_override(const json_t *json, size_t i, fp_inject_override *out)
{
    static const char *const required[] = {"layer", "gamma_65536", NULL}, *const optional[] = {"head", NULL};
    char where[48];
    uint64_t layer, head = FP_INJECT_ALL_HEADS, gamma;
    snprintf(where, sizeof where, "injection.overrides[%zu]", i);
    FP_TRY(fp__json_fields(json, where, required, optional));
    FP_TRY(fp__json_uint(json, where, "layer", 0, UINT16_MAX - 1, &layer));
    FP_TRY(fp__json_uint(json, where, "gamma_65536", 0, FP_GAMMA_ONE, &gamma));
    if (json_object_get(json, "head") != NULL)
        FP_TRY(fp__json_uint(json, where, "head", 0, UINT16_MAX - 1, &head));
    *out = (fp_inject_override){.layer = (uint16_t)layer, .head = (uint16_t)head, .gamma = (uint32_t)gamma};
    return FP_OK;
}

static fp_status parse_injection(const json_t *json, fp_injection *out)
{
    static const char *const fields[] = {"mode", "gamma_65536", "layers", "overrides", NULL};
    const char *text;
    uint64_t gamma;
    json_t *list;
    FP_TRY(fp__json_fields(json, "injection", fields, NULL));
    FP_TRY(fp__json_text(json, "injection", "mode", 1, 16, &text));
    int mode = index_of(mode_names, 3, text);
    if (mode < 0)
        return fp__fail(FP_FORMAT, "injection.mode: \"%s\" is not compete, floor or reserve", text);
    out->mode = (fp_inject_mode)mode;
    FP_TRY(fp__json_uint(json, "injection", "gamma_65536", 0, FP_GAMMA_ONE, &gamma));
    out->gamma = (uint32_t)gamma;
    if (json_is_string(json_object_get(json, "layers"))) {
        FP_TRY(fp__json_constant(json, "injection", "layers", "all"));
    } else {
        FP_TRY(fp__json_array(json, "injection", "layers", 1, FP_INJECT_MAX_LAYERS, &list));
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *layer = json_array_get(list, i);
            if (!json_is_integer(layer) || json_integer_value(layer) < 0 ||
                json_integer_value(layer) >= UINT16_MAX)
                return fp__fail(FP_FORMAT, "injection.layers[%zu]: not a layer number", i);
            out->layers[i] = (uint16_t)json_integer_value(layer);
        }
        out->layers_count = (uint16_t)json_array_size(list);
    }
    FP_TRY(fp__json_array(json, "injection", "overrides", 0, FP_INJECT_MAX_OVERRIDES, &list));
    for (size_t i = 0; i < json_array_size(list); i++)
        FP_TRY(parse_override(json_array_get(list, i), i, &out->overrides[i]));
    out->overrides_count = (uint16_t)json_array_size(list);
    return check_injection(out);
}

/* ---- Readers ---- */

#define WORD "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

static bool is_word(const char *text, size_t max, const char *allowed)
{
    size_t n = strlen(text);
    return n >= 1 && n <= max && strspn(text, allowed) == n;
}

static fp_status check_readers(const char *where, const char (*readers)[FP_READER_MAX + 1], size_t n)
{
    if (n < 1 || n > FP_ANCHOR_READERS_MAX)
        return fp__fail(FP_FORMAT, "%s.readers: %zu names; 1 to %d are allowed", where, n,
                        FP_ANCHOR_READERS_MAX);
    for (size_t i = 0; i < n; i++) {
        bool everybody = strcmp(readers[i], "*") == 0;
        if ((everybody && n != 1) || (!everybody && !is_word(readers[i], FP_READER_MAX, WORD ":@")))
            return fp__fail(FP_FORMAT,
                            "%s.readers[%zu]: not a tenant's name (A-Z a-z 0-9 . _ : @ -), nor \"*\" alone",
                            where, i);
        for (size_t j = 0; j < i; j++)
            if (strcmp(readers[i], readers[j]) == 0)
                return fp__fail(FP_FORMAT, "%s.readers[%zu]: \"%s\" is there twice", where, i, readers[i]);
    }
    return FP_OK;
}

fp_status fp__readers_parse(const json_t *object, const char *where, char (*readers)[FP_READER_MAX + 1],
                            uint16_t *count)
{
    json_t *list;
    FP_TRY(fp__json_array(object, where, "readers", 1, FP_ANCHOR_READERS_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *reader = json_array_get(list, i);
        if (!json_is_string(reader) || json_string_length(reader) > FP_READER_MAX)
            return fp__fail(FP_FORMAT, "%s.readers[%zu]: not text of at most %d bytes", where, i,
                            FP_READER_MAX);
        memcpy(readers[i], json_string_value(reader), json_string_length(reader) + 1);
    }
    *count = (uint16_t)json_array_size(list);
    return check_readers(where, (const char(*)[FP_READER_MAX + 1]) readers, *count);
}

bool fp__readers_allow(const char (*readers)[FP_READER_MAX + 1], size_t n, const char *reader)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(readers[i], "*") == 0 || strcmp(readers[i], reader) == 0)
            return true;
    return false;
}

/* ---- Statement ---- */

void fp_statement_default(fp_statement *out)
{
    *out = (fp_statement){.name = "anchor",
                          .version = "1",
                          .type = FP_LABEL_USER,
                          .readers_count = 1,
                          .readers = {"*"},
                          .valid_until = FP_TIME_FOREVER,
                          .injection = {.mode = FP_INJECT_COMPETE}};
}

fp_status fp__statement_check(const fp_statement *s)
{
    if (!is_word(s->name, FP_ANCHOR_NAME_MAX, WORD))
        return fp__fail(FP_FORMAT, "statement.name: 1 to %d of A-Z a-z 0-9 . _ - are allowed",
                        FP_ANCHOR_NAME_MAX);
    if (!is_word(s->version, FP_ANCHOR_VERSION_MAX, WORD "+"))
        return fp__fail(FP_FORMAT, "statement.version: 1 to %d of A-Z a-z 0-9 . _ + - are allowed",
                        FP_ANCHOR_VERSION_MAX);
    if ((unsigned)s->type >= FP_LABEL_COUNT)
        return fp__fail(FP_FORMAT, "statement.type: unknown");
    FP_TRY(check_readers("statement", s->readers, s->readers_count));
    if (s->valid_from >= s->valid_until || s->valid_until > FP_TIME_FOREVER)
        return fp__fail(FP_FORMAT, "statement.valid_until: not after valid_from, or beyond 2^53-1");
    if (s->lineage_count > FP_ANCHOR_LINEAGE_MAX)
        return fp__fail(FP_LIMIT, "statement.lineage: at most %d", FP_ANCHOR_LINEAGE_MAX);
    for (size_t i = 0; i < s->lineage_count; i++)
        if ((unsigned)s->lineage[i].kind > FP_LINEAGE_RECEIPT)
            return fp__fail(FP_FORMAT, "statement.lineage[%zu].kind: unknown", i);
    return check_injection(&s->injection);
}

fp_status fp__statement_create(const fp_statement *s, fp__dsse *out)
{
    FP_TRY(fp__statement_check(s));
    json_t *readers = json_array(), *lineage = json_array();
    for (size_t i = 0; i < s->readers_count; i++)
        json_array_append_new(readers, json_string(s->readers[i]));
    for (size_t i = 0; i < s->lineage_count; i++)
        json_array_append_new(lineage, json_pack("{s:s, s:o}", "kind", lineage_names[s->lineage[i].kind],
                                                 "id", fp__json_hex_value(s->lineage[i].id, 32)));
    json_t *predicate =
        json_pack("{s:s, s:s, s:s, s:o, s:I, s:I, s:o, s:o, s:o}", "name", s->name, "version", s->version,
                  "type", fp_label_name(s->type), "readers", readers, "valid_from", (json_int_t)s->valid_from,
                  "valid_until", (json_int_t)s->valid_until, "lineage", lineage, "injection",
                  injection_json(&s->injection), "salt", fp__json_hex_value(s->salt, 32));
    return fp__dsse_create_json(
        fp__intoto_build("document", "sha256", s->document_sha256, FP__ANCHOR_PREDICATE, predicate), out);
}

static fp_status parse_lineage(const json_t *predicate, fp_statement *out)
{
    static const char *const fields[] = {"kind", "id", NULL};
    json_t *list;
    FP_TRY(fp__json_array(predicate, "statement", "lineage", 0, FP_ANCHOR_LINEAGE_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const char *text;
        char where[48];
        snprintf(where, sizeof where, "statement.lineage[%zu]", i);
        FP_TRY(fp__json_fields(item, where, fields, NULL));
        FP_TRY(fp__json_text(item, where, "kind", 1, 16, &text));
        int kind = index_of(lineage_names, 3, text);
        if (kind < 0)
            return fp__fail(FP_FORMAT, "%s.kind: \"%s\" is not anchor, document or receipt", where, text);
        out->lineage[i].kind = (fp_lineage_kind)kind;
        FP_TRY(fp__json_hex(item, where, "id", out->lineage[i].id, 32));
    }
    out->lineage_count = (uint16_t)json_array_size(list);
    return FP_OK;
}

static fp_status parse_predicate(const fp__intoto *in, fp_statement *out)
{
    static const char *const fields[] = {"name",        "version", "type",      "readers", "valid_from",
                                         "valid_until", "lineage", "injection", "salt",    NULL};
    const json_t *p = in->predicate;
    const char *text;
    json_t *injection;
    if (strcmp(in->predicate_type, FP__ANCHOR_PREDICATE) != 0)
        return fp__fail(FP_FORMAT, "statement.predicateType: \"%s\" where \"%s\" is needed",
                        in->predicate_type, FP__ANCHOR_PREDICATE);
    if (strcmp(in->subject_name, "document") != 0 || strcmp(in->algorithm, "sha256") != 0)
        return fp__fail(FP_FORMAT, "statement.subject[0]: \"document\" with a sha256 digest is needed");
    memcpy(out->document_sha256, in->digest, 32);
    FP_TRY(fp__json_fields(p, "statement", fields, NULL));
    FP_TRY(fp__json_text(p, "statement", "name", 1, FP_ANCHOR_NAME_MAX, &text));
    memcpy(out->name, text, strlen(text) + 1);
    FP_TRY(fp__json_text(p, "statement", "version", 1, FP_ANCHOR_VERSION_MAX, &text));
    memcpy(out->version, text, strlen(text) + 1);
    FP_TRY(fp__json_text(p, "statement", "type", 1, 16, &text));
    int type = index_of(label_names, 3, text);
    if (type < 0)
        return fp__fail(FP_FORMAT, "statement.type: \"%s\" is not core, user or external", text);
    out->type = (fp_label)type;
    FP_TRY(fp__readers_parse(p, "statement", out->readers, &out->readers_count));
    FP_TRY(fp__json_uint(p, "statement", "valid_from", 0, FP_TIME_FOREVER, &out->valid_from));
    FP_TRY(fp__json_uint(p, "statement", "valid_until", 0, FP_TIME_FOREVER, &out->valid_until));
    FP_TRY(parse_lineage(p, out));
    FP_TRY(fp__json_object(p, "statement", "injection", &injection));
    FP_TRY(parse_injection(injection, &out->injection));
    FP_TRY(fp__json_hex(p, "statement", "salt", out->salt, 32));
    return fp__statement_check(out);
}

fp_status fp__statement_parse_payload(const void *payload, size_t size, fp_statement *out)
{
    fp__intoto in;
    FP_TRY(fp__intoto_parse(payload, size, "statement", &in));
    fp_statement parsed = {0};
    fp_status status = parse_predicate(&in, &parsed);
    fp__intoto_free(&in);
    if (status == FP_OK)
        *out = parsed;
    return status;
}

fp_status fp_statement_parse(const void *envelope, size_t size, fp_statement *out, uint8_t id[32])
{
    fp__dsse dsse;
    FP_TRY(fp__dsse_parse(envelope, size, &dsse));
    fp_status status = fp__statement_parse_payload(dsse.payload.data, dsse.payload.size, out);
    if (status == FP_OK)
        memcpy(id, dsse.id, 32);
    fp__dsse_free(&dsse);
    return status;
}

const char *fp_anchor_state_name(fp_anchor_state state)
{
    static const char *const names[] = {"unlogged",   "candidate", "promoted",
                                        "superseded", "revoked",   "expired"};
    return (unsigned)state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}
