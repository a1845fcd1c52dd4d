/* Opening a model: what is refused and why, what the digest covers, and that every kind of model that opens
 * computes what the definition says. */
#include "scalar_model.h"

/* ---- refusals ---- */

typedef struct damage {
    const char *name;
    void (*make)(gguf_writer *w, gw_random *r, gw_model *m); /* writes what comes on top of the keys */
    const char *arch;
    fp_status status;
    const char *word;
} damage;

#define KEY_U32(function, key, value)                                                                        \
    static void function(gguf_writer *w, gw_random *r, gw_model *m)                                          \
    {                                                                                                        \
        (void)r;                                                                                             \
        (void)m;                                                                                             \
        gw_u32(w, key, value);                                                                               \
    }
#define KEY_F32(function, key, value)                                                                        \
    static void function(gguf_writer *w, gw_random *r, gw_model *m)                                          \
    {                                                                                                        \
        (void)r;                                                                                             \
        (void)m;                                                                                             \
        gw_f32(w, key, value);                                                                               \
    }
KEY_F32(attn_softcap, "llama.attn_logit_softcapping", 50.0f)
KEY_F32(final_softcap, "llama.final_logit_softcapping", 30.0f)
KEY_F32(embedding_scale, "llama.embedding_scale", 12.0f)
KEY_F32(residual_scale, "llama.residual_scale", 0.22f)
KEY_F32(logit_scale, "llama.logit_scale", 16.0f)
KEY_F32(attention_scale, "llama.attention.scale", 0.0125f)
KEY_U32(sliding_window, "llama.attention.sliding_window", 4096)
KEY_U32(experts, "llama.expert_count", 8)
KEY_F32(clamp, "llama.attention.clamp_kqv", 8.0f)
KEY_F32(alibi, "llama.attention.max_alibi_bias", 8.0f)
KEY_F32(layer_norm, "llama.attention.layer_norm_epsilon", 1e-5f)
KEY_F32(scale_linear, "llama.rope.scale_linear", 4.0f)

static void not_causal(gguf_writer *w, gw_random *r, gw_model *m)
{
    (void)r;
    (void)m;
    gw_bool(w, "llama.attention.causal", false);
}
static void yarn(gguf_writer *w, gw_random *r, gw_model *m)
{
    (void)r;
    (void)m;
    gw_string(w, "llama.rope.scaling.type", "yarn");
    gw_f32(w, "llama.rope.scaling.factor", 4.0f);
}
static void linear_out_of_range(gguf_writer *w, gw_random *r, gw_model *m)
{
    (void)r;
    (void)m;
    gw_string(w, "llama.rope.scaling.type", "linear");
    gw_f32(w, "llama.rope.scaling.factor", 0.5f);
}
static void extra_tensor(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_random_tensor(w, r, "blk.0.attn_sinks.weight", FP__GGML_F32, m->H, 0, 1);
}
static void extra_global(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_random_tensor(w, r, "position_embd.weight", FP__GGML_F32, m->C, 4, 1);
}
static void extra_layer(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_random_tensor(w, r, "blk.7.attn_norm.weight", FP__GGML_F32, m->C, 0, 1);
}
static void norms_of_qwen3(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_norm_tensor(w, r, "blk.0.attn_q_norm.weight", m->C / m->H);
}
static void factors_of_other_size(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_norm_tensor(w, r, "rope_freqs.weight", m->C / m->H);
}
static void factors_negative(gguf_writer *w, gw_random *r, gw_model *m)
{
    gw_random_tensor(w, r, "rope_freqs.weight", FP__GGML_F32, m->C / m->H / 2, 0, 1);
}

