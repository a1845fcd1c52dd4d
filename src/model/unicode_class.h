/* Character classes of one fixed Unicode version, for the pre-tokenizers: every machine must cut text alike,
 * whatever version its libraries have. The table is written by scripts/gen_unicode_class.py. */
#ifndef FP_MODEL_UNICODE_CLASS_H
#define FP_MODEL_UNICODE_CLASS_H
#include <stdint.h>

#define FP__UNICODE_VERSION (15u << 16 | 1u << 8 | 0u)

typedef enum fp__unicode_class {
    FP__UNICODE_OTHER,
    FP__UNICODE_LETTER,      /* general category L */
    FP__UNICODE_NUMBER,      /* N */
    FP__UNICODE_PUNCTUATION, /* P */
    FP__UNICODE_SPACE        /* property White_Space */
} fp__unicode_class;

fp__unicode_class fp__unicode_class_of(uint32_t code_point); /* OTHER beyond U+10FFFF */
#endif
