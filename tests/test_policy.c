/* Policies and trust files: counting holders, and a refusal for every corruption. */
#include "anchor_lab.h"

typedef fp_status parse_fn(const void *data, size_t size);

struct corruption {
    const char *name, *find, *replace;
    const char *word;
};

static void check(const fp__buf *text, const struct corruption *table, size_t n, parse_fn *parse)
{
    ok(parse(text->data, text->size));
    for (size_t i = 0; i < n; i++) {
        const char *at = strstr((const char *)text->data, table[i].find);
        if (at == NULL)
            fail_msg("%s: \"%s\" is not there", table[i].name, table[i].find);
        size_t before = (size_t)(at - (const char *)text->data), skip_bytes = strlen(table[i].find);
        fp__buf bad = {0};
        ok(fp__buf_append(&bad, text->data, before));
        ok(fp__buf_append_text(&bad, table[i].replace));
        ok(fp__buf_append(&bad, text->data + before + skip_bytes, text->size - before - skip_bytes));
        fp_status status = parse(bad.data, bad.size);
        if (status != FP_FORMAT || strstr(fp_error_detail(), table[i].word) == NULL)
            fail_msg("%s: %s (%s) where FORMAT with \"%s\" was expected", table[i].name,
                     fp_status_name(status), fp_error_detail(), table[i].word);
        fp__buf_free(&bad);
    }
    for (size_t cut = 0; cut + 2 < text->size; cut += 31)
        assert_int_not_equal(parse(text->data, cut), FP_OK);
}

static fp_status parse_policy(const void *data, size_t size)
{
    uint8_t digest[32], wanted[32];
    FP_TRY(fp_policy_check(data, size, digest));
    fp__sha256(data, size, wanted);
    assert_memory_equal(digest, wanted, 32);
    return FP_OK;
}

static fp_status parse_trust(const void *data, size_t size)
{
    static fp__trust trust;
    return fp__trust_parse(data, size, &trust);
}

/* A compact policy of the lab, whose keys stay with *l. */
static fp__buf lab_policy_text(lab *l)
{
    static const uint8_t zero[32] = {0};
    fp__buf text = {0};
    memset(l, 0, sizeof *l);
    lab_keys(l);
    ok(fp__json_dump(lab_policy_json(l, 0, zero), 0, &text));
    return text;
}

static void free_keys(lab *l)
{
    for (int h = 0; h < LAB_HOLDERS; h++)
        for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++)
            fp_key_free(l->keys[h][p]);
}

#define ROLE(threshold) "{\"threshold\":" threshold ",\"holders\":[\"alice\",\"bob\",\"carol\"]}"