static const damage additions[] = {
    {"attention soft cap", attn_softcap, "llama", FP_UNSUPPORTED, "attn_logit_softcapping"},
    {"final soft cap", final_softcap, "llama", FP_UNSUPPORTED, "final_logit_softcapping"},
    {"embedding scale", embedding_scale, "llama", FP_UNSUPPORTED, "embedding_scale"},
    {"residual scale", residual_scale, "llama", FP_UNSUPPORTED, "residual_scale"},
    {"logit scale", logit_scale, "llama", FP_UNSUPPORTED, "logit_scale"},
    {"attention scale", attention_scale, "llama", FP_UNSUPPORTED, "attention.scale"},
    {"sliding window", sliding_window, "llama", FP_UNSUPPORTED, "sliding_window"},
    {"mixture of experts", experts, "llama", FP_UNSUPPORTED, "expert_count"},
    {"clamped q, k, v", clamp, "llama", FP_UNSUPPORTED, "clamp_kqv"},
    {"alibi", alibi, "llama", FP_UNSUPPORTED, "max_alibi_bias"},
    {"layer norm", layer_norm, "llama", FP_UNSUPPORTED, "layer_norm_epsilon"},
    {"scale of old files", scale_linear, "llama", FP_UNSUPPORTED, "scale_linear"},
    {"not causal", not_causal, "llama", FP_UNSUPPORTED, "attention.causal"},
    {"yarn", yarn, "llama", FP_UNSUPPORTED, "yarn"},
    {"linear scaling below 1", linear_out_of_range, "llama", FP_FORMAT, "scaling.factor"},
    {"unknown tensor of a layer", extra_tensor, "llama", FP_UNSUPPORTED, "attn_sinks"},
    {"unknown tensor", extra_global, "llama", FP_UNSUPPORTED, "position_embd"},
    {"a layer too many", extra_layer, "llama", FP_UNSUPPORTED, "blk.7"},
    {"query norm in a llama", norms_of_qwen3, "llama", FP_UNSUPPORTED, "not part of the llama graph"},
    {"rotary factors of another size", factors_of_other_size, "llama", FP_FORMAT, "rope_freqs"},
    {"rotary factors out of range", factors_negative, "llama", FP_UNSUPPORTED, "factor"},
};

/* As gw_build_model, with something on top. */
static void build_with(gw_model *m, void (*make)(gguf_writer *, gw_random *, gw_model *), fp__buf *out)
{
    gguf_writer w = {0};
    gw_random r = {m->seed};
    uint32_t d = m->d ? m->d : m->C / m->H;
    gw_model_keys(&w, m, d);
    uint32_t V = gw_byte_bpe(&w, m->V);
    make(&w, &r, m);
    gw_random_tensor(&w, &r, "token_embd.weight", m->embd_type, m->C, V, 1);
    gw_norm_tensor(&w, &r, "output_norm.weight", m->C);
    for (uint32_t layer = 0; layer < m->L; layer++)
        gw_model_layer(&w, &r, m, layer, d);
    gw_finish(&w, out);
}

static void refused(const char *name, const fp__buf *file, fp_status status, const char *word)
{
    fp_model *model = NULL;
    el_write(el_path("bad.gguf"), file);
    fp_model_options options = {.threads = 2};
    fp_status got = fp_model_open(el_path("bad.gguf"), &options, &model);
    if (got != status || !strstr(fp_error_detail(), word))
        fail_msg("%s: %s (%s) where %s with \"%s\" was expected", name, fp_status_name(got),
                 fp_error_detail(), fp_status_name(status), word);
    assert_null(model);
}

static void test_refuses_additions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof additions / sizeof *additions; i++) {
        fp__buf file = {0};
        gw_model m = gw_model_default();
        m.arch = additions[i].arch;
        build_with(&m, additions[i].make, &file);
        refused(additions[i].name, &file, additions[i].status, additions[i].word);
        fp__buf_free(&file);
    }
}

