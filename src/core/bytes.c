#include "core/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- growing buffer ---- */

void fp__buf_free(fp__buf *buf)
{
    free(buf->data);
    *buf = (fp__buf){0};
}

fp_status fp__buf_reserve(fp__buf *buf, size_t extra)
{
    size_t need;
    if (!fp__size_add(buf->size, extra, &need) || !fp__size_add(need, 1, &need))
        return fp__fail(FP_NO_MEMORY, "a buffer of %zu + %zu bytes exceeds the address space", buf->size,
                        extra);
    if (need <= buf->capacity)
        return FP_OK;
    size_t capacity = buf->capacity < 64 ? 64 : buf->capacity;
    while (capacity < need)
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    uint8_t *data = realloc(buf->data, capacity);
    if (!data)
        return fp__fail(FP_NO_MEMORY, "no memory for a buffer of %zu bytes", capacity);
    if (!buf->data)
        data[0] = 0;
    buf->data = data;
    buf->capacity = capacity;
    return FP_OK;
}

fp_status fp__buf_append(fp__buf *buf, const void *data, size_t size)
{
    FP_TRY(fp__buf_reserve(buf, size));
    if (size > 0)
        memcpy(buf->data + buf->size, data, size);
    buf->size += size;
    buf->data[buf->size] = 0;
    return FP_OK;
}

fp_status fp__buf_append_text(fp__buf *buf, const char *text)
{
    return fp__buf_append(buf, text, strlen(text));
}

fp_status fp__buf_printf(fp__buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    fp_status status = n < 0 ? fp__fail(FP_INTERNAL, "cannot format a text with \"%s\"", format)
                             : fp__buf_reserve(buf, (size_t)n);
    if (status == FP_OK) {
        vsnprintf((char *)buf->data + buf->size, (size_t)n + 1, format, again);
        buf->size += (size_t)n;
    }
    va_end(again);
    return status;
}

fp_status fp__buf_append_le16(fp__buf *buf, uint16_t v)
{
    uint8_t b[2];
    fp__store_le16(b, v);
    return fp__buf_append(buf, b, sizeof b);
}

fp_status fp__buf_append_le32(fp__buf *buf, uint32_t v)
{
    uint8_t b[4];
    fp__store_le32(b, v);
    return fp__buf_append(buf, b, sizeof b);
}

fp_status fp__buf_append_le64(fp__buf *buf, uint64_t v)
{
    uint8_t b[8];
    fp__store_le64(b, v);
    return fp__buf_append(buf, b, sizeof b);
}

/* ---- bounded reader ---- */

fp_status fp__read_bytes(fp__reader *r, size_t n, const uint8_t **out, const char *what)
{
    if (n > fp__reader_left(r))
        return fp__fail(FP_FORMAT, "%s is truncated: %s needs %zu bytes at offset %zu, %zu are left", r->name,
                        what, n, r->offset, fp__reader_left(r));
    *out = r->data + r->offset;
    r->offset += n;
    return FP_OK;
}

fp_status fp__read_u8(fp__reader *r, uint8_t *out, const char *what)
{
    const uint8_t *p;
    FP_TRY(fp__read_bytes(r, 1, &p, what));
    *out = *p;
    return FP_OK;
}

fp_status fp__read_u16(fp__reader *r, uint16_t *out, const char *what)
{
    const uint8_t *p;
    FP_TRY(fp__read_bytes(r, 2, &p, what));
    *out = fp__load_le16(p);
    return FP_OK;
}

fp_status fp__read_u32(fp__reader *r, uint32_t *out, const char *what)
{
    const uint8_t *p;
    FP_TRY(fp__read_bytes(r, 4, &p, what));
    *out = fp__load_le32(p);
    return FP_OK;
}

fp_status fp__read_u64(fp__reader *r, uint64_t *out, const char *what)
{
    const uint8_t *p;
    FP_TRY(fp__read_bytes(r, 8, &p, what));
    *out = fp__load_le64(p);
    return FP_OK;
}

/* ---- hexadecimal ---- */

void fp__hex_encode(const void *data, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

fp_status fp__hex_decode(const char *text, size_t text_size, void *out, size_t n)
{
    if (n > SIZE_MAX / 2 || text_size != 2 * n)
        return fp__fail(FP_FORMAT, "hexadecimal text has %zu characters; %zu bytes need exactly %zu",
                        text_size, n, 2 * n);
    for (size_t i = 0; i < text_size; i++) {
        if (hex_value(text[i]) < 0)
            return fp__fail(FP_FORMAT, "character %zu of a hexadecimal text is not a digit 0-9, a-f", i);
    }
    uint8_t *bytes = out;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)((unsigned)hex_value(text[2 * i]) * 16 + (unsigned)hex_value(text[2 * i + 1]));
    return FP_OK;
}

