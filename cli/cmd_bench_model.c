/* fieldprint bench model: decoding and prefill of a whole model at a wanted depth and batch, on any device.
 */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

static const cli_option options[] = {
    {"model", 'm', "FILE", "the model, a GGUF file"},
    {"shape", 0, "NAME", "instead of a file: random weights of this shape, 8b (default) or tiny"},
    {"type", 0, "NAME", "of the random weights: q4_0 (default), q4_1, q8_0"},
    {"layers", 0, "N", "of the random weights (default: the shape's)"},
    CLI_DEVICE_OPTION,
    {"batch", 0, "N,...", "sequences decoded together (default 1)"},
    {"context", 0, "N,...", "tokens of made-up K/V in each before decoding (default 4096)"},
    {"anchor", 0, "N,...", "tokens of an anchor that they share (default 0)"},
    {"points", 0, "BxC,...",
     "instead of the three: batch and context each, as 8x4096, +N for an anchor, then :NAME "
     "for a validation and @N for steps of its own (8x4096+512:none@64)"},
    {"steps", 0, "N", "tokens decoded in a run (default 128; 0: none)"},
    {"prefill", 0, "N,...", "tokens of a prompt to time (default: none)"},
    {"chunk", 0, "N", "prompt tokens per step (default 512, on a GPU 2048)"},
    {"validation", 0, "NAME,...",
     "of the pages that decoding fills: none, async (default: as the engine does it), async-cpu, sync-page "
     "or "
     "sync-token"},
    {"runs", 0, "N", "repetitions; medians are told (default 3)"},
    {"seconds", 0, "N", "measurements that are not begun by then are left out (default: no limit)"},
    {"threads", 't', "N", "threads (default: one per core)"},
    CLI_JSON_OPTION,
    CLI_END,
};
static const char *const validations[] = {"none", "async", "async-cpu", "sync-page", "sync-token"};

enum { MAX_POINTS = 256, MAX_LIST = 32 };

/* Numbers separated by commas. */
static size_t numbers(const cli_args *args, const char *name, const char *fallback, uint32_t max,
                      uint32_t *out)
{
    const char *text = cli_text(args, name, fallback);
    size_t n = 0;
    for (const char *at = text; *at;) {
        char *end;
        unsigned long long v = strtoull(at, &end, 10);
        if (end == at || *at == '-' || v > max || n == MAX_LIST || (*end && *end != ',') || (*end && !end[1]))
            exit(cli_usage("--%s %s: up to %d whole numbers from 0 to %u, separated by commas, are wanted",
                           name, text, MAX_LIST, max));
        out[n++] = (uint32_t)v;
        at = *end ? end + 1 : end;
    }
    return n;
}

static size_t validation_list(const cli_args *args, fp_bench_validation *out)
{
    const char *text = cli_text(args, "validation", "async");
    size_t n = 0;
    for (const char *at = text; at;) {
        const char *comma = strchr(at, ',');
        size_t size = comma ? (size_t)(comma - at) : strlen(at), found = n;
        for (size_t i = 0; i < sizeof validations / sizeof *validations && n < MAX_LIST; i++)
            if (strlen(validations[i]) == size && memcmp(validations[i], at, size) == 0)
                out[n++] = (fp_bench_validation)i;
        if (n == found)
            exit(cli_usage(
                "--validation %s: of none, async, async-cpu, sync-page, sync-token, separated by commas",
                text));
        at = comma ? comma + 1 : NULL;
    }
    return n;
}

