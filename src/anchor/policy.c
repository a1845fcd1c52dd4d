#include "anchor/policy.h"
#include "anchor/statement.h"
#include "merkle/sha256.h"
#include <stdio.h>

#define MAX_FRESHNESS_SECONDS (366u * 86400u)

/* ---- Holders and keys ---- */

static fp_status parse_key(const json_t *json, const char *where, unsigned holder, fp__policy *out)
{
    static const char *const fields[] = {"purpose", "public", NULL};
    const char *text = NULL;
    if (out->keys_count == FP__POLICY_KEYS_MAX)
        return fp__fail(FP_LIMIT, "%s: more than %d keys", where, FP__POLICY_KEYS_MAX);
    fp__policy_key *key = &out->keys[out->keys_count];
    FP_TRY(fp__json_fields(json, where, fields, NULL));
    FP_TRY(fp__json_text(json, where, "purpose", 1, 16, &text));
    if (fp_purpose_parse(text, &key->purpose) != FP_OK)
        return fp__fail(FP_FORMAT, "%s.purpose: \"%s\" is unknown", where, text);
    FP_TRY(fp__json_hex(json, where, "public", key->public_key, 32));
    if (fp__ed25519_check_public(key->public_key) != FP_OK)
        return fp__fail_context(FP_FORMAT, "%s.public: not a usable Ed25519 key", where);
    if (fp__policy_find_key(out, key->public_key) != NULL)
        return fp__fail(FP_FORMAT, "%s.public: this key is named twice; a key has one holder and one purpose",
                        where);
    fp_key_id(key->public_key, key->keyid);
    key->holder = holder;
    out->keys_count++;
    return FP_OK;
}

static fp_status parse_holders(const json_t *policy, fp__policy *out)
{
    static const char *const fields[] = {"name", "keys", NULL};
    json_t *list = NULL, *keys = NULL;
    FP_TRY(fp__json_array(policy, "policy", "holders", 1, FP__HOLDERS_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *holder = json_array_get(list, i);
        const char *name = NULL;
        char where[64];
        snprintf(where, sizeof where, "policy.holders[%zu]", i);
        FP_TRY(fp__json_fields(holder, where, fields, NULL));
        FP_TRY(fp__json_text(holder, where, "name", 1, FP__HOLDER_NAME_MAX, &name));
        if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != strlen(name))
            return fp__fail(FP_FORMAT, "%s.name: only A-Z a-z 0-9 _ - are allowed", where);
        for (size_t j = 0; j < i; j++)
            if (strcmp(out->holders[j], name) == 0)
                return fp__fail(FP_FORMAT, "%s.name: \"%s\" is there twice", where, name);
        memcpy(out->holders[i], name, strlen(name) + 1);
        out->holders_count = i + 1;
        FP_TRY(fp__json_array(holder, where, "keys", 1, FP__POLICY_KEYS_MAX, &keys));
        for (size_t k = 0; k < json_array_size(keys); k++) {
            char key_where[96];
            snprintf(key_where, sizeof key_where, "%s.keys[%zu]", where, k);
            FP_TRY(parse_key(json_array_get(keys, k), key_where, (unsigned)i, out));
        }
    }
    return FP_OK;
}

/* ---- Roles ---- */

static bool holds(const fp__policy *policy, unsigned holder, fp_purpose purpose)
{
    for (size_t i = 0; i < policy->keys_count; i++)
        if (policy->keys[i].holder == holder && policy->keys[i].purpose == purpose)
            return true;
    return false;
}