/* ---- base64, RFC 4648 §4 ---- */

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fp_status fp__base64_encode(const void *data, size_t n, fp__buf *out)
{
    size_t groups = n / 3 + (n % 3 != 0), size;
    if (!fp__size_mul(groups, 4, &size))
        return fp__fail(FP_NO_MEMORY, "%zu bytes are too many for base64", n);
    FP_TRY(fp__buf_reserve(out, size));
    const uint8_t *p = data;
    char *to = (char *)out->data + out->size;
    for (size_t i = 0; i < n; i += 3, to += 4) {
        size_t left = n - i;
        uint32_t bits = (uint32_t)p[i] << 16;
        bits |= left > 1 ? (uint32_t)p[i + 1] << 8 : 0;
        bits |= left > 2 ? (uint32_t)p[i + 2] : 0;
        to[0] = base64_alphabet[bits >> 18];
        to[1] = base64_alphabet[bits >> 12 & 63];
        to[2] = left > 1 ? base64_alphabet[bits >> 6 & 63] : '=';
        to[3] = left > 2 ? base64_alphabet[bits & 63] : '=';
    }
    out->size += size;
    out->data[out->size] = 0;
    return FP_OK;
}

/* Value of a symbol + 1; 0: not in the alphabet. */
static const uint8_t base64_symbols[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64};

static int base64_value(char c)
{
    return base64_symbols[(uint8_t)c] - 1;
}

/* Checks everything before a byte is written, so that a refusal leaves `out` as it was. */
static fp_status base64_check(const char *text, size_t text_size, size_t padding)
{
    size_t symbols = text_size - padding;
    for (size_t i = 0; i < symbols; i++) {
        if (base64_value(text[i]) < 0)
            return fp__fail(FP_FORMAT, "character %zu of a base64 text is not in the alphabet", i);
    }
    /* RFC 4648 §3.5: the bits that padding leaves over must be zero, else two texts would mean the same
     * bytes. */
    unsigned spare = padding == 2 ? 15 : padding == 1 ? 3 : 0;
    if (spare && ((unsigned)base64_value(text[symbols - 1]) & spare))
        return fp__fail(FP_FORMAT, "base64 text is not canonical: bits are set behind its last byte");
    return FP_OK;
}

fp_status fp__base64_decode(const char *text, size_t text_size, fp__buf *out)
{
    if (text_size % 4 != 0)
        return fp__fail(FP_FORMAT, "base64 text has %zu characters; a multiple of 4 with padding is needed",
                        text_size);
    size_t padding = 0;
    while (padding < 2 && padding < text_size && text[text_size - 1 - padding] == '=')
        padding++;
    FP_TRY(base64_check(text, text_size, padding));
    size_t size = text_size / 4 * 3 - padding;
    FP_TRY(fp__buf_reserve(out, size));
    uint8_t *to = out->data + out->size;
    uint32_t bits = 0;
    unsigned held = 0;
    size_t i = 0;
    for (; i + 4 <= text_size - padding; i += 4, to += 3) {
        bits = (uint32_t)base64_value(text[i]) << 18 | (uint32_t)base64_value(text[i + 1]) << 12 |
               (uint32_t)base64_value(text[i + 2]) << 6 | (uint32_t)base64_value(text[i + 3]);
        to[0] = (uint8_t)(bits >> 16);
        to[1] = (uint8_t)(bits >> 8);
        to[2] = (uint8_t)bits;
    }
    bits = 0;
    for (; i < text_size - padding; i++) {
        bits = bits << 6 | (uint32_t)base64_value(text[i]);
        held += 6;
        if (held >= 8) {
            held -= 8;
            *to++ = (uint8_t)(bits >> held);
        }
    }
    out->size += size;
    out->data[out->size] = 0;
    return FP_OK;
}

/* ---- UTF-8, RFC 3629 ---- */

/* Bytes of the sequence that `lead` starts (0: starts none) and the range of its second byte, which is what
 * excludes overlong forms, surrogates and code points above U+10FFFF. */
static size_t utf8_lead(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        *low = lead == 0xe0 ? 0xa0 : 0x80;
        *high = lead == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        *low = lead == 0xf0 ? 0x90 : 0x80;
        *high = lead == 0xf4 ? 0x8f : 0xbf;
        return 4;
    }
    return 0;
}

/* Bytes of p[0..left) that agree with the sequence its first byte starts; *need = the length of that
 * sequence. */
static size_t utf8_match(const uint8_t *p, size_t left, size_t *need)
{
    uint8_t low, high;
    *need = utf8_lead(p[0], &low, &high);
    if (*need == 0)
        return 0;
    size_t i = 1;
    for (; i < *need && i < left; i++) {
        if (p[i] < (i == 1 ? low : 0x80) || p[i] > (i == 1 ? high : 0xbf))
            break;
    }
    return i;
}

bool fp__utf8_valid(const void *data, size_t n, size_t *bad)
{
    const uint8_t *p = data;
    for (size_t i = 0, need; i < n; i += need) {
        if (p[i] < 0x80) {
            need = 1;
            continue;
        }
        if (utf8_match(p + i, n - i, &need) != need || need == 0) {
            if (bad)
                *bad = i;
            return false;
        }
    }
    return true;
}

size_t fp__utf8_complete(const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        size_t need;
        if ((p[n - back] & 0xc0) == 0x80)
            continue; /* a continuation byte: its lead is further left */
        return utf8_match(p + n - back, back, &need) == back && need > back ? n - back : n;
    }
    return n;
}