/* "8x4096+512:none@64" → point; what a part does not say stays as it is. */
static bool parse_point(const char *text, size_t size, fp_bench_point *p)
{
    char copy[96], name[16] = "", end;
    unsigned batch, context, anchor = p->anchor, steps = p->steps;
    int used = 0;
    if (size >= sizeof copy)
        return false;
    memcpy(copy, text, size);
    copy[size] = 0;
    if (sscanf(copy, "%9ux%9u%n", &batch, &context, &used) != 2)
        return false;
    const char *at = copy + used;
    if (*at == '+' && sscanf(at, "+%9u%n", &anchor, &used) == 1)
        at += used;
    if (*at == ':' && sscanf(at, ":%15[a-z-]%n", name, &used) == 1)
        at += used;
    if (*at == '@' && sscanf(at, "@%9u%n", &steps, &used) == 1)
        at += used;
    if (*at || sscanf(at, "%c", &end) == 1 || batch == 0 || batch > 256 || context > 1 << 24 ||
        anchor > 1 << 20 || steps == 0 || steps > 1 << 20)
        return false;
    bool known = !name[0];
    for (size_t i = 0; i < sizeof validations / sizeof *validations; i++)
        if (strcmp(name, validations[i]) == 0) {
            p->validation = (fp_bench_validation)i;
            known = true;
        }
    p->batch = batch, p->context = context, p->anchor = anchor, p->steps = steps;
    return known;
}

static size_t listed_points(const cli_args *args, const fp_bench_point *base, fp_bench_point *points)
{
    const char *text = cli_text(args, "points", "");
    size_t n = 0;
    for (const char *at = text; at;) {
        const char *comma = strchr(at, ',');
        points[n] = *base;
        if (n + 1 == MAX_POINTS || !parse_point(at, comma ? (size_t)(comma - at) : strlen(at), &points[n++]))
            exit(cli_usage("--points %s: a list of BATCHxCONTEXT[+ANCHOR][:VALIDATION][@STEPS] is wanted",
                           text));
        at = comma ? comma + 1 : NULL;
    }
    return n;
}

/* Every combination of the lists. */
static size_t combined_points(const cli_args *args, const fp_bench_point *base, fp_bench_point *points)
{
    uint32_t batch[MAX_LIST], context[MAX_LIST], anchor[MAX_LIST];
    fp_bench_validation validation[MAX_LIST];
    size_t nb = numbers(args, "batch", "1", 256, batch),
           nc = numbers(args, "context", "4096", 1 << 24, context),
           na = numbers(args, "anchor", "0", 1 << 20, anchor), nv = validation_list(args, validation),
           n = nb * nc * na * nv;
    if (n > MAX_POINTS)
        exit(cli_usage("these lists make %zu measurements; at most %d can be done", n, MAX_POINTS));
    for (size_t i = 0; i < n; i++) {
        points[i] = *base;
        points[i].batch = batch[i / (nc * na * nv)];
        points[i].context = context[i / (na * nv) % nc];
        points[i].anchor = anchor[i / nv % na];
        points[i].validation = validation[i % nv];
    }
    return n;
}

/* What to decode, then the prompts. */
static size_t make_points(const cli_args *args, fp_bench_point *points)
{
    uint32_t prefill[MAX_LIST];
    fp_bench_point base = {.batch = 1,
                           .steps = (uint32_t)cli_number(args, "steps", 128, 0, 1 << 20),
                           .chunk = (uint32_t)cli_number(args, "chunk", 0, 1, 8192),
                           .runs = (uint32_t)cli_number(args, "runs", 3, 1, 1000),
                           .validation = FP_BENCH_VALIDATE_ASYNC};
    size_t np = numbers(args, "prefill", "", 1 << 22, prefill), n = 0;
    if (cli_has(args, "points"))
        n = listed_points(args, &base, points);
    else if (base.steps)
        n = combined_points(args, &base, points);
    if (n + np > MAX_POINTS || n + np == 0)
        exit(cli_usage("%zu measurements; 1 to %d can be done", n + np, MAX_POINTS));
    for (size_t i = 0; i < np; i++, n++) {
        points[n] = base;
        points[n].prefill = prefill[i];
        points[n].steps = 0;
    }
    return n;
}

