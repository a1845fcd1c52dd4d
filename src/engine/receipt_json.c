/* The receipt's JSON: one table of fields each way, strict on the way in. */
#include "engine/receipt.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>

static const char *const finish_names[] = {"stop", "length", "cancelled", "anchor_revoked", "error"};
static const fp_finish finishes[] = {FP_FINISH_STOP, FP_FINISH_LENGTH, FP_FINISH_CANCELLED,
                                     FP_FINISH_ANCHOR_REVOKED, FP_FINISH_ERROR};
enum { FINISHES = sizeof finishes / sizeof *finishes };

void fp__receipt_free(fp__receipt *r)
{
    fp__buf_free(&r->proof);
}

void fp__receipt_tenant(const char *tenant, uint8_t out[32])
{
    fp__part parts[] = {{"fieldprint/tent\1", 16}, {tenant, strlen(tenant)}};
    fp__sha256_parts(parts, 2, out);
}

void fp__receipt_injection(fp_inject_mode mode, const uint32_t *g, size_t n, uint8_t out[32])
{
    fp__sha256_ctx ctx = {0};
    uint8_t byte = (uint8_t)mode, word[4];
    fp__sha256_init(&ctx);
    fp__sha256_update(&ctx, "fieldprint/injn\1", 16);
    fp__sha256_update(&ctx, &byte, 1);
    for (size_t i = 0; i < n; i++) {
        fp__store_le32(word, g[i]);
        fp__sha256_update(&ctx, word, 4);
    }
    fp__sha256_final(&ctx, out);
    fp__sha256_free(&ctx);
}

/* ---- writing
 * ----------------------------------------------------------------------------------------------------------
 */

/* A binary32 as its 8 hexadecimal digits, so that no decimal rounding can differ. */
static json_t *float_value(float x)
{
    char text[9];
    snprintf(text, sizeof text, "%08x", fp__float_bits(x));
    return json_string(text);
}

static json_t *hex32(const uint8_t value[32])
{
    return fp__json_hex_value(value, 32);
}

static json_t *head_json(uint64_t size, const uint8_t root[32], uint64_t time)
{
    return json_pack("{s:I, s:o, s:I}", "size", (json_int_t)size, "root", hex32(root), "time",
                     (json_int_t)time);
}

static json_t *ids_json(const uint8_t (*ids)[32], size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, hex32(ids[i]));
    return list;
}

static json_t *anchors_json(const fp__receipt *r)
{
    fp__buf proof = {0};
    json_t *proof_text = NULL;
    if (fp__base64_encode(r->proof.data, r->proof.size, &proof) == FP_OK)
        proof_text = json_stringn((const char *)proof.data, proof.size);
    fp__buf_free(&proof);
    return json_pack("{s:o, s:o, s:o, s:I, s:s, s:I, s:o, s:o}", "ids", ids_json(r->anchor_ids, r->anchors),
                     "set", hex32(r->set_id), "kvHead", hex32(r->anchor_kv_head), "compileIndex",
                     (json_int_t)r->compile_index, "mode", fp_inject_mode_name(r->mode), "gammaRaised",
                     (json_int_t)r->raised, "injection", hex32(r->injection), "proof", proof_text);
}

static json_t *sampling_json(const fp__receipt *r)
{
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)r->sampling.seed);
    const fp_sampling *s = &r->sampling;
    return json_pack("{s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:s, s:s, s:I, s:b, s:o}", "temperature",
                     float_value(s->temperature), "topK", (json_int_t)s->top_k, "topP", float_value(s->top_p),
                     "minP", float_value(s->min_p), "repeatPenalty", float_value(s->repeat_penalty),
                     "frequencyPenalty", float_value(s->frequency_penalty), "presencePenalty",
                     float_value(s->presence_penalty), "repeatLastN", (json_int_t)s->repeat_last_n, "seed",
                     seed, "seedFrom", r->has_nonce ? "nonce" : "server", "maxTokens",
                     (json_int_t)r->max_tokens, "ignoreEndOfGeneration", (int)r->ignore_eog, "stops",
                     hex32(r->stops));
}

static const char *finish_text(fp_finish finish)
{
    for (size_t i = 0; i < FINISHES; i++)
        if (finishes[i] == finish)
            return finish_names[i];
    return "error";
}

static json_t *validation_json(const fp__receipt *r)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "level", fp_validation_name(r->validation),
                     "replay65536", (json_int_t)r->replay_65536, "pageWindowMs",
                     (json_int_t)r->page_window_ms, "weightWindowMs", (json_int_t)r->weight_window_ms,
                     "unverifiedPages", (json_int_t)r->unverified_pages, "failures", (json_int_t)r->failures);
}

