/* Bytes: little-endian access, a growing buffer, a bounded reader, hex and base64. */
#ifndef FP_CORE_BYTES_H
#define FP_CORE_BYTES_H
#include "core/error.h"
#include <stdbool.h>
#include <string.h>

static inline uint16_t fp__load_le16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t fp__load_le32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t fp__load_le64(const void *p)
{
    return (uint64_t)fp__load_le32(p) | (uint64_t)fp__load_le32((const uint8_t *)p + 4) << 32;
}
static inline void fp__store_le16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}
static inline void fp__store_le32(void *p, uint32_t v)
{
    uint8_t *b = p;
    for (int i = 0; i < 4; i++)
        b[i] = (uint8_t)(v >> 8 * i);
}
static inline void fp__store_le64(void *p, uint64_t v)
{
    uint8_t *b = p;
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> 8 * i);
}

/* Growing buffer. Zero-initialise; release with fp__buf_free. Always followed by a NUL that `size` does not
 * count. */
typedef struct fp__buf {
    uint8_t *data;
    size_t size, capacity;
} fp__buf;
void fp__buf_free(fp__buf *buf);
fp_status fp__buf_reserve(fp__buf *buf, size_t extra) FP_WARN_UNUSED;
fp_status fp__buf_append(fp__buf *buf, const void *data, size_t size) FP_WARN_UNUSED;
fp_status fp__buf_append_text(fp__buf *buf, const char *text) FP_WARN_UNUSED;
fp_status fp__buf_printf(fp__buf *buf, const char *format, ...) FP_WARN_UNUSED FP_PRINTF(2, 3);
fp_status fp__buf_append_le16(fp__buf *buf, uint16_t v) FP_WARN_UNUSED;
fp_status fp__buf_append_le32(fp__buf *buf, uint32_t v) FP_WARN_UNUSED;
fp_status fp__buf_append_le64(fp__buf *buf, uint64_t v) FP_WARN_UNUSED;

/* Reader over untrusted bytes: every read is checked against what remains; a short read is FP_FORMAT naming
 * `what`. */
typedef struct fp__reader {
    const uint8_t *data;
    size_t size, offset;
    const char *name; /* for messages: "artifact", "GGUF" */
} fp__reader;
static inline size_t fp__reader_left(const fp__reader *r)
{
    return r->size - r->offset;
}
fp_status fp__read_bytes(fp__reader *r, size_t n, const uint8_t **out, const char *what) FP_WARN_UNUSED;
fp_status fp__read_u8(fp__reader *r, uint8_t *out, const char *what) FP_WARN_UNUSED;
fp_status fp__read_u16(fp__reader *r, uint16_t *out, const char *what) FP_WARN_UNUSED;
fp_status fp__read_u32(fp__reader *r, uint32_t *out, const char *what) FP_WARN_UNUSED;
fp_status fp__read_u64(fp__reader *r, uint64_t *out, const char *what) FP_WARN_UNUSED;

/* Lower-case hexadecimal; out holds 2·n + 1 chars. */
void fp__hex_encode(const void *data, size_t n, char *out);
/* Exactly 2·n hexadecimal digits (either case), nothing after. */
fp_status fp__hex_decode(const char *text, size_t text_size, void *out, size_t n) FP_WARN_UNUSED;
/* Standard base64 with padding (RFC 4648 §4). Decoding is strict: canonical padding bits, no white space. */
fp_status fp__base64_encode(const void *data, size_t n, fp__buf *out) FP_WARN_UNUSED;         /* appends */
fp_status fp__base64_decode(const char *text, size_t text_size, fp__buf *out) FP_WARN_UNUSED; /* appends */

/* True if the n bytes are well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). *bad = offset of
 * the first ill-formed sequence, if bad is not NULL. */
bool fp__utf8_valid(const void *data, size_t n, size_t *bad);
/* Number of leading bytes of data that end at a code point boundary (an incomplete last sequence is left
 * out). */
size_t fp__utf8_complete(const void *data, size_t n);

/* Overflow-checked size arithmetic: false on overflow. */
static inline bool fp__size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool fp__size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
#endif