static fp_status open_model(const cli_args *args, size_t threads, fp_model **out)
{
    const char *path = cli_text(args, "model", NULL);
    if (path) {
        if (cli_has(args, "shape") || cli_has(args, "type") || cli_has(args, "layers"))
            exit(cli_usage("--shape, --type and --layers are for random weights: leave out --model or them"));
        return cli_open_model(args, false, out);
    }
    fp_bench_shape shape;
    fp_status status = fp_bench_shape_get(cli_text(args, "shape", "8b"), &shape);
    if (status != FP_OK)
        return status;
    shape.type = cli_text(args, "type", shape.type);
    shape.layers = (uint32_t)cli_number(args, "layers", shape.layers, 1, 1024);
    return fp_bench_model_create(&shape, threads, out);
}

static json_t *times_json(const fp_bench_times *t)
{
    return json_pack("{s:i, s:f, s:f}", "runs", (int)t->runs, "median_us", t->median_us, "least_us",
                     t->least_us);
}

static json_t *spread_json(const fp_bench_spread *s)
{
    return json_pack("{s:i, s:f, s:f, s:f, s:f}", "steps", (int)s->steps, "p50_us", s->p50_us, "p90_us",
                     s->p90_us, "p99_us", s->p99_us, "max_us", s->max_us);
}

static json_t *point_json(const fp_bench_machine *m, const fp_bench_point *o, const fp_bench_point_result *r)
{
    double bytes = (double)(r->weight_bytes + r->kv_step_bytes), gb_s = bytes / r->step.median_us / 1e3;
    json_t *object =
        o->steps ? json_pack("{s:i, s:i, s:i, s:s}", "batch", (int)o->batch, "context", (int)o->context,
                             "anchor", (int)o->anchor, "validation", validations[o->validation])
                 : json_pack("{s:i}", "prefill", (int)o->prefill);
    if (!object || r->status != FP_OK) {
        json_object_set_new(object, "error", json_string(r->detail));
        return object;
    }
    json_t *figures =
        o->steps
            ? json_pack("{s:i, s:o, s:o, s:f, s:I, s:I, s:I, s:f, s:f, s:I, s:I}", "steps", (int)o->steps,
                        "step", times_json(&r->step), "latency", spread_json(&r->latency), "tokens_per_s",
                        r->decode_tokens_per_s, "weight_bytes", (json_int_t)r->weight_bytes, "kv_step_bytes",
                        (json_int_t)r->kv_step_bytes, "kv_bytes", (json_int_t)r->kv_bytes, "gb_s", gb_s,
                        "of_copy", gb_s / m->copy_gb_s, "hashed_bytes", (json_int_t)r->hashed_bytes,
                        "copied_bytes", (json_int_t)r->copied_bytes)
            : json_pack("{s:i, s:o, s:f}", "chunk", (int)r->chunk, "prompt", times_json(&r->prompt),
                        "tokens_per_s", r->prefill_tokens_per_s);
    if (figures)
        json_object_update(object, figures);
    json_decref(figures);
    return object;
}

static int print_json(const fp_model *model, const fp_bench_machine *m, uint64_t words,
                      const fp_bench_point *o, const fp_bench_point_result *r, size_t n)
{
    fp_model_info info;
    fp_model_info_get(model, &info);
    json_t *points = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(points, point_json(m, &o[i], &r[i]));
    return cli_print_json(
        json_pack("{s:s, s:s, s:o, s:{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}, s:I, s:o}", "bench",
                  "model", "version", fp_version(), "machine", cli_bench_machine(m), "model", "name",
                  info.name, "architecture", info.architecture, "types", fp_model_types(model), "layers",
                  (int)info.layers, "width", (int)info.width, "heads", (int)info.heads, "kv_heads",
                  (int)info.kv_heads, "head_dim", (int)info.head_dim, "ffn_width", (int)info.ffn_width,
                  "vocabulary", (int)info.vocabulary, "words_checked", (json_int_t)words, "points", points));
}

