/* Opening a model: hyperparameters and tensors are checked, matrices packed and the file hashed by all
 * threads at once. */
#include "model/model.h"
#include "cache/leaf.h"
#include "merkle/sha256.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LAYERS = 1024, MAX_DIM = 1 << 20, PACK_GROUPS = 64 };

/* ---- hyperparameters
 * ------------------------------------------------------------------------------------------ */

static const char *arch_key(const fp_model *m, const char *suffix, char *key, size_t size)
{
    snprintf(key, size, "%s.%s", m->architecture, suffix);
    return key;
}

/* Required when `fallback` is NULL. */
static fp_status get_size(const fp_model *m, const char *suffix, const size_t *fallback, size_t max,
                          size_t *out)
{
    char key[128];
    uint64_t v;
    fp_status status = fp__gguf_get_u64(m->gguf, arch_key(m, suffix, key, sizeof key), &v);
    if (status == FP_NOT_FOUND && fallback) {
        *out = *fallback;
        return FP_OK;
    }
    FP_TRY(status);
    if (v == 0 || v > max)
        return fp__fail(FP_FORMAT, "model: %s = %llu is out of range (1..%zu)", key, (unsigned long long)v,
                        max);
    *out = (size_t)v;
    return FP_OK;
}

/* Features whose arithmetic is not defined: refused by name rather than computed approximately (arithmetic
 * §7). */
static fp_status refuse_undefined(const fp_model *m)
{
    static const char *const features[] = {"attn_logit_softcapping",
                                           "final_logit_softcapping",
                                           "embedding_scale",
                                           "residual_scale",
                                           "logit_scale",
                                           "attention.scale",
                                           "attention.sliding_window",
                                           "expert_count",
                                           "attention.clamp_kqv",
                                           "attention.max_alibi_bias",
                                           "attention.layer_norm_epsilon",
                                           "rope.scale_linear"};
    char key[128];
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        arch_key(m, features[i], key, sizeof key);
        uint64_t integer = 1;
        float number = 1.0f;
        if (!fp__gguf_has_key(m->gguf, key))
            continue;
        if (fp__gguf_get_u64(m->gguf, key, &integer) == FP_OK && integer == 0)
            continue;
        if (fp__gguf_get_f32(m->gguf, key, &number) == FP_OK && number == 0.0f)
            continue;
        return fp__fail(
            FP_UNSUPPORTED,
            "model: %s is set, and this feature has no canonical arithmetic yet; use another model", key);
    }
    return FP_OK;
}

static fp_status refuse_not_causal(const fp_model *m)
{
    char key[128];
    bool causal = true;
    fp_status status = fp__gguf_get_bool(m->gguf, arch_key(m, "attention.causal", key, sizeof key), &causal);
    if (status != FP_OK && status != FP_NOT_FOUND)
        return status;
    return causal ? FP_OK : fp__fail(FP_UNSUPPORTED, "model: %s is false; use a causal model", key);
}

static fp_status read_rope(fp_model *m, float *linear_factor)
{
    fp__hparams *hp = &m->hp;
    char key[128];
    hp->rope_layout = strcmp(m->architecture, "llama") == 0 ? FP__ROPE_PAIRS : FP__ROPE_HALVES;
    FP_TRY(get_size(m, "rope.dimension_count", &hp->head_dim, hp->head_dim, &hp->n_rot));
    hp->rope_base = 10000.0f;
    fp_status status =
        fp__gguf_get_f32(m->gguf, arch_key(m, "rope.freq_base", key, sizeof key), &hp->rope_base);
    if (status != FP_OK && status != FP_NOT_FOUND)
        return status;
    if (!(hp->rope_base > 1.0f && hp->rope_base < 0x1p60f) || hp->n_rot % 2)
        return fp__fail(FP_FORMAT, "model: rotary base %g or dimension count %zu is out of range",
                        (double)hp->rope_base, hp->n_rot);
    *linear_factor = 1.0f;
    fp__gguf_string type = {"none", 4};
    status = fp__gguf_get_string(m->gguf, arch_key(m, "rope.scaling.type", key, sizeof key), &type);
    if (status != FP_OK && status != FP_NOT_FOUND)
        return status;
    if (type.size == 6 && memcmp(type.data, "linear", 6) == 0) {
        FP_TRY(fp__gguf_get_f32(m->gguf, arch_key(m, "rope.scaling.factor", key, sizeof key), linear_factor));
        if (!(*linear_factor >= 1.0f && *linear_factor < 0x1p20f))
            return fp__fail(FP_FORMAT, "model: %s is out of range", key);
    } else if (!(type.size == 4 && memcmp(type.data, "none", 4) == 0)) {
        return fp__fail(FP_UNSUPPORTED,
                        "model: rope scaling \"%.*s\" has no canonical arithmetic yet; use another model",
                        (int)(type.size < 32 ? type.size : 32), type.data);
    }
    return FP_OK;
}

