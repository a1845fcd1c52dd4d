/* Weights to the device: stored GGUF rows are packed by all threads, one matrix after the other. */
#include "kernel/cuda/byte_sum.h"
#include "kernel/cuda/try.h"
#include "kernel/device_weight.h"
#include "model/cuda/forward_cuda.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* One matrix on its way: stored rows of up to two tensors that go to the same tiles, or one after the other.
 */
typedef struct part {
    const uint8_t *stored;
    size_t rows, first;
    fp__device_rows place;
} part;
typedef struct packing {
    fp__device_weight shape;
    uint8_t *data;
    part parts[3];
    size_t n_parts;
    atomic_int failed;
    char detail[512];
} packing;
enum { PACK_ROWS = 64 };

static void pack_run(void *arg, size_t thread, size_t threads)
{
    packing *p = arg;
    for (size_t i = 0; i < p->n_parts; i++) {
        size_t begin, end; /* gate and up share tiles: the same split gives a tile to one thread */
        fp__team_split(p->parts[i].rows, PACK_ROWS, thread, threads, &begin, &end);
        fp_status status = fp__device_weight_pack(&p->shape, p->data, p->parts[i].stored, p->parts[i].place,
                                                  p->parts[i].first, begin, end);
        int expected = FP_OK;
        if (status != FP_OK && atomic_compare_exchange_strong(&p->failed, &expected, (int)status))
            snprintf(p->detail, sizeof p->detail, "%s", fp_error_detail());
    }
}

static fp_status device_room(fp__cuda_model *m, size_t bytes, void **out)
{
    if (m->again) { /* the same calls in the same order */
        FP_CHECK(m->reused < m->n_memory);
        *out = m->memory[m->reused++];
        return FP_OK;
    }
    if (m->n_memory == m->room) {
        size_t room = 2 * m->room + 64;
        void **memory = realloc(m->memory, room * sizeof *memory);
        if (!memory)
            return fp__fail(FP_NO_MEMORY, "model on the GPU: no memory");
        m->memory = memory;
        m->room = room;
    }
    FP_CUDA(cudaMalloc(out, bytes ? bytes : 16), "memory for the model");
    m->memory[m->n_memory++] = *out;
    return FP_OK;
}

/* Notes what is uploaded, in pieces, with their checksums. */
static fp_status add_items(fp__cuda_model *m, const uint8_t *from, size_t bytes, const uint8_t *to)
{
    for (size_t at = 0; at < bytes && !m->again; at += FP__CUDA_ITEM_BYTES) {
        if (m->n_items == m->items_room) {
            size_t room = 2 * m->items_room + 64;
            fp__cuda_item *items = realloc(m->items, room * sizeof *items);
            if (!items)
                return fp__fail(FP_NO_MEMORY, "model on the GPU: no memory");
            m->items = items;
            m->items_room = room;
        }
        fp__cuda_item *item = &m->items[m->n_items++];
        *item = (fp__cuda_item){
            to + at, bytes - at < FP__CUDA_ITEM_BYTES ? bytes - at : FP__CUDA_ITEM_BYTES, {0}};
        fp__byte_sum(from + at, item->bytes, item->sum);
    }
    return FP_OK;
}

static fp_status upload(fp__cuda_model *m, const void *from, size_t bytes, void **out)
{
    FP_TRY(device_room(m, bytes, out));
    FP_TRY(add_items(m, from, bytes, *out));
    FP_CUDA(cudaMemcpy(*out, from, bytes, cudaMemcpyHostToDevice), "the copy of the model");
    return FP_OK;
}

static fp_status upload_floats(fp__cuda_model *m, const float *from, size_t n, const float **out)
{
    void *to = NULL;
    *out = NULL;
    if (!from)
        return FP_OK;
    FP_TRY(upload(m, from, n * sizeof *from, &to));
    *out = to;
    return FP_OK;
}

static fp_status upload_packed(fp__cuda_model *m, fp__team *team, packing *p, fp__cuda_weight *out)
{
    p->data = calloc(1, p->shape.bytes);
    if (!p->data)
        return fp__fail(FP_NO_MEMORY, "model on the GPU: no memory to pack %zu MiB", p->shape.bytes >> 20);
    atomic_store(&p->failed, FP_OK);
    fp__team_run(team, pack_run, p);
    fp_status status = (fp_status)atomic_load(&p->failed);
    void *to = NULL;
    if (status != FP_OK)
        status = fp__fail(status, "%s", p->detail);
    else
        status = upload(m, p->data, p->shape.bytes, &to);
    free(p->data);
    *out = (fp__cuda_weight){p->shape.type,
                             p->shape.gated,
                             (uint32_t)p->shape.rows,
                             (uint32_t)p->shape.tiles,
                             (uint32_t)p->shape.segments,
                             to};
    m->step_bytes += p->shape.bytes;
    return status;
}

static fp_status stored_rows(const fp_model *model, const char *name, const uint8_t **out)
{
    const fp__gguf_tensor *t;
    FP_TRY(fp__gguf_tensor_get(model->gguf, name, &t));
    *out = t->data;
    return FP_OK;
}

