/* Timings of cuda_ops.h: events around graph replays, medians; weights rotate through more memory than the L2
 * holds; the device's copy rate is measured in the same run. */
#include "ops_gpu.h"
#include <stdarg.h>

typedef void work_fn(void *arg, int i, cudaStream_t stream);

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Median µs of one of `launches` calls of fn in a graph. */
static double time_graph(work_fn *fn, void *arg, int launches, int repeats)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    float ms[64];
    repeats = repeats > 64 ? 64 : repeats;
    CUDA(cudaStreamCreate(&stream));
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; i++)
        fn(arg, i, stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = -2; i < repeats; i++) {
        CUDA(cudaEventRecord(begin, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaEventSynchronize(end));
        CUDA(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], begin, end));
    }
    qsort(ms, (size_t)repeats, sizeof *ms, compare_floats);
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaStreamDestroy(stream));
    return (double)ms[repeats / 2] * 1e3 / launches;
}

/* Median µs of single calls, without a graph. */
static double time_direct(work_fn *fn, void *arg, int repeats)
{
    cudaEvent_t begin, end;
    float ms[64];
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (int i = -2; i < repeats; i++) {
        CUDA(cudaEventRecord(begin, 0));
        fn(arg, 0, 0);
        CUDA(cudaEventRecord(end, 0));
        CUDA(cudaEventSynchronize(end));
        CUDA(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], begin, end));
    }
    qsort(ms, (size_t)repeats, sizeof *ms, compare_floats);
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    return (double)ms[repeats / 2] * 1e3;
}

static FILE *json;
static const char *separator;
static double copy_rate; /* GB/s, read + written */

static void entry(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void entry(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(json, "%s\n    {%s}", separator, line);
    separator = ",";
    fflush(json);
    printf("%s\n", line);
}

typedef struct copy_work {
    uint8_t *a;
    size_t bytes;
} copy_work;
static void do_copy(void *arg, int i, cudaStream_t stream)
{
    copy_work *w = arg;
    CUDA(cudaMemcpyAsync(w->a + (i % 2 ? 0 : w->bytes), w->a + (i % 2 ? w->bytes : 0), w->bytes,
                         cudaMemcpyDeviceToDevice, stream));
}

/* A packed matrix of random blocks, `copies` times in device memory. */
typedef struct linear_work {
    fp__cuda_weight w;
    size_t bytes, cols;
    int copies, type;
    uint8_t *act;
    float *y;
    uint32_t tokens;
} linear_work;

static linear_work linear_make(int type, size_t rows, size_t cols, int gated, size_t memory)
{
    fp__device_weight plan;
    linear_work l = {.cols = cols, .type = type};
    if (fp__device_weight_plan(type, rows, cols, gated, &plan) != FP_OK)
        abort();
    /* a few hundred rows are random, and repeat */
    size_t row_bytes = blocks_row_bytes(type, cols), some = rows < 256 ? rows : 256;
    uint8_t *stored = host_alloc(some * row_bytes), *packed = host_alloc(plan.bytes);
    for (size_t r = 0; r < some; r++)
        blocks_row(type, stored + r * row_bytes, cols, BLOCKS_RANDOM);
    for (int half = 0; half <= gated; half++)
        if (fp__device_weight_pack(&plan, packed, stored,
                                   gated ? (half ? FP__ROWS_UP : FP__ROWS_GATE) : FP__ROWS_AT, 0, 0,
                                   some) != FP_OK)
            abort();
    size_t part = (gated ? 2 : 1) * some / 16 * plan.segments * plan.unit_bytes;
    for (size_t at = part; at < plan.bytes; at += part)
        memcpy(packed + at, packed, plan.bytes - at < part ? plan.bytes - at : part);
    l.bytes = plan.bytes;
    l.copies = (int)(memory / plan.bytes < 2 ? 2 : memory / plan.bytes > 64 ? 64 : memory / plan.bytes);
    uint8_t *device = device_alloc(l.bytes * (size_t)l.copies);
    CUDA(cudaMemcpy(device, packed, l.bytes, cudaMemcpyHostToDevice));
    for (int i = 1; i < l.copies; i++)
        CUDA(cudaMemcpy(device + l.bytes * (size_t)i, device, l.bytes, cudaMemcpyDeviceToDevice));
    l.w = (fp__cuda_weight){
        plan.type, plan.gated, (uint32_t)plan.rows, (uint32_t)plan.tiles, (uint32_t)plan.segments, device};
    free(stored);
    free(packed);
    return l;
}
static void linear_free(linear_work *l)
{
    CUDA(cudaFree((void *)l->w.data));
}

static void linear_inputs(linear_work *l, uint32_t tokens)
{
    size_t count = (size_t)tokens * l->cols;
    float *x = host_alloc(count * 4);
    for (size_t i = 0; i < count; i++)
        x[i] = blocks_uniform();
    float *dx = device_copy(x, count * 4);
    uint32_t *error = device_alloc(tokens * 4);
    l->tokens = tokens;
    l->act = device_alloc(fp__device_act_bytes(tokens, l->cols));
    l->y = device_alloc((size_t)tokens * l->w.rows * 4);
    CUDA(fp__cuda_quantise(dx, NULL, l->cols, tokens, (uint32_t)l->cols, l->act, error, 0, 0));
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(dx));
    CUDA(cudaFree(error));
    free(x);
}
static void linear_inputs_free(linear_work *l)
{
    CUDA(cudaFree(l->act));
    CUDA(cudaFree(l->y));
}

