/* fieldprint model info|digest, tokenize, doctor. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

static const cli_option model_options[] = {CLI_MODEL_OPTIONS, CLI_JSON_OPTION, CLI_END};

static int info_main(const cli_args *args)
{
    fp_model *model;
    fp_model_info i;
    if (!cli_model_path(args))
        return 2;
    fp_status status = cli_open_model(args, true, &model);
    if (status != FP_OK)
        return cli_fail(status);
    fp_model_info_get(model, &i);
    int code = 0;
    if (args->json) {
        code = cli_print_json(json_pack(
            "{s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s, s:s, s:s, s:s, "
            "s:i, s:i}",
            "name", i.name, "architecture", i.architecture, "parameters", (json_int_t)i.parameters,
            "file_bytes", (json_int_t)i.file_bytes, "tensors", fp_model_types(model), "layers", (int)i.layers,
            "width", (int)i.width, "heads", (int)i.heads, "kv_heads", (int)i.kv_heads, "head_dim",
            (int)i.head_dim, "ffn_width", (int)i.ffn_width, "vocabulary", (int)i.vocabulary, "context",
            (int)i.context, "rope_dims", (int)i.rope_dims, "rope_base", (double)i.rope_base, "tokenizer",
            i.tokenizer, "pretokenizer", i.pretokenizer, "chat_template", i.chat_template, "kernels",
            i.kernels, "kv_page_bytes", (int)i.kv_page_bytes, "arithmetic", (int)i.arithmetic_version));
    } else {
        printf("name           %s\narchitecture   %s\nparameters     %.1f M\nfile           %.1f "
               "MiB\ntensors        %s\n"
               "layers         %u\nwidth          %u\nheads          %u (%u K/V heads of %u)\nFFN width      "
               "%u\n"
               "vocabulary     %u (%s %s)\nchat template  %s\ntrained ctx    %u\nrotary         %u "
               "dimensions, base %g\n"
               "K/V            %.1f KiB per token\nkernels        %s\n",
               i.name, i.architecture, (double)i.parameters / 1e6, (double)i.file_bytes / 1048576,
               fp_model_types(model), i.layers, i.width, i.heads, i.kv_heads, i.head_dim, i.ffn_width,
               i.vocabulary, i.tokenizer, i.pretokenizer,
               i.chat_template[0] ? i.chat_template : "none (use --template)", i.context, i.rope_dims,
               (double)i.rope_base, (double)i.kv_page_bytes / 64 / 1024, i.kernels);
    }
    fp_model_close(model);
    return code;
}

static int digest_main(const cli_args *args)
{
    fp_model *model;
    uint8_t digest[32];
    char text[65];
    if (!cli_model_path(args))
        return 2;
    fp_status status = cli_open_model(args, false, &model);
    if (status == FP_OK) {
        status = fp_model_digest(model, digest);
        fp_model_close(model);
    }
    if (status != FP_OK)
        return cli_fail(status);
    cli_hex_text(digest, 32, text);
    if (args->json)
        return cli_print_json(json_pack("{s:s}", "digest", text));
    printf("%s\n", text);
    return 0;
}

static const cli_option tokenize_options[] = {
    CLI_MODEL_OPTIONS,
    {"prompt", 'p', "TEXT", "the text"},
    {"file", 'f', "FILE", "read the text from a file (- for standard input)"},
    {"special", 0, NULL, "control tokens written in the text count as such"},
    {"add", 0, NULL, "put BOS in front and EOS behind where the model wants them"},
    CLI_JSON_OPTION,
    CLI_END,
};

static int print_tokens(const cli_args *args, const fp_model *model, const uint32_t *ids, size_t n)
{
    if (!args->json) {
        for (size_t i = 0; i < n; i++) {
            char *piece;
            size_t size;
            if (fp_model_detokenize(model, ids + i, 1, 1, &piece, &size) != FP_OK)
                continue;
            json_t *shown = json_stringn(piece, size); /* NULL when the bytes are a part of a character */
            char *quoted = shown ? json_dumps(shown, JSON_ENCODE_ANY) : NULL;
            printf("%u\t%s\n", ids[i], quoted ? quoted : "(part of a character)");
            free(quoted);
            json_decref(shown);
            free(piece);
        }
        return 0;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return cli_print_json(json_pack("{s:o}", "ids", list));
}

