/* fieldprint bench faults: what happens when memory, processors, files and disks do not do as they should. */
#include "commands.h"
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_option options[] = {
    CLI_MODEL_OPTIONS,
    {"faults", 0, "N", "how many faults (default 1000)"},
    {"clean", 0, "N", "checks of pages without a fault, for false alarms (default 100000)"},
    {"tokens", 0, "N", "tokens of each answer (default 150)"},
    {"seed", 0, "N", "seed of what strikes where and when (default 1)"},
    {"folder", 0, "DIR", "an empty folder to work in (default: a new one, removed afterwards)"},
    CLI_JSON_OPTION,
    CLI_END,
};

static json_t *counts_json(const fp_fault_counts *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, "
                     "s:I, s:I, s:f, s:f}",
                     "injected", (json_int_t)c->injected, "persistent", (json_int_t)c->persistent,
                     "persistent_checked", (json_int_t)c->persistent_checked, "detected",
                     (json_int_t)c->detected, "missed", (json_int_t)c->missed, "transient",
                     (json_int_t)c->transient, "transient_detected", (json_int_t)c->transient_detected,
                     "corrected", (json_int_t)c->corrected, "without_effect", (json_int_t)c->without_effect,
                     "wrong", (json_int_t)c->wrong, "errors", (json_int_t)c->errors, "retractions",
                     (json_int_t)c->retractions, "gave_out_wrong", (json_int_t)c->gave_out_wrong,
                     "detect_ms_mean", c->detect_ms_mean, "detect_ms_max", c->detect_ms_max, "scrubbed",
                     (json_int_t)c->scrubbed, "windowed", (json_int_t)c->windowed, "outside_of_window",
                     (json_int_t)c->outside, "beyond_rate", (json_int_t)c->beyond_rate, "window_share_max",
                     c->window_share_max, "rollback_ms_max", c->rollback_ms_max);
}

static int report_json(const fp_model *model, const fp_fault_result *r, uint64_t seed)
{
    json_t *cells = json_array(), *kinds = json_array(), *problems = json_array();
    fp_model_info info;
    fp_model_info_get(model, &info);
    for (size_t l = 0; l < FP_FAULT_LEVELS; l++)
        for (size_t m = 0; m < FP_FAULT_RELEASES; m++) {
            json_t *cell = counts_json(&r->cell[l][m]);
            json_object_set_new(cell, "validation", json_string(fp_fault_level_name(l)));
            json_object_set_new(cell, "release", json_string(fp_release_name((fp_release)m)));
            json_array_append_new(cells, cell);
        }
    for (size_t k = 0; k < FP_FAULT_KINDS; k++) {
        json_t *kind = counts_json(&r->kind[k]);
        json_object_set_new(kind, "kind", json_string(fp_fault_kind_name(k)));
        json_array_append_new(kinds, kind);
    }
    for (size_t i = 0; i < r->problems; i++)
        json_array_append_new(problems, json_string(r->problem[i]));
    return cli_print_json(json_pack(
        "{s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:I, s:o}", "model",
        info.name, "kernels", info.kernels, "seed", (json_int_t)seed, "all", counts_json(&r->all), "cells",
        cells, "kinds", kinds, "clean_pages", (json_int_t)r->clean_pages, "false_alarms",
        (json_int_t)r->false_alarms, "page_window_ms", r->page_window_ms, "weight_window_ms",
        r->weight_window_ms, "page_pass_ms", r->page_pass_ms, "weight_pass_ms", r->weight_pass_ms,
        "rollback_ms_mean", r->rollback_ms_mean, "rollback_ms_max", r->rollback_ms_max, "tokens_replayed",
        (json_int_t)r->tokens_replayed, "token_ms", r->token_ms, "violations", (json_int_t)r->violations,
        "problems", problems));
}

static void print_row(const char *name, const char *release, const fp_fault_counts *c)
{
    printf(
        "%-25s %-10s %7llu %7llu %9llu %6llu %6llu %6llu %9llu %9llu %6llu %6llu %9.1f %7llu %6.2f %8.2f\n",
        name, release, (unsigned long long)c->injected, (unsigned long long)c->persistent_checked,
        (unsigned long long)c->detected, (unsigned long long)c->missed, (unsigned long long)c->transient,
        (unsigned long long)c->transient_detected, (unsigned long long)c->corrected,
        (unsigned long long)c->without_effect, (unsigned long long)c->wrong, (unsigned long long)c->errors,
        c->detect_ms_max, (unsigned long long)c->outside, c->window_share_max, c->rollback_ms_max);
}

