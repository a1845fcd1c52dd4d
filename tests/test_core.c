/* core: errors, bytes, arenas and durable files. The thread team has its own program, test_team.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/bytes.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/file.h"
#include "core/trace.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* AddressSanitizer must give NULL for sizes that cannot be had, as the C library does: that is tested here.
 */
FP_API const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void expect_detail(const char *word)
{
    if (!strstr(fp_error_detail(), word))
        fail_msg("\"%s\" is not in the detail \"%s\"", word, fp_error_detail());
}

/* ---- errors ---- */

static void test_status_table(void **state)
{
    (void)state;
    assert_string_equal(fp_status_name(FP_OK), "OK");
    assert_string_equal(fp_status_name(FP_MISMATCH), "MISMATCH");
    assert_string_equal(fp_status_text(FP_BUSY), "in use by another process");
    assert_int_equal(fp_status_exit_code(FP_OK), 0);
    assert_int_equal(fp_status_exit_code(FP_INVALID), 1);
    assert_int_equal(fp_status_exit_code(FP_USAGE), 2);
    assert_int_equal(fp_status_exit_code(FP_IO), 3);
    assert_string_equal(fp_status_name((fp_status)9999), "UNKNOWN");
    assert_int_equal(fp_status_exit_code((fp_status)9999), 3);
    assert_string_equal(fp_version(), FIELDPRINT_VERSION);
}

static void *detail_of_new_thread(void *arg)
{
    *(char *)arg = fp_error_detail()[0];
    (void)fp__fail(FP_IO, "other thread");
    return NULL;
}

static void test_error_detail(void **state)
{
    (void)state;
    assert_int_equal(fp__fail(FP_FORMAT, "page %d", 7), FP_FORMAT);
    assert_string_equal(fp_error_detail(), "page 7");
    assert_int_equal(fp__fail_context(FP_FORMAT, "artifact '%s'", "a.fpkv"), FP_FORMAT);
    assert_string_equal(fp_error_detail(), "artifact 'a.fpkv': page 7");
    (void)fp__fail(FP_IO, "again: %s", fp_error_detail());
    assert_string_equal(fp_error_detail(), "again: artifact 'a.fpkv': page 7");

    char first = 'x';
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, detail_of_new_thread, &first), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(first, 0); /* a new thread has no detail, and its failures are not ours */
    assert_string_equal(fp_error_detail(), "again: artifact 'a.fpkv': page 7");
}

static void test_error_detail_is_printable(void **state)
{
    (void)state;
    (void)fp__fail(FP_FORMAT, "name '%s'", "a\x1b[2J\x7f\xff\xc3\xa9\xed\xa0\x80z");
    assert_string_equal(fp_error_detail(), "name 'a?[2J??\xc3\xa9???z'");

    char longest[3001];
    for (size_t i = 0; i < 3000; i += 3)
        memcpy(longest + i, "\xe2\x82\xac", 3);
    longest[3000] = 0;
    (void)fp__fail(FP_FORMAT, "%s", longest);
    assert_int_equal(strlen(fp_error_detail()), 1023); /* 341 whole characters */
    (void)fp__fail(FP_FORMAT, "x%s", longest);
    assert_int_equal(strlen(fp_error_detail()), 1 + 340 * 3); /* none is cut in two */
    (void)fp__fail_context(FP_FORMAT, "%s", longest);
    assert_int_equal(strlen(fp_error_detail()), 1023);
}