/* A key or tensor name replaced by one of the same length. */
static void rename_in(fp__buf *file, const char *from, const char *to)
{
    assert_int_equal(strlen(from), strlen(to));
    uint8_t *at = memmem(file->data, file->size, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
}

/* The u32 or f32 value behind a key. */
static void set_value(fp__buf *file, const char *key, uint32_t bits)
{
    uint8_t *at = memmem(file->data, file->size, key, strlen(key));
    assert_non_null(at);
    fp__store_le32(at + strlen(key) + 4, bits);
}

static void test_refuses_changes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *from, *to; /* renamed; or to NULL: the value of key `from` set to `bits` */
        uint32_t bits;
        fp_status status;
        const char *word;
    } changes[] = {
        {"another architecture", "", NULL, 0, FP_UNSUPPORTED, "architecture \"lxama\""},
        {"no layers", "llama.block_count", NULL, 0, FP_FORMAT, "block_count"},
        {"too many layers", "llama.block_count", NULL, 100000, FP_FORMAT, "block_count"},
        {"a layer less", "llama.block_count", NULL, 1, FP_UNSUPPORTED, "blk.1"},
        {"a layer more", "llama.block_count", NULL, 3, FP_NOT_FOUND, "blk.2.attn_norm.weight"},
        {"no block count", "llama.block_count", "llama.block_cound", 0, FP_NOT_FOUND, "block_count"},
        {"huge width", "llama.embedding_length", NULL, 0x7fffffff, FP_FORMAT, "embedding_length"},
        {"another width", "llama.embedding_length", NULL, 96, FP_FORMAT, "token_embd.weight"},
        {"another ffn width", "llama.feed_forward_length", NULL, 96, FP_FORMAT, "ffn_gate.weight"},
        {"heads that do not divide", "llama.attention.head_count_kv", NULL, 3, FP_UNSUPPORTED, "3 KV heads"},
        {"more KV heads than heads", "llama.attention.head_count_kv", NULL, 8, FP_FORMAT, "head_count_kv"},
        {"another number of heads", "llama.attention.head_count_kv", NULL, 4, FP_FORMAT, "attn_k.weight"},
        {"odd head size", "llama.attention.key_length", NULL, 15, FP_UNSUPPORTED, "head size"},
        {"head size too large", "llama.attention.key_length", NULL, 1024, FP_FORMAT, "key_length"},
        {"value heads of another size", "llama.attention.value_length", NULL, 32, FP_UNSUPPORTED, "16/32"},
        {"odd rotary dimensions", "llama.rope.dimension_count", NULL, 3, FP_FORMAT, "rotary"},
        {"rotary dimensions too many", "llama.rope.dimension_count", NULL, 64, FP_FORMAT, "dimension_count"},
        {"rotary base 0", "llama.rope.freq_base", NULL, 0, FP_FORMAT, "rotary base"},
        {"rotary base NaN", "llama.rope.freq_base", NULL, 0x7fc00000, FP_FORMAT, "rotary base"},
        {"epsilon 0", "llama.attention.layer_norm_rms_epsilon", NULL, 0, FP_FORMAT, "epsilon"},
        {"epsilon NaN", "llama.attention.layer_norm_rms_epsilon", NULL, 0x7fc00000, FP_FORMAT, "epsilon"},
        {"no epsilon", "llama.attention.layer_norm_rms_epsilon", "llama.attention.layer_norm_rms_epsilom", 0,
         FP_NOT_FOUND, "epsilon"},
        {"context 0", "llama.context_length", NULL, 0, FP_FORMAT, "context_length"},
        {"no embedding", "token_embd.weight", "token_embx.weight", 0, FP_NOT_FOUND, "token_embd.weight"},
        {"no output norm", "output_norm.weight", "output_norx.weight", 0, FP_NOT_FOUND, "output_norm.weight"},
        {"no query matrix", "blk.1.attn_q.weight", "blk.1.attn_x.weight", 0, FP_NOT_FOUND,
         "blk.1.attn_q.weight"},
        {"no down matrix", "blk.0.ffn_down.weight", "blk.0.ffn_dowx.weight", 0, FP_NOT_FOUND,
         "blk.0.ffn_down.weight"},
        {"no vocabulary", "tokenizer.ggml.tokens", "tokenizer.ggml.tokenx", 0, FP_NOT_FOUND, "token"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        fp__buf file = {0};
        gw_model m = gw_model_default();
        gw_build_model(&m, &file);
        if (i == 0) { /* the length in front has NULs: by hand */
            uint8_t *at = memmem(file.data, file.size, "\5\0\0\0\0\0\0\0llama", 13);
            assert_non_null(at);
            at[9] = 'x';
        } else if (changes[i].to) {
            rename_in(&file, changes[i].from, changes[i].to);
        } else {
            set_value(&file, changes[i].from, changes[i].bits);
        }
        refused(changes[i].name, &file, changes[i].status, changes[i].word);
        fp__buf_free(&file);
    }
}

