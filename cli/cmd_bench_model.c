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
    {"batch", 0, "N", "sequences decoded together (default 1)"},
    {"context", 0, "N", "tokens of made-up K/V in each before decoding (default 4096)"},
    {"anchor", 0, "N", "tokens of an anchor that they share (default 0)"},
    {"steps", 0, "N", "tokens decoded in a run (default 128; 0: none)"},
    {"prefill", 0, "N", "tokens of a prompt to time (default 0: none)"},
    {"chunk", 0, "N", "prompt tokens per step (default 512, on a GPU 2048)"},
    {"validation", 0, "NAME",
     "of the pages that decoding fills: none, async (default: as the engine does it), async-cpu, sync-page "
     "or "
     "sync-token"},
    {"runs", 0, "N", "repetitions; medians are told (default 3)"},
    {"threads", 't', "N", "threads (default: one per core)"},
    CLI_JSON_OPTION,
    CLI_END,
};
static const char *const validations[] = {"none", "async", "async-cpu", "sync-page", "sync-token"};

static fp_bench_validation validation(const cli_args *args)
{
    const char *name = cli_text(args, "validation", "async");
    for (size_t i = 0; i < sizeof validations / sizeof *validations; i++)
        if (strcmp(name, validations[i]) == 0)
            return (fp_bench_validation)i;
    exit(cli_usage("--validation %s: must be none, async, async-cpu, sync-page or sync-token", name));
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

static int print_json(const fp_model *model, const fp_bench_machine *m, const fp_bench_model_options *o,
                      const fp_bench_model_result *r)
{
    fp_model_info info;
    fp_model_info_get(model, &info);
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}, s:i, s:i, s:i, s:s, s:I, s:I}",
        "bench", "model", "version", fp_version(), "machine", cli_bench_machine(m), "model", "name",
        info.name, "architecture", info.architecture, "types", fp_model_types(model), "layers",
        (int)info.layers, "width", (int)info.width, "heads", (int)info.heads, "kv_heads", (int)info.kv_heads,
        "head_dim", (int)info.head_dim, "ffn_width", (int)info.ffn_width, "vocabulary", (int)info.vocabulary,
        "batch", (int)o->batch, "context", (int)o->context, "anchor", (int)o->anchor, "validation",
        validations[o->validation], "words_checked", (json_int_t)r->words_checked, "kv_bytes",
        (json_int_t)r->kv_bytes);
    if (!object)
        return cli_print_json(object);
    if (o->steps) {
        double bytes = (double)(r->weight_bytes + r->kv_step_bytes);
        json_object_set_new(object, "decode",
                            json_pack("{s:i, s:o, s:f, s:I, s:I, s:f, s:f, s:I, s:I}", "steps", (int)o->steps,
                                      "step", times_json(&r->step), "tokens_per_s", r->decode_tokens_per_s,
                                      "weight_bytes", (json_int_t)r->weight_bytes, "kv_step_bytes",
                                      (json_int_t)r->kv_step_bytes, "gb_s", bytes / r->step.median_us / 1e3,
                                      "of_copy", bytes / r->step.median_us / 1e3 / m->copy_gb_s,
                                      "hashed_bytes", (json_int_t)r->hashed_bytes, "copied_bytes",
                                      (json_int_t)r->copied_bytes));
    }
    if (o->prefill)
        json_object_set_new(object, "prefill",
                            json_pack("{s:i, s:i, s:o, s:f}", "tokens", (int)o->prefill, "chunk",
                                      (int)r->chunk, "prompt", times_json(&r->prompt), "tokens_per_s",
                                      r->prefill_tokens_per_s));
    return cli_print_json(object);
}

static int print_table(const fp_model *model, const fp_bench_machine *m, const fp_bench_model_options *o,
                       const fp_bench_model_result *r)
{
    fp_model_info info;
    fp_model_info_get(model, &info);
    cli_bench_print_machine(m);
    printf("%s, %u layers of %u, %s\n", info.name[0] ? info.name : info.architecture, info.layers, info.width,
           fp_model_types(model));
    printf("%llu words of logits and K/V checked, none differs\n", (unsigned long long)r->words_checked);
    if (o->steps) {
        double bytes = (double)(r->weight_bytes + r->kv_step_bytes), gb_s = bytes / r->step.median_us / 1e3;
        printf("decode   %u × %u tokens", o->batch, o->context);
        if (o->anchor)
            printf(" and %u of a shared anchor", o->anchor);
        printf(", validation %s: %.1f tokens/s, %.1f µs a step (least %.1f, %u runs of %u steps)\n",
               validations[o->validation], r->decode_tokens_per_s, r->step.median_us, r->step.least_us,
               r->step.runs, o->steps);
        printf("         reads %.1f MB of weights and %.1f MB of K/V a step: %.1f GB/s, %.1f %% of the copy "
               "rate\n",
               (double)r->weight_bytes / 1e6, (double)r->kv_step_bytes / 1e6, gb_s,
               100 * gb_s / m->copy_gb_s);
        if (r->hashed_bytes)
            printf("         hashed %.1f MB in a run, %.1f MB of them copied to the host\n",
                   (double)r->hashed_bytes / 1e6, (double)r->copied_bytes / 1e6);
    }
    if (o->prefill)
        printf("prefill  %u tokens in steps of %u: %.1f tokens/s\n", o->prefill, r->chunk,
               r->prefill_tokens_per_s);
    return 0;
}

static int bench_main(const cli_args *args)
{
    fp_bench_model_options o = {
        .device = cli_text(args, "device", getenv("FIELDPRINT_DEVICE")),
        .threads = (size_t)cli_number(args, "threads", 0, 1, 1024),
        .batch = (uint32_t)cli_number(args, "batch", 1, 1, 256),
        .context = (uint32_t)cli_number(args, "context", 4096, 0, 1 << 24),
        .anchor = (uint32_t)cli_number(args, "anchor", 0, 0, 1 << 20),
        .steps = (uint32_t)cli_number(args, "steps", 128, 0, 1 << 20),
        .prefill = (uint32_t)cli_number(args, "prefill", 0, 0, 1 << 22),
        .chunk = (uint32_t)cli_number(args, "chunk", 0, 1, 8192),
        .runs = (uint32_t)cli_number(args, "runs", 3, 1, 1000),
        .validation = validation(args),
    };
    fp_model *model = NULL;
    fp_bench_machine machine;
    fp_bench_model_result result;
    fp_status status = fp_bench_machine_get(o.device, o.threads, &machine);
    if (status == FP_OK)
        status = open_model(args, o.threads, &model);
    if (status == FP_OK)
        status = fp_bench_model(model, &o, &result);
    int code = status != FP_OK ? cli_fail(status)
               : args->json    ? print_json(model, &machine, &o, &result)
                               : print_table(model, &machine, &o, &result);
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
    "the weights are random, of a shape.\n\n--validation compares ways to hash the pages that decoding "
    "fills; the time "
    "ends when the last hash is there.",
    options,
    bench_main,
};