static fp_status read_hparams(fp_model *m, float *linear_factor)
{
    fp__hparams *hp = &m->hp;
    fp__gguf_string arch;
    FP_TRY(fp__gguf_get_string(m->gguf, "general.architecture", &arch));
    static const char *const known[] = {"llama", "qwen2", "qwen3"};
    bool found = false;
    for (size_t i = 0; i < 3; i++)
        if (arch.size == strlen(known[i]) && memcmp(arch.data, known[i], arch.size) == 0)
            found = true;
    if (!found)
        return fp__fail(FP_UNSUPPORTED,
                        "model: architecture \"%.*s\" is not supported (llama, qwen2, qwen3 are)",
                        (int)(arch.size < 64 ? arch.size : 64), arch.data);
    memcpy(m->architecture, arch.data, arch.size);
    FP_TRY(refuse_undefined(m));
    FP_TRY(refuse_not_causal(m));
    FP_TRY(get_size(m, "block_count", NULL, MAX_LAYERS, &hp->layers));
    FP_TRY(get_size(m, "embedding_length", NULL, MAX_DIM, &hp->width));
    FP_TRY(get_size(m, "feed_forward_length", NULL, MAX_DIM, &hp->ffn_width));
    FP_TRY(get_size(m, "attention.head_count", NULL, 4096, &hp->heads));
    FP_TRY(get_size(m, "attention.head_count_kv", &hp->heads, hp->heads, &hp->kv_heads));
    FP_TRY(get_size(m, "context_length", NULL, (size_t)1 << 30, &hp->context));
    size_t head_dim = hp->width / hp->heads;
    FP_TRY(get_size(m, "attention.key_length", &head_dim, FP__HEAD_DIM_MAX, &hp->head_dim));
    size_t value_length;
    FP_TRY(get_size(m, "attention.value_length", &hp->head_dim, FP__HEAD_DIM_MAX, &value_length));
    if (hp->heads % hp->kv_heads || hp->head_dim > FP__HEAD_DIM_MAX || value_length != hp->head_dim ||
        hp->head_dim % 2 || hp->head_dim == 0)
        return fp__fail(FP_UNSUPPORTED, "model: %zu heads, %zu KV heads, head size %zu/%zu is not supported",
                        hp->heads, hp->kv_heads, hp->head_dim, value_length);
    char key[128];
    FP_TRY(fp__gguf_get_f32(m->gguf, arch_key(m, "attention.layer_norm_rms_epsilon", key, sizeof key),
                            &hp->norm_epsilon));
    if (!(hp->norm_epsilon > 0.0f && hp->norm_epsilon < 1.0f))
        return fp__fail(FP_FORMAT, "model: %s = %g, but it must be in (0, 1)", key, (double)hp->norm_epsilon);
    return read_rope(m, linear_factor);
}

/* ---- tensors
 * -------------------------------------------------------------------------------------------------- */

/* What opening collects before it packs: each matrix with its stored bytes, and which tensors of the file
 * were used. */
typedef struct loader {
    fp_model *m;
    size_t packed_bytes;
    struct matrix {
        fp__weight *weight;
        const fp__gguf_tensor *tensor;
        size_t offset;
    } * matrices;
    size_t n_matrices, used_tensors;
    /* packing */
    size_t *item_matrix, *item_group; /* [n_items] */
    size_t n_items;
    atomic_size_t next, done;
    atomic_int failed;
    char detail[512];
    const fp_model_options *options;
} loader;