/* Bytes of a tensor inside the file. */
static uint8_t *tensor_bytes(fp__buf *file, const char *name, const fp__gguf_tensor **tensor)
{
    static fp__gguf *g;
    const uint8_t *data;
    size_t size;
    fp__gguf_close(g);
    g = NULL;
    if (!file)
        return NULL;
    el_write(el_path("look.gguf"), file);
    ok(fp__gguf_open(el_path("look.gguf"), &g));
    fp__gguf_bytes(g, &data, &size);
    ok(fp__gguf_tensor_get(g, name, tensor));
    return file->data + ((*tensor)->data - data);
}

static void test_refuses_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *name, *tensor;
        uint32_t type, bits;
        bool half;
        const char *word;
    } numbers[] = {
        {"norm Inf", "blk.0.attn_norm.weight", FP__GGML_Q8_0, 0x7f800000, false, "not finite"},
        {"norm NaN", "output_norm.weight", FP__GGML_Q8_0, 0x7fc00000, false, "not finite"},
        {"Q8_0 scale Inf", "blk.1.ffn_up.weight", FP__GGML_Q8_0, 0x7c00, true, "blk.1.ffn_up.weight"},
        {"Q4_0 scale NaN", "blk.1.ffn_up.weight", FP__GGML_Q4_0, 0x7e00, true, "blk.1.ffn_up.weight"},
        {"Q4_1 scale Inf", "blk.0.attn_v.weight", FP__GGML_Q4_1, 0xfc00, true, "blk.0.attn_v.weight"},
        {"Q5_0 scale Inf", "blk.0.attn_v.weight", FP__GGML_Q5_0, 0x7c00, true, "blk.0.attn_v.weight"},
        {"Q5_1 scale Inf", "blk.0.attn_v.weight", FP__GGML_Q5_1, 0x7c00, true, "blk.0.attn_v.weight"},
        {"F16 Inf", "blk.0.attn_v.weight", FP__GGML_F16, 0x7c00, true, "blk.0.attn_v.weight"},
        {"BF16 NaN", "blk.0.attn_v.weight", FP__GGML_BF16, 0x7fc0, true, "blk.0.attn_v.weight"},
        {"F32 NaN", "blk.0.attn_v.weight", FP__GGML_F32, 0x7fc00000, false, "blk.0.attn_v.weight"},
        {"F32 over 2^48", "blk.0.attn_v.weight", FP__GGML_F32, 0x57800000, false, "blk.0.attn_v.weight"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        fp__buf file = {0};
        gw_model m = gw_model_default();
        const fp__gguf_tensor *t;
        m.type = numbers[i].type;
        gw_build_model(&m, &file);
        uint8_t *bytes = tensor_bytes(&file, numbers[i].tensor, &t);
        if (numbers[i].half)
            fp__store_le16(bytes, (uint16_t)numbers[i].bits);
        else
            fp__store_le32(bytes, numbers[i].bits);
        refused(numbers[i].name, &file, FP_FORMAT, numbers[i].word);
        fp__buf_free(&file);
    }
    (void)tensor_bytes(NULL, NULL, NULL);
}

static void test_refuses_qwen_without(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *from, *to;
    } missing[] = {{"qwen2", "blk.0.attn_q.bias", "blk.0.attn_q.bixx"},
                   {"qwen2", "blk.1.attn_v.bias", "blk.1.attn_v.bixx"},
                   {"qwen3", "blk.0.attn_q_norm.weight", "blk.0.attn_q_norx.weight"},
                   {"qwen3", "blk.1.attn_k_norm.weight", "blk.1.attn_k_norx.weight"}};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        fp__buf file = {0};
        gw_model m = gw_model_default();
        m.arch = missing[i].arch;
        gw_build_model(&m, &file);
        rename_in(&file, missing[i].from, missing[i].to);
        refused(missing[i].from, &file, FP_NOT_FOUND, missing[i].from);
        fp__buf_free(&file);
    }
}