static void do_linear(void *arg, int i, cudaStream_t stream)
{
    linear_work *l = arg;
    fp__cuda_weight w = l->w;
    w.data += l->bytes * (size_t)(i % l->copies);
    CUDA(fp__cuda_linear(&w, l->act, l->tokens, NULL, NULL, l->y, l->w.rows, stream));
}

static void time_decode(linear_work *l, uint32_t tokens, const char *label)
{
    linear_inputs(l, tokens);
    double us = time_graph(do_linear, l, l->copies < 16 ? 16 : l->copies, 15);
    double rate = (double)l->bytes / us * 1e-3;
    entry("\"op\": \"decode\", \"type\": \"%s\", \"in\": %zu, \"out\": %u, \"tokens\": %u, \"note\": \"%s\", "
          "\"us\": %.2f, "
          "\"weights_GBps\": %.0f, \"of_copy\": %.3f",
          fp__wtype_name(l->type), l->cols, l->w.rows, tokens, label, us, rate, rate / copy_rate);
    linear_inputs_free(l);
}

static void bench_decode(void)
{
    static const struct {
        size_t rows, cols;
        int gated;
    } shapes[] = {{4096, 4096, 0}, {6144, 4096, 0}, {14336, 4096, 1}, {4096, 14336, 0}, {128256, 4096, 0}};
    static const int types[] = {FP__Q4_0, FP__Q8_0};
    static const uint32_t tokens[] = {1, 2, 4, 8, 16, 32};
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < 5; s++) {
            linear_work l =
                linear_make(types[k], shapes[s].rows, shapes[s].cols, shapes[s].gated, (size_t)768 << 20);
            for (size_t t = 0; t < 6; t++)
                time_decode(&l, tokens[t], "");
            if (s == 0 || s == 2 || s == 3) {
                char label[64];
                for (uint32_t kib = 48; kib <= 144; kib += 32) {
                    fp__cuda_tune = (fp__cuda_tuning){.decode_stage_bytes = kib * 1024};
                    snprintf(label, sizeof label, "ring of %u KiB", kib);
                    time_decode(&l, 1, label);
                }
                fp__cuda_tune = (fp__cuda_tuning){.no_overlap = 1};
                time_decode(&l, 1, "no overlap");
                fp__cuda_tune = (fp__cuda_tuning){0};
            }
            linear_free(&l);
        }
    for (size_t i = 0; i < BLOCK_TYPES; i++) {
        linear_work l = linear_make(block_types[i], 14336, 4096, 0, (size_t)512 << 20);
        time_decode(&l, 1, "");
        time_decode(&l, 8, "");
        time_decode(&l, 32, "");
        linear_free(&l);
    }
}