static fp_status load_vector(loader *ld, const char *name, size_t n, bool required, const float **out)
{
    const fp__gguf_tensor *t;
    if (!required && !fp__gguf_tensor_find(ld->m->gguf, name))
        return FP_OK;
    FP_TRY(fp__gguf_tensor_get(ld->m->gguf, name, &t));
    if (t->dims[0] != n || t->dims[1] != 1 || t->dims[2] != 1 || t->dims[3] != 1)
        return fp__fail(FP_FORMAT, "model: tensor %s should have %zu elements", name, n);
    float *v = fp__arena_alloc(ld->m->arena, n * sizeof *v, 64);
    if (!v)
        return FP_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        if (t->type == FP__GGML_F32)
            v[i] = fp__bits_float(fp__load_le32(t->data + 4 * i));
        else if (t->type == FP__GGML_F16)
            v[i] = fp__f16_float(fp__load_le16(t->data + 2 * i));
        else if (t->type == FP__GGML_BF16)
            v[i] = fp__bf16_float(fp__load_le16(t->data + 2 * i));
        else
            return fp__fail(FP_UNSUPPORTED,
                            "model: vector %s is stored as %s (F32, F16 and BF16 are supported)", name,
                            fp__gguf_type_name(t->type));
        if (!isfinite(v[i]))
            return fp__fail(FP_FORMAT, "model: tensor %s holds a number that is not finite (element %zu)",
                            name, i);
    }
    *out = v;
    ld->used_tensors++;
    return FP_OK;
}

static fp_status load_matrix(loader *ld, const char *name, size_t rows, size_t cols, fp__weight *w)
{
    const fp__gguf_tensor *t;
    FP_TRY(fp__gguf_tensor_get(ld->m->gguf, name, &t));
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return fp__fail(FP_FORMAT, "model: tensor %s is %llu × %llu, but the metadata ask for %zu × %zu",
                        name, (unsigned long long)t->dims[1], (unsigned long long)t->dims[0], rows, cols);
    size_t bytes;
    fp_status status = fp__weight_plan((int)t->type, rows, cols, w, &bytes);
    if (status != FP_OK)
        return fp__fail_context(status, "tensor %s", name);
    ld->matrices[ld->n_matrices++] = (struct matrix){w, t, ld->packed_bytes};
    ld->packed_bytes += (bytes + 127) & ~(size_t)127;
    ld->used_tensors++;
    return FP_OK;
}

static fp_status load_layer(loader *ld, size_t i)
{
    const fp__hparams *hp = &ld->m->hp;
    fp__layer *l = &ld->m->layers[i];
    size_t C = hp->width, F = hp->ffn_width, Q = hp->heads * hp->head_dim, K = hp->kv_heads * hp->head_dim;
    bool qwen3 = strcmp(ld->m->architecture, "qwen3") == 0, qwen2 = strcmp(ld->m->architecture, "qwen2") == 0;
    char name[64];
#define NAME(suffix) (snprintf(name, sizeof name, "blk.%zu." suffix, i), name)
    FP_TRY(load_vector(ld, NAME("attn_norm.weight"), C, true, &l->attn_norm));
    FP_TRY(load_vector(ld, NAME("ffn_norm.weight"), C, true, &l->ffn_norm));
    if (qwen3) {
        FP_TRY(load_vector(ld, NAME("attn_q_norm.weight"), hp->head_dim, true, &l->q_norm));
        FP_TRY(load_vector(ld, NAME("attn_k_norm.weight"), hp->head_dim, true, &l->k_norm));
    }
    FP_TRY(load_vector(ld, NAME("attn_q.bias"), Q, qwen2, &l->q_bias));
    FP_TRY(load_vector(ld, NAME("attn_k.bias"), K, qwen2, &l->k_bias));
    FP_TRY(load_vector(ld, NAME("attn_v.bias"), K, qwen2, &l->v_bias));
    FP_TRY(load_matrix(ld, NAME("attn_q.weight"), Q, C, &l->wq));
    FP_TRY(load_matrix(ld, NAME("attn_k.weight"), K, C, &l->wk));
    FP_TRY(load_matrix(ld, NAME("attn_v.weight"), K, C, &l->wv));
    FP_TRY(load_matrix(ld, NAME("attn_output.weight"), C, Q, &l->wo));
    FP_TRY(load_matrix(ld, NAME("ffn_gate.weight"), F, C, &l->gate));
    FP_TRY(load_matrix(ld, NAME("ffn_up.weight"), F, C, &l->up));
    FP_TRY(load_matrix(ld, NAME("ffn_down.weight"), C, F, &l->down));
#undef NAME
    return FP_OK;
}

