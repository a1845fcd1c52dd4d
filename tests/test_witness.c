/* Logs by URL, trust policies, witnesses. Everything is on the loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fieldprint/ledger.h"
#include "ledger/witness.h"

#include "http_lab.h"
#include "ledger_util.h"

/* ---- logs by URL ---- */

enum fault { SOUND, STATUS_500, REDIRECT, TOO_LONG, HANG_UP, FLIP_BYTE };

struct site {
    char dir[128];
    const char *_Atomic break_path; /* this path misbehaves: */
    _Atomic enum fault how;
};

static void serve_site(void *arg, const http_request *request, http_answer *answer)
{
    const struct site *site = arg;
    if (strcmp(request->method, "GET") != 0 || strstr(request->path, "..") != NULL ||
        fp__file_read(at(site->dir, request->path), 1 << 24, &answer->body) != FP_OK) {
        answer->status = 404;
        return;
    }
    if (site->how == SOUND || strcmp(request->path, site->break_path) != 0)
        return;
    if (site->how == STATUS_500)
        answer->status = 500;
    if (site->how == REDIRECT) {
        answer->status = 302;
        answer->headers = "Location: file:///etc/passwd\r\n";
    }
    static const uint8_t more[1 << 20];
    while (site->how == TOO_LONG && answer->body.size < 20000000)
        expect_ok(fp__buf_append(&answer->body, more, sizeof more));
    answer->hang_up = site->how == HANG_UP;
    if (site->how == FLIP_BYTE)
        answer->body.data[answer->body.size / 2] ^= 1;
}

