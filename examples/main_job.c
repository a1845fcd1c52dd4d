/* The main job through the library: an anchor is signed, logged, approved and compiled; an answer attends to
 * it; its receipt is audited by computing the answer again.
 *
 *   cc main_job.c -o main_job $(pkg-config --cflags --libs fieldprint)
 *   ./main_job MODEL.gguf DOCUMENT.txt QUESTION WORKSPACE        (WORKSPACE: a folder that is not there yet)
 *
 * Prints the answer and the verdict; exit code 0 when the verdict is VALID-FULL. */
#include <fieldprint/fieldprint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        fp_status try_status = (call);                                                                       \
        if (try_status != FP_OK)                                                                             \
            return try_status;                                                                               \
    } while (0)

/* Everything that is closed at the end, in one place. */
typedef struct job {
    fp_workspace *workspace;
    fp_model *model;
    fp_engine *engine;
    fp_anchors *anchors;
    fp_session *session;
    char receipt[1024], transcript[1024];
} job;

static char *read_document(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    char *text = f ? malloc(FP_ANCHOR_DOCUMENT_MAX_BYTES) : NULL;
    *size = text ? fread(text, 1, FP_ANCHOR_DOCUMENT_MAX_BYTES, f) : 0;
    if (f)
        fclose(f);
    return text;
}

/* A document becomes an anchor: its statement is signed, logged and approved with the workspace's keys. */
static fp_status add_anchor(job *j, const char *path, uint8_t id[32])
{
    fp_statement statement;
    size_t size;
    char *document = read_document(path, &size);
    if (!document) {
        fprintf(stderr, "cannot read %s\n", path);
        return FP_NOT_FOUND;
    }
    fp_statement_default(&statement);
    snprintf(statement.name, sizeof statement.name, "example");
    statement.type = FP_LABEL_CORE;
    fp_status status = fp_anchor_add(j->workspace, document, size, &statement, id);
    free(document);
    return status;
}

/* Computed once and logged; loading passes the gate and compares every page with what was logged. */
static fp_status compile_and_load(job *j, const uint8_t id[32])
{
    const uint8_t(*set)[32] = (const uint8_t(*)[32])id;
    fp_anchors_options options = {0};
    fp_event_receipt event;
    uint32_t tokens, pages;
    TRY(fp_anchors_compile(j->engine, j->workspace, set, 1, &event, NULL, &tokens, &pages));
    printf("compiled: %u tokens in %u pages, entry %llu of the ledger\n", tokens, pages,
           (unsigned long long)event.index);
    return fp_anchors_load(j->engine, j->workspace, set, 1, &options, &j->anchors, NULL);
}

static int print_text(void *context, const char *text, size_t size)
{
    (void)context;
    return fwrite(text, 1, size, stdout) != size;
}

static fp_status answer(job *j, const char *question)
{
    fp_session_options session = {.anchors = j->anchors};
    fp_generate_options generate = {.max_tokens = 64, .on_text = print_text};
    uint8_t receipt_id[32];
    fp_sampling_default(&generate.sampling);
    TRY(fp_session_create(j->engine, &session, &j->session));
    TRY(fp_session_add_message(j->session, FP_ROLE_USER, question, strlen(question)));
    TRY(fp_session_begin(j->session, &generate));
    TRY(fp_session_run(j->session));
    printf("\n");
    return fp_session_receipt(j->session, j->workspace, receipt_id, j->receipt, j->transcript);
}

/* What an auditor does, on any machine, with the trust file, the ledger, the model and the transcript. */
static fp_status audit(job *j, fp_verdict *verdict)
{
    fp_audit_options options = {
        .receipt_path = j->receipt, .transcript_path = j->transcript, .model = j->model};
    fp_audit_result result;
    TRY(fp_audit(j->workspace, &options, &result));
    *verdict = result.light == FP_VERDICT_VALID_LIGHT ? result.full : result.light;
    printf("%s %s\n", fp_verdict_name(*verdict), result.detail);
    return FP_OK;
}

static fp_status run(job *j, char **argv, fp_verdict *verdict)
{
    uint8_t id[32];
    fp_model_options model = {0};
    fp_engine_options engine = {.context_tokens = 1024};
    TRY(fp_workspace_init(argv[4], NULL, NULL));
    TRY(fp_workspace_open(argv[4], NULL, &j->workspace));
    TRY(fp_model_open(argv[1], &model, &j->model));
    TRY(fp_engine_create(j->model, &engine, &j->engine));
    TRY(add_anchor(j, argv[2], id));
    TRY(compile_and_load(j, id));
    TRY(answer(j, argv[3]));
    return audit(j, verdict);
}

int main(int argc, char **argv)
{
    job j = {0};
    fp_verdict verdict = FP_VERDICT_UNDECIDED;
    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL.gguf DOCUMENT QUESTION WORKSPACE\n", argv[0]);
        return 2;
    }
    fp_status status = run(&j, argv, &verdict);
    if (status != FP_OK)
        fprintf(stderr, "%s: %s\n", fp_status_text(status), fp_error_detail());
    fp_session_destroy(j.session);
    fp_anchors_release(j.anchors);
    fp_engine_destroy(j.engine);
    fp_model_close(j.model);
    fp_workspace_close(j.workspace);
    return status != FP_OK ? fp_status_exit_code(status) : verdict == FP_VERDICT_VALID_FULL ? 0 : 1;
}