static void test_policy_corruptions(void **state)
{
    (void)state;
    lab l;
    fp__buf text = lab_policy_text(&l);
    uint8_t public_key[32];
    char first[80], second[80], small[80];
    fp_key_public(l.keys[0][0], public_key);
    fp__hex_encode(public_key, 32, first);
    fp_key_public(l.keys[0][1], public_key);
    fp__hex_encode(public_key, 32, second);
    memset(small, '0', 64);
    memcpy(small, "01", 2); /* the neutral element: a small-order key, with which anything verifies */
    small[64] = 0;
    const struct corruption table[] = {
        {"another format", "policy:v1", "policy:v9", "policy.format"},
        {"unknown field", "{\"format\"", "{\"x\":1,\"format\"", "unknown field"},
        {"duplicate field", "{\"format\"", "{\"format\":\"x\",\"format\"", "duplicate"},
        {"origin empty", LAB_ORIGIN, "", "policy.origin"},
        {"number 1 without a previous", "\"number\":0", "\"number\":1", "policy.previous"},
        {"number negative", "\"number\":0", "\"number\":-1", "out of range"},
        {"previous short", "\"previous\":\"00", "\"previous\":\"0", "hexadecimal"},
        {"holder twice", "\"name\":\"bob\"", "\"name\":\"alice\"", "there twice"},
        {"holder with a slash", "\"name\":\"bob\"", "\"name\":\"../bob\"", "policy.holders[1].name"},
        {"unknown purpose", "\"purpose\":\"author\"", "\"purpose\":\"king\"", "purpose"},
        {"a key with two purposes", second, first, "named twice"},
        {"a small-order key", first, small, "not a usable"},
        {"upper-case key", "\"public\":\"", "\"public\":\"A", "hexadecimal"},
        {"unknown field of a key", "{\"purpose\"", "{\"scheme\":\"rsa\",\"purpose\"", "unknown field"},
        {"role missing", "\"revoke\":" ROLE("1") ",", "", "missing field"},
        {"role unknown", "\"revoke\":" ROLE("1"), "\"revoke\":" ROLE("1") ",\"king\":" ROLE("1"),
         "unknown field"},
        {"threshold above the holders", "\"revoke\":" ROLE("1"), "\"revoke\":" ROLE("4"), "never be met"},
        {"threshold of nobody", "\"revoke\":" ROLE("1"), "\"revoke\":" ROLE("0"), "never be met"},
        {"no policy role", "\"policy\":" ROLE("2"), "\"policy\":{\"threshold\":0,\"holders\":[]}",
         "unchangeable"},
        {"two log signatures", "\"log\":" ROLE("1"), "\"log\":" ROLE("2"), "roles.log"},
        {"a stranger in a role", "\"revoke\":{\"threshold\":1,\"holders\":[\"alice\"",
         "\"revoke\":{\"threshold\":1,\"holders\":[\"mallory\"", "not a holder"},
        {"a holder twice in a role", "\"revoke\":{\"threshold\":1,\"holders\":[\"alice\"",
         "\"revoke\":{\"threshold\":1,\"holders\":[\"bob\"", "there twice"},
        {"a holder without the key", "{\"purpose\":\"revoke\"", "{\"purpose\":\"engine\"",
         "no key with the purpose"},
        {"a type missing in a role", "\"core\":" ROLE("2") ",\"user\"", "\"user\"", "missing field"},
        {"unknown type", "\"types\":[\"core\"", "\"types\":[\"root\"", "policy.anchors.types"},
        {"type twice", "\"types\":[\"core\"", "\"types\":[\"user\"", "there twice"},
        {"required is no id", "\"required\":[]", "\"required\":[\"abc\"]", "required[0]"},
        {"readers empty", "\"readers\":[\"*\"]", "\"readers\":[]", "readers"},
        {"no anchors at all", "\"max_anchors\":3", "\"max_anchors\":0", "max_anchors"},
        {"gamma above one", "\"max_gamma_65536\":32768", "\"max_gamma_65536\":65537", "max_gamma_65536"},
        {"freshness real", "\"freshness_seconds\":0", "\"freshness_seconds\":0.5", "real number"},
        {"quorum above its keys", "\"witnesses\":{\"threshold\":0", "\"witnesses\":{\"threshold\":1",
         "more than there"},
        {"witness key garbage", "\"keys\":[]", "\"keys\":[\"w+1+x\"]", "witnesses.keys[0]"},
    };
    check(&text, table, sizeof table / sizeof table[0], parse_policy);
    ok(fp__buf_reserve(&text, FP__POLICY_MAX_BYTES));
    memset(text.data + text.size, ' ', FP__POLICY_MAX_BYTES + 1 - text.size);
    ok(parse_policy(text.data, FP__POLICY_MAX_BYTES));
    fails(parse_policy(text.data, FP__POLICY_MAX_BYTES + 1), FP_LIMIT, "24000");
    fp__buf_free(&text);
    free_keys(&l);
}

static void test_trust_corruptions(void **state)
{
    (void)state;
    static const struct corruption table[] = {
        {"another format", "trust:v1", "trust:v2", "trust.format"},
        {"unknown field", "\"origin\"", "\"x\": 1, \"origin\"", "unknown field"},
        {"missing field", "\"origin\": \"" LAB_ORIGIN "\",", "", "missing field"},
        {"another origin than the key's", "\"origin\": \"lab", "\"origin\": \"lob", "under the name"},
        {"log key garbage", "\"log_key\": \"lab", "\"log_key\": \"", "log_key"},
        {"policy digest short", "\"first_policy\": \"5a", "\"first_policy\": \"", "hexadecimal"},
        {"quorum without keys", "\"threshold\": 0", "\"threshold\": 1", "more than there"},
    };
    fp__trust *trust = calloc(1, sizeof *trust), *back = calloc(1, sizeof *back);
    uint8_t seed[32] = {5}, public_key[32];
    fp_key *key;
    fp__buf text = {0};
    ok(fp_key_from_seed(seed, &key));
    fp_key_public(key, public_key);
    strcpy(trust->origin, LAB_ORIGIN);
    memset(trust->first_policy, 0x5a, 32);
    ok(fp__note_key_make(LAB_ORIGIN, FP__NOTE_ED25519, public_key, &trust->log_key));
    ok(fp__trust_write(trust, &text));
    check(&text, table, sizeof table / sizeof table[0], parse_trust);
    ok(fp__note_key_make("w.example", FP__NOTE_COSIGNATURE, public_key, &trust->witnesses.keys[0]));
    trust->witnesses.count = trust->witnesses.threshold = 1;
    text.size = 0;
    ok(fp__trust_write(trust, &text));
    ok(fp__trust_parse(text.data, text.size, back));
    assert_int_equal(back->witnesses.threshold, 1);
    assert_memory_equal(back->witnesses.keys[0].public_key, public_key, 32);
    assert_memory_equal(back->log_key.public_key, public_key, 32);
    assert_memory_equal(back->first_policy, trust->first_policy, 32);
    /* a cosigner's key is no log key */
    trust->log_key = trust->witnesses.keys[0];
    strcpy(trust->log_key.name, LAB_ORIGIN);
    ok(fp__note_key_make(LAB_ORIGIN, FP__NOTE_COSIGNATURE, public_key, &trust->log_key));
    text.size = 0;
    ok(fp__trust_write(trust, &text));
    fails(parse_trust(text.data, text.size), FP_FORMAT, "not an Ed25519 key");
    fp__buf_free(&text);
    fp_key_free(key);
    free(trust);
    free(back);
}