static int tokenize_main(const cli_args *args)
{
    const char *prompt = cli_text(args, "prompt", NULL), *file = cli_text(args, "file", NULL);
    char *text = NULL;
    size_t size = prompt ? strlen(prompt) : 0, n;
    uint32_t *ids;
    fp_model *model;
    if ((prompt != NULL) == (file != NULL))
        return cli_usage("give the text with either -p TEXT or -f FILE");
    if (!cli_model_path(args))
        return 2;
    fp_status status = file ? cli_read_file(file, 256 << 20, &text, &size) : FP_OK;
    if (status != FP_OK)
        return fp_status_exit_code(status);
    status = cli_open_model(args, true, &model);
    if (status != FP_OK) {
        free(text);
        return cli_fail(status);
    }
    unsigned flags =
        (cli_has(args, "special") ? FP_TOKENIZE_SPECIAL : 0u) | (cli_has(args, "add") ? FP_TOKENIZE_ADD : 0u);
    status = fp_model_tokenize(model, file ? text : prompt, size, flags, &ids, &n);
    int code = status == FP_OK ? print_tokens(args, model, ids, n) : cli_fail(status);
    if (status == FP_OK)
        free(ids);
    free(text);
    fp_model_close(model);
    return code;
}

static const cli_option doctor_options[] = {CLI_JSON_OPTION, CLI_END};

static json_t *devices_json(const fp_devices *devices)
{
    json_t *list = json_array();
    for (size_t i = 0; i < devices->n; i++) {
        const fp_device *d = &devices->device[i];
        json_t *one = json_pack("{s:s, s:s, s:i, s:b}", "id", d->id, "name", d->name, "units", (int)d->units,
                                "usable", (int)d->usable);
        if (one && d->capability)
            json_object_update_new(one, json_pack("{s:f, s:I, s:I}", "compute_capability",
                                                  (double)d->capability / 10, "memory_bytes",
                                                  (json_int_t)d->memory_bytes, "free_bytes",
                                                  (json_int_t)d->free_bytes));
        if (one && !d->usable)
            json_object_set_new(one, "why", json_string(d->why));
        json_array_append_new(list, one);
    }
    return list;
}

static void print_gpus(const fp_devices *devices)
{
    if (devices->cuda[0])
        printf("CUDA           %s\n", devices->cuda);
    if (devices->n == 1)
        printf("GPU            none: %s\n", devices->why);
    for (size_t i = 1; i < devices->n; i++) {
        const fp_device *d = &devices->device[i];
        printf("GPU            %s: %s, compute capability %u.%u, %u multiprocessors, %.1f of %.1f GiB "
               "free%s%s\n",
               d->id, d->name, d->capability / 10, d->capability % 10, d->units,
               (double)d->free_bytes / 0x1p30, (double)d->memory_bytes / 0x1p30,
               d->usable ? "" : "; cannot be used: ", d->why);
    }
}

static int doctor_main(const cli_args *args)
{
    fp_system_info i;
    fp_devices devices;
    fp_status status = fp_system_info_get(&i);
    if (status == FP_OK)
        status = fp_devices_list(&devices);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json)
        return cli_print_json(json_pack("{s:s, s:s, s:i, s:b, s:s, s:s, s:s, s:o, s:s}", "version",
                                        fp_version(), "processor", i.processor, "cores", (int)i.cores,
                                        "sha_instructions", i.sha_instructions, "kernels_in_use", i.kernels,
                                        "kernels_available", i.kernels_available, "cuda", devices.cuda,
                                        "devices", devices_json(&devices), "no_gpu_because", devices.why));
    printf("fieldprint     %s\nprocessor      %s\ncores          %zu usable\nSHA-256        %s\nkernels      "
           "  %s (this machine runs: %s)\n",
           fp_version(), i.processor, i.cores, i.sha_instructions ? "in hardware" : "in software", i.kernels,
           i.kernels_available);
    print_gpus(&devices);
    printf("floating point %s\n",
           i.canonical_floats ? "canonical (round to nearest, subnormals kept)" : "NOT canonical");
    return 0;
}

const cli_command cli_command_model_info = {"model info",  "",       0, 0, "what a model file is", "",
                                            model_options, info_main};
const cli_command cli_command_model_digest = {
    "model digest",
    "",
    0,
    0,
    "the digest that receipts and artifacts name a model by",
    "Covers the file, the tokenizer, the chat template, the rotary table and the version of the arithmetic.",
    model_options,
    digest_main};
const cli_command cli_command_tokenize = {"tokenize",       "",           0, 0, "text to tokens", "",
                                          tokenize_options, tokenize_main};
const cli_command cli_command_doctor = {
    "doctor",       "",         0, 0, "what this machine has, and which kernels and GPUs can be used", "",
    doctor_options, doctor_main};