static void bench_prefill(void)
{
    static const int types[] = {FP__Q4_0, FP__Q8_0, FP__Q4_1, FP__Q5_0, FP__Q5_1,
                                FP__Q4_K, FP__Q5_K, FP__Q6_K, FP__F32};
    static const uint32_t tokens[] = {64, 128, 512, 2048, 8192};
    for (size_t k = 0; k < sizeof types / sizeof *types; k++)
        for (int s = 0; s < (k < 2 ? 3 : 1); s++) {
            linear_work l = s == 0   ? linear_make(types[k], 14336, 4096, 1, 1)
                            : s == 1 ? linear_make(types[k], 4096, 14336, 0, 1)
                                     : linear_make(types[k], 4096, 4096, 0, 1);
            for (size_t t = 0; t < 5; t++) {
                if (k >= 2 && t != 2 && t != 3)
                    continue;
                linear_inputs(&l, tokens[t]);
                double us = time_graph(do_linear, &l, 3, 5);
                entry("\"op\": \"prefill\", \"type\": \"%s\", \"in\": %zu, \"out\": %u, \"tokens\": %u, "
                      "\"us\": %.1f, "
                      "\"TOPS\": %.1f",
                      fp__wtype_name(l.type), l.cols, l.w.rows, tokens[t], us,
                      2.0 * (double)l.cols * l.w.rows * tokens[t] / us * 1e-6);
                linear_inputs_free(&l);
            }
            linear_free(&l);
        }
}

/* Everything of an 8B model's 32 layers but rotation and attention, and the logits. */
typedef struct stack_work {
    linear_work qkv, o, gate_up, down, out;
    uint32_t tokens;
    float *x, *y, *hidden, *norm, *logits;
    uint8_t *act;
    uint32_t *error, *ids;
    void *state;
} stack_work;

static fp__cuda_weight nth(const linear_work *l, int i)
{
    fp__cuda_weight w = l->w;
    w.data += l->bytes * (size_t)(i % l->copies);
    return w;
}
static void do_stack(void *arg, int step, cudaStream_t stream)
{
    enum { C = 4096, F = 14336 };
    stack_work *s = arg;
    fp__cuda_input normed = {s->x, C, s->norm, 1e-5f, C, s->act, s->error, 0, NULL},
                   attention = {s->y, 6144, NULL, 0.0f, C, s->act, s->error, 0, NULL},
                   hidden = {s->hidden, F, NULL, 0.0f, F, s->act, s->error, 0, NULL};
    (void)step;
    for (int i = 0; i < 32; i++) {
        fp__cuda_weight qkv = nth(&s->qkv, i), o = nth(&s->o, i), gate_up = nth(&s->gate_up, i),
                        down = nth(&s->down, i);
        CUDA(fp__cuda_linear_from(&normed, &qkv, s->tokens, NULL, NULL, s->y, 6144, stream));
        CUDA(fp__cuda_linear_from(&attention, &o, s->tokens, NULL, s->x, s->x, C, stream));
        CUDA(fp__cuda_linear_from(&normed, &gate_up, s->tokens, NULL, NULL, s->hidden, F, stream));
        CUDA(fp__cuda_linear_from(&hidden, &down, s->tokens, NULL, s->x, s->x, C, stream));
    }
    CUDA(fp__cuda_linear_from(&normed, &s->out.w, s->tokens, NULL, NULL, s->logits, 128256, stream));
    CUDA(fp__cuda_argmax(s->logits, s->tokens, 128256, NULL, s->ids, s->state, s->error, 0, stream));
}