/* A tensor that nothing used means a graph that is not the one computed here: refused, by name. */
static fp_status refuse_unused(const loader *ld)
{
    size_t count = fp__gguf_tensor_count(ld->m->gguf);
    if (count == ld->used_tensors)
        return FP_OK;
    static const char *const known[] = {
        "attn_norm.weight",   "ffn_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight", "attn_q.bias",
        "attn_k.bias",        "attn_v.bias",     "attn_q.weight",      "attn_k.weight",      "attn_v.weight",
        "attn_output.weight", "ffn_gate.weight", "ffn_up.weight",      "ffn_down.weight"};
    for (size_t i = 0; i < count; i++) {
        fp__gguf_string n = fp__gguf_tensor_at(ld->m->gguf, i)->name;
        bool is_known = false;
        if (n.size > 4 && memcmp(n.data, "blk.", 4) == 0) {
            const char *dot = memchr(n.data + 4, '.', n.size - 4);
            size_t rest = dot ? (size_t)(n.data + n.size - dot - 1) : 0;
            unsigned long layer = strtoul(n.data + 4, NULL, 10);
            for (size_t k = 0; dot && layer < ld->m->hp.layers && k < sizeof known / sizeof *known; k++)
                is_known = is_known || (rest == strlen(known[k]) && memcmp(dot + 1, known[k], rest) == 0);
        } else {
            is_known = (n.size == 17 && memcmp(n.data, "token_embd.weight", 17) == 0) ||
                       (n.size == 18 && memcmp(n.data, "output_norm.weight", 18) == 0) ||
                       (n.size == 13 && memcmp(n.data, "output.weight", 13) == 0) ||
                       (n.size == 17 && memcmp(n.data, "rope_freqs.weight", 17) == 0);
        }
        if (!is_known)
            return fp__fail(FP_UNSUPPORTED,
                            "model: tensor %.*s is not part of the %s graph that is computed here",
                            (int)(n.size < 100 ? n.size : 100), n.data, ld->m->architecture);
    }
    return fp__fail(FP_UNSUPPORTED, "model: %zu tensors are not part of the %s graph that is computed here",
                    count - ld->used_tensors, ld->m->architecture);
}