static json_t *release_json(const fp__receipt *r)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < r->retractions; i++)
        json_array_append_new(ids, hex32(r->retraction_ids[i]));
    return json_pack("{s:s, s:s, s:o}", "mode", fp_release_name(r->release), "status",
                     fp_standing_name(r->standing), "retractions", ids);
}

static json_t *predicate(const fp__receipt *r)
{
    json_t *p = json_pack(
        "{s:o, s:o, s:I, s:o, s:{s:s, s:o, s:o}, s:o, s:{s:I, s:I, s:I, s:I, s:I}, s:s, s:s, "
        "s:o, s:o, "
        "s:{s:I, s:o}, s:s, s:I}",
        "tenant", hex32(r->tenant), "model", hex32(r->model), "arithmetic", (json_int_t)r->arithmetic,
        "policy", hex32(r->policy), "log", "origin", r->origin, "first",
        head_json(r->first_size, r->first_root, r->first_time), "last",
        head_json(r->last_size, r->last_root, r->last_time), "sampling", sampling_json(r), "tokens", "anchor",
        (json_int_t)r->anchor_tokens, "prompt", (json_int_t)r->prompt_tokens, "output",
        (json_int_t)r->output_tokens, "context", (json_int_t)r->context_tokens, "limit",
        (json_int_t)r->context_limit, "finish", finish_text(r->finish), "label", fp_label_name(r->label),
        "validation", validation_json(r), "release", release_json(r), "leaves", "count",
        (json_int_t)r->leaves, "root", hex32(r->root), "engine", r->engine, "time", (json_int_t)r->time);
    if (p && r->has_nonce)
        json_object_set_new(p, "nonce", hex32(r->nonce));
    if (p && r->anchors)
        json_object_set_new(p, "anchors", anchors_json(r));
    if (p && r->overrides)
        json_object_set_new(p, "overrides", ids_json(r->override_ids, r->overrides));
    return p;
}