static void test_refuses_paths(void **state)
{
    (void)state;
    fp_model *model;
    fails(fp_model_open(el_path("none.gguf"), NULL, &model), FP_NOT_FOUND, "none.gguf");
    fp__buf file = {0};
    gw_model m = gw_model_default();
    gw_build_model(&m, &file);
    for (size_t cut = 0; cut < file.size; cut += 1 + file.size / 37) {
        fp__buf part = {file.data, cut, 0};
        el_write(el_path("cut.gguf"), &part);
        fails(fp_model_open(el_path("cut.gguf"), NULL, &model), FP_FORMAT, "cut.gguf");
    }
    fp__buf_free(&file);
    gw_write_model(&m, el_path("model.gguf"));
    fp_model_options options = {.chat_template = "nonsense"};
    fails(fp_model_open(el_path("model.gguf"), &options, &model), FP_UNSUPPORTED, "nonsense");
}

/* ---- digest and metadata ---- */

static void digest_of(const fp__buf *file, const char *template, uint8_t out[32])
{
    fp_model *model;
    fp_model_options options = {.threads = 2, .chat_template = template};
    el_write(el_path("digest.gguf"), file);
    ok(fp_model_open(el_path("digest.gguf"), &options, &model));
    ok(fp_model_digest(model, out));
    fp_model_close(model);
}

static void test_digest(void **state)
{
    (void)state;
    fp__buf file = {0};
    uint8_t first[32], again[32];
    gw_model m = gw_model_default();
    const fp__gguf_tensor *t;
    gw_build_model(&m, &file);
    digest_of(&file, NULL, first);
    digest_of(&file, NULL, again);
    assert_memory_equal(first, again, 32);
    digest_of(&file, "chatml", again); /* the template that the file has: nothing differs */
    assert_memory_equal(first, again, 32);
    digest_of(&file, "zephyr", again);
    assert_memory_not_equal(first, again, 32);
    /* bytes that change nothing that is computed: the name, a quant of an unused token, padding */
    static const char *const places[] = {"tiny random model", "[PAD", "are a tiny test model", "\xc4\xa0 t"};
    uint8_t seen[8][32];
    size_t n = 0;
    for (size_t i = 0; i < 4; i++) {
        uint8_t *at = memmem(file.data, file.size, places[i], strlen(places[i]));
        if (!at && i == 1)
            continue; /* no unused tokens in this vocabulary */
        assert_non_null(at);
        uint8_t *byte = at + strlen(places[i]) - 1;
        *byte ^= 2;
        digest_of(&file, NULL, seen[n++]);
        *byte ^= 2;
    }
    uint8_t *bytes = tensor_bytes(&file, "blk.1.ffn_down.weight", &t);
    bytes[2 + 34 * 7] ^= 1;
    digest_of(&file, NULL, seen[n++]);
    bytes[2 + 34 * 7] ^= 1;
    GW_CHECK(fp__buf_append(&file, "", 1)); /* a byte behind the last tensor */
    fp_model *model;
    el_write(el_path("digest.gguf"), &file);
    if (fp_model_open(el_path("digest.gguf"), NULL, &model) == FP_OK) { /* refusing it is right, too */
        ok(fp_model_digest(model, seen[n++]));
        fp_model_close(model);
    }
    for (size_t i = 0; i < n; i++) {
        assert_memory_not_equal(seen[i], first, 32);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(seen[i], seen[k], 32);
    }
    fp__buf_free(&file);
    (void)tensor_bytes(NULL, NULL, NULL);
}

