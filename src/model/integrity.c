/* Checksums over a model in memory. */
#include "model/integrity.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIECE_BYTES = 1 << 20, LANES = 8 };

/* Σ w_i and Σ Σ w_i per lane, over 32-bit words in 64-bit sums: with at most 2^15 words a lane nothing wraps,
 * so that two sums are equal only if both forms are: a flipped bit changes the first one, and two that cancel
 * in it lie at different places, which changes the second. */
typedef struct sums {
    uint64_t a[LANES], b[LANES];
} sums;

typedef struct piece {
    const uint8_t *data;
    uint8_t *copy; /* of what is not packed; NULL: it is */
    size_t bytes;
    sums expected;
} piece;

struct fp__integrity {
    fp__gpu *gpu; /* NULL: on the host; else the team and `bytes` are used only */
    fp__team *team;
    const fp_model *model;
    piece *pieces; /* [packed + small] */
    size_t packed, small, bytes;
    atomic_size_t next;
};

static void sum_bytes(const uint8_t *data, size_t bytes, sums *out)
{
    uint64_t a[LANES] = {0}, b[LANES] = {0};
    size_t i = 0;
    for (; i + 4 * LANES <= bytes; i += 4 * LANES) {
        uint32_t w[LANES];
        memcpy(w, data + i, sizeof w);
        for (int l = 0; l < LANES; l++) {
            a[l] += w[l];
            b[l] += a[l];
        }
    }
    for (int l = 0; i < bytes; i++, l = (l + 1) % LANES) {
        a[l] += data[i];
        b[l] += a[l];
    }
    memcpy(out->a, a, sizeof a);
    memcpy(out->b, b, sizeof b);
}

static bool is_unchanged(const piece *p)
{
    sums now;
    sum_bytes(p->data, p->bytes, &now);
    return memcmp(&now, &p->expected, sizeof now) == 0;
}

static void sum_run(void *arg, size_t thread, size_t threads)
{
    fp__integrity *in = arg;
    size_t i;
    (void)thread;
    (void)threads;
    while ((i = atomic_fetch_add(&in->next, 1)) < in->packed + in->small)
        sum_bytes(in->pieces[i].data, in->pieces[i].bytes, &in->pieces[i].expected);
}

static fp_status add_small(fp__integrity *in, const void *data, size_t bytes)
{
    if (!data || bytes == 0)
        return FP_OK;
    piece *p = &in->pieces[in->packed + in->small];
    *p = (piece){.data = data, .copy = malloc(bytes), .bytes = bytes};
    if (!p->copy)
        return fp__fail(FP_NO_MEMORY, "model: no memory for checksums");
    memcpy(p->copy, data, bytes);
    in->small++;
    in->bytes += bytes;
    return FP_OK;
}

static fp_status add_all(fp__integrity *in)
{
    const fp_model *m = in->model;
    const fp__hparams *hp = &m->hp;
    size_t C = hp->width * sizeof(float), Q = hp->heads * hp->head_dim * sizeof(float),
           K = hp->kv_heads * hp->head_dim * sizeof(float), d = hp->head_dim * sizeof(float);
    for (size_t at = 0; at < m->packed_bytes; at += PIECE_BYTES) {
        size_t left = m->packed_bytes - at;
        in->pieces[in->packed++] =
            (piece){.data = m->packed + at, .bytes = left < PIECE_BYTES ? left : PIECE_BYTES};
    }
    in->bytes = m->packed_bytes;
    FP_TRY(add_small(in, &m->rope, sizeof m->rope));
    FP_TRY(add_small(in, hp, sizeof *hp));
    FP_TRY(add_small(in, m->layers, hp->layers * sizeof *m->layers));
    FP_TRY(add_small(in, m->output_norm, C));
    for (size_t i = 0; i < hp->layers; i++) {
        const fp__layer *l = &m->layers[i];
        FP_TRY(add_small(in, l->attn_norm, C));
        FP_TRY(add_small(in, l->ffn_norm, C));
        FP_TRY(add_small(in, l->q_norm, d));
        FP_TRY(add_small(in, l->k_norm, d));
        FP_TRY(add_small(in, l->q_bias, Q));
        FP_TRY(add_small(in, l->k_bias, K));
        FP_TRY(add_small(in, l->v_bias, K));
    }
    return FP_OK;
}