fp_status fp__receipt_create(const fp__receipt *r, fp__dsse *out)
{
    return fp__dsse_create_json(
        fp__intoto_build("answer", "fieldprintLeavesV1", r->root, FP__RECEIPT_PREDICATE, predicate(r)), out);
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------------------
 */

#define MAX53 FP__JSON_INTEGER_MAX

static fp_status get_float(const json_t *object, const char *where, const char *key, float *out)
{
    uint8_t b[4];
    FP_TRY(fp__json_hex(object, where, key, b, 4));
    *out = fp__bits_float((uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]);
    return FP_OK;
}

static fp_status get_u32(const json_t *object, const char *where, const char *key, uint32_t *out)
{
    uint64_t v;
    FP_TRY(fp__json_uint(object, where, key, 0, UINT32_MAX, &v));
    *out = (uint32_t)v;
    return FP_OK;
}

static fp_status get_seed(const json_t *object, const char *where, uint64_t *out)
{
    const char *text;
    char again[24], *end;
    FP_TRY(fp__json_text(object, where, "seed", 1, 20, &text));
    *out = strtoull(text, &end, 10);
    snprintf(again, sizeof again, "%llu", (unsigned long long)*out);
    if (strcmp(again, text) != 0)
        return fp__fail(FP_FORMAT, "%s.seed: \"%s\" is not a decimal number below 2^64", where, text);
    return FP_OK;
}

static fp_status read_head(const json_t *log, const char *key, uint64_t *size, uint8_t root[32],
                           uint64_t *time)
{
    static const char *const required[] = {"size", "root", "time", NULL};
    json_t *head;
    FP_TRY(fp__json_object(log, "receipt.log", key, &head));
    FP_TRY(fp__json_fields(head, "receipt.log head", required, NULL));
    FP_TRY(fp__json_uint(head, "receipt.log head", "size", 1, MAX53, size));
    FP_TRY(fp__json_uint(head, "receipt.log head", "time", 0, MAX53, time));
    return fp__json_hex(head, "receipt.log head", "root", root, 32);
}

static fp_status read_log(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {"origin", "first", "last", NULL};
    json_t *log;
    const char *origin;
    FP_TRY(fp__json_object(p, "receipt", "log", &log));
    FP_TRY(fp__json_fields(log, "receipt.log", required, NULL));
    FP_TRY(fp__json_text(log, "receipt.log", "origin", 1, FP__ORIGIN_MAX, &origin));
    snprintf(r->origin, sizeof r->origin, "%s", origin);
    FP_TRY(read_head(log, "first", &r->first_size, r->first_root, &r->first_time));
    FP_TRY(read_head(log, "last", &r->last_size, r->last_root, &r->last_time));
    if (r->first_size > r->last_size)
        return fp__fail(FP_FORMAT, "receipt.log: the first tree head is larger than the last");
    return FP_OK;
}

static fp_status read_ids(const json_t *object, const char *where, const char *key, size_t max,
                          uint8_t (*ids)[32], size_t *n)
{
    json_t *list;
    FP_TRY(fp__json_array(object, where, key, 1, max, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text)
            return fp__fail(FP_FORMAT, "%s.%s[%zu] is not a text", where, key, i);
        FP_TRY(fp__json_hex_text(text, key, ids[i], 32));
    }
    *n = json_array_size(list);
    return FP_OK;
}

static fp_status read_anchors(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {
        "ids", "set", "kvHead", "compileIndex", "mode", "gammaRaised", "injection", "proof", NULL};
    static const char *const where = "receipt.anchors";
    json_t *a;
    const char *mode, *proof;
    if (!json_object_get(p, "anchors"))
        return FP_OK;
    FP_TRY(fp__json_object(p, "receipt", "anchors", &a));
    FP_TRY(fp__json_fields(a, where, required, NULL));
    FP_TRY(read_ids(a, where, "ids", FP__SET_ANCHORS_MAX, r->anchor_ids, &r->anchors));
    FP_TRY(fp__json_hex(a, where, "set", r->set_id, 32));
    FP_TRY(fp__json_hex(a, where, "kvHead", r->anchor_kv_head, 32));
    FP_TRY(fp__json_uint(a, where, "compileIndex", 0, MAX53, &r->compile_index));
    FP_TRY(fp__json_text(a, where, "mode", 1, 16, &mode));
    if (fp_inject_mode_parse(mode, &r->mode) != FP_OK)
        return fp__fail(FP_FORMAT, "%s.mode: \"%s\" is not known", where, mode);
    FP_TRY(fp__json_uint(a, where, "gammaRaised", 0, FP_GAMMA_ONE, &r->raised));
    FP_TRY(fp__json_hex(a, where, "injection", r->injection, 32));
    FP_TRY(fp__json_text(a, where, "proof", 1, 2 * FP__RECEIPT_PROOF_MAX_BYTES, &proof));
    return fp__base64_decode(proof, strlen(proof), &r->proof);
}

static fp_status read_sampling(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {
        "temperature",     "topK",        "topP", "minP",     "repeatPenalty", "frequencyPenalty",
        "presencePenalty", "repeatLastN", "seed", "seedFrom", "maxTokens",     "ignoreEndOfGeneration",
        "stops",           NULL};
    static const char *const where = "receipt.sampling";
    json_t *s;
    FP_TRY(fp__json_object(p, "receipt", "sampling", &s));
    FP_TRY(fp__json_fields(s, where, required, NULL));
    FP_TRY(get_float(s, where, "temperature", &r->sampling.temperature));
    FP_TRY(get_u32(s, where, "topK", &r->sampling.top_k));
    FP_TRY(get_float(s, where, "topP", &r->sampling.top_p));
    FP_TRY(get_float(s, where, "minP", &r->sampling.min_p));
    FP_TRY(get_float(s, where, "repeatPenalty", &r->sampling.repeat_penalty));
    FP_TRY(get_float(s, where, "frequencyPenalty", &r->sampling.frequency_penalty));
    FP_TRY(get_float(s, where, "presencePenalty", &r->sampling.presence_penalty));
    FP_TRY(get_u32(s, where, "repeatLastN", &r->sampling.repeat_last_n));
    FP_TRY(get_seed(s, where, &r->sampling.seed));
    FP_TRY(fp__json_constant(s, where, "seedFrom", r->has_nonce ? "nonce" : "server"));
    FP_TRY(fp__json_uint(s, where, "maxTokens", 0, UINT32_MAX, &r->max_tokens));
    if (!json_is_boolean(json_object_get(s, "ignoreEndOfGeneration")))
        return fp__fail(FP_FORMAT, "%s.ignoreEndOfGeneration must be true or false", where);
    r->ignore_eog = json_is_true(json_object_get(s, "ignoreEndOfGeneration"));
    return fp__json_hex(s, where, "stops", r->stops, 32);
}

static fp_status read_validation(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {
        "level", "replay65536", "pageWindowMs", "weightWindowMs", "unverifiedPages", "failures", NULL};
    static const char *const where = "receipt.validation";
    json_t *v;
    const char *level;
    FP_TRY(fp__json_object(p, "receipt", "validation", &v));
    FP_TRY(fp__json_fields(v, where, required, NULL));
    FP_TRY(fp__json_text(v, where, "level", 1, 16, &level));
    for (r->validation = FP_VALIDATE_HASH; r->validation <= FP_VALIDATE_REPLAY; ++r->validation)
        if (strcmp(level, fp_validation_name(r->validation)) == 0)
            break;
    if (r->validation > FP_VALIDATE_REPLAY)
        return fp__fail(FP_FORMAT, "%s.level: \"%s\" is not known", where, level);
    bool scrub = r->validation >= FP_VALIDATE_SCRUB, replay = r->validation == FP_VALIDATE_REPLAY;
    FP_TRY(fp__json_uint(v, where, "replay65536", replay ? 1 : 0, replay ? 65536 : 0, &r->replay_65536));
    FP_TRY(fp__json_uint(v, where, "pageWindowMs", scrub ? 1 : 0, scrub ? MAX53 : 0, &r->page_window_ms));
    FP_TRY(fp__json_uint(v, where, "weightWindowMs", 0, scrub ? MAX53 : 0, &r->weight_window_ms));
    FP_TRY(fp__json_uint(v, where, "unverifiedPages", 0, MAX53, &r->unverified_pages));
    return fp__json_uint(v, where, "failures", 0, UINT32_MAX, &r->failures);
}

static fp_status read_release(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {"mode", "status", "retractions", NULL};
    static const char *const where = "receipt.release";
    json_t *o, *ids;
    const char *mode, *status;
    FP_TRY(fp__json_object(p, "receipt", "release", &o));
    FP_TRY(fp__json_fields(o, where, required, NULL));
    FP_TRY(fp__json_text(o, where, "mode", 1, 16, &mode));
    if (fp_release_parse(mode, &r->release) != FP_OK)
        return fp__fail(FP_FORMAT, "%s.mode: \"%s\" is not known", where, mode);
    FP_TRY(fp__json_text(o, where, "status", 1, 16, &status));
    for (r->standing = FP_STANDING_PROVISIONAL; r->standing <= FP_STANDING_RETRACTED; ++r->standing)
        if (strcmp(status, fp_standing_name(r->standing)) == 0)
            break;
    if (r->standing > FP_STANDING_RETRACTED)
        return fp__fail(FP_FORMAT, "%s.status: \"%s\" is not known", where, status);
    FP_TRY(fp__json_array(o, where, "retractions", 0, FP__RETRACTIONS_MAX, &ids));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const char *text = json_string_value(json_array_get(ids, i));
        if (!text)
            return fp__fail(FP_FORMAT, "%s.retractions[%zu] is not a text", where, i);
        FP_TRY(fp__json_hex_text(text, "receipt.release.retractions", r->retraction_ids[i], 32));
    }
    r->retractions = json_array_size(ids);
    return FP_OK;
}