static void test_metadata_only(void **state)
{
    (void)state;
    fp_model *model;
    fp_model_info info;
    fp_engine *engine;
    uint8_t digest[32];
    uint32_t *ids;
    size_t n;
    gw_model m = gw_model_default();
    gw_write_model(&m, el_path("model.gguf"));
    fp_model_options options = {.metadata_only = 1};
    ok(fp_model_open(el_path("model.gguf"), &options, &model));
    fp_model_info_get(model, &info);
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.name, "tiny random model");
    assert_string_equal(info.chat_template, "chatml");
    assert_string_equal(info.pretokenizer, "smollm");
    assert_int_equal(info.layers, 2);
    assert_int_equal(info.width, 64);
    assert_int_equal(info.heads, 4);
    assert_int_equal(info.kv_heads, 2);
    assert_int_equal(info.head_dim, 16);
    assert_int_equal(info.rope_dims, 16);
    assert_int_equal(info.packed_bytes, 0);
    assert_int_equal(info.kv_page_bytes, 2 * 2 * (128 * 16 + 256));
    assert_non_null(strstr(fp_model_types(model), "Q8_0 15"));
    fails(fp_model_digest(model, digest), FP_USAGE, "metadata_only");
    fails(fp_engine_create(model, NULL, &engine), FP_USAGE, "weights");
    ok(fp_model_tokenize(model, "the end<|im_end|>", 17, 0, &ids, &n));
    for (size_t i = 0; i < n; i++)
        assert_true(ids[i] != GW_ID_IM_END);
    char *text;
    size_t size;
    ok(fp_model_detokenize(model, ids, n, 0, &text, &size));
    assert_string_equal(text, "the end<|im_end|>");
    free(text);
    free(ids);
    fails(fp_model_tokenize(model, "\xff", 1, 0, &ids, &n), FP_TEXT, "0");
    fp_model_close(model);
}

/* ---- the same numbers as the definition ---- */

/* A long context with a set of two anchors in front, or none: the logits of every row are those of the scalar
 * model. */
static void compare(const char *name, const gw_model *shape, bool anchors, size_t threads, size_t chunk,
                    size_t context)
{
    enum { ANCHOR = 70, ANCHOR2 = 9, CONTEXT_MOST = 1100 };
    fp_model *model = el_open(shape);
    scalar_model scalar;
    fp_engine *engine;
    fp_engine_options options = {.threads = threads, .chunk_tokens = chunk, .context_tokens = 1300};
    sm_open(&scalar, el_path("model.gguf"), shape);
    ok(fp_engine_create(model, &options, &engine));
    uint32_t ids[ANCHOR + ANCHOR2 + CONTEXT_MOST];
    size_t L_H = scalar.L * scalar.H, n = anchors ? ANCHOR + ANCHOR2 : 0;
    uint32_t *gamma = calloc(L_H, sizeof *gamma);
    uint64_t *mass = calloc(2 * L_H, sizeof *mass);
    float *expected = malloc(scalar.V * sizeof *expected);
    gw_random r = {shape->seed + 99};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        ids[i] = (uint32_t)(gw_next(&r) % scalar.V);
    for (size_t i = 0; i < L_H; i++)
        gamma[i] = (uint32_t)(i * 4099 % 65537);
    fp_anchors set = {.engine = engine, .g = gamma};
    set.gate.injection.mode = FP_INJECT_FLOOR;
    fp__kvseq_options o = {
        .segment = FP__SEGMENT_CONTEXT, .first_pos = n, .max_tokens = context, .label = FP_LABEL_CORE};
    uint8_t head[32];
    if (anchors) {
        size_t counts[2] = {ANCHOR, ANCHOR2};
        fp_label labels[2] = {FP_LABEL_CORE, FP_LABEL_USER};
        fp__ids tokens = {ids, n, n};
        ok(fp__anchors_prefill(engine, &tokens, counts, labels, 2, &set.seq));
        ok(fp__kvseq_head(set.seq, head));
        o.anchor_kv_head = head;
        scalar.mode = FP__FLOOR;
        scalar.gamma = gamma;
        scalar.mass = mass;
        for (size_t i = 0; i < n; i++)
            sm_token(&scalar, true, i == ANCHOR, ids[i], NULL);
    }
    fp__kvseq *seq;
    ok(fp__kvseq_create(engine->pool, engine->hasher, &o, &seq));
    for (size_t at = 0; at < context;) {
        size_t step = context - at < engine->chunk_tokens ? context - at : engine->chunk_tokens,
               rows[CONTEXT_MOST];
        fp__feed feed = {seq, anchors ? &set : NULL, ids + n + at, step, FP_LABEL_USER, mass + L_H, NULL};
        ok(fp__engine_feed(engine, &feed, 1));
        for (size_t i = 0; i < step; i++)
            rows[i] = i;
        for (size_t first = 0; first < step; first += FP__LOGIT_ROWS) {
            size_t k = step - first < FP__LOGIT_ROWS ? step - first : FP__LOGIT_ROWS;
            const float *logits;
            ok(fp__forward_logits(engine->forward, rows + first, k, &logits));
            for (size_t i = 0; i < k; i++) {
                sm_token(&scalar, false, false, ids[n + at + first + i], expected);
                if (memcmp(expected, logits + i * scalar.V, scalar.V * sizeof *expected) != 0)
                    fail_msg("%s: logits of context token %zu are not those of the definition", name,
                             at + first + i);
            }
        }
        at += step;
    }
    if (anchors)
        assert_memory_equal(mass, mass + L_H, L_H * sizeof *mass);
    for (size_t p = 0; p < scalar.context.pages; p++) /* and so is the K/V */
        assert_memory_equal(fp__kvseq_groups(seq)[p], sm_slab(&scalar, &scalar.context, p, 0, 0),
                            fp__page_group_bytes(fp__kvseq_geometry(seq)));
    fp__kvseq_destroy(seq);
    fp__kvseq_destroy(set.seq);
    fp_engine_destroy(engine);
    sm_close(&scalar);
    fp_model_close(model);
    free(gamma);
    free(mass);
    free(expected);
}