static fp_status parse_role(const json_t *roles, const char *where, const char *key, fp_purpose purpose,
                            const fp__policy *policy, fp__policy_role *out)
{
    static const char *const fields[] = {"threshold", "holders", NULL};
    json_t *role = NULL, *list = NULL;
    uint64_t threshold = 0;
    char name[96];
    snprintf(name, sizeof name, "%s.%s", where, key);
    FP_TRY(fp__json_object(roles, where, key, &role));
    FP_TRY(fp__json_fields(role, name, fields, NULL));
    FP_TRY(fp__json_uint(role, name, "threshold", 0, FP__HOLDERS_MAX, &threshold));
    FP_TRY(fp__json_array(role, name, "holders", 0, FP__HOLDERS_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *holder = json_string_value(json_array_get(list, i));
        unsigned h = 0;
        while (holder != NULL && h < policy->holders_count && strcmp(policy->holders[h], holder) != 0)
            h++;
        if (holder == NULL || h == policy->holders_count)
            return fp__fail(FP_FORMAT, "%s.holders[%zu]: not a holder of this policy", name, i);
        if ((out->holders >> h & 1) != 0)
            return fp__fail(FP_FORMAT, "%s.holders[%zu]: \"%s\" is there twice", name, i, holder);
        if (!holds(policy, h, purpose))
            return fp__fail(FP_FORMAT, "%s.holders[%zu]: \"%s\" has no key with the purpose %s", name, i,
                            holder, fp_purpose_name(purpose));
        out->holders |= UINT64_C(1) << h;
    }
    if (threshold > json_array_size(list) || (threshold == 0 && json_array_size(list) != 0))
        return fp__fail(FP_FORMAT, "%s.threshold: %u of %zu holders can never be met, or lets everybody in",
                        name, (unsigned)threshold, json_array_size(list));
    out->threshold = (uint32_t)threshold;
    return FP_OK;
}

static fp_status parse_roles(const json_t *policy, fp__policy *out)
{
    static const char *const types[] = {"external", "user", "core", NULL};
    const char *names[FP_PURPOSE_COUNT + 1] = {NULL};
    json_t *roles = NULL;
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++)
        names[i] = fp_purpose_name((fp_purpose)i);
    FP_TRY(fp__json_object(policy, "policy", "roles", &roles));
    FP_TRY(fp__json_fields(roles, "policy.roles", names, NULL));
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++) {
        fp_purpose purpose = (fp_purpose)i;
        if (purpose != FP_PURPOSE_AUTHOR && purpose != FP_PURPOSE_PROMOTE) {
            FP_TRY(parse_role(roles, "policy.roles", names[i], purpose, out, &out->roles[i]));
            continue;
        }
        json_t *by_type = NULL;
        char where[64];
        snprintf(where, sizeof where, "policy.roles.%s", names[i]);
        FP_TRY(fp__json_object(roles, "policy.roles", names[i], &by_type));
        FP_TRY(fp__json_fields(by_type, where, types, NULL));
        for (unsigned t = 0; t < FP_LABEL_COUNT; t++)
            FP_TRY(parse_role(by_type, where, types[t], purpose, out,
                              purpose == FP_PURPOSE_AUTHOR ? &out->author[t] : &out->promote[t]));
    }
    if (out->roles[FP_PURPOSE_POLICY].threshold == 0)
        return fp__fail(FP_FORMAT, "policy.roles.policy.threshold: 0 would make the policy unchangeable");
    if (out->roles[FP_PURPOSE_LOG].threshold != 1)
        return fp__fail(FP_FORMAT,
                        "policy.roles.log.threshold: 1 is needed, a checkpoint has one log signature");
    return FP_OK;
}

const fp__policy_role *fp__policy_role_of(const fp__policy *policy, fp_purpose purpose, fp_label type)
{
    if (purpose == FP_PURPOSE_AUTHOR)
        return &policy->author[type];
    if (purpose == FP_PURPOSE_PROMOTE)
        return &policy->promote[type];
    return &policy->roles[purpose];
}

const fp__policy_key *fp__policy_find_key(const fp__policy *policy, const uint8_t public_key[32])
{
    for (size_t i = 0; i < policy->keys_count; i++)
        if (memcmp(policy->keys[i].public_key, public_key, 32) == 0)
            return &policy->keys[i];
    return NULL;
}

/* ---- The rest of the policy ---- */

