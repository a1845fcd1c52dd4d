/* Reading texts of exactly the form in which this program writes them, without building JSON. A log holds
 * millions of entries of one form; whatever is not exactly of it goes the general way (json_strict.h), which
 * decides what is right and says what is wrong. What is read here must mean the same there. */
#ifndef FP_ANCHOR_COMPACT_H
#define FP_ANCHOR_COMPACT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct fp__cursor {
    const char *at, *end;
} fp__cursor;

static inline bool fp__cursor_bytes(fp__cursor *c, const char *text, size_t n)
{
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, text, n) != 0)
        return false;
    c->at += n;
    return true;
}
/* A string literal. */
#define FP__CURSOR_SKIP(c, literal) fp__cursor_bytes(c, "" literal, sizeof(literal) - 1)

/* The characters up to the next quote, without escapes or anything that JSON treats specially. */
static inline bool fp__cursor_text(fp__cursor *c, const char **text, size_t *size)
{
    *text = c->at;
    while (c->at < c->end && ((*c->at >= '+' && *c->at <= '9') || (*c->at >= 'A' && *c->at <= 'Z') ||
                              (*c->at >= 'a' && *c->at <= 'z') || *c->at == '='))
        c->at++;
    *size = (size_t)(c->at - *text);
    return FP__CURSOR_SKIP(c, "\"");
}

/* 64 lower-case hexadecimal digits and a quote. */
static inline bool fp__cursor_hex32(fp__cursor *c, uint8_t out[32])
{
    unsigned bad = 0;
    if (c->end - c->at < 65 || c->at[64] != '"')
        return false;
    for (int i = 0; i < 32; i++) {
        unsigned value = 0;
        for (int k = 0; k < 2; k++) {
            unsigned digit = (unsigned)(unsigned char)c->at[2 * i + k] - '0',
                     letter = (unsigned)(unsigned char)c->at[2 * i + k] - 'a';
            bad |= digit > 9 && letter > 5;
            value = value << 4 | ((digit <= 9 ? digit : letter + 10) & 15);
        }
        out[i] = (uint8_t)value;
    }
    c->at += 65;
    return !bad;
}
#endif