static void test_equals_definition(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "qwen3"};
    for (size_t i = 0; i < 3; i++) {
        gw_model m = el_model_like(archs[i], 40 + i);
        compare(archs[i], &m, false, 1 + i % 2, 512, 75);
        compare(archs[i], &m, true, 2, 17, 75);
    }
}

/* Over the ends of pages, spans (256 tokens) and chunks (1,024). */
static void test_long(void **state)
{
    (void)state;
    gw_model m = gw_model_default();
    m.d = 32;
    m.H = 2;
    m.HK = 1;
    compare("long", &m, true, 2, 300, EL_SANITIZED ? 300 : 1100);
}

static void test_types(void **state)
{
    (void)state;
    static const uint32_t types[] = {FP__GGML_F32,  FP__GGML_F16,  FP__GGML_BF16, FP__GGML_Q4_0,
                                     FP__GGML_Q4_1, FP__GGML_Q5_0, FP__GGML_Q5_1, FP__GGML_Q8_0,
                                     FP__GGML_Q4_K, FP__GGML_Q5_K, FP__GGML_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i += EL_SANITIZED ? 2 : 1) {
        gw_model m = gw_model_default();
        m.L = 1;
        m.C = m.F = 256;
        m.H = 8;
        m.HK = 4;
        m.type = m.embd_type = types[i];
        m.tied = i % 2;
        m.seed = 7 + i;
        compare(fp__gguf_type_name(types[i]), &m, i % 3 == 0, 2, 40, 70);
    }
}

static void test_heads(void **state)
{
    (void)state;
    static const struct {
        uint32_t d, H, HK;
    } shapes[] = {{32, 1, 1}, {32, 4, 1},  {64, 3, 1},  {64, 2, 1}, {96, 2, 2},
                  {96, 3, 1}, {128, 4, 1}, {128, 2, 1}, {80, 2, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        gw_model m = el_model_like(i % 2 ? "qwen3" : "llama", 70 + i);
        char name[48];
        m.L = 1;
        m.d = shapes[i].d;
        m.H = shapes[i].H;
        m.HK = shapes[i].HK;
        m.F = 96;
        m.tied = i % 3 == 0;
        m.rope_factors = i % 4 == 0;
        snprintf(name, sizeof name, "d %u, %u heads, %u KV heads", m.d, m.H, m.HK);
        compare(name, &m, i % 2, 2, 50, 70);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_additions),
        cmocka_unit_test(test_refuses_changes),
        cmocka_unit_test(test_refuses_numbers),
        cmocka_unit_test(test_refuses_qwen_without),
        cmocka_unit_test(test_refuses_paths),
        cmocka_unit_test(test_digest),
        cmocka_unit_test(test_metadata_only),
        cmocka_unit_test(test_equals_definition),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, el_set_up, el_tear_down);
}