static void bench_stack(void)
{
    static const int types[] = {FP__Q4_0, FP__Q8_0, FP__Q4_K};
    static const uint32_t tokens[] = {1, 2, 4, 8, 16, 32};
    for (size_t k = 0; k < 3; k++) {
        stack_work s = {.qkv = linear_make(types[k], 6144, 4096, 0, 1),
                        .o = linear_make(types[k], 4096, 4096, 0, 1),
                        .gate_up = linear_make(types[k], 14336, 4096, 1, 1),
                        .down = linear_make(types[k], 4096, 14336, 0, 1),
                        .out = linear_make(types[k], 128256, 4096, 0, 1)};
        /* 32 layers of distinct memory */
        linear_work *parts[] = {&s.qkv, &s.o, &s.gate_up, &s.down};
        for (int i = 0; i < 4; i++) {
            uint8_t *all = device_alloc(parts[i]->bytes * 32);
            for (int j = 0; j < 32; j++)
                CUDA(cudaMemcpy(all + parts[i]->bytes * (size_t)j, parts[i]->w.data, parts[i]->bytes,
                                cudaMemcpyDeviceToDevice));
            CUDA(cudaFree((void *)parts[i]->w.data));
            parts[i]->w.data = all;
            parts[i]->copies = 32;
        }
        double bytes =
            32.0 * (double)(s.qkv.bytes + s.o.bytes + s.gate_up.bytes + s.down.bytes) + (double)s.out.bytes;
        size_t T = 32;
        float *x = host_alloc(T * 4096 * 4);
        for (size_t i = 0; i < T * 4096; i++)
            x[i] = blocks_uniform();
        s.x = device_copy(x, T * 4096 * 4);
        s.norm = device_copy(x, 4096 * 4);
        s.y = device_alloc(T * 6144 * 4);
        s.hidden = device_alloc(T * 14336 * 4);
        s.logits = device_alloc(T * 128256 * 4);
        s.act = device_alloc(fp__device_act_bytes(T, 14336));
        s.error = device_alloc(T * 4);
        s.ids = device_alloc(T * 4);
        s.state = device_alloc(T * 16);
        CUDA(cudaMemset(s.state, 0, T * 16));
        for (int i = 0; i < 6; i++)
            for (uint32_t way = 0; way < (i == 0 ? 5u : 1u); way++) {
                static const struct {
                    fp__cuda_tuning tune;
                    const char *name;
                } ways[] = {{{0}, ""},
                            {{.no_overlap = 1}, "no overlap"},
                            {{.decode_warps = 8}, "8 warps"},
                            {{.decode_warps = 12}, "12 warps"},
                            {{.decode_stage_bytes = 144 * 1024}, "ring of 144 KiB"}};
                s.tokens = tokens[i];
                fp__cuda_tune = ways[way].tune;
                double us = time_graph(do_stack, &s, 1, 15);
                entry("\"op\": \"stack of 32 layers and logits, no attention\", \"type\": \"%s\", "
                      "\"tokens\": %u, \"note\": "
                      "\"%s\", \"us\": %.1f, \"weights_GBps\": %.0f, \"of_copy\": %.3f",
                      fp__wtype_name(types[k]), tokens[i], ways[way].name, us, bytes / us * 1e-3,
                      bytes / us * 1e-3 / copy_rate);
            }
        fp__cuda_tune = (fp__cuda_tuning){0};
        void *all[] = {s.x, s.norm, s.y, s.hidden, s.logits, s.act, s.error, s.ids, s.state};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            CUDA(cudaFree(all[i]));
        for (int i = 0; i < 4; i++)
            linear_free(parts[i]);
        linear_free(&s.out);
        free(x);
    }
}

typedef struct hash_work {
    fp__cuda_hash_geometry g;
    const uint8_t *const *groups;
    uint32_t pages;
    uint8_t *leaves, *roots;
} hash_work;
static void do_hash(void *arg, int i, cudaStream_t stream)
{
    hash_work *h = arg;
    (void)i;
    CUDA(fp__cuda_hash_groups(&h->g, h->groups, h->pages, h->leaves, h->roots, stream));
}

