/* fieldprint bench attention, bench hash: what the kernels reach on this machine, after checking their bits.
 */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

#define THREADS_OPTION                                                                                       \
    {                                                                                                        \
        "threads", 't', "N", "threads (default: one per core)"                                               \
    }

static const cli_option attention_options[] = {
    CLI_DEVICE_OPTION,
    {"batch", 0, "N", "sequences (default 1)"},
    {"context", 0, "N", "tokens of each sequence (default 8192)"},
    {"tokens", 0, "N", "query tokens of each sequence, the last of its context (default 1: decode)"},
    {"anchor", 0, "N", "anchor tokens that each sequence attends to as well (default 0)"},
    {"shared", 0, NULL, "all sequences use the same anchor pages"},
    {"mode", 0, "NAME", "compete (default), floor or reserve"},
    {"gamma", 0, "X", "influence of the anchor, 0 to 1 (default 0.1)"},
    {"heads", 0, "N", "query heads (default 32)"},
    {"kv-heads", 0, "N", "KV heads (default 8)"},
    {"head-dim", 0, "N", "head size (default 128)"},
    {"runs", 0, "N", "repetitions; the median is told (default 15)"},
    THREADS_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};
static const cli_option hash_options[] = {
    CLI_DEVICE_OPTION,
    {"pages", 0, "N", "page groups hashed at a time (default 32)"},
    {"layers", 0, "N", "layers (default 32)"},
    {"kv-heads", 0, "N", "KV heads (default 8)"},
    {"head-dim", 0, "N", "head size (default 128)"},
    {"runs", 0, "N", "repetitions; the median is told (default 15)"},
    THREADS_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};

json_t *cli_bench_machine(const fp_bench_machine *m)
{
    return json_pack("{s:s, s:s, s:s, s:i, s:f}", "device", m->device, "name", m->name, "kernels", m->kernels,
                     "units", (int)m->units, "copy_gb_s", m->copy_gb_s);
}

void cli_bench_print_machine(const fp_bench_machine *m)
{
    printf("%s: %s, %u %s, kernels %s; copies %.1f GB/s (read + written)\n", m->device, m->name, m->units,
           strncmp(m->device, "cuda", 4) == 0 ? "multiprocessors"
           : m->units == 1                    ? "thread"
                                              : "threads",
           m->kernels, m->copy_gb_s);
}

static uint32_t number(const cli_args *args, const char *name, uint32_t fallback, uint32_t min, uint32_t max)
{
    return (uint32_t)cli_number(args, name, fallback, min, max);
}