static void report_text(const fp_fault_result *r)
{
    printf("%-25s %-10s %7s %7s %9s %6s %6s %6s %9s %9s %6s %6s %9s %7s %6s %8s\n", "", "", "faults",
           "checked", "detected", "missed", "moment", "found", "corrected", "no effect", "wrong", "errors",
           "max ms", "outside", "share", "rollback");
    for (size_t l = 0; l < FP_FAULT_LEVELS; l++)
        for (size_t m = 0; m < FP_FAULT_RELEASES; m++)
            print_row(fp_fault_level_name(l), fp_release_name((fp_release)m), &r->cell[l][m]);
    for (size_t k = 0; k < FP_FAULT_KINDS; k++)
        print_row(fp_fault_kind_name(k), "", &r->kind[k]);
    print_row("all", "", &r->all);
    printf(
        "checked: it stayed, and this level and release look there; moment: gone again, or wrong once\n"
        "outside of its window: noticed later than the window printed at that moment, must be 0; share: the "
        "largest part of a window that had passed; rollback: longest, in ms\n"
        "%llu in a window; %llu by the scrub before the answer ended; %llu in a window longer than the rates "
        "alone have it (no core was free for the workers)\n"
        "clean pages checked %llu, false alarms %llu\n"
        "rollbacks: %.2f ms on average, %.2f ms at most, without computing anew\n",
        (unsigned long long)r->all.windowed, (unsigned long long)r->all.scrubbed,
        (unsigned long long)r->all.beyond_rate, (unsigned long long)r->clean_pages,
        (unsigned long long)r->false_alarms, r->rollback_ms_mean, r->rollback_ms_max);
    for (size_t i = 0; i < r->problems; i++)
        printf("VIOLATION: %s\n", r->problem[i]);
    printf(
        "%s\n",
        r->violations
            ? "violations: something above must not be"
            : "every fault that stayed and is looked at was found within its window; every answer that was "
              "checked is the one without faults");
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int faults_main(const cli_args *args)
{
    char folder[] = "/tmp/fieldprint-faults-XXXXXX";
    const char *given = cli_text(args, "folder", NULL);
    fp_model *model = NULL;
    static fp_fault_result result; /* large */
    cli_progress progress;
    fp_fault_options o = {.seed = cli_number(args, "seed", 1, 0, UINT64_MAX / 4),
                          .faults = (uint32_t)cli_number(args, "faults", 1000, 1, 100000000),
                          .clean_pages = cli_number(args, "clean", 100000, 0, UINT64_MAX / 2),
                          .tokens = (uint32_t)cli_number(args, "tokens", 0, 70, 800),
                          .threads = (size_t)cli_number(args, "threads", 0, 0, 1024),
                          .progress = cli_progress_update,
                          .progress_context = &progress,
                          .cancel = &cli_interrupted};
    if (!cli_model_path(args))
        return 2;
    if (!given && !mkdtemp(folder))
        return cli_error(FP_IO, "cannot make a folder in /tmp");
    o.folder = given ? given : folder;
    fp_status status = cli_open_model(args, false, &model);
    cli_progress_start(&progress, "faults");
    if (status == FP_OK)
        status = fp_faults_run(model, &o, &result);
    cli_progress_end(&progress);
    int code = status != FP_OK ? cli_fail(status) : 0;
    if (status == FP_OK && args->json)
        code = report_json(model, &result, o.seed);
    else if (status == FP_OK)
        report_text(&result);
    fp_model_close(model);
    if (!given && nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        fprintf(stderr, "fieldprint: %s could not be removed\n", folder);
    return code != 0 ? code : result.violations || result.false_alarms ? 1 : 0;
}

const cli_command cli_command_bench_faults = {
    "bench faults",
    "",
    0,
    0,
    "inject faults: flipped bits, wrong computations, dying workers, damaged files, a full disk",
    "Generates answers with one fault each, at every validation level and release, and compares each with "
    "the "
    "answer without faults, bit for bit. Exit code 1 when something was missed that had to be found.",
    options,
    faults_main,
};