static void print_point(const fp_bench_machine *m, const fp_bench_point *o, const fp_bench_point_result *r)
{
    double bytes = (double)(r->weight_bytes + r->kv_step_bytes), gb_s = bytes / r->step.median_us / 1e3;
    if (o->steps)
        printf("%5u %9u %7u  %-10s", o->batch, o->context, o->anchor, validations[o->validation]);
    else
        printf("prefill of %u tokens", o->prefill);
    if (r->status != FP_OK)
        printf(" %s\n", r->detail);
    else if (o->steps)
        printf(" %12.1f %11.1f %9.1f %9.1f %8.1f %8.1f %7.1f\n", r->decode_tokens_per_s, r->step.median_us,
               r->latency.p99_us, (double)r->kv_step_bytes / 1e6, 100 * gb_s / m->copy_gb_s,
               (double)r->hashed_bytes / 1e6, (double)r->copied_bytes / 1e6);
    else
        printf(" in steps of %u: %.1f tokens/s\n", r->chunk, r->prefill_tokens_per_s);
}

static int print_table(const fp_model *model, const fp_bench_machine *m, uint64_t words,
                       const fp_bench_point *o, const fp_bench_point_result *r, size_t n)
{
    fp_model_info info;
    fp_model_info_get(model, &info);
    cli_bench_print_machine(m);
    printf("%s, %u layers of %u, %s\n", info.name[0] ? info.name : info.architecture, info.layers, info.width,
           fp_model_types(model));
    printf("%llu words of logits and K/V checked, none differs\n", (unsigned long long)words);
    if (o[0].steps)
        printf("decoding, medians of %u runs; a step reads %.1f MB of weights\n"
               "batch   context  anchor  validation     tokens/s     step/µs    p99/µs    K/V MB   %%copy   "
               "hashed  copied MB\n",
               o[0].runs, (double)r[0].weight_bytes / 1e6);
    for (size_t i = 0; i < n; i++)
        print_point(m, &o[i], &r[i]);
    return 0;
}

static int bench_main(const cli_args *args)
{
    static fp_bench_point points[MAX_POINTS];
    static fp_bench_point_result results[MAX_POINTS];
    const char *device = cli_text(args, "device", getenv("FIELDPRINT_DEVICE"));
    size_t threads = (size_t)cli_number(args, "threads", 0, 1, 1024), n = make_points(args, points);
    fp_model *model = NULL;
    fp_bench_machine machine;
    uint64_t words;
    fp_status status = fp_bench_machine_get(device, threads, &machine);
    if (status == FP_OK)
        status = open_model(args, threads, &model);
    if (status == FP_OK)
        status = fp_bench_model(model, device, threads, cli_real(args, "seconds", 0, 0, 1e6), points, n,
                                results, &words);
    int code = status != FP_OK ? cli_fail(status)
               : args->json    ? print_json(model, &machine, words, points, results, n)
                               : print_table(model, &machine, words, points, results, n);
    for (size_t i = 0; i < n && code == 0 && status == FP_OK; i++)
        if (n == 1 && results[i].status != FP_OK)
            code = fp_status_exit_code(results[i].status);
    fp_model_close(model);
    return code;
}

const cli_command cli_command_bench_model = {
    "bench model",
    "",
    0,
    0,
    "how fast a model decodes at a depth and batch, with pages validated in different ways",
    "Runs the model's steps on a device, with made-up K/V before them, so that no prompt has to be computed "
    "first. A "
    "short prompt is compared with the CPU, every bit of its logits and K/V, before anything is timed. "
    "Without --model "
    "the weights are random, of a shape. Options that take N,... take a list; every combination is "
    "measured.\n\n--validation compares ways to hash the pages that "
    "decoding "
    "fills; the time "
    "ends when the last hash is there.",
    options,
    bench_main,
};