static fp_status parse_quorum(const json_t *object, const char *where, fp__quorum *out)
{
    static const char *const fields[] = {"threshold", "keys", NULL};
    char name[64];
    json_t *quorum = NULL, *list = NULL;
    uint64_t threshold = 0;
    snprintf(name, sizeof name, "%s.witnesses", where);
    FP_TRY(fp__json_object(object, where, "witnesses", &quorum));
    FP_TRY(fp__json_fields(quorum, name, fields, NULL));
    FP_TRY(fp__json_uint(quorum, name, "threshold", 0, FP__WITNESSES_MAX, &threshold));
    FP_TRY(fp__json_array(quorum, name, "keys", 0, FP__WITNESSES_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *key = json_array_get(list, i);
        if (!json_is_string(key) ||
            fp__note_key_parse(json_string_value(key), json_string_length(key), &out->keys[i]) != FP_OK ||
            out->keys[i].type != FP__NOTE_COSIGNATURE)
            return fp__fail(FP_FORMAT, "%s.keys[%zu]: not the verifier key of a cosigner", name, i);
        for (size_t j = 0; j < i; j++)
            if (memcmp(out->keys[j].public_key, out->keys[i].public_key, 32) == 0)
                return fp__fail(FP_FORMAT, "%s.keys[%zu]: this key is there twice", name, i);
    }
    if (threshold > json_array_size(list))
        return fp__fail(FP_FORMAT, "%s.threshold: more than there are keys", name);
    out->threshold = (uint32_t)threshold;
    out->count = json_array_size(list);
    return FP_OK;
}

static fp_status parse_anchors(const json_t *policy, fp__policy *out)
{
    static const char *const fields[] = {"types",      "required",        "readers", "max_anchors",
                                         "max_tokens", "max_gamma_65536", NULL};
    static const char where[] = "policy.anchors";
    json_t *anchors = NULL, *list = NULL;
    uint64_t max_anchors = 0, max_tokens = 0, max_gamma = 0;
    FP_TRY(fp__json_object(policy, "policy", "anchors", &anchors));
    FP_TRY(fp__json_fields(anchors, where, fields, NULL));
    FP_TRY(fp__json_array(anchors, where, "types", 0, FP_LABEL_COUNT, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        fp_label type = FP_LABEL_EXTERNAL;
        if (text == NULL || fp_label_parse(text, &type) != FP_OK || out->types[type])
            return fp__fail(FP_FORMAT, "%s.types[%zu]: not core, user or external, or there twice", where, i);
        out->types[type] = true;
    }
    FP_TRY(fp__json_array(anchors, where, "required", 0, FP__REQUIRED_MAX, &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.required[%zu]", where, i);
        FP_TRY(fp__json_hex_text(json_string_value(json_array_get(list, i)), name, out->required[i], 32));
        for (size_t j = 0; j < i; j++)
            if (memcmp(out->required[j], out->required[i], 32) == 0)
                return fp__fail(FP_FORMAT, "%s: this anchor is there twice", name);
    }
    out->required_count = json_array_size(list);
    FP_TRY(fp__readers_parse(anchors, where, out->readers, &out->readers_count));
    FP_TRY(fp__json_uint(anchors, where, "max_anchors", out->required_count > 1 ? out->required_count : 1,
                         FP__SET_ANCHORS_MAX, &max_anchors));
    FP_TRY(fp__json_uint(anchors, where, "max_tokens", 1, 1u << 20, &max_tokens));
    FP_TRY(fp__json_uint(anchors, where, "max_gamma_65536", 0, FP_GAMMA_ONE, &max_gamma));
    out->max_anchors = (uint32_t)max_anchors;
    out->max_tokens = (uint32_t)max_tokens;
    out->max_gamma = (uint32_t)max_gamma;
    return FP_OK;
}

static fp_status parse_policy(const json_t *json, fp__policy *out)
{
    static const char *const fields[] = {"format",    "origin", "number",  "previous",
                                         "holders",   "roles",  "anchors", "freshness_seconds",
                                         "witnesses", NULL};
    static const uint8_t zero[32] = {0};
    const char *text = NULL;
    FP_TRY(fp__json_fields(json, "policy", fields, NULL));
    FP_TRY(fp__json_constant(json, "policy", "format", FP__POLICY_FORMAT));
    FP_TRY(fp__json_text(json, "policy", "origin", 1, FP__ORIGIN_MAX, &text));
    memcpy(out->origin, text, strlen(text) + 1);
    FP_TRY(fp__json_uint(json, "policy", "number", 0, FP__JSON_INTEGER_MAX, &out->number));
    FP_TRY(fp__json_hex(json, "policy", "previous", out->previous, 32));
    if ((out->number == 0) != (memcmp(out->previous, zero, 32) == 0))
        return fp__fail(FP_FORMAT, "policy.previous: zeros are for number 0, and only for it");
    FP_TRY(parse_holders(json, out));
    FP_TRY(parse_roles(json, out));
    FP_TRY(parse_anchors(json, out));
    FP_TRY(fp__json_uint(json, "policy", "freshness_seconds", 0, MAX_FRESHNESS_SECONDS,
                         &out->freshness_seconds));
    return parse_quorum(json, "policy", &out->witnesses);
}

fp_status fp__policy_parse(const void *data, size_t size, fp__policy *out)
{
    json_t *json = NULL;
    FP_TRY(fp__json_parse(data, size, FP__POLICY_MAX_BYTES, "policy", &json));
    memset(out, 0, sizeof *out);
    fp_status status = parse_policy(json, out);
    json_decref(json);
    fp__sha256(data, size, out->digest);
    return status;
}

/* ---- A first policy ---- */

static json_t *new_holders(const fp_key_row *rows, size_t n)
{
    json_t *holders = json_array(), *keys = NULL;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(rows[i].holder, rows[i - 1].holder) != 0) {
            keys = json_array();
            json_array_append_new(holders, json_pack("{s:s, s:o}", "name", rows[i].holder, "keys", keys));
        }
        json_array_append_new(keys, json_pack("{s:s, s:o}", "purpose", fp_purpose_name(rows[i].purpose),
                                              "public", fp__json_hex_value(rows[i].public_key, 32)));
    }
    return holders;
}

static json_t *new_role(const fp_key_row *rows, size_t n, fp_purpose purpose, uint32_t threshold)
{
    json_t *holders = json_array();
    for (size_t i = 0; i < n; i++)
        if (rows[i].purpose == purpose)
            json_array_append_new(holders, json_string(rows[i].holder));
    uint32_t needed = purpose == FP_PURPOSE_OVERRIDE && threshold < 2 ? 2 : threshold;
    needed = purpose == FP_PURPOSE_LOG ? 1 : needed;
    if (json_array_size(holders) < needed) {
        json_array_clear(holders);
        needed = 0;
    }
    return json_pack("{s:i, s:o}", "threshold", (int)needed, "holders", holders);
}

static json_t *quorum_json(const fp__quorum *quorum)
{
    fp__buf vkey = {0};
    json_t *keys = json_array();
    fp_status status = FP_OK;
    for (size_t i = 0; quorum != NULL && status == FP_OK && i < quorum->count; i++) {
        vkey.size = 0;
        status = fp__note_key_format(&quorum->keys[i], &vkey);
        if (status == FP_OK)
            json_array_append_new(keys, json_stringn((const char *)vkey.data, vkey.size));
    }
    fp__buf_free(&vkey);
    if (status != FP_OK) {
        json_decref(keys);
        return NULL; /* fp__json_dump says that there is no memory */
    }
    return json_pack("{s:i, s:o}", "threshold", quorum != NULL ? (int)quorum->threshold : 0, "keys", keys);
}

fp_status fp__policy_new(const char *origin, const fp_key_row *rows, size_t n, uint32_t threshold,
                         const fp__quorum *witnesses, uint64_t freshness_seconds, fp__buf *out)
{
    static const uint8_t zero[32] = {0};
    json_t *roles = json_object();
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++) {
        json_t *role = new_role(rows, n, (fp_purpose)i, threshold);
        if ((fp_purpose)i == FP_PURPOSE_AUTHOR || (fp_purpose)i == FP_PURPOSE_PROMOTE)
            role = json_pack("{s:O, s:O, s:o}", "core", role, "user", role, "external", role);
        json_object_set_new(roles, fp_purpose_name((fp_purpose)i), role);
    }
    json_t *anchors =
        json_pack("{s:[s,s,s], s:[], s:[s], s:i, s:i, s:i}", "types", "core", "user", "external", "required",
                  "readers", "*", "max_anchors", 8, "max_tokens", 2048, "max_gamma_65536", (int)FP_GAMMA_ONE);
    return fp__json_dump(json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:o, s:I, s:o}", "format",
                                   FP__POLICY_FORMAT, "origin", origin, "number", 0, "previous",
                                   fp__json_hex_value(zero, 32), "holders", new_holders(rows, n), "roles",
                                   roles, "anchors", anchors, "freshness_seconds",
                                   (json_int_t)freshness_seconds, "witnesses", quorum_json(witnesses)),
                         1, out);
}

