/* Strict JSON over jansson, for everything that is signed or that grants trust.
 *
 * Refused: duplicate names, NUL, trailing bytes, real numbers, integers outside ±(2^53-1), nesting deeper
 * than 16, and (through the accessors) unknown or missing fields. All input is untrusted. `where` names the
 * object in messages ("policy.holders[2]"). What we sign is the text that fp__json_dump wrote; it is never
 * parsed and written again. */
#ifndef FP_ANCHOR_JSON_STRICT_H
#define FP_ANCHOR_JSON_STRICT_H
#include "core/bytes.h"
#include <jansson.h>

#define FP__JSON_INTEGER_MAX UINT64_C(9007199254740991) /* 2^53 - 1 */

/* Parses an object of at most max_bytes. *out is the caller's (json_decref). FP_LIMIT, FP_FORMAT. */
fp_status fp__json_parse(const void *data, size_t size, size_t max_bytes, const char *name,
                         json_t **out) FP_WARN_UNUSED;
/* Appends the text: compact, or indented for people, in the order in which fields were set. Takes (frees)
 * json in every case; NULL json is FP_NO_MEMORY, so that json_pack can be passed straight in. */
fp_status fp__json_dump(json_t *json, int pretty, fp__buf *out) FP_WARN_UNUSED;
json_t *fp__json_hex_value(const void *data, size_t n); /* new lower-case string, NULL when memory is out */

/* Every name of `required` is there, and nothing outside required and optional. NULL-ended lists; optional
 * may be NULL. */
fp_status fp__json_fields(const json_t *object, const char *where, const char *const *required,
                          const char *const *optional) FP_WARN_UNUSED;
/* Typed access to a field that must be there. Borrowed results live as long as the object. */
fp_status fp__json_object(const json_t *object, const char *where, const char *key,
                          json_t **out) FP_WARN_UNUSED;
fp_status fp__json_array(const json_t *object, const char *where, const char *key, size_t min, size_t max,
                         json_t **out) FP_WARN_UNUSED;
/* Text of min..max bytes without control characters. */
fp_status fp__json_text(const json_t *object, const char *where, const char *key, size_t min, size_t max,
                        const char **out) FP_WARN_UNUSED;
fp_status fp__json_uint(const json_t *object, const char *where, const char *key, uint64_t min, uint64_t max,
                        uint64_t *out) FP_WARN_UNUSED;
/* Exactly 2·n lower-case hexadecimal digits. */
fp_status fp__json_hex(const json_t *object, const char *where, const char *key, void *out,
                       size_t n) FP_WARN_UNUSED;
fp_status fp__json_hex_text(const char *text, const char *where, void *out, size_t n) FP_WARN_UNUSED;
/* The field equals this text. */
fp_status fp__json_constant(const json_t *object, const char *where, const char *key,
                            const char *value) FP_WARN_UNUSED;
#endif