static fp_status upload_matrix(fp__cuda_model *m, fp__team *team, const fp_model *model, const char *name,
                               const fp__weight *w, fp__cuda_weight *out)
{
    packing p = {.n_parts = 1};
    FP_TRY(fp__device_weight_plan(w->type, w->rows, w->cols, 0, &p.shape));
    p.parts[0] = (part){NULL, w->rows, 0, FP__ROWS_AT};
    FP_TRY(stored_rows(model, name, &p.parts[0].stored));
    return upload_packed(m, team, &p, out);
}

static const char *layer_name(char name[64], size_t i, const char *suffix)
{
    snprintf(name, 64, "blk.%zu.%s.weight", i, suffix);
    return name;
}

static fp_status upload_qkv(fp__cuda_model *m, fp__team *team, const fp_model *model, size_t i,
                            fp__cuda_layer *out)
{
    const fp__layer *l = &model->layers[i];
    const fp__weight *w[3] = {&l->wq, &l->wk, &l->wv};
    static const char *const names[3] = {"attn_q", "attn_k", "attn_v"};
    const float *bias[3] = {l->q_bias, l->k_bias, l->v_bias};
    char name[64];
    size_t rows = l->wq.rows + l->wk.rows + l->wv.rows, at = 0;
    if (l->q_bias) {
        float *all = malloc(rows * sizeof *all);
        if (!all)
            return fp__fail(FP_NO_MEMORY, "model on the GPU: no memory");
        for (size_t k = 0; k < 3; at += w[k++]->rows)
            memcpy(all + at, bias[k], w[k]->rows * sizeof *all);
        fp_status status = upload_floats(m, all, rows, &out->qkv_bias);
        free(all);
        FP_TRY(status);
    }
    if (l->wq.type != l->wk.type || l->wq.type != l->wv.type) {
        out->n_qkv = 3;
        for (size_t k = 0; k < 3; k++)
            FP_TRY(upload_matrix(m, team, model, layer_name(name, i, names[k]), w[k], &out->qkv[k]));
        return FP_OK;
    }
    packing p = {.n_parts = 3};
    FP_TRY(fp__device_weight_plan(l->wq.type, rows, l->wq.cols, 0, &p.shape));
    at = 0;
    for (size_t k = 0; k < 3; at += w[k++]->rows) {
        p.parts[k] = (part){NULL, w[k]->rows, at, FP__ROWS_AT};
        FP_TRY(stored_rows(model, layer_name(name, i, names[k]), &p.parts[k].stored));
    }
    out->n_qkv = 1;
    return upload_packed(m, team, &p, &out->qkv[0]);
}

static fp_status upload_gate_up(fp__cuda_model *m, fp__team *team, const fp_model *model, size_t i,
                                fp__cuda_layer *out)
{
    const fp__layer *l = &model->layers[i];
    char name[64];
    if (l->gate.type != l->up.type || l->gate.rows % 8 != 0) {
        FP_TRY(upload_matrix(m, team, model, layer_name(name, i, "ffn_gate"), &l->gate, &out->gate_up));
        return upload_matrix(m, team, model, layer_name(name, i, "ffn_up"), &l->up, &out->up);
    }
    packing p = {.n_parts = 2};
    FP_TRY(fp__device_weight_plan(l->gate.type, l->gate.rows, l->gate.cols, 1, &p.shape));
    p.parts[0] = (part){NULL, l->gate.rows, 0, FP__ROWS_GATE};
    p.parts[1] = (part){NULL, l->up.rows, 0, FP__ROWS_UP};
    FP_TRY(stored_rows(model, layer_name(name, i, "ffn_gate"), &p.parts[0].stored));
    FP_TRY(stored_rows(model, layer_name(name, i, "ffn_up"), &p.parts[1].stored));
    return upload_packed(m, team, &p, &out->gate_up);
}

static fp_status upload_layer(fp__cuda_model *m, fp__team *team, const fp_model *model, size_t i)
{
    const fp__layer *l = &model->layers[i];
    const fp__hparams *hp = &model->hp;
    fp__cuda_layer *out = &m->layers[i];
    char name[64];
    FP_TRY(upload_qkv(m, team, model, i, out));
    FP_TRY(upload_matrix(m, team, model, layer_name(name, i, "attn_output"), &l->wo, &out->wo));
    FP_TRY(upload_gate_up(m, team, model, i, out));
    FP_TRY(upload_matrix(m, team, model, layer_name(name, i, "ffn_down"), &l->down, &out->down));
    FP_TRY(upload_floats(m, l->attn_norm, hp->width, &out->attn_norm));
    FP_TRY(upload_floats(m, l->ffn_norm, hp->width, &out->ffn_norm));
    FP_TRY(upload_floats(m, l->q_norm, hp->head_dim, &out->q_norm));
    return upload_floats(m, l->k_norm, hp->head_dim, &out->k_norm);
}