/* ---- Counting ---- */

bool fp__distrusted(const fp__distrusts *list, const char *keyid, uint64_t index)
{
    uint8_t id[32];
    if (list == NULL || list->count == 0 || fp__hex_decode(keyid, strlen(keyid), id, 32) != FP_OK)
        return false;
    for (size_t i = 0; i < list->count; i++)
        if (index >= list->items[i].from_index && memcmp(list->items[i].keyid, id, 32) == 0)
            return true;
    return false;
}

static bool eligible(const fp__policy_key *key, fp_purpose purpose, const fp__policy_role *role)
{
    return key->purpose == purpose && (role->holders >> key->holder & 1) != 0;
}

/* The eligible key that made signature i, or NULL. The keyid decides which key is tried first, nothing more.
 */
static const fp__policy_key *signer_of(const fp__policy *policy, const fp__dsse *dsse, size_t i,
                                       fp_purpose purpose, const fp__policy_role *role, fp__signers *out)
{
    const fp__policy_key *hinted = NULL;
    for (size_t k = 0; k < policy->keys_count && hinted == NULL; k++)
        if (strcmp(policy->keys[k].keyid, dsse->signatures[i].keyid) == 0)
            hinted = &policy->keys[k];
    if (hinted != NULL && fp__dsse_verify_one(dsse, i, hinted->public_key)) {
        if (eligible(hinted, purpose, role))
            return hinted;
        out->unknown = true;
        return NULL;
    }
    for (size_t k = 0; k < policy->keys_count; k++)
        if (&policy->keys[k] != hinted && eligible(&policy->keys[k], purpose, role) &&
            fp__dsse_verify_one(dsse, i, policy->keys[k].public_key))
            return &policy->keys[k];
    if (hinted != NULL)
        out->bad = true;
    else
        out->unknown = true;
    return NULL;
}