static void test_remote_log(void **state)
{
    (void)state;
    struct site site = {.how = SOUND};
    static const size_t batches[] = {250, 350};
    snprintf(site.dir, sizeof site.dir, "%s", fresh_dir("remote"));
    make_log(site.dir, batches, COUNT(batches));
    http_lab lab;
    http_start(&lab, serve_site, &site);
    char memory[128], url[160];
    snprintf(memory, sizeof memory, "%s/remote.state", work);
    fp__ledger_reader *r = NULL;
    fp__ledger_head head;
    for (int i = 0; i < 2; i++) { /* with and without a slash at the end */
        snprintf(url, sizeof url, "%s%s", lab.url, i == 0 ? "" : "/");
        expect_ok(fp__ledger_reader_open(url, ORIGIN, &vkey, 1, memory, &r));
        expect_ok(scan_all(r));
        fp__ledger_reader_close(r);
    }
    expect_ok(fp__ledger_reader_open(lab.url, ORIGIN, &vkey, 1, memory, &r));
    fp__ledger_writer *w = open_writer(site.dir); /* the log grows; the reader follows */
    expect_ok(append(w, 300, &head));
    fp__ledger_writer_close(w);
    bool advanced = false;
    expect_ok(fp__ledger_reader_refresh(r, &advanced));
    assert_true(advanced);
    expect_ok(scan_all(r));
    fp__merkle_proof proof;
    uint8_t leaf[32];
    expect_ok(fp__ledger_reader_leaf(r, 700, leaf));
    expect_ok(fp__ledger_reader_inclusion(r, 700, head.size, &proof));
    expect_ok(fp__merkle_verify_inclusion(leaf, 700, head.size, proof.hashes[0], proof.count, head.root));
    fp__ledger_report report;
    expect_ok(fp__ledger_fsck(lab.url, ORIGIN, &vkey, 1, &report));
    assert_int_equal(report.head.size, 900);
    fp__ledger_reader_close(r);
    snprintf(url, sizeof url, "file://%s", site.dir);
    expect_ok(fp__ledger_reader_open(url, ORIGIN, &vkey, 1, memory, &r));
    expect_ok(scan_all(r));
    fp__ledger_reader_close(r);

    static const struct {
        const char *name, *path;
        enum fault how;
        fp_status status;
        const char *word;
    } table[] = {
        {"500", "checkpoint", STATUS_500, FP_IO, "status 500"},
        {"redirect", "checkpoint", REDIRECT, FP_IO, "status 302"},
        {"checkpoint too long", "checkpoint", TOO_LONG, FP_LIMIT, "more than the"},
        {"no answer", "checkpoint", HANG_UP, FP_IO, "cannot get"},
        {"checkpoint changed", "checkpoint", FLIP_BYTE, FP_SIGNATURE, "ledger"},
        {"tile too long", "tile/0/000", TOO_LONG, FP_FORMAT, "longer than a tile"},
        {"tile changed", "tile/0/000", FLIP_BYTE, FP_MISMATCH, "tile/0/000"},
        {"bundle 500", "tile/entries/001", STATUS_500, FP_IO, "status 500"},
        {"bundle changed", "tile/entries/001", FLIP_BYTE, FP_MISMATCH, "tile/entries/001"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        site.break_path = table[i].path;
        site.how = table[i].how;
        expect_failure(table[i].name, read_everything(lab.url), table[i].status, table[i].word);
    }
    site.how = SOUND;
    expect_failure("absent", read_everything(at(lab.url, "elsewhere")), FP_NOT_FOUND, "no ledger");
    http_stop(&lab);
    expect_failure("stopped", read_everything(lab.url), FP_IO, "cannot get");
    fp__remote *remote = NULL;
    expect_failure("scheme", fp__remote_open("ftp://127.0.0.1/", &remote), FP_USAGE, "https://");
    static char long_url[4000] = "http://";
    memset(long_url + 7, 'x', sizeof long_url - 8);
    expect_failure("long", fp__remote_open(long_url, &remote), FP_LIMIT, "3999 bytes");
}

/* ---- trust policies ---- */

static fp__tlog_policy policy;

/* "name+id+key" of seed n; type as for note keys. */
static const char *key_text(uint8_t n, uint8_t type)
{
    static char texts[8][160];
    static unsigned turn;
    char *out = texts[turn++ % COUNT(texts)], name[32];
    uint8_t seed[32];
    fp__ed25519_key *made;
    fp__note_key note_key;
    fp__buf text = {0};
    memset(seed, 100 + n, 32);
    expect_ok(fp__ed25519_from_seed(seed, &made));
    snprintf(name, sizeof name, "w%u.example", n);
    expect_ok(fp__note_key_make(name, type, fp__ed25519_public(made), &note_key));
    expect_ok(fp__note_key_format(&note_key, &text));
    snprintf(out, sizeof texts[0], "%s", (char *)text.data);
    fp__buf_free(&text);
    fp__ed25519_free(made);
    return out;
}

static fp_status parse_policy(const char *format, ...) FP_PRINTF(1, 2);
static fp_status parse_policy(const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fp__tlog_policy_parse(text, (size_t)n, &policy);
}

#define W(n) key_text(n, FP__NOTE_COSIGNATURE)
#define L(n) key_text(n, FP__NOTE_ED25519)

static void test_policies(void **state)
{
    (void)state;
    expect_ok(parse_policy("# two organisations\n\nlog %s https://log.example/\n  witness X1 %s http://x1/\n"
                           "witness X2 %s\nwitness X3\t%s\ngroup X 2 X1 X2 X3\nwitness Y1 %s\nwitness Y2 %s\n"
                           "group Y any Y1 Y2\ngroup both all X Y \nquorum both\n",
                           L(9), W(1), W(2), W(3), W(4), W(5)));
    assert_true(policy.logs_count == 1 && policy.witnesses_count == 5 && policy.groups_count == 3);
    assert_string_equal(policy.logs[0].url, "https://log.example/");
    assert_string_equal(policy.witnesses[0].url, "http://x1/");
    assert_string_equal(policy.witnesses[4].name, "Y2");
    for (uint32_t set = 0; set < 32; set++) {
        bool expected = __builtin_popcount(set & 7) >= 2 && (set & 24) != 0;
        assert_int_equal(fp__tlog_policy_met(&policy, set), expected);
    }
    fp__note_verdict verdicts[5] = {{true, 50}, {true, 40}, {true, 90}, {false, 99}, {true, 60}};
    uint64_t seconds = 0;
    assert_true(fp__tlog_policy_time(&policy, verdicts, &seconds));
    assert_int_equal(seconds, 50); /* X1 and X3, Y2 */
    verdicts[4].valid = false;
    assert_false(fp__tlog_policy_time(&policy, verdicts, &seconds));
    expect_ok(parse_policy("quorum none\n"));
    assert_true(fp__tlog_policy_time(&policy, verdicts, &seconds) && seconds == 0);
    expect_ok(parse_policy("witness a %s\nquorum a\n", W(1)));
    assert_true(fp__tlog_policy_met(&policy, 1) && !fp__tlog_policy_met(&policy, 0));

    expect_failure("empty", parse_policy("%s", ""), FP_FORMAT, "newline");
    expect_failure("no quorum", parse_policy("witness a %s\n", W(1)), FP_FORMAT, "no quorum");
    expect_failure("two quorums", parse_policy("quorum none\nquorum none\n"), FP_FORMAT,
                   "line 2: there are two");
    expect_failure("quorum of nobody", parse_policy("quorum a\n"), FP_FORMAT, "'a' is not the name");
    expect_failure("later name", parse_policy("quorum a\nwitness a %s\n", W(1)), FP_FORMAT, "line 1");
    expect_failure("word", parse_policy("witnes a\nquorum none\n"), FP_FORMAT, "'witnes' is not");
    expect_failure("none as a name", parse_policy("witness none %s\nquorum none\n", W(1)), FP_FORMAT, "none");
    expect_failure("none as a member", parse_policy("group g any none\nquorum g\n"), FP_FORMAT,
                   "'none' is not");
    expect_failure("same name", parse_policy("witness a %s\nwitness a %s\nquorum a\n", W(1), W(2)), FP_FORMAT,
                   "there already");
    expect_failure("same key", parse_policy("witness a %s\nwitness b %s\nquorum a\n", W(1), W(1)), FP_FORMAT,
                   "line 2: the key is there");
    expect_failure("same log", parse_policy("log %s\nlog %s\nquorum none\n", L(1), L(1)), FP_FORMAT,
                   "line 2");
    expect_failure("log's key as witness", parse_policy("witness a %s\nquorum a\n", L(1)), FP_FORMAT, "0x04");
    expect_failure("witness's key as log", parse_policy("log %s\nquorum none\n", W(1)), FP_FORMAT, "0x01");
    expect_failure("bad key", parse_policy("log x+1+y\nquorum none\n"), FP_FORMAT, "line 1");
    expect_failure("threshold 0", parse_policy("witness a %s\ngroup g 0 a\nquorum g\n", W(1)), FP_FORMAT,
                   "threshold is 0");
    expect_failure("threshold 2 of 1", parse_policy("witness a %s\ngroup g 2 a\nquorum g\n", W(1)), FP_FORMAT,
                   "1 members");
    expect_failure("threshold 01", parse_policy("witness a %s\ngroup g 01 a\nquorum g\n", W(1)), FP_FORMAT,
                   "leading zero");
    expect_failure("twice in a group", parse_policy("witness a %s\ngroup g 2 a a\nquorum g\n", W(1)),
                   FP_FORMAT, "a group already");
    expect_failure("in two groups",
                   parse_policy("witness a %s\ngroup g any a\ngroup h any a\nquorum g\n", W(1)), FP_FORMAT,
                   "line 3");
    expect_failure("no members", parse_policy("group g any\nquorum g\n"), FP_FORMAT, "at least one");
    expect_failure("control", parse_policy("quorum none\r\n"), FP_FORMAT, "0x0d");
    expect_failure("four words", parse_policy("log %s u v\nquorum none\n", L(1)), FP_FORMAT, "too many");
    fp__buf many = {0};
    for (int i = 0; i < 33; i++)
        expect_ok(fp__buf_printf(&many, "witness n%d %s\n", i, W((uint8_t)i)));
    expect_ok(fp__buf_append_text(&many, "quorum none\n"));
    expect_failure("33 witnesses", fp__tlog_policy_parse(many.data, many.size, &policy), FP_LIMIT, "line 33");
    fp__buf_free(&many);
}

/* ---- a witness ---- */

struct witness {
    fp__ed25519_key *key;
    char name[32];
    http_lab lab;
    uint64_t timestamp;
    _Atomic uint64_t size;
    uint8_t root[32];           /* the server's */
    _Atomic int forced;         /* answer with this status; 0: as it should be */
    const char *_Atomic answer; /* answer with this body, status 200 */
    _Atomic bool any_log;       /* does not check who signed: the test does */
};

static void put_text(http_answer *answer, int status, const char *text)
{
    answer->status = status;
    expect_ok(fp__buf_append_text(&answer->body, text));
}

static void conflict(struct witness *w, http_answer *answer)
{
    answer->status = 409;
    answer->headers = "Content-Type: text/x.tlog.size\r\n";
    expect_ok(fp__buf_printf(&answer->body, "%llu\n", (unsigned long long)w->size));
}

/* Splits the request: old size, proof lines, checkpoint. False: malformed. */
static bool read_request(const http_request *request, uint64_t *old_size, fp__merkle_proof *proof,
                         const char **note)
{
    const char *line = (const char *)request->body.data, *end;
    unsigned long long old;
    proof->count = 0;
    if (line == NULL || sscanf(line, "old %llu\n", &old) != 1)
        return false;
    *old_size = old;
    for (line = strchr(line, '\n') + 1; *line != '\n'; line = end + 1) {
        fp__buf hash = {0};
        end = strchr(line, '\n');
        bool ok = end != NULL && fp__base64_decode(line, (size_t)(end - line), &hash) == FP_OK &&
                  hash.size == 32 && proof->count < 63;
        if (ok)
            memcpy(proof->hashes[proof->count++], hash.data, 32);
        fp__buf_free(&hash);
        if (!ok)
            return false;
    }
    *note = line + 1;
    return true;
}

static void cosign_request(struct witness *w, const http_request *request, http_answer *answer)
{
    uint64_t old_size;
    fp__merkle_proof proof;
    const char *note = NULL;
    fp__checkpoint checkpoint;
    fp__note parsed;
    if (!read_request(request, &old_size, &proof, &note))
        return put_text(answer, 400, "malformed\n");
    const char *text_end = strstr(note, "\n\n");
    fp_status status = w->any_log && text_end != NULL
                           ? fp__checkpoint_parse(note, (size_t)(text_end + 1 - note), &checkpoint)
                           : fp__checkpoint_open(note, strlen(note), ORIGIN, &vkey, 1, NULL, &checkpoint);
    if (status != FP_OK)
        return put_text(answer, status == FP_MISMATCH ? 404 : 403, "no\n");
    if (old_size > checkpoint.size)
        return put_text(answer, 400, "old size\n");
    if (old_size != w->size || (old_size == checkpoint.size && memcmp(w->root, checkpoint.root, 32) != 0))
        return conflict(w, answer);
    if ((old_size == 0 && proof.count != 0) ||
        (old_size != 0 && fp__merkle_verify_consistency(old_size, w->root, checkpoint.size, checkpoint.root,
                                                        proof.hashes[0], proof.count) != FP_OK))
        return put_text(answer, 422, "inconsistent\n");
    memcpy(w->root, checkpoint.root, 32);
    w->size = checkpoint.size;
    expect_ok(fp__note_parse(note, strlen(note), &parsed));
    expect_ok(fp__note_cosign(parsed.text, parsed.text_size, w->name, w->key, w->timestamp, &answer->body));
    fp__note_free(&parsed);
}

static void serve_witness(void *arg, const http_request *request, http_answer *answer)
{
    struct witness *w = arg;
    if (strcmp(request->method, "POST") != 0 || strcmp(request->path, "add-checkpoint") != 0)
        put_text(answer, 404, "not found\n");
    else if (w->answer != NULL)
        put_text(answer, 200, w->answer);
    else if (w->forced != 0)
        put_text(answer, w->forced, "forced\n");
    else
        cosign_request(w, request, answer);
}

static fp__note_key start_witness(struct witness *w, uint8_t n)
{
    uint8_t seed[32];
    fp__note_key note_key;
    memset(seed, 100 + n, 32);
    memset(w, 0, sizeof *w);
    w->timestamp = 1700000000 + n;
    snprintf(w->name, sizeof w->name, "w%u.example", n);
    expect_ok(fp__ed25519_from_seed(seed, &w->key));
    expect_ok(fp__note_key_make(w->name, FP__NOTE_COSIGNATURE, fp__ed25519_public(w->key), &note_key));
    http_start(&w->lab, serve_witness, w);
    return note_key;
}

static void stop_witness(struct witness *w)
{
    http_stop(&w->lab);
    fp__ed25519_free(w->key);
}

static void test_ask(void **state)
{
    (void)state;
    char dir[128];
    snprintf(dir, sizeof dir, "%s", fresh_dir("asked"));
    static const size_t batches[] = {300};
    make_log(dir, batches, 1);
    fp__ledger_reader *r = open_reader(dir, NULL);
    struct witness w;
    fp__note_key key_of_w = start_witness(&w, 1);
    fp__remote *remote = NULL;
    fp__buf lines = {0};
    uint64_t known = 0;
    fp__ledger_head head;
    expect_ok(fp__remote_open(w.lab.url, &remote));
    expect_ok(fp__witness_ask(remote, &key_of_w, r, &known, &lines));
    assert_true(known == 300 && w.size == 300 && w.lab.requests == 1);
    size_t one = lines.size;
    assert_true(one > 100 && strncmp((char *)lines.data, "\xe2\x80\x94 w1.example ", 15) == 0);
    expect_ok(fp__witness_ask(remote, &key_of_w, r, &known, &lines)); /* again: renewed */
    assert_true(lines.size == 2 * one && w.lab.requests == 2);

    fp__ledger_writer *writer = open_writer(dir);
    expect_ok(append(writer, 300, &head));
    fp__ledger_writer_close(writer);
    expect_ok(fp__ledger_reader_refresh(r, NULL));
    known = 0; /* forgotten: 409 tells */
    expect_ok(fp__witness_ask(remote, &key_of_w, r, &known, &lines));
    assert_true(known == 600 && w.size == 600 && w.lab.requests == 4);

    /* Refusals, each for its reason; no line is taken from any of them. */
    lines.size = 0;
    w.size = 700;
    expect_failure("newer", fp__witness_ask(remote, &key_of_w, r, &known, &lines), FP_BUSY, "700 entries");
    w.size = known = 600;
    w.root[0] ^= 1;
    expect_failure("fork", fp__witness_ask(remote, &key_of_w, r, &known, &lines), FP_MISMATCH,
                   "another tree of 600");
    w.size = known = 500;
    expect_failure("422", fp__witness_ask(remote, &key_of_w, r, &known, &lines), FP_MISMATCH, "(422)");
    static const struct {
        int http;
        fp_status status;
        const char *word;
    } table[] = {{400, FP_FORMAT, "malformed"}, {403, FP_SIGNATURE, "verifier key"},
                 {404, FP_NOT_FOUND, "add it"}, {500, FP_IO, "status 500"},
                 {409, FP_FORMAT, "size"},      {302, FP_IO, "302"}};
    for (size_t i = 0; i < COUNT(table); i++) {
        w.forced = table[i].http;
        expect_failure("forced", fp__witness_ask(remote, &key_of_w, r, &known, &lines), table[i].status,
                       table[i].word);
    }
    w.forced = 0;
    static const char *const answers[] = {
        "", "nothing\n",
        ("\xe2\x80\x94 w1.example "
         "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"),
        "more text\n\n\xe2\x80\x94 w1.example AAAAAAAAAAAAAAAAAAAA\n"};
    for (size_t i = 0; i < COUNT(answers); i++) {
        w.answer = answers[i];
        fp_status status = fp__witness_ask(remote, &key_of_w, r, &known, &lines);
        assert_true(status == FP_FORMAT || status == FP_SIGNATURE);
        assert_non_null(strstr(fp_error_detail(), "w1.example"));
    }
    assert_int_equal(lines.size, 0);
    fp__buf_free(&lines);
    fp__remote_close(remote);
    stop_witness(&w);
    fp__ledger_reader_close(r);
}

/* A witness that signs another text than it was shown, by an empty line in its answer. */
static void test_smuggled_text(void **state)
{
    (void)state;
    char dir[128];
    snprintf(dir, sizeof dir, "%s", fresh_dir("smuggled"));
    static const size_t batches[] = {3};
    make_log(dir, batches, 1);
    fp__ledger_reader *r = open_reader(dir, NULL);
    struct witness w;
    fp__note_key key_of_w = start_witness(&w, 1);
    fp__note parsed;
    fp__buf text = {0}, answer = {0}, lines = {0};
    const fp__buf *note = fp__ledger_reader_note(r);
    expect_ok(fp__note_parse(note->data, note->size, &parsed));
    expect_ok(fp__buf_append(&text, parsed.text, parsed.text_size));
    expect_ok(fp__buf_append_text(&text, "\nmore\n"));
    expect_ok(fp__buf_append_text(&answer, "more\n\n"));
    expect_ok(fp__note_cosign(text.data, text.size, w.name, w.key, 1, &answer));
    w.answer = (const char *)answer.data;
    fp__remote *remote = NULL;
    uint64_t known = 0;
    expect_ok(fp__remote_open(w.lab.url, &remote));
    expect_failure("smuggled", fp__witness_ask(remote, &key_of_w, r, &known, &lines), FP_FORMAT,
                   "empty line");
    fp__remote_close(remote);
    fp__note_free(&parsed);
    fp__buf_free(&text);
    fp__buf_free(&answer);
    fp__buf_free(&lines);
    stop_witness(&w);
    fp__ledger_reader_close(r);
}

static void write_policy(const char *path, const struct witness *w, size_t n, unsigned k)
{
    fp__buf text = {0};
    fp__note_key log = vkey;
    expect_ok(fp__buf_append_text(&text, "log "));
    expect_ok(fp__note_key_format(&log, &text));
    expect_ok(fp__buf_append_text(&text, "\n"));
    for (size_t i = 0; i < n; i++)
        expect_ok(fp__buf_printf(&text, "witness w%zu %s %s\n", i, W((uint8_t)(i + 1)), w[i].lab.url));
    expect_ok(fp__buf_printf(&text, "group all-of-them %u", k));
    for (size_t i = 0; i < n; i++)
        expect_ok(fp__buf_printf(&text, " w%zu", i));
    expect_ok(fp__buf_append_text(&text, "\nquorum all-of-them\n"));
    expect_ok(fp__file_write(path, text.data, text.size, 0644));
    fp__buf_free(&text);
}

/* k of n, from asking to a proof that is checked offline, through the public interface. */
static void test_round(void **state)
{
    (void)state;
    char dir[128], path[128], key_path[128], copy[128];
    snprintf(dir, sizeof dir, "%s", fresh_dir("round"));
    snprintf(copy, sizeof copy, "%s/round-copy", work);
    snprintf(path, sizeof path, "%s/round.policy", work);
    snprintf(key_path, sizeof key_path, "%s/round.pem", work);
    static const size_t batches[] = {600};
    make_log(dir, batches, 1);
    struct witness w[3];
    for (uint8_t i = 0; i < 3; i++)
        (void)start_witness(&w[i], (uint8_t)(i + 1));
    write_policy(path, w, 3, 2);
    expect_ok(fp__ed25519_store(key, key_path));
    fp_key *log_key = NULL;
    expect_ok(fp_key_load(key_path, &log_key));

    fp_log_witness rows[FP_LOG_WITNESSES_MAX];
    size_t n = 0;
    bool met = false;
    fp_log *log = NULL;
    fp_log_info info;
    fp_log_options options = {.place = dir, .policy_path = path};
    expect_ok(fp_log_open(&options, &log));
    fp_log_get_info(log, &info);
    assert_true(info.size == 600 && info.has_policy && !info.quorum && info.witnesses == 3 &&
                info.cosignatures == 0);
    char *text = NULL, entry[160];
    size_t size = 0, entry_size = entry_text(77, entry);
    uint64_t index = 0;
    expect_ok(fp_log_proof(log, 77, &text, &size));
    fp_log_options offline = {.policy_path = path};
    expect_failure("no quorum yet",
                   fp_log_proof_check(&offline, text, size, entry, entry_size, &index, &info), FP_SIGNATURE,
                   "0 of 3");
    fp_bytes_free(text);

    w[1].forced = 500; /* one is down */
    expect_ok(fp_log_witness_round(dir, ORIGIN, log_key, path, rows, &n, &met));
    assert_true(n == 3 && met);
    assert_true(rows[0].status == FP_OK && rows[1].status == FP_IO && rows[2].status == FP_OK);
    assert_int_equal(rows[0].timestamp, 1700000001);
    expect_ok(fp_log_refresh(log, NULL));
    fp_log_get_info(log, &info);
    assert_true(info.quorum && info.cosignatures == 2 && info.quorum_time == 1700000001);
    w[0].forced = 500; /* another one; its cosignature stays */
    w[1].forced = 0;
    expect_ok(fp_log_witness_round(dir, ORIGIN, log_key, path, rows, &n, &met));
    expect_ok(fp_log_refresh(log, NULL));
    fp_log_get_info(log, &info);
    assert_true(met && info.cosignatures == 3 && rows[0].status == FP_IO && rows[0].timestamp == 1700000001);
    w[0].forced = 0;

    expect_ok(fp_log_proof(log, 77, &text, &size));
    expect_ok(fp_log_proof_check(&offline, text, size, entry, entry_size, &index, &info));
    assert_true(index == 77 && info.quorum && info.cosignatures == 3);
    entry[0] ^= 1;
    expect_failure("another entry",
                   fp_log_proof_check(&offline, text, size, entry, entry_size, &index, &info), FP_MISMATCH,
                   "proof");
    entry[0] ^= 1;
    char *hash = strstr(text, "index 77\n") + 12;
    *hash = *hash == 'A' ? 'B' : 'A';
    expect_failure("another path", fp_log_proof_check(&offline, text, size, entry, entry_size, &index, &info),
                   FP_MISMATCH, "does not lead to the root");
    fp_bytes_free(text);

    expect_ok(fp_log_export(log, copy)); /* with its cosignatures */
    expect_failure("not empty", fp_log_export(log, copy), FP_EXISTS, "not empty");
    expect_ok(fp__ledger_fsck(copy, ORIGIN, &vkey, 1, NULL));
    expect_ok(read_everything(copy));
    fp_log *copied = NULL;
    expect_ok(fp_log_open(&(fp_log_options){.place = copy, .policy_path = path}, &copied));
    fp_log_get_info(copied, &info);
    assert_true(info.quorum && info.size == 600);
    fp_log_close(copied);

    /* It grows: the new checkpoint is not cosigned, until it is shown. */
    uint64_t first = 0;
    expect_ok(fp_log_append(dir, ORIGIN, log_key, &(fp_log_entry_bytes){"x", 1}, 1, &first, &info));
    assert_true(first == 600 && info.size == 601);
    expect_ok(fp_log_refresh(log, NULL));
    fp_log_get_info(log, &info);
    assert_true(info.size == 601 && !info.quorum && info.cosignatures == 0);
    expect_ok(fp_log_witness_round(dir, ORIGIN, log_key, path, rows, &n, &met));
    assert_true(met && w[0].size == 601 && w[2].size == 601);

    /* Forked: the same key signs another history; the witnesses do not. */
    char forked[128];
    snprintf(forked, sizeof forked, "%s", fresh_dir("round-fork"));
    expect_ok(fp__ledger_create(forked, ORIGIN, key));
    fp_log_entry_bytes entries[700];
    for (size_t i = 0; i < COUNT(entries); i++)
        entries[i] = (fp_log_entry_bytes){"fork", 4};
    expect_ok(fp_log_append(forked, ORIGIN, log_key, entries, COUNT(entries), &first, NULL));
    expect_ok(fp_log_witness_round(forked, ORIGIN, log_key, path, rows, &n, &met));
    assert_false(met);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rows[i].status, FP_MISMATCH);
        assert_non_null(strstr(rows[i].detail, "forked"));
    }
    /* A bad cosignature in the checkpoint does not count. */
    fp_log_close(log);
    fp__buf saved = {0};
    expect_ok(fp__file_read(at(dir, "checkpoint"), 1 << 20, &saved));
    saved.data[saved.size - 20] = saved.data[saved.size - 20] == 'A' ? 'B' : 'A';
    expect_ok(fp__file_write(at(dir, "checkpoint"), saved.data, saved.size, 0644));
    expect_ok(fp_log_open(&options, &log));
    fp_log_get_info(log, &info);
    assert_true(info.cosignatures == 2 && info.quorum);
    fp_log_close(log);
    fp__buf_free(&saved);
    for (int i = 0; i < 3; i++)
        stop_witness(&w[i]);
    fp_key_free(log_key);
}