/* Fields that contradict each other are no receipt of ours. */
static fp_status check_standing(const fp__receipt *r)
{
    bool retracted = r->standing == FP_STANDING_RETRACTED;
    if (r->unverified_pages > 0 && r->standing != FP_STANDING_PROVISIONAL)
        return fp__fail(FP_FORMAT, "receipt.validation.unverifiedPages: only a provisional answer has them");
    if (retracted != (r->finish == FP_FINISH_ERROR) || (retracted && r->retractions == 0))
        return fp__fail(FP_FORMAT,
                        "receipt.release: a retracted answer, and no other, ends with an error and "
                        "names its retraction");
    if (r->retractions > r->failures)
        return fp__fail(FP_FORMAT, "receipt.release.retractions: more than checks that failed");
    return FP_OK;
}

static fp_status read_counts(const json_t *p, fp__receipt *r)
{
    static const char *const tokens[] = {"anchor", "prompt", "output", "context", "limit", NULL},
                             *const leaves[] = {"count", "root", NULL};
    json_t *object;
    const char *text;
    FP_TRY(fp__json_object(p, "receipt", "tokens", &object));
    FP_TRY(fp__json_fields(object, "receipt.tokens", tokens, NULL));
    FP_TRY(fp__json_uint(object, "receipt.tokens", "anchor", 0, MAX53, &r->anchor_tokens));
    FP_TRY(fp__json_uint(object, "receipt.tokens", "prompt", 1, MAX53, &r->prompt_tokens));
    FP_TRY(fp__json_uint(object, "receipt.tokens", "output", 0, MAX53, &r->output_tokens));
    FP_TRY(fp__json_uint(object, "receipt.tokens", "context", 0, MAX53, &r->context_tokens));
    FP_TRY(fp__json_uint(object, "receipt.tokens", "limit", 1, MAX53, &r->context_limit));
    FP_TRY(fp__json_object(p, "receipt", "leaves", &object));
    FP_TRY(fp__json_fields(object, "receipt.leaves", leaves, NULL));
    FP_TRY(fp__json_uint(object, "receipt.leaves", "count", 1, MAX53, &r->leaves));
    FP_TRY(fp__json_hex(object, "receipt.leaves", "root", r->root, 32));
    FP_TRY(fp__json_text(p, "receipt", "finish", 1, 16, &text));
    r->finish = FP_FINISH_NONE;
    for (size_t i = 0; i < FINISHES; i++)
        if (strcmp(text, finish_names[i]) == 0)
            r->finish = finishes[i];
    if (r->finish == FP_FINISH_NONE)
        return fp__fail(FP_FORMAT, "receipt.finish: \"%s\" is not known", text);
    FP_TRY(fp__json_text(p, "receipt", "label", 1, 16, &text));
    if (fp_label_parse(text, &r->label) != FP_OK)
        return fp__fail(FP_FORMAT, "receipt.label: \"%s\" is not known", text);
    return FP_OK;
}

