/* Anchor statements: predicate urn:fieldprint:anchor:v1 of an in-toto Statement whose subject is the
 * document. */
#ifndef FP_ANCHOR_STATEMENT_H
#define FP_ANCHOR_STATEMENT_H
#include "anchor/dsse.h"
#include "fieldprint/workspace.h"

#define FP__ANCHOR_PREDICATE "urn:fieldprint:anchor:v1"

/* What a statement must satisfy, whether it was read or is about to be written. FP_FORMAT naming the field.
 */
fp_status fp__statement_check(const fp_statement *statement) FP_WARN_UNUSED;
/* Unsigned envelope of a statement (checked first). */
fp_status fp__statement_create(const fp_statement *statement, fp__dsse *out) FP_WARN_UNUSED;
/* From the payload of an envelope; untrusted. */
fp_status fp__statement_parse_payload(const void *payload, size_t size, fp_statement *out) FP_WARN_UNUSED;
/* True if the statement (or a list of readers) lets this tenant read; "*" in the list lets everybody. */
bool fp__readers_allow(const char (*readers)[FP_READER_MAX + 1], size_t n, const char *reader);
/* Parses a list of readers: distinct, [A-Za-z0-9._:@-]+ or the single "*". Shared with the policy. */
fp_status fp__readers_parse(const json_t *object, const char *where, char (*readers)[FP_READER_MAX + 1],
                            uint16_t *count) FP_WARN_UNUSED;
#endif