static void test_check_failed_aborts(void **state)
{
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        fclose(stderr);
        FP_CHECK(child != 0);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- bytes ---- */

static void test_little_endian(void **state)
{
    (void)state;
    const uint8_t bytes[] = {0x81, 2, 3, 4, 5, 6, 7, 0xf8};
    assert_int_equal(fp__load_le16(bytes), 0x0281);
    assert_int_equal(fp__load_le32(bytes), 0x04030281);
    assert_true(fp__load_le64(bytes) == 0xf807060504030281u);
    fp__buf buf = {0};
    assert_int_equal(fp__buf_append_le16(&buf, 0x0281), FP_OK);
    assert_int_equal(fp__buf_append_le32(&buf, 0x04030281), FP_OK);
    assert_int_equal(fp__buf_append_le64(&buf, 0xf807060504030281u), FP_OK);
    assert_int_equal(buf.size, 14);
    assert_memory_equal(buf.data, bytes, 2);
    assert_memory_equal(buf.data + 2, bytes, 4);
    assert_memory_equal(buf.data + 6, bytes, 8);
    fp__buf_free(&buf);
}

static void test_buffer(void **state)
{
    (void)state;
    fp__buf buf = {0};
    assert_int_equal(fp__buf_append(&buf, NULL, 0), FP_OK);
    assert_string_equal((char *)buf.data, "");
    for (int i = 0; i < 1000; i++)
        assert_int_equal(fp__buf_printf(&buf, "%d,", i), FP_OK);
    assert_int_equal(fp__buf_append_text(&buf, "end"), FP_OK);
    assert_int_equal(buf.size, 10 * 2 + 90 * 3 + 900 * 4 + 3);
    assert_int_equal(strlen((char *)buf.data), buf.size);
    assert_string_equal((char *)buf.data + buf.size - 7, "999,end");
    assert_int_equal(fp__buf_reserve(&buf, SIZE_MAX), FP_NO_MEMORY);
    assert_int_equal(fp__buf_reserve(&buf, SIZE_MAX - buf.size), FP_NO_MEMORY);
    assert_string_equal((char *)buf.data + buf.size - 7, "999,end");
    fp__buf_free(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.size, 0);
}

static void test_reader(void **state)
{
    (void)state;
    const uint8_t bytes[15] = {1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0};
    fp__reader r = {.data = bytes, .size = sizeof bytes, .name = "artifact"};
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t d;
    assert_int_equal(fp__read_u8(&r, &a, "a"), FP_OK);
    assert_int_equal(fp__read_u16(&r, &b, "b"), FP_OK);
    assert_int_equal(fp__read_u32(&r, &c, "c"), FP_OK);
    assert_int_equal(fp__read_u64(&r, &d, "d"), FP_OK);
    assert_true(a == 1 && b == 2 && c == 3 && d == 4);
    assert_int_equal(fp__reader_left(&r), 0);

    const uint8_t *p = bytes;
    assert_int_equal(fp__read_bytes(&r, 0, &p, "nothing"), FP_OK);
    assert_ptr_equal(p, bytes + sizeof bytes);
    assert_int_equal(fp__read_u8(&r, &a, "the version"), FP_FORMAT);
    expect_detail("artifact");
    expect_detail("the version");
    expect_detail("truncated");
    assert_int_equal(a, 1);
    for (size_t left = 0; left < 8; left++) {
        r.offset = sizeof bytes - left;
        d = 99;
        assert_int_equal(fp__read_u64(&r, &d, "d"), FP_FORMAT);
        assert_int_equal(r.offset, sizeof bytes - left);
        assert_true(d == 99);
        assert_int_equal(fp__read_bytes(&r, SIZE_MAX - 3, &p, "size"), FP_FORMAT); /* offset + n would wrap */
    }
}

static void test_hex(void **state)
{
    (void)state;
    uint8_t bytes[256], back[256];
    char text[513];
    for (size_t i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    fp__hex_encode(bytes, 256, text);
    assert_int_equal(strlen(text), 512);
    assert_memory_equal(text + 20, "0a0b0c", 6);
    assert_int_equal(fp__hex_decode(text, 512, back, 256), FP_OK);
    assert_memory_equal(bytes, back, 256);
    assert_int_equal(fp__hex_decode("AbCd", 4, back, 2), FP_OK);
    assert_true(back[0] == 0xab && back[1] == 0xcd);
    assert_int_equal(fp__hex_decode("", 0, back, 0), FP_OK);

    static const struct {
        const char *name, *text, *word;
    } bad[] = {
        {"empty", "", "exactly 4"},
        {"odd", "abc", "exactly 4"},
        {"short", "ab", "exactly 4"},
        {"long", "abcdef", "exactly 4"},
        {"letter g", "abcg", "character 3"},
        {"white space", "ab d", "character 2"},
        {"prefix", "0xab", "character 1"},
        {"sign", "-bcd", "character 0"},
        {"high bit",
         "ab\xe1"
         "d",
         "character 2"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        memset(back, 0x55, 4);
        if (fp__hex_decode(bad[i].text, strlen(bad[i].text), back, 2) != FP_FORMAT)
            fail_msg("%s was accepted", bad[i].name);
        expect_detail(bad[i].word);
        assert_memory_equal(back, "\x55\x55\x55\x55", 4); /* untouched */
    }
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const rfc4648[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xfb\xff\xfe", "+//+"},
    };
    fp__buf buf = {0};
    for (size_t i = 0; i < COUNT(rfc4648); i++) {
        const char *plain = rfc4648[i][0], *coded = rfc4648[i][1];
        buf.size = 0;
        assert_int_equal(fp__buf_append_text(&buf, ">"), FP_OK);
        assert_int_equal(fp__base64_encode(plain, strlen(plain), &buf), FP_OK);
        assert_string_equal((char *)buf.data + 1, coded);
        buf.size = 1;
        assert_int_equal(fp__base64_decode(coded, strlen(coded), &buf), FP_OK);
        assert_int_equal(buf.size, 1 + strlen(plain));
        assert_string_equal((char *)buf.data + 1, plain);
        assert_int_equal(buf.data[0], '>');
    }
    uint8_t bytes[257];
    fp__buf coded = {0};
    for (size_t n = 0; n <= sizeof bytes; n++) {
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(i * 37 + n);
        buf.size = coded.size = 0;
        assert_int_equal(fp__base64_encode(bytes, n, &coded), FP_OK);
        assert_int_equal(fp__base64_decode((char *)coded.data, coded.size, &buf), FP_OK);
        assert_int_equal(buf.size, n);
        assert_memory_equal(buf.data, bytes, n);
    }
    fp__buf_free(&buf);
    fp__buf_free(&coded);
}

static void test_base64_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *word;
    } bad[] = {
        {"one character", "Z", "multiple of 4"},
        {"no padding", "Zg", "multiple of 4"},
        {"one pad missing", "Zg=", "multiple of 4"},
        {"line feed at the end", "Zm9v\n", "multiple of 4"},
        {"line feed within", "Zm9\nZm9v", "character 3"},
        {"space", "Zm 9", "character 2"},
        {"only padding", "====", "character 0"},
        {"three pads", "Z===", "character 1"},
        {"padding first", "==Zg", "character 0"},
        {"padding within", "Zg==Zm9v", "character 2"},
        {"character after a pad", "Zm=v", "character 2"},
        {"URL alphabet minus", "-_-_", "character 0"},
        {"high bit", "Zm9\xf6", "character 3"},
        {"spare bits with two pads", "Zh==", "canonical"},
        {"all spare bits with two pads", "Zv==", "canonical"},
        {"spare bits with one pad", "Zm9=", "canonical"},
        {"spare bits in a later group", "Zm9vZm+=", "canonical"},
    };
    fp__buf buf = {0};
    assert_int_equal(fp__buf_append_text(&buf, "kept"), FP_OK);
    for (size_t i = 0; i < COUNT(bad); i++) {
        if (fp__base64_decode(bad[i].text, strlen(bad[i].text), &buf) != FP_FORMAT)
            fail_msg("%s was accepted", bad[i].name);
        expect_detail(bad[i].word);
        assert_string_equal((char *)buf.data, "kept");
    }
    assert_int_equal(fp__base64_decode("Zg\0=", 4, &buf), FP_FORMAT);
    /* Of all 65,536 texts of two characters and two pads, exactly one decodes to each byte. */
    unsigned accepted = 0;
    for (unsigned i = 0; i < 65536; i++) {
        char text[4] = {(char)(i >> 8), (char)i, '=', '='};
        buf.size = 0;
        accepted += fp__base64_decode(text, 4, &buf) == FP_OK;
    }
    assert_int_equal(accepted, 256);
    fp__buf_free(&buf);
}

static void test_utf8(void **state)
{
    (void)state;
    /* Limits of every length, after the Unicode standard's table 3-7; bad is the offset, complete the usable
     * prefix. */
    static const struct {
        const char *name, *text;
        int bad; /* -1: well-formed */
        size_t complete;
    } table[] = {
        {"empty", "", -1, 0},
        {"ASCII", "abc\x7f", -1, 4},
        {"U+0080", "\xc2\x80", -1, 2},
        {"U+07FF", "\xdf\xbf", -1, 2},
        {"U+0800", "\xe0\xa0\x80", -1, 3},
        {"U+D7FF", "\xed\x9f\xbf", -1, 3},
        {"U+E000", "\xee\x80\x80", -1, 3},
        {"U+FFFF", "\xef\xbf\xbf", -1, 3},
        {"U+10000", "\xf0\x90\x80\x80", -1, 4},
        {"U+10FFFF", "\xf4\x8f\xbf\xbf", -1, 4},
        {"lone continuation", "a\x80", 1, 2},
        {"four continuations", "\x80\x80\x80\x80", 0, 4},
        {"overlong of two, C0", "\xc0\x80", 0, 2},
        {"overlong of two, C1", "\xc1\xbf", 0, 2},
        {"overlong of three", "\xe0\x9f\xbf", 0, 3},
        {"overlong of four", "\xf0\x8f\xbf\xbf", 0, 4},
        {"surrogate U+D800", "\xed\xa0\x80", 0, 3},
        {"surrogate U+DFFF", "\xed\xbf\xbf", 0, 3},
        {"U+110000", "\xf4\x90\x80\x80", 0, 4},
        {"lead F5", "\xf5\x80\x80\x80", 0, 4},
        {"lead FF", "ab\xff", 2, 3},
        {"sequence broken by ASCII",
         "\xe2\x82"
         "a",
         0, 3},
        {"sequence broken by a lead", "\xe2\x82\xc3\xa9", 0, 4},
        {"cut after 1 of 2", "ab\xc3", 2, 2},
        {"cut after 1 of 3", "ab\xe2", 2, 2},
        {"cut after 2 of 3", "ab\xe2\x82", 2, 2},
        {"cut after 1 of 4", "ab\xf0", 2, 2},
        {"cut after 3 of 4", "ab\xf0\x9f\x98", 2, 2},
        {"cut, but no sequence starts so", "ab\xe0\x80", 2, 4},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        size_t bad = 77, n = strlen(table[i].text);
        bool valid = fp__utf8_valid(table[i].text, n, &bad);
        if (valid != (table[i].bad < 0) || (!valid && bad != (size_t)table[i].bad) || (valid && bad != 77))
            fail_msg("%s: valid %d, bad %zu", table[i].name, valid, bad);
        if (fp__utf8_complete(table[i].text, n) != table[i].complete)
            fail_msg("%s: complete %zu", table[i].name, fp__utf8_complete(table[i].text, n));
    }
}

/* Every 3-byte string, against the definition of RFC 3629 by decoding and encoding again. */
static void test_utf8_exhaustive(void **state)
{
    (void)state;
    unsigned valid = 0;
    for (uint32_t i = 0; i < 1u << 24; i++) {
        uint8_t s[3] = {(uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        valid += fp__utf8_valid(s, 3, NULL);
    }
    /* 1+1+1, 1+2, 2+1, 3: 128^3 + 2*128*1920 + (65536 - 2048 - 2048) */
    assert_int_equal(valid, 128 * 128 * 128 + 2 * 128 * 1920 + 61440);
}

/* ---- memory ---- */

static void test_arena(void **state)
{
    (void)state;
    fp__arena *arena = NULL;
    assert_int_equal(fp__arena_create(&arena), FP_OK);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 2000; i++) {
            size_t align = (size_t)1 << i % 13, size = i % 7 == 0 ? 0 : i * 3;
            uint8_t *p = fp__arena_alloc(arena, size, align);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % align, 0);
            for (size_t k = 0; k < size; k++)
                assert_true(p[k] == 0);
            memset(p, 0xaa, size); /* the next round must see zeros again */
        }
        uint8_t *large = fp__arena_alloc(arena, 5u << 20, 4096);
        assert_non_null(large);
        assert_true(large[0] == 0 && large[(5u << 20) - 1] == 0);
        char *copy = fp__arena_strdup(arena, "a\0bc", 3);
        assert_memory_equal(copy, "a\0b", 4);
        assert_string_equal(fp__arena_strdup(arena, NULL, 0), "");
        fp__arena_reset(arena);
    }
    assert_null(fp__arena_alloc(arena, SIZE_MAX, 1));
    expect_detail("no memory");
    assert_null(fp__arena_alloc(arena, SIZE_MAX - 8, 64));
    fp__arena_destroy(arena);
    fp__arena_destroy(NULL);
}