fp_status fp__integrity_create(const fp_model *model, fp__team *team, fp__integrity **out)
{
    size_t packed = (model->packed_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    fp__integrity *in = calloc(1, sizeof *in);
    if (in)
        in->pieces = calloc(packed + 4 + 7 * model->hp.layers, sizeof *in->pieces);
    if (!in || !in->pieces) {
        fp__integrity_destroy(in);
        return fp__fail(FP_NO_MEMORY, "model: no memory for checksums");
    }
    in->model = model;
    fp_status status = add_all(in);
    if (status != FP_OK) {
        fp__integrity_destroy(in);
        return status;
    }
    fp__team_run(team, sum_run, in);
    *out = in;
    return FP_OK;
}

fp_status fp__integrity_create_gpu(fp__gpu *gpu, fp__team *team, fp__integrity **out)
{
    fp__integrity *in = calloc(1, sizeof *in);
    if (!in)
        return fp__fail(FP_NO_MEMORY, "model: no memory for checksums");
    in->gpu = gpu;
    in->team = team;
    for (size_t i = 0; i < fp__gpu_items(gpu); i++)
        in->bytes += fp__gpu_item_bytes(gpu, i);
    *out = in;
    return FP_OK;
}

void fp__integrity_destroy(fp__integrity *in)
{
    if (!in)
        return;
    for (size_t i = 0; in->pieces && i < in->packed + in->small; i++)
        free(in->pieces[i].copy);
    free(in->pieces);
    free(in);
}

size_t fp__integrity_items(const fp__integrity *in)
{
    return in->gpu ? fp__gpu_items(in->gpu) : in->packed + 1;
}

size_t fp__integrity_item_bytes(const fp__integrity *in, size_t item)
{
    if (in->gpu)
        return fp__gpu_item_bytes(in->gpu, item);
    return item < in->packed ? in->pieces[item].bytes : in->bytes - in->model->packed_bytes;
}

size_t fp__integrity_bytes(const fp__integrity *in)
{
    return in->bytes;
}

bool fp__integrity_check(const fp__integrity *in, size_t item)
{
    if (in->gpu) { /* a GPU that does not answer is not as it was */
        bool same = false;
        return fp__gpu_item_check(in->gpu, item, &same) == FP_OK && same;
    }
    if (item < in->packed)
        return is_unchanged(&in->pieces[item]);
    for (size_t i = in->packed; i < in->packed + in->small; i++)
        if (!is_unchanged(&in->pieces[i]))
            return false;
    return true;
}

fp_status fp__integrity_flip(fp__integrity *in, size_t item, size_t byte, uint8_t bits)
{
    if (in->gpu)
        return fp__gpu_item_flip(in->gpu, item, byte, bits);
    FP_CHECK(item < in->packed && byte < in->pieces[item].bytes);
    ((uint8_t *)(uintptr_t)in->pieces[item].data)[byte] ^= bits;
    return FP_OK;
}

/* ---- repair ---- */

/* Packs those groups of a matrix again that have bytes in [begin, end) of the packed ones. */
static fp_status repack(const fp_model *m, const fp__weight *weight, const char *name, size_t begin,
                        size_t end)
{
    fp__weight w = *weight;
    size_t first = (size_t)(w.data - m->packed), bytes = w.groups * w.group_bytes;
    const fp__gguf_tensor *t;
    if (first >= end || first + bytes <= begin)
        return FP_OK;
    size_t from = begin > first ? (begin - first) / w.group_bytes : 0;
    size_t to = end < first + bytes ? (end - first + w.group_bytes - 1) / w.group_bytes : w.groups;
    FP_TRY(fp__gguf_tensor_get(m->gguf, name, &t));
    return fp__weight_pack(&w, t->data, from, to);
}

static fp_status repack_range(const fp_model *m, size_t begin, size_t end)
{
    char name[64];
    FP_TRY(repack(m, &m->embedding, "token_embd.weight", begin, end));
    if (m->output.data != m->embedding.data)
        FP_TRY(repack(m, &m->output, "output.weight", begin, end));
    for (size_t i = 0; i < m->hp.layers; i++) {
        const fp__layer *l = &m->layers[i];
        const struct {
            const char *name;
            const fp__weight *w;
        } all[] = {{"attn_q", &l->wq},     {"attn_k", &l->wk}, {"attn_v", &l->wv},    {"attn_output", &l->wo},
                   {"ffn_gate", &l->gate}, {"ffn_up", &l->up}, {"ffn_down", &l->down}};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            snprintf(name, sizeof name, "blk.%zu.%s.weight", i, all[k].name);
            FP_TRY(repack(m, all[k].w, name, begin, end));
        }
    }
    return FP_OK;
}

fp_status fp__integrity_repair(fp__integrity *in, size_t item)
{
    const fp_model *m = in->model;
    if (in->gpu)
        return fp__gpu_reload(in->gpu, in->team);
    if (item < in->packed) {
        size_t begin = item * (size_t)PIECE_BYTES, end = begin + in->pieces[item].bytes;
        memset(m->packed + begin, 0, end - begin); /* what lies between matrices */
        FP_TRY(repack_range(m, begin, end));
    } else {
        for (size_t i = in->packed; i < in->packed + in->small; i++) {
            piece *p = &in->pieces[i];
            sums copy;
            sum_bytes(p->copy, p->bytes, &copy);
            if (!is_unchanged(p) && memcmp(&copy, &p->expected, sizeof copy) == 0)
                memcpy((uint8_t *)(uintptr_t)p->data, p->copy, p->bytes);
        }
    }
    if (!fp__integrity_check(in, item))
        return fp__fail(FP_MISMATCH,
                        "the model's weights in memory changed (piece %zu), and its file does not give them "
                        "again; start anew, and check the memory of this machine",
                        item);
    return FP_OK;
}