/* ---- a workspace whose log is witnessed, and one that reads it from elsewhere ---- */

static fp_anchor_state state_of(fp_workspace *w, const uint8_t id[32])
{
    fp_anchor_row row;
    expect_ok(fp_anchor_show(w, id, &row, NULL));
    return row.state;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    expect_ok(fp__file_write(at(dir, name), text, strlen(text), 0644));
}

static void test_workspace(void **state)
{
    (void)state;
    char dir[128], remote_dir[128], path[160];
    struct witness w;
    struct site site = {.how = SOUND};
    http_lab lab;
    fp__buf text = {0}, trust = {0};
    fp_workspace *ours = NULL, *theirs = NULL;
    fp_log *log = NULL;
    fp_log_info info;
    (void)start_witness(&w, 1);
    w.any_log = true;
    snprintf(dir, sizeof dir, "%s/workspace", work);
    snprintf(remote_dir, sizeof remote_dir, "%s/reading", work);
    snprintf(site.dir, sizeof site.dir, "%s/workspace/ledger", work);
    snprintf(path, sizeof path, "%s/witness.policy", dir);
    expect_ok(fp_workspace_init(dir, NULL, NULL));
    expect_ok(fp__buf_printf(&text, "witness w %s %s\nquorum w\n", W(1), w.lab.url));
    expect_ok(fp__file_write(path, text.data, text.size, 0644));
    expect_ok(fp_workspace_open(dir, NULL, &ours));
    fp_statement statement = {
        .name = "hours", .version = "1", .type = FP_LABEL_CORE, .valid_until = 4000000000u};
    uint8_t id[32];
    strcpy(statement.readers[0], "*");
    statement.readers_count = 1;
    expect_ok(fp_anchor_add(ours, "Open till five.\n", 16, &statement, id));
    expect_ok(fp_log_open_workspace(dir, NULL, path, &log));
    fp_log_get_info(log, &info);
    assert_true(info.quorum && info.cosignatures == 1 && w.size == info.size && info.size >= 3);

    /* Read from elsewhere: the trust file and the URL are all it needs. */
    http_start(&lab, serve_site, &site);
    expect_ok(fp__dir_make(remote_dir));
    expect_ok(fp__file_read(at(dir, "trust.json"), 1 << 16, &trust));
    expect_ok(fp__file_write(at(remote_dir, "trust.json"), trust.data, trust.size, 0644));
    write_text(remote_dir, "ledger.url", "nonsense\n");
    expect_failure("no URL", fp_workspace_open(remote_dir, NULL, &theirs), FP_FORMAT, "ledger.url");
    fp__buf line = {0};
    expect_ok(fp__buf_printf(&line, "%s/\n", lab.url));
    write_text(remote_dir, "ledger.url", (char *)line.data);
    expect_ok(fp_workspace_open(remote_dir, NULL, &theirs));
    assert_int_equal(state_of(theirs, id), FP_ANCHOR_PROMOTED);
    expect_failure("append", fp_anchor_revoke(theirs, id, "no", NULL), FP_USAGE, "for reading");
    fp_ledger_report report;
    expect_ok(fp_ledger_fsck(remote_dir, NULL, &report));
    assert_int_equal(report.size, info.size);

    /* The witness is down: appended all the same, and shown to it later. */
    w.forced = 503;
    expect_ok(fp_anchor_revoke(ours, id, "moved", NULL));
    expect_ok(fp_log_refresh(log, NULL));
    fp_log_get_info(log, &info);
    assert_true(!info.quorum && info.cosignatures == 0);
    expect_ok(fp_workspace_sync(theirs));
    assert_int_equal(state_of(theirs, id), FP_ANCHOR_REVOKED);
    w.forced = 0;
    fp_log_witness rows[FP_LOG_WITNESSES_MAX];
    size_t n = 0;
    bool met = false;
    expect_ok(fp_workspace_witness_round(ours, NULL, rows, &n, &met));
    assert_true(met && n == 1 && rows[0].status == FP_OK);
    expect_ok(fp_log_refresh(log, NULL));
    fp_log_get_info(log, &info);
    assert_true(info.quorum && w.size == info.size);
    fp_log_close(log);
    fp_workspace_close(theirs);
    fp_workspace_close(ours);
    fp__buf_free(&text);
    fp__buf_free(&trust);
    fp__buf_free(&line);
    http_stop(&lab);
    stop_witness(&w);
}