static void bench_hash(void)
{
    enum { PAGES = 256 };
    static const uint32_t pages[] = {1, 4, 16, 64, 256};
    hash_work h = {.g = {1, 32, 8, 128, {0}}};
    size_t slabs = 256, group = slabs * fp__slab_bytes(128);
    uint8_t *data = device_alloc(PAGES * group);
    const uint8_t *pointers[PAGES];
    for (size_t i = 0; i < PAGES; i++)
        pointers[i] = data + i * group;
    h.groups = device_copy(pointers, sizeof pointers);
    h.leaves = device_alloc(PAGES * slabs * 32);
    h.roots = device_alloc(PAGES * 32);
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        h.pages = pages[i];
        double us = time_graph(do_hash, &h, 2, 7);
        entry("\"op\": \"hash page groups\", \"layers\": 32, \"kv_heads\": 8, \"d\": 128, \"pages\": %u, "
              "\"us\": %.1f, "
              "\"GBps\": %.1f",
              pages[i], us, (double)pages[i] * (double)group / us * 1e-3);
    }
    CUDA(cudaFree(data));
    CUDA(cudaFree((void *)h.groups));
    CUDA(cudaFree(h.leaves));
    CUDA(cudaFree(h.roots));
}

void bench_ops(const char *out)
{
    struct cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, 0));
    json = fopen(out, "w");
    if (!json) {
        perror(out);
        exit(1);
    }
    copy_work copy = {device_alloc((size_t)2 << 30), (size_t)1 << 30};
    double us = time_graph(do_copy, &copy, 4, 7);
    copy_rate = 2.0 * (double)copy.bytes / us * 1e-3;
    double direct = time_direct(do_copy, &copy, 9);
    printf("copy in a graph %.0f GB/s, on a stream %.0f GB/s\n", copy_rate,
           2.0 * (double)copy.bytes / direct * 1e-3);
    copy_rate = direct < us ? 2.0 * (double)copy.bytes / direct * 1e-3 : copy_rate;
    CUDA(cudaFree(copy.a));
    fprintf(json,
            "{\n  \"device\": \"%s\",\n  \"multiprocessors\": %d,\n  \"commit\": \"%s\",\n  \"copy_GBps\": "
            "%.1f,\n"
            "  \"method\": \"median of CUDA-graph replays, per call; weights rotate through more than the "
            "L2; copy counts "
            "bytes read and written\",\n  \"results\": [",
            p.name, p.multiProcessorCount, getenv("FIELDPRINT_COMMIT") ? getenv("FIELDPRINT_COMMIT") : "",
            copy_rate);
    separator = "";
    printf("%s, copy %.0f GB/s\n", p.name, copy_rate);
    const char *only = getenv("ONLY");
    if (!only || strchr(only, 'h'))
        bench_hash();
    if (!only || strchr(only, 's'))
        bench_stack();
    if (!only || strchr(only, 'd'))
        bench_decode();
    if (!only || strchr(only, 'p'))
        bench_prefill();
    fprintf(json, "\n  ]\n}\n");
    fclose(json);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "layout";
    if (!strcmp(what, "layout")) {
        int failed = check_layout();
        printf("layout: %d failures\n", failed);
        return failed != 0;
    }
    CUDA(cudaSetDevice(0));
    CUDA(fp__cuda_ops_init(0));
    if (!strcmp(what, "quick") || !strcmp(what, "check"))
        return check_ops(!strcmp(what, "quick"), argc > 2 ? argv[2] : NULL) != 0;
    if (!strcmp(what, "profile")) {
        copy_rate = 3000.0;
        json = stdout;
        separator = "";
        linear_work a = linear_make(FP__Q4_0, 14336, 4096, 1, 1), b = linear_make(FP__Q8_0, 4096, 4096, 0, 1);
        linear_inputs(&a, 1);
        do_linear(&a, 0, 0);
        do_linear(&a, 1, 0);
        linear_inputs(&b, 2048);
        do_linear(&b, 0, 0);
        CUDA(cudaDeviceSynchronize());
        return 0;
    }
    if (strcmp(what, "bench") || argc < 3) {
        printf("usage: ops_gpu layout | quick [PART] | check [PART] | bench OUT.json\n");
        return 2;
    }
    bench_ops(argv[2]);
    return 0;
}