typedef struct rope_work {
    const fp__rope_plan *plan;
    size_t positions;
    float *cos, *sin;
    atomic_int failed;
} rope_work;

static void rope_run(void *arg, size_t thread, size_t threads)
{
    rope_work *w = arg;
    size_t begin, end, half = w->plan->n_rot / 2;
    fp__team_split(w->positions, 1, thread, threads, &begin, &end);
    fp_status status =
        fp__rope_rows(w->plan, begin, end - begin, w->cos + begin * half, w->sin + begin * half);
    if (status != FP_OK)
        atomic_store(&w->failed, (int)status);
}

static fp_status upload_rope(fp__cuda_model *m, fp__team *team, const fp_model *model, size_t positions)
{
    size_t n = positions * (model->hp.n_rot / 2);
    rope_work w = {.plan = &model->rope, .positions = positions, .cos = malloc(n * 4), .sin = malloc(n * 4)};
    fp_status status = FP_OK;
    atomic_init(&w.failed, FP_OK);
    if (!w.cos || !w.sin)
        status = fp__fail(FP_NO_MEMORY, "model on the GPU: no memory for the rotary table");
    if (status == FP_OK) {
        fp__team_run(team, rope_run, &w);
        if (atomic_load(&w.failed) != FP_OK)
            status = fp__fail((fp_status)atomic_load(&w.failed),
                              "%zu positions are more than the rotary table has", positions);
    }
    if (status == FP_OK)
        status = upload_floats(m, w.cos, n, &m->rope_cos);
    if (status == FP_OK)
        status = upload_floats(m, w.sin, n, &m->rope_sin);
    free(w.cos);
    free(w.sin);
    m->rope_positions = positions;
    return status;
}

static fp_status upload_all(fp__cuda_model *m, fp__team *team, const fp_model *model, size_t positions)
{
    int device;
    FP_CUDA(cudaGetDevice(&device), "the search for a GPU");
    FP_CUDA(fp__cuda_ops_init(device), "the start of the GPU's kernels");
    FP_TRY(upload_rope(m, team, model, positions));
    FP_TRY(upload_floats(m, model->output_norm, model->hp.width, &m->output_norm));
    FP_TRY(upload_matrix(m, team, model, "token_embd.weight", &model->embedding, &m->embedding));
    if (model->output.data == model->embedding.data) {
        m->output = m->embedding;
    } else {
        m->step_bytes = 0;
        FP_TRY(upload_matrix(m, team, model, "output.weight", &model->output, &m->output));
    }
    for (size_t i = 0; i < model->hp.layers; i++)
        FP_TRY(upload_layer(m, team, model, i));
    return FP_OK;
}

fp_status fp__cuda_model_create(const fp_model *model, fp__team *team, size_t positions, fp__cuda_model **out)
{
    const fp__hparams *hp = &model->hp;
    size_t d = hp->head_dim;
    if (!model->has_weights)
        return fp__fail(FP_USAGE, "the model was opened without its weights");
    if ((d != 64 && d != 96 && d != 128 && d != 256) || hp->heads / hp->kv_heads > 16)
        return fp__fail(
            FP_UNSUPPORTED,
            "the GPU knows heads of 64, 96, 128 and 256 in groups of up to 16, not %zu heads of %zu over %zu "
            "KV heads; use the CPU",
            hp->heads, d, hp->kv_heads);
    fp__cuda_model *m = calloc(1, sizeof *m);
    fp__cuda_layer *layers = calloc(hp->layers, sizeof *layers);
    if (!m || !layers) {
        free(m);
        free(layers);
        return fp__fail(FP_NO_MEMORY, "model on the GPU: no memory");
    }
    m->hp = *hp;
    m->layers = layers;
    fp_status status = upload_all(m, team, model, positions);
    if (status != FP_OK) {
        fp__cuda_model_destroy(m);
        return status;
    }
    *out = m;
    return FP_OK;
}

fp_status fp__cuda_model_reload(fp__cuda_model *m, const fp_model *model, fp__team *team)
{
    m->again = true;
    m->reused = 0;
    m->step_bytes = 0;
    fp_status status = upload_all(m, team, model, m->rope_positions);
    m->again = false;
    return status;
}

fp_status fp__cuda_model_check(const fp__cuda_model *m, size_t item, void *scratch, void *stream, bool *same)
{
    const fp__cuda_item *it = &m->items[item];
    uint64_t sum[2];
    FP_CUDA(fp__cuda_byte_sum(it->data, it->bytes, scratch, stream), "the checksum of the weights");
    FP_CUDA(cudaMemcpyAsync(sum, scratch, sizeof sum, cudaMemcpyDeviceToHost, stream),
            "the checksum of the weights");
    FP_CUDA(cudaStreamSynchronize(stream), "the checksum of the weights");
    *same = memcmp(sum, it->sum, sizeof sum) == 0;
    return FP_OK;
}

void fp__cuda_model_destroy(fp__cuda_model *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_memory; i++)
        (void)cudaFree(m->memory[i]);
    free(m->memory);
    free(m->items);
    free(m->layers);
    free(m);
}