static void test_options(void **state)
{
    (void)state;
    char path[128];
    fp_log *log = NULL;
    fp__buf other = {0};
    snprintf(path, sizeof path, "%s/options.policy", work);
    expect_ok(fp__file_write(path, "quorum none\n", 12, 0644));
    expect_failure("no key", fp_log_open(&(fp_log_options){.place = work}, &log), FP_USAGE, "verifier key");
    expect_failure("no log in it", fp_log_open(&(fp_log_options){.place = work, .policy_path = path}, &log),
                   FP_USAGE, "names one log");
    expect_failure("no place", fp_log_open(&(fp_log_options){.vkey = L(1)}, &log), FP_USAGE, "where the log");
    expect_failure("witness's key", fp_log_open(&(fp_log_options){.place = work, .vkey = W(1)}, &log),
                   FP_USAGE, "0x01");
    expect_failure("no policy file",
                   fp_log_open(&(fp_log_options){.place = work, .policy_path = "/nowhere"}, &log),
                   FP_NOT_FOUND, "/nowhere");
    expect_ok(fp__buf_printf(&other, "log %s\nquorum none\n", L(2)));
    expect_ok(fp__file_write(path, other.data, other.size, 0644));
    expect_failure("another log",
                   fp_log_open(&(fp_log_options){.place = work, .vkey = L(1), .policy_path = path}, &log),
                   FP_SIGNATURE, "does not name");
    fp__buf_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remote_log),    cmocka_unit_test(test_policies), cmocka_unit_test(test_ask),
        cmocka_unit_test(test_smuggled_text), cmocka_unit_test(test_round),    cmocka_unit_test(test_options),
        cmocka_unit_test(test_workspace),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