static void test_large_memory(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 127, 129, 4096, (2u << 20) - 1, 2u << 20, (2u << 20) + 1, 9000001};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        uint8_t *p = fp__mem_alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 128, 0);
        for (size_t k = 0; k < sizes[i]; k += 509)
            assert_true(p[k] == 0);
        memset(p, 1, sizes[i]);
        fp__mem_free(p, sizes[i]);
    }
    fp__mem_free(NULL, 100);
    assert_null(fp__mem_alloc(SIZE_MAX));
    assert_null(fp__mem_alloc(SIZE_MAX - 5000));
    expect_detail("no memory");
}

static void test_cpu(void **state)
{
    (void)state;
    const fp__cpu *cpu = fp__cpu_get();
    assert_ptr_equal(cpu, fp__cpu_get());
    assert_true(cpu->cores >= 1);
    assert_true(strlen(cpu->name) > 0);
    assert_true(!cpu->avx512 || cpu->avx2);
#if defined(__x86_64__)
    assert_int_equal(cpu->avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                                    __builtin_cpu_supports("bmi2"));
    assert_int_equal(cpu->avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                      __builtin_cpu_supports("avx512dq") &&
                                      __builtin_cpu_supports("avx512vl") &&
                                      __builtin_cpu_supports("avx512vnni"));
#endif
}