static fp_status load_tensors(loader *ld, float linear_factor)
{
    fp_model *m = ld->m;
    fp__hparams *hp = &m->hp;
    m->layers = fp__arena_alloc(m->arena, hp->layers * sizeof *m->layers, 64);
    ld->matrices = calloc(hp->layers * 7 + 2, sizeof *ld->matrices);
    if (!m->layers || !ld->matrices)
        return fp__fail(FP_NO_MEMORY, "model: no memory for %zu layers", hp->layers);
    hp->vocabulary = fp__tokenizer_size(m->tokenizer);
    FP_TRY(load_matrix(ld, "token_embd.weight", hp->vocabulary, hp->width, &m->embedding));
    FP_TRY(load_vector(ld, "output_norm.weight", hp->width, true, &m->output_norm));
    bool tied = !fp__gguf_tensor_find(m->gguf, "output.weight");
    if (!tied)
        FP_TRY(load_matrix(ld, "output.weight", hp->vocabulary, hp->width, &m->output));
    const float *factors = NULL;
    FP_TRY(load_vector(ld, "rope_freqs.weight", hp->n_rot / 2, false, &factors));
    if (linear_factor > 1.0f) {
        float *scaled = fp__arena_alloc(m->arena, hp->n_rot / 2 * sizeof *scaled, 64);
        if (!scaled)
            return FP_NO_MEMORY;
        for (size_t i = 0; i < hp->n_rot / 2; i++)
            scaled[i] = factors ? factors[i] * linear_factor : linear_factor;
        factors = scaled;
    }
    FP_TRY(fp__rope_plan_init((double)hp->rope_base, hp->n_rot, hp->rope_layout, factors, &m->rope));
    for (size_t i = 0; i < hp->layers; i++)
        FP_TRY(load_layer(ld, i));
    FP_TRY(refuse_unused(ld));
    m->packed = fp__mem_alloc(ld->packed_bytes);
    if (!m->packed)
        return fp__fail_context(FP_NO_MEMORY, "model: packed weights of %zu MiB", ld->packed_bytes >> 20);
    m->packed_bytes = ld->packed_bytes;
    for (size_t i = 0; i < ld->n_matrices; i++)
        ld->matrices[i].weight->data = m->packed + ld->matrices[i].offset;
    if (tied)
        m->output = m->embedding;
    return FP_OK;
}

/* ---- packing and hashing, by all threads
 * ---------------------------------------------------------------------- */

static void pack_fail(loader *ld, fp_status status)
{
    int expected = FP_OK;
    if (atomic_compare_exchange_strong(&ld->failed, &expected, (int)status))
        snprintf(ld->detail, sizeof ld->detail, "%s", fp_error_detail());
}

static void pack_run(void *arg, size_t thread, size_t threads)
{
    (void)threads;
    loader *ld = arg;
    size_t item;
    while ((item = atomic_fetch_add(&ld->next, 1)) <= ld->n_items && atomic_load(&ld->failed) == FP_OK) {
        if (item == 0) { /* the longest piece of work first */
            const uint8_t *data;
            size_t size;
            fp__gguf_bytes(ld->m->gguf, &data, &size);
            fp__sha256(data, size, ld->m->gguf_sha256);
            continue;
        }
        struct matrix *x = &ld->matrices[ld->item_matrix[item - 1]];
        size_t begin = ld->item_group[item - 1];
        size_t end = begin + PACK_GROUPS < x->weight->groups ? begin + PACK_GROUPS : x->weight->groups;
        fp_status status = fp__weight_pack(x->weight, x->tensor->data, begin, end);
        if (status != FP_OK)
            pack_fail(
                ld, fp__fail_context(status, "tensor %.*s", (int)x->tensor->name.size, x->tensor->name.data));
        size_t done = atomic_fetch_add(&ld->done, 1) + 1;
        if (thread == 0 && ld->options && ld->options->progress)
            ld->options->progress(ld->options->progress_context, (double)done / (double)(ld->n_items + 1));
    }
}

static fp_status pack_all(loader *ld, size_t threads)
{
    size_t items = 0;
    for (size_t i = 0; i < ld->n_matrices; i++)
        items += (ld->matrices[i].weight->groups + PACK_GROUPS - 1) / PACK_GROUPS;
    FP_CHECK(items > 0); /* each layer has matrices, and a model has a layer */
    ld->item_matrix = malloc(items * sizeof *ld->item_matrix);
    ld->item_group = malloc(items * sizeof *ld->item_group);
    if (!ld->item_matrix || !ld->item_group)
        return fp__fail(FP_NO_MEMORY, "model: no memory for the list of work");
    for (size_t i = 0; i < ld->n_matrices; i++)
        for (size_t g = 0; g < ld->matrices[i].weight->groups; g += PACK_GROUPS) {
            ld->item_matrix[ld->n_items] = i;
            ld->item_group[ld->n_items++] = g;
        }
    fp__team *team;
    FP_TRY(fp__team_create(threads, &team));
    fp__team_run(team, pack_run, ld);
    fp__team_destroy(team);
    if (atomic_load(&ld->failed) != FP_OK)
        return fp__fail((fp_status)atomic_load(&ld->failed), "%s", ld->detail);
    for (size_t i = 0; i < ld->n_matrices; i++)
        fp__gguf_release(ld->m->gguf, ld->matrices[i].tensor);
    return FP_OK;
}