void fp__policy_count(const fp__policy *policy, const fp__dsse *dsse, fp_purpose purpose, fp_label type,
                      const fp__distrusts *distrusts, uint64_t index, fp__signers *out)
{
    const fp__policy_role *role = fp__policy_role_of(policy, purpose, type);
    *out = (fp__signers){0};
    for (size_t i = 0; i < dsse->signatures_count; i++) {
        const fp__policy_key *key = signer_of(policy, dsse, i, purpose, role, out);
        if (key == NULL)
            continue;
        if (fp__distrusted(distrusts, key->keyid, index))
            out->distrusted = true;
        else
            out->holders |= UINT64_C(1) << key->holder;
    }
    out->count = (uint32_t)__builtin_popcountll(out->holders);
}

/* ---- Trust file ---- */

static fp_status parse_trust(const json_t *json, fp__trust *out)
{
    static const char *const fields[] = {"format", "origin", "log_key", "first_policy", "witnesses", NULL};
    const char *text = NULL;
    FP_TRY(fp__json_fields(json, "trust", fields, NULL));
    FP_TRY(fp__json_constant(json, "trust", "format", FP__TRUST_FORMAT));
    FP_TRY(fp__json_text(json, "trust", "origin", 1, FP__ORIGIN_MAX, &text));
    memcpy(out->origin, text, strlen(text) + 1);
    FP_TRY(fp__json_text(json, "trust", "log_key", 1, 512, &text));
    if (fp__note_key_parse(text, strlen(text), &out->log_key) != FP_OK)
        return fp__fail_context(FP_FORMAT, "trust.log_key");
    if (out->log_key.type != FP__NOTE_ED25519 || strcmp(out->log_key.name, out->origin) != 0)
        return fp__fail(FP_FORMAT, "trust.log_key: not an Ed25519 key under the name of the origin");
    FP_TRY(fp__json_hex(json, "trust", "first_policy", out->first_policy, 32));
    return parse_quorum(json, "trust", &out->witnesses);
}

fp_status fp__trust_parse(const void *data, size_t size, fp__trust *out)
{
    json_t *json = NULL;
    FP_TRY(fp__json_parse(data, size, FP__TRUST_MAX_BYTES, "trust file", &json));
    memset(out, 0, sizeof *out);
    fp_status status = parse_trust(json, out);
    json_decref(json);
    return status;
}

fp_status fp__trust_write(const fp__trust *trust, fp__buf *out)
{
    fp__buf vkey = {0};
    FP_TRY(fp__note_key_format(&trust->log_key, &vkey));
    json_t *json =
        json_pack("{s:s, s:s, s:s%, s:o, s:o}", "format", FP__TRUST_FORMAT, "origin", trust->origin,
                  "log_key", (const char *)vkey.data, vkey.size, "first_policy",
                  fp__json_hex_value(trust->first_policy, 32), "witnesses", quorum_json(&trust->witnesses));
    fp__buf_free(&vkey);
    return fp__json_dump(json, 1, out);
}