static fp_status read_predicate(const json_t *p, fp__receipt *r)
{
    static const char *const required[] = {"tenant",   "model",  "arithmetic", "policy", "log",
                                           "sampling", "tokens", "finish",     "label",  "validation",
                                           "release",  "leaves", "engine",     "time",   NULL};
    static const char *const optional[] = {"nonce", "anchors", "overrides", NULL};
    const char *engine;
    FP_TRY(fp__json_fields(p, "receipt", required, optional));
    r->has_nonce = json_object_get(p, "nonce") != NULL;
    if (r->has_nonce)
        FP_TRY(fp__json_hex(p, "receipt", "nonce", r->nonce, 32));
    if (json_object_get(p, "overrides"))
        FP_TRY(
            read_ids(p, "receipt", "overrides", FP__RECEIPT_OVERRIDES_MAX, r->override_ids, &r->overrides));
    FP_TRY(fp__json_hex(p, "receipt", "tenant", r->tenant, 32));
    FP_TRY(fp__json_hex(p, "receipt", "model", r->model, 32));
    FP_TRY(fp__json_uint(p, "receipt", "arithmetic", 1, 65535, &r->arithmetic));
    FP_TRY(fp__json_hex(p, "receipt", "policy", r->policy, 32));
    FP_TRY(read_log(p, r));
    FP_TRY(read_anchors(p, r));
    FP_TRY(read_sampling(p, r));
    FP_TRY(read_validation(p, r));
    FP_TRY(read_release(p, r));
    FP_TRY(read_counts(p, r));
    FP_TRY(check_standing(r));
    FP_TRY(fp__json_text(p, "receipt", "engine", 1, sizeof r->engine - 1, &engine));
    snprintf(r->engine, sizeof r->engine, "%s", engine);
    return fp__json_uint(p, "receipt", "time", 0, MAX53, &r->time);
}

fp_status fp__receipt_parse(const void *payload, size_t size, fp__receipt *out)
{
    fp__intoto statement;
    FP_TRY(fp__intoto_parse(payload, size, "receipt", &statement));
    fp__receipt r = {0};
    fp_status status = FP_OK;
    if (strcmp(statement.predicate_type, FP__RECEIPT_PREDICATE) != 0)
        status = fp__fail(FP_FORMAT, "receipt: predicate type \"%s\" is not " FP__RECEIPT_PREDICATE,
                          statement.predicate_type);
    if (status == FP_OK)
        status = read_predicate(statement.predicate, &r);
    if (status == FP_OK &&
        (strcmp(statement.algorithm, "fieldprintLeavesV1") != 0 || memcmp(statement.digest, r.root, 32) != 0))
        status = fp__fail(FP_FORMAT, "receipt: its subject is not the root of its leaves");
    fp__intoto_free(&statement);
    if (status != FP_OK)
        fp__receipt_free(&r);
    else
        *out = r;
    return status;
}