/* ---- identity
 * -------------------------------------------------------------------------------------------------- */

static fp_status compute_digest(fp_model *m)
{
    fp__buf bytes = {0};
    fp__model_parts parts = {0}; /* a file without a chat template: an absent hash */
    fp_status status = fp__tokenizer_serialize(m->tokenizer, &bytes);
    if (status == FP_OK) {
        fp__sha256(bytes.data, bytes.size, parts.tokenizer);
        bytes.size = 0;
        status = m->chat ? fp__chat_template_serialize(m->chat, &bytes) : FP_OK;
    }
    if (status == FP_OK && m->chat)
        fp__sha256(bytes.data, bytes.size, parts.chat_template);
    bytes.size = 0;
    size_t rope_bytes = fp__rope_identity_bytes(&m->rope);
    if (status == FP_OK)
        status = fp__buf_reserve(&bytes, rope_bytes);
    if (status == FP_OK) {
        fp__rope_identity(&m->rope, bytes.data);
        fp__sha256(bytes.data, rope_bytes, parts.rope_table);
        memcpy(parts.gguf, m->gguf_sha256, 32);
        fp__leaf_model(&parts, m->digest);
    }
    fp__buf_free(&bytes);
    return status;
}

static void describe(fp_model *m)
{
    fp__gguf_string name;
    if (fp__gguf_get_string(m->gguf, "general.name", &name) == FP_OK &&
        fp__utf8_valid(name.data, name.size, NULL))
        snprintf(m->name, sizeof m->name, "%.*s", (int)(name.size < 100 ? name.size : 100), name.data);
    struct {
        uint32_t type;
        size_t count;
    } seen[32];
    size_t n = 0;
    for (size_t i = 0; i < fp__gguf_tensor_count(m->gguf); i++) {
        const fp__gguf_tensor *t = fp__gguf_tensor_at(m->gguf, i);
        m->parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        size_t k = 0;
        while (k < n && seen[k].type != t->type)
            k++;
        if (k == n && n < 32) {
            seen[n].type = t->type;
            seen[n++].count = 0;
        }
        if (k < 32)
            seen[k].count++;
    }
    size_t used = 0;
    for (size_t k = 0; k < n && used < sizeof m->types - 32; k++)
        used += (size_t)snprintf(m->types + used, sizeof m->types - used, "%s%s %zu", k ? ", " : "",
                                 fp__gguf_type_name(seen[k].type), seen[k].count);
}

static fp_status open_model(fp_model *m, const char *path, const fp_model_options *options)
{
    FP_TRY(fp__kernel_ops_get(&m->ops));
    FP_TRY(fp__arena_create(&m->arena));
    FP_TRY(fp__gguf_open(path, &m->gguf));
    float linear_factor;
    FP_TRY(read_hparams(m, &linear_factor));
    FP_TRY(fp__tokenizer_load(m->gguf, &m->tokenizer));
    m->hp.vocabulary = fp__tokenizer_size(m->tokenizer);
    fp_status status = fp__chat_template_load(m->gguf, options ? options->chat_template : NULL, &m->chat);
    if (status != FP_OK &&
        !(status == FP_NOT_FOUND || (status == FP_UNSUPPORTED && !(options && options->chat_template))))
        return status; /* a file without a (known) template still completes text */
    describe(m);
    if (options && options->metadata_only)
        return FP_OK;
    loader ld = {.m = m, .options = options};
    status = load_tensors(&ld, linear_factor);
    if (status == FP_OK)
        status = pack_all(&ld, options ? options->threads : 0);
    free(ld.matrices);
    free(ld.item_matrix);
    free(ld.item_group);
    FP_TRY(status);
    m->has_weights = true;
    return compute_digest(m);
}

