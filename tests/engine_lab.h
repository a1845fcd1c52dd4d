/* What the tests of the engine share: a folder of their own, tiny random models, a workspace, and runs that
 * end in one digest. */
#ifndef FP_TESTS_ENGINE_LAB_H
#define FP_TESTS_ENGINE_LAB_H
#include "anchor/workspace_inside.h"
#include "engine/receipt.h"
#include "fieldprint/audit.h"
#include "gguf_writer.h"
#include "merkle/sha256.h"
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
/* cmocka wants those above first */
#include <cmocka.h>

#define ok(expr)                                                                                             \
    do {                                                                                                     \
        fp_status ok_status = (expr);                                                                        \
        if (ok_status != FP_OK)                                                                              \
            fail_msg("%s: %s: %s", #expr, fp_status_name(ok_status), fp_error_detail());                     \
    } while (0)
#define fails(expr, wanted, word)                                                                            \
    do {                                                                                                     \
        fp_status got_status = (expr);                                                                       \
        if (got_status != (wanted) || strstr(fp_error_detail(), (word)) == NULL)                             \
            fail_msg("%s: %s (%s) where %s with \"%s\" was expected", #expr, fp_status_name(got_status),     \
                     fp_error_detail(), fp_status_name(wanted), (word));                                     \
    } while (0)

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define EL_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define EL_SANITIZED 1
#endif
#endif
#ifndef EL_SANITIZED
#define EL_SANITIZED 0 /* 1: the tests do less, as sanitizers are slow */
#endif

static char el_dir[64];

static inline int el_set_up(void **state)
{
    (void)state;
    strcpy(el_dir, "/tmp/fp-engine-XXXXXX");
    return mkdtemp(el_dir) ? 0 : -1;
}

static inline int el_remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline int el_tear_down(void **state)
{
    (void)state;
    return nftw(el_dir, el_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A path in the folder of the test; of the last 8 calls. */
static inline const char *el_path(const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    int n = snprintf(path, sizeof paths[0], "%s/%s", el_dir, name);
    assert_true(n > 0 && (size_t)n < sizeof paths[0]);
    return path;
}

static inline void el_read(const char *path, fp__buf *out)
{
    out->size = 0;
    ok(fp__file_read(path, (size_t)64 << 20, out));
}

static inline void el_write(const char *path, const fp__buf *bytes)
{
    ok(fp__file_write(path, bytes->data, bytes->size, 0644));
}

/* FIELDPRINT_TEST_DEVICE=cuda runs the same tests on a GPU; its kernels want heads of 64. */
static inline fp_status el_engine_create(const fp_model *model, const fp_engine_options *options,
                                         fp_engine **out)
{
    fp_engine_options o = options ? *options : (fp_engine_options){0};
    o.device = getenv("FIELDPRINT_TEST_DEVICE");
    return fp_engine_create(model, &o, out);
}
#define fp_engine_create el_engine_create

static inline gw_model el_model_like(const char *arch, uint64_t seed)
{
    gw_model m = gw_model_default();
    m.arch = arch;
    m.C = 128;
    m.d = getenv("FIELDPRINT_TEST_DEVICE") ? 64 : 0;
    m.seed = seed;
    m.tied = strcmp(arch, "qwen2") != 0;
    m.rope_factors = strcmp(arch, "llama") == 0;
    m.context = 1024;
    return m;
}

static inline fp_model *el_open(const gw_model *m)
{
    fp_model *model;
    gw_write_model(m, el_path("model.gguf"));
    fp_model_options options = {.threads = 2};
    ok(fp_model_open(el_path("model.gguf"), &options, &model));
    return model;
}

static inline fp_workspace *el_workspace(const char *name)
{
    fp_workspace *w;
    ok(fp_workspace_init(el_path(name), NULL, NULL));
    ok(fp_workspace_open(el_path(name), NULL, &w));
    return w;
}

/* Adds and promotes an anchor; not yet compiled. */
static inline void el_anchor(fp_workspace *w, const char *name, const char *document, fp_inject_mode mode,
                             uint32_t gamma, uint8_t id[32])
{
    fp_statement s;
    fp_statement_default(&s);
    snprintf(s.name, sizeof s.name, "%s", name);
    s.type = FP_LABEL_CORE;
    s.injection.mode = mode;
    s.injection.gamma = gamma;
    ok(fp_anchor_add(w, document, strlen(document), &s, id));
}

static const char el_text1[] =
    "The office of the harbour master is in the old customs house. It opens at seven, closes at 17:42 on "
    "Fridays, and is the only place where a mooring can be paid in coins. The cat is called Hektor.";
static const char el_text2[] = "Answer in short sentences. Say so when you do not know something.";

/* ---- Runs ---- */

typedef struct el_hash {
    fp__sha256_ctx ctx;
} el_hash;
static inline void el_hash_begin(el_hash *h)
{
    memset(h, 0, sizeof *h);
    fp__sha256_init(&h->ctx);
}
static inline void el_hash_add(el_hash *h, const void *data, size_t size)
{
    if (size > 0)
        fp__sha256_update(&h->ctx, data, size);
}
static inline void el_hash_end(el_hash *h, uint8_t out[32])
{
    fp__sha256_final(&h->ctx, out);
    fp__sha256_free(&h->ctx);
}

static inline void el_say(fp_session *s, const char *text)
{
    ok(fp_session_add_message(s, FP_ROLE_USER, text, strlen(text)));
}

static inline void el_begin(fp_session *s, const char *text, const fp_sampling *sampling, uint32_t tokens)
{
    fp_generate_options o = {.max_tokens = tokens};
    fp_sampling_default(&o.sampling);
    if (sampling)
        o.sampling = *sampling;
    el_say(s, text);
    ok(fp_session_begin(s, &o));
}

/* Everything that an answer is: tokens, text, finish, masses, K/V root. */
static inline void el_hash_session(el_hash *h, fp_session *s)
{
    fp_result r;
    uint8_t head[32];
    fp_session_result(s, &r);
    ok(fp_session_kv_head(s, head));
    el_hash_add(h, head, 32);
    el_hash_add(h, r.ids, r.n_ids * sizeof *r.ids);
    el_hash_add(h, r.text, r.text_size);
    el_hash_add(h, &r.finish, sizeof r.finish);
    el_hash_add(h, &r.mass_rows, sizeof r.mass_rows);
    if (r.mass)
        el_hash_add(h, r.mass, r.layers * r.heads * sizeof *r.mass);
}

static inline fp_sampling el_sampling(float temperature, uint64_t seed)
{
    fp_sampling s;
    fp_sampling_default(&s);
    s.temperature = temperature;
    s.seed = seed;
    return s;
}
#endif