/* k distinct holders: not keys, not signatures, and only keys of the purpose. */
static void test_counting(void **state)
{
    (void)state;
    lab l;
    fp__buf text = lab_policy_text(&l);
    fp__policy *policy = malloc(sizeof *policy);
    fp__signers signers;
    fp__dsse dsse = {0};
    ok(fp__policy_parse(text.data, text.size, policy));
    const fp__policy_role *core = fp__policy_role_of(policy, FP_PURPOSE_AUTHOR, FP_LABEL_CORE);
    ok(fp__dsse_create("{}", 2, &dsse));
#define COUNT() fp__policy_count(policy, &dsse, FP_PURPOSE_AUTHOR, FP_LABEL_CORE, NULL, 0, &signers)
    COUNT();
    assert_int_equal(signers.count, 0);
    assert_false(fp__signers_suffice(&signers, core));
    lab_sign(&l, &dsse, FP_PURPOSE_AUTHOR, ALICE);
    lab_sign(&l, &dsse, FP_PURPOSE_PROMOTE, ALICE | BOB | CAROL); /* another purpose */
    COUNT();
    assert_int_equal(signers.count, 1);
    assert_true(signers.unknown);
    assert_false(fp__signers_suffice(&signers, core));
    /* the same signature again under another hint */
    dsse.signatures[dsse.signatures_count] = dsse.signatures[0];
    strcpy(dsse.signatures[dsse.signatures_count++].keyid, "somebody");
    COUNT();
    assert_int_equal(signers.count, 1);
    /* a lying hint: Bob's signature under Carol's id counts for Bob */
    uint8_t public_key[32];
    size_t at = dsse.signatures_count;
    lab_sign(&l, &dsse, FP_PURPOSE_AUTHOR, BOB);
    fp_key_public(l.keys[2][FP_PURPOSE_AUTHOR], public_key);
    fp_key_id(public_key, dsse.signatures[at].keyid);
    COUNT();
    assert_int_equal(signers.holders, ALICE | BOB);
    assert_true(fp__signers_suffice(&signers, core));
    dsse.signatures[at].sig[0] ^= 1; /* now it is nobody's, under an id of the policy */
    COUNT();
    assert_int_equal(signers.count, 1);
    assert_true(signers.bad);
    dsse.signatures[at].sig[0] ^= 1;
    /* distrust works from an index on */
    fp__distrust item = {.from_index = 5};
    char keyid[65];
    fp_key_public(l.keys[0][FP_PURPOSE_AUTHOR], public_key);
    fp_key_id(public_key, keyid);
    ok(fp__hex_decode(keyid, 64, item.keyid, 32));
    const fp__distrusts list = {.count = 1, .items = &item};
    fp__policy_count(policy, &dsse, FP_PURPOSE_AUTHOR, FP_LABEL_CORE, &list, 4, &signers);
    assert_int_equal(signers.count, 2);
    fp__policy_count(policy, &dsse, FP_PURPOSE_AUTHOR, FP_LABEL_CORE, &list, 5, &signers);
    assert_int_equal(signers.holders, BOB);
    assert_true(signers.distrusted);
    fp__dsse_free(&dsse);
    fp__buf_free(&text);
    free(policy);
    free_keys(&l);
}

static void test_new(void **state)
{
    (void)state;
    lab l;
    fp_key_row rows[2 * FP_PURPOSE_COUNT];
    fp__policy *policy = malloc(sizeof *policy);
    memset(&l, 0, sizeof l);
    lab_keys(&l);
    for (unsigned p = 0; p < 2 * FP_PURPOSE_COUNT; p++) {
        snprintf(rows[p].holder, sizeof rows[p].holder, "%s", p < FP_PURPOSE_COUNT ? "ada" : "bea");
        rows[p].purpose = (fp_purpose)(p % FP_PURPOSE_COUNT);
        fp_key_public(l.keys[p / FP_PURPOSE_COUNT][p % FP_PURPOSE_COUNT], rows[p].public_key);
    }
    for (uint32_t holders = 1; holders <= 2; holders++) {
        fp__buf text = {0};
        ok(fp__policy_new("o", rows, holders * FP_PURPOSE_COUNT, holders, NULL, 0, &text));
        ok(fp__policy_parse(text.data, text.size, policy));
        assert_int_equal(policy->keys_count, holders * FP_PURPOSE_COUNT);
        /* break-glass needs two holders */
        assert_int_equal(policy->roles[FP_PURPOSE_OVERRIDE].threshold, holders == 2 ? 2 : 0);
        assert_int_equal(policy->roles[FP_PURPOSE_LOG].threshold, 1);
        assert_int_equal(policy->promote[FP_LABEL_CORE].threshold, holders);
        assert_int_equal(policy->max_tokens, 2048);
        fp__buf_free(&text);
    }
    free(policy);
    free_keys(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_policy_corruptions),
        cmocka_unit_test(test_trust_corruptions),
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