fp_status fp_model_open(const char *path, const fp_model_options *options, fp_model **out)
{
    fp_model *m = calloc(1, sizeof *m);
    if (!m)
        return fp__fail(FP_NO_MEMORY, "model: no memory");
    m->path = realpath(path, NULL); /* NULL: opening it fails, too */
    fp_status status = open_model(m, path, options);
    if (status != FP_OK) {
        fp_model_close(m);
        return fp__fail_context(status, "%s", path);
    }
    *out = m;
    return FP_OK;
}

void fp_model_close(fp_model *m)
{
    if (!m)
        return;
    fp__mem_free(m->packed, m->packed_bytes);
    fp__chat_template_destroy(m->chat);
    fp__tokenizer_destroy(m->tokenizer);
    fp__gguf_close(m->gguf);
    fp__arena_destroy(m->arena);
    free(m->path);
    free(m);
}

/* ---- public accessors
 * ------------------------------------------------------------------------------------------ */

void fp_model_info_get(const fp_model *m, fp_model_info *out)
{
    const fp__hparams *hp = &m->hp;
    const uint8_t *data;
    size_t size;
    fp__gguf_bytes(m->gguf, &data, &size);
    *out = (fp_model_info){
        .architecture = m->architecture,
        .name = m->name,
        .kernels = m->ops->name,
        .chat_template = m->chat ? fp__chat_template_name(m->chat) : "",
        .tokenizer = fp__tokenizer_model(m->tokenizer),
        .pretokenizer = fp__tokenizer_pre(m->tokenizer),
        .parameters = m->parameters,
        .file_bytes = size,
        .packed_bytes = m->packed_bytes,
        .layers = (uint32_t)hp->layers,
        .width = (uint32_t)hp->width,
        .heads = (uint32_t)hp->heads,
        .kv_heads = (uint32_t)hp->kv_heads,
        .head_dim = (uint32_t)hp->head_dim,
        .ffn_width = (uint32_t)hp->ffn_width,
        .vocabulary = (uint32_t)hp->vocabulary,
        .context = (uint32_t)hp->context,
        .rope_dims = (uint32_t)hp->n_rot,
        .rope_base = hp->rope_base,
        .norm_epsilon = hp->norm_epsilon,
        .kv_page_bytes = (uint32_t)(hp->layers * hp->kv_heads * fp__slab_bytes(hp->head_dim)),
        .arithmetic_version = FP__ARITHMETIC_VERSION,
    };
}

fp_status fp_model_digest(const fp_model *m, uint8_t out[32])
{
    if (!m->has_weights)
        return fp__fail(FP_USAGE, "the digest needs the whole model; open it without metadata_only");
    memcpy(out, m->digest, 32);
    return FP_OK;
}

const char *fp_model_types(const fp_model *m)
{
    return m->types;
}

uint32_t fp_model_begin_token(const fp_model *m)
{
    return fp__tokenizer_adds_bos(m->tokenizer) ? fp__tokenizer_bos(m->tokenizer) : UINT32_MAX;
}

fp_status fp_model_tokenize(const fp_model *m, const char *text, size_t size, unsigned flags, uint32_t **out,
                            size_t *n)
{
    fp__ids ids = {0};
    unsigned f = (flags & FP_TOKENIZE_SPECIAL ? FP__TOKENIZE_SPECIAL : 0u) |
                 (flags & FP_TOKENIZE_ADD ? FP__TOKENIZE_ADD : 0u);
    fp_status status = fp__tokenizer_encode(m->tokenizer, text, size, f, &ids);
    if (status != FP_OK) {
        fp__ids_free(&ids);
        return status;
    }
    *out = ids.data;
    *n = ids.size;
    return FP_OK;
}

fp_status fp_model_detokenize(const fp_model *m, const uint32_t *ids, size_t n, int special, char **out,
                              size_t *size)
{
    fp__buf text = {0};
    fp_status status = fp__tokenizer_decode(m->tokenizer, ids, n, special ? FP__DETOK_SPECIAL : 0, &text);
    if (status == FP_OK)
        status = fp__buf_reserve(&text, 1);
    if (status != FP_OK) {
        fp__buf_free(&text);
        return status;
    }
    text.data[text.size] = 0;
    *out = (char *)text.data;
    *size = text.size;
    return FP_OK;
}