static uint32_t mode_number(const char *name)
{
    static const char *const names[] = {"compete", "floor", "reserve"};
    for (uint32_t i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    exit(cli_usage("--mode %s: must be compete, floor or reserve", name));
}

static int print_attention(const cli_args *args, const fp_bench_machine *m,
                           const fp_bench_attention_options *o, const fp_bench_attention_result *r)
{
    double operations = (double)r->pairs * 4 * o->d / r->layer.median_us / 1e6;
    const char *mode = cli_text(args, "mode", "compete");
    if (args->json) {
        json_t *object = json_pack(
            "{s:s, s:s, s:o, s:{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:s, s:i}, s:I, s:i, s:i, s:f, s:f, "
            "s:I, s:f, s:f, s:f}",
            "bench", "attention", "version", fp_version(), "machine", cli_bench_machine(m), "shape", "batch",
            (int)o->batch, "context", (int)o->context, "tokens", (int)o->tokens, "anchor", (int)o->anchor,
            "heads", (int)o->heads, "kv_heads", (int)o->kv_heads, "head_dim", (int)o->d, "shared", o->shared,
            "mode", mode, "gamma_65536", (int)o->gamma_65536, "words_checked", (json_int_t)r->words_checked,
            "layers", (int)r->layers, "runs", (int)r->layer.runs, "median_us", r->layer.median_us, "least_us",
            r->layer.least_us, "kv_bytes", (json_int_t)r->kv_bytes, "kv_gb_s", r->kv_gb_s, "of_copy",
            r->kv_gb_s / m->copy_gb_s, "tera_ops", operations);
        if (object && r->with_queries.runs)
            json_object_set_new(object, "with_queries_us", json_real(r->with_queries.median_us));
        return cli_print_json(object);
    }
    cli_bench_print_machine(m);
    printf("%u × %u tokens, %u query token%s each, anchor %u%s, %s; %u heads of %u over %u KV heads\n",
           o->batch, o->context, o->tokens, o->tokens == 1 ? "" : "s", o->anchor,
           o->shared ? " (shared)" : "", mode, o->heads, o->d, o->kv_heads);
    printf("%llu output words checked, none differs\n", (unsigned long long)r->words_checked);
    printf("one layer  %10.2f µs median, %.2f least of %u (%u layers in turn)\n", r->layer.median_us,
           r->layer.least_us, r->layer.runs, r->layers);
    if (r->with_queries.runs)
        printf("           %10.2f µs with the queries' quantisation\n", r->with_queries.median_us);
    printf("K/V        %10.1f MB, %.1f GB/s, %.1f %% of the copy rate\n", (double)r->kv_bytes / 1e6,
           r->kv_gb_s, 100 * r->kv_gb_s / m->copy_gb_s);
    printf("products   %10.2f · 10^12 operations/s (4·d for each row and token it sees)\n", operations);
    return 0;
}

static int attention_main(const cli_args *args)
{
    fp_bench_attention_options o = {
        .device = cli_text(args, "device", getenv("FIELDPRINT_DEVICE")),
        .threads = (size_t)cli_number(args, "threads", 0, 1, 1024),
        .heads = number(args, "heads", 32, 1, 4096),
        .kv_heads = number(args, "kv-heads", 8, 1, 4096),
        .d = number(args, "head-dim", 128, 2, 512),
        .batch = number(args, "batch", 1, 1, 4096),
        .tokens = number(args, "tokens", 1, 1, 1 << 20),
        .context = number(args, "context", 8192, 1, 1 << 24),
        .anchor = number(args, "anchor", 0, 0, 1 << 22),
        .shared = cli_has(args, "shared"),
        .mode = mode_number(cli_text(args, "mode", "compete")),
        .gamma_65536 = cli_has(args, "gamma") ? cli_gamma(args, "gamma") : 6554,
        .runs = number(args, "runs", 15, 1, 1000),
    };
    fp_bench_machine machine;
    fp_bench_attention_result result;
    fp_status status = fp_bench_machine_get(o.device, o.threads, &machine);
    if (status == FP_OK)
        status = fp_bench_attention(&o, &result);
    return status == FP_OK ? print_attention(args, &machine, &o, &result) : cli_fail(status);
}

static int hash_main(const cli_args *args)
{
    fp_bench_hash_options o = {.device = cli_text(args, "device", getenv("FIELDPRINT_DEVICE")),
                               .threads = (size_t)cli_number(args, "threads", 0, 1, 1024),
                               .layers = number(args, "layers", 32, 1, 65535),
                               .kv_heads = number(args, "kv-heads", 8, 1, 65535),
                               .d = number(args, "head-dim", 128, 2, 512),
                               .pages = number(args, "pages", 32, 1, 1 << 20),
                               .runs = number(args, "runs", 15, 1, 1000)};
    fp_bench_machine machine;
    fp_bench_hash_result r;
    fp_status status = fp_bench_machine_get(o.device, o.threads, &machine);
    if (status == FP_OK)
        status = fp_bench_hash(&o, &r);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json)
        return cli_print_json(json_pack(
            "{s:s, s:s, s:o, s:{s:i, s:i, s:i, s:i}, s:I, s:i, s:f, s:f, s:I, s:f}", "bench", "hash",
            "version", fp_version(), "machine", cli_bench_machine(&machine), "shape", "pages", (int)o.pages,
            "layers", (int)o.layers, "kv_heads", (int)o.kv_heads, "head_dim", (int)o.d, "hashes_checked",
            (json_int_t)r.hashes_checked, "runs", (int)r.all.runs, "median_us", r.all.median_us, "least_us",
            r.all.least_us, "bytes", (json_int_t)r.bytes, "gb_s", r.gb_s));
    cli_bench_print_machine(&machine);
    printf("%u page groups of %u layers × %u KV heads, head size %u: %.1f MB\n", o.pages, o.layers,
           o.kv_heads, o.d, (double)r.bytes / 1e6);
    printf("%llu hashes checked, none differs\n", (unsigned long long)r.hashes_checked);
    printf("all leaves and roots %10.1f µs median, %.1f least of %u: %.2f GB/s\n", r.all.median_us,
           r.all.least_us, r.all.runs, r.gb_s);
    return 0;
}

const cli_command cli_command_bench_attention = {
    "bench attention",
    "",
    0,
    0,
    "how fast attention runs here: microseconds, GB/s, share of the copy rate",
    "Makes up pages and queries, compares the output with the definition (on a GPU with the CPU's, every "
    "word), then "
    "times one layer: several layers with K/V of their own take turns, so that no cache helps. Wrong bits "
    "are an "
    "error, not a time.",
    attention_options,
    attention_main,
};
const cli_command cli_command_bench_hash = {
    "bench hash",
    "",
    0,
    0,
    "how fast pages are hashed here: GB/s",
    "Hashes made-up page groups (slab leaves and group roots) after comparing the hashes with the "
    "definition. What hashing costs the steps of a model beside it: bench model --validation.",
    hash_options,
    hash_main,
};