/* ---- files ---- */

static char folder[64]; /* a fresh one per test */

static int folder_setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/fieldprint-core-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int folder_teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name)
{
    static char paths[4][160];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static size_t entries(const char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    size_t n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

static void expect_content(const char *path, const char *text)
{
    fp__buf buf = {0};
    assert_int_equal(fp__file_read(path, 1 << 20, &buf), FP_OK);
    assert_string_equal((char *)buf.data, text);
    fp__buf_free(&buf);
}

static void test_file_write_read(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    assert_false(fp__file_exists(path));
    assert_int_equal(fp__file_write(path, "first", 5, 0600), FP_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    expect_content(path, "first");
    assert_int_equal(fp__file_write(path, "2", 1, 0644), FP_OK);
    expect_content(path, "2");
    assert_int_equal(fp__file_write(path, NULL, 0, 0644), FP_OK);
    expect_content(path, "");
    assert_int_equal(fp__file_create(in_folder("b"), "new", 3, 0644), FP_OK);
    assert_int_equal(fp__file_create(in_folder("b"), "other", 5, 0644), FP_EXISTS);
    expect_detail("already there");
    expect_content(in_folder("b"), "new");
    assert_int_equal(entries(folder), 2); /* no temporary file stays */
}

static void test_file_read_limits(void **state)
{
    (void)state;
    const char *path = in_folder("a");
    char large[200000];
    memset(large, 'x', sizeof large);
    assert_int_equal(fp__file_write(path, large, sizeof large, 0644), FP_OK);
    fp__buf buf = {0};
    assert_int_equal(fp__buf_append_text(&buf, "kept"), FP_OK);
    assert_int_equal(fp__file_read(path, sizeof large - 1, &buf), FP_LIMIT);
    expect_detail(path);
    assert_string_equal((char *)buf.data, "kept");
    assert_int_equal(fp__file_read(path, sizeof large, &buf), FP_OK);
    assert_int_equal(buf.size, 4 + sizeof large);
    assert_memory_equal(buf.data, "keptx", 5);
    /* Files that do not tell their size are held to the limit too. */
    buf.size = 0;
    assert_int_equal(fp__file_read("/dev/zero", 1000, &buf), FP_LIMIT);
    assert_int_equal(buf.size, 0);
    assert_int_equal(fp__file_read("/proc/self/status", 1 << 20, &buf), FP_OK);
    assert_true(buf.size > 100);
    assert_int_equal(fp__file_read("/dev/null", 0, &buf), FP_OK);
    assert_int_equal(fp__file_read(in_folder("missing"), 10, &buf), FP_NOT_FOUND);
    expect_detail("missing");
    assert_int_equal(fp__file_read(folder, 10, &buf), FP_IO);
    expect_detail("folder");
    fp__buf_free(&buf);
}

/* Every way a write can fail leaves the old file and nothing else. */
static void test_file_write_failures(void **state)
{
    (void)state;
    assert_int_equal(fp__file_write(in_folder("old"), "old", 3, 0644), FP_OK);
    static const struct {
        const char *name;
        fp_status status;
        const char *word;
    } table[] = {
        {"old/below-a-file", FP_IO, "not a folder"},
        {"missing/file", FP_NOT_FOUND, "no such file or folder"},
        {"", FP_IO, "folder"},
        {"old/", FP_IO, "name a file"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        const char *path = in_folder(table[i].name);
        assert_int_equal(fp__file_write(path, "new", 3, 0644), table[i].status);
        expect_detail(table[i].word);
        expect_detail(folder);
        assert_int_equal(fp__file_create(path, "new", 3, 0644) == FP_OK, 0);
        fp__file_writer *w = NULL;
        assert_int_equal(fp__writer_open(path, 0644, &w), table[i].status);
        assert_null(w);
    }
    assert_int_equal(fp__file_write("", "new", 3, 0644), FP_USAGE);
    /* A rename would turn a device into a file. */
    assert_int_equal(fp__file_write("/dev/full", "new", 3, 0644), FP_IO);
    expect_detail("not a regular file");
    struct stat st;
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    expect_content(in_folder("old"), "old");
    assert_int_equal(entries(folder), 1);
}

static int in_child(int (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(body());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* For functions that run in a child process, where cmocka's assertions cannot reach the parent. */
#define CHILD_EXPECT(cond)                                                                                   \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #cond, fp_error_detail());               \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

static int fill_disk(const char *word)
{
    static uint8_t large[300000];
    CHILD_EXPECT(fp__file_write(in_folder("old"), large, sizeof large, 0644) == FP_IO);
    CHILD_EXPECT(strstr(fp_error_detail(), word) && strstr(fp_error_detail(), folder));
    fp__file_writer *w;
    CHILD_EXPECT(fp__writer_open(in_folder("old"), 0644, &w) == FP_OK);
    fp_status status = FP_OK;
    for (int i = 0; i < 300 && status == FP_OK; i++)
        status = fp__writer_append(w, large, 1000);
    CHILD_EXPECT(status == FP_IO);
    CHILD_EXPECT(fp__writer_append(w, "x", 1) == FP_IO); /* and stays failed */
    CHILD_EXPECT(fp__writer_commit(w) == FP_IO);
    CHILD_EXPECT(entries(folder) == 1);
    fp__buf buf = {0};
    CHILD_EXPECT(fp__file_read(in_folder("old"), 10, &buf) == FP_OK);
    CHILD_EXPECT(strcmp((char *)buf.data, "old") == 0);
    fp__buf_free(&buf);
    return 0;
}

static int file_size_limit(void)
{
    signal(SIGXFSZ, SIG_IGN);
    CHILD_EXPECT(setrlimit(RLIMIT_FSIZE, &(struct rlimit){100000, 100000}) == 0);
    return fill_disk("larger than the limit");
}

static void test_file_size_limit(void **state)
{
    (void)state;
    assert_int_equal(fp__file_write(in_folder("old"), "old", 3, 0644), FP_OK);
    assert_int_equal(in_child(file_size_limit), 0);
}

/* A small file system of its own, where this process may mount one. */
static int full_disk(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", folder, "tmpfs", 0, "size=100k") != 0)
        return 77;
    CHILD_EXPECT(fp__file_write(in_folder("old"), "old", 3, 0644) == FP_OK);
    int result = fill_disk("no space left");
    if (result != 0)
        return result;
    CHILD_EXPECT(mount("none", folder, "none", MS_REMOUNT | MS_RDONLY, NULL) == 0);
    CHILD_EXPECT(fp__file_write(in_folder("old"), "new", 3, 0644) == FP_IO);
    CHILD_EXPECT(strstr(fp_error_detail(), "read-only"));
    CHILD_EXPECT(fp__dir_make(in_folder("new")) == FP_IO);
    CHILD_EXPECT(strstr(fp_error_detail(), "read-only"));
    CHILD_EXPECT(fp__dir_make(folder) == FP_OK); /* it is there: nothing to write */
    fp__lock lock;
    CHILD_EXPECT(fp__lock_take(in_folder("lock"), &lock) == FP_IO);
    return 0;
}

static void test_full_and_read_only_disk(void **state)
{
    (void)state;
    int result = in_child(full_disk);
    if (result == 77)
        skip(); /* no right to mount */
    assert_int_equal(result, 0);
}

/* As a user without rights in a folder. */
static int denied_folder(void)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
        return 77;
    CHILD_EXPECT(fp__file_write(in_folder("old"), "new", 3, 0644) == FP_IO);
    CHILD_EXPECT(strstr(fp_error_detail(), "permission denied"));
    CHILD_EXPECT(fp__dir_make(in_folder("x/y")) == FP_IO);
    CHILD_EXPECT(strstr(fp_error_detail(), "permission denied"));
    fp__buf buf = {0};
    CHILD_EXPECT(fp__file_read(in_folder("old"), 10, &buf) == FP_OK);
    CHILD_EXPECT(strcmp((char *)buf.data, "old") == 0);
    fp__buf_free(&buf);
    return 0;
}

static void test_denied_folder(void **state)
{
    (void)state;
    assert_int_equal(fp__file_write(in_folder("old"), "old", 3, 0644), FP_OK);
    assert_int_equal(chmod(folder, 0555), 0);
    int result = in_child(denied_folder);
    assert_int_equal(chmod(folder, 0755), 0);
    if (result == 77)
        skip();
    assert_int_equal(result, 0);
    assert_int_equal(entries(folder), 1);
}

static void test_writer(void **state)
{
    (void)state;
    const char *path = in_folder("large");
    fp__file_writer *w = NULL;
    fp__buf expected = {0}, got = {0};
    assert_int_equal(fp__writer_open(path, 0644, &w), FP_OK);
    for (size_t i = 0; i < 200; i++) {
        static uint8_t piece[100000];
        size_t size =
            i % 50 == 49 ? sizeof piece : i * i % 3000; /* some larger than the buffer of the writer */
        memset(piece, (int)i, size);
        assert_int_equal(fp__writer_append(w, piece, size), FP_OK);
        assert_int_equal(fp__buf_append(&expected, piece, size), FP_OK);
    }
    assert_false(fp__file_exists(path)); /* not before the commit */
    assert_int_equal(fp__writer_commit(w), FP_OK);
    assert_int_equal(fp__file_read(path, SIZE_MAX, &got), FP_OK);
    assert_int_equal(got.size, expected.size);
    assert_memory_equal(got.data, expected.data, got.size);

    assert_int_equal(fp__writer_open(path, 0644, &w), FP_OK);
    assert_int_equal(fp__writer_append(w, "x", 1), FP_OK);
    fp__writer_abort(w);
    fp__writer_abort(NULL);
    assert_int_equal(entries(folder), 1);

    fp__map map = {0};
    assert_int_equal(fp__map_open(path, &map), FP_OK);
    assert_int_equal(map.size, expected.size);
    assert_memory_equal(map.data, expected.data, map.size);
    fp__map_close(&map);
    assert_null(map.data);
    fp__buf_free(&expected);
    fp__buf_free(&got);
}

static void test_map_refusals(void **state)
{
    (void)state;
    fp__map map = {0};
    assert_int_equal(fp__map_open(in_folder("missing"), &map), FP_NOT_FOUND);
    assert_int_equal(fp__map_open(folder, &map), FP_IO);
    assert_int_equal(fp__map_open("/dev/zero", &map), FP_IO);
    expect_detail("regular file");
    assert_null(map.data);
    assert_int_equal(fp__file_write(in_folder("empty"), NULL, 0, 0644), FP_OK);
    assert_int_equal(fp__map_open(in_folder("empty"), &map), FP_OK);
    assert_non_null(map.data);
    assert_int_equal(map.size, 0);
    fp__map_close(&map);
}

static void test_dir_make(void **state)
{
    (void)state;
    const char *deep = in_folder("a//b/c/");
    assert_int_equal(fp__dir_make(deep), FP_OK);
    assert_int_equal(fp__dir_make(deep), FP_OK);
    assert_int_equal(fp__dir_sync(in_folder("a/b/c")), FP_OK);
    assert_int_equal(fp__file_write(in_folder("a/b/c/file"), "x", 1, 0644), FP_OK);
    assert_int_equal(fp__dir_make(in_folder("a/b/c/file")), FP_IO);
    expect_detail("not a folder");
    assert_int_equal(fp__dir_make(in_folder("a/b/c/file/d")), FP_IO);
    assert_int_equal(fp__dir_make(""), FP_USAGE);
    assert_int_equal(fp__dir_make("/"), FP_OK);
    assert_int_equal(fp__dir_sync(in_folder("missing")), FP_NOT_FOUND);
}

static void test_path_join(void **state)
{
    (void)state;
    fp__buf buf = {0};
    assert_string_equal(fp__path_join(&buf, "a/b", "c"), "a/b/c");
    assert_string_equal(fp__path_join(&buf, "a/", "c"), "a/c");
    assert_string_equal(fp__path_join(&buf, "/", "c"), "/c");
    assert_string_equal(fp__path_join(&buf, "", "c"), "c");
    fp__buf_free(&buf);
}

static int try_lock(void)
{
    fp__lock lock = {-1};
    fp_status status = fp__lock_take(in_folder("lock"), &lock);
    if (status == FP_BUSY)
        return strstr(fp_error_detail(), "another process") ? 10 : 1;
    return status == FP_OK ? 20 : 1; /* ends with the lock held: the system releases it */
}

static void test_lock(void **state)
{
    (void)state;
    fp__lock lock = {-1}, second = {-1};
    assert_int_equal(fp__lock_take(in_folder("lock"), &lock), FP_OK);
    assert_int_equal(in_child(try_lock), 10);
    assert_int_equal(fp__lock_take(in_folder("lock"), &second), FP_BUSY);
    assert_int_equal(second.fd, -1);
    fp__lock_release(&lock);
    assert_int_equal(lock.fd, -1);
    assert_int_equal(in_child(try_lock), 20);
    assert_int_equal(fp__lock_take(in_folder("lock"), &lock), FP_OK);
    fp__lock_release(&lock);
    fp__lock_release(&lock); /* harmless */
    assert_int_equal(fp__lock_take(in_folder("missing/lock"), &lock), FP_NOT_FOUND);
}

/* A process that is killed at any moment of writing leaves the old or the new file, whole. */
static void test_killed_writer(void **state)
{
    (void)state;
    static char text[2][50001];
    memset(text[0], 'a', 50000);
    memset(text[1], 'b', 50000);
    const char *path = in_folder("file");
    assert_int_equal(fp__file_write(path, text[0], 50000, 0644), FP_OK);
    for (useconds_t delay = 200; delay < 6000; delay += 400) {
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            for (unsigned i = 0;; i++) {
                if (fp__file_write(path, text[i & 1], 50000, 0644) != FP_OK)
                    _exit(1);
            }
        }
        usleep(delay);
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        fp__buf buf = {0};
        assert_int_equal(fp__file_read(path, 60000, &buf), FP_OK);
        assert_int_equal(buf.size, 50000);
        assert_true(memcmp(buf.data, text[0], 50000) == 0 || memcmp(buf.data, text[1], 50000) == 0);
        fp__buf_free(&buf);
    }
}

/* ---- log ---- */

static int log_to_file(void)
{
    if (!freopen(in_folder("log"), "w", stderr) || setenv("FIELDPRINT_LOG", "info", 1) != 0)
        return 1;
    if (!fp__trace_on(FP__TRACE_INFO) || fp__trace_on(FP__TRACE_DEBUG))
        return 1;
    char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    fp__trace(FP__TRACE_DEBUG, "hidden");
    fp__trace(FP__TRACE_INFO, "two\nlines \x1b[0m %d", 5);
    fp__trace(FP__TRACE_ERROR, "%s", longest);
    return 0;
}

static void test_trace(void **state)
{
    (void)state;
    assert_int_equal(in_child(log_to_file), 0);
    fp__buf buf = {0};
    assert_int_equal(fp__file_read(in_folder("log"), 10000, &buf), FP_OK);
    const char *text = (const char *)buf.data;
    assert_int_equal(strncmp(text, "fieldprint: info: two lines ?[0m 5\nfieldprint: error: xxx", 57), 0);
    assert_true(buf.size < 2200 && text[buf.size - 1] == '\n');
    fp__buf_free(&buf);
}

#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_table),
        cmocka_unit_test(test_error_detail),
        cmocka_unit_test(test_error_detail_is_printable),
        cmocka_unit_test(test_check_failed_aborts),
        cmocka_unit_test(test_little_endian),
        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_reader),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_base64_refusals),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_utf8_exhaustive),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_large_memory),
        cmocka_unit_test(test_cpu),
        FILE_TEST(test_file_write_read),
        FILE_TEST(test_file_read_limits),
        FILE_TEST(test_file_write_failures),
        FILE_TEST(test_file_size_limit),
        FILE_TEST(test_full_and_read_only_disk),
        FILE_TEST(test_denied_folder),
        FILE_TEST(test_writer),
        FILE_TEST(test_map_refusals),
        FILE_TEST(test_dir_make),
        cmocka_unit_test(test_path_join),
        FILE_TEST(test_lock),
        FILE_TEST(test_killed_writer),
        FILE_TEST(test_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
