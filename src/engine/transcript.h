/* Transcript: what a receipt commits to with one root, leaf by leaf, each with its salt. It is private to its
 * holder; each leaf can be disclosed alone (docs/formats.md). Order: the messages and answers of the
 * conversation, the kv head, the anchor masses. */
#ifndef FP_ENGINE_TRANSCRIPT_H
#define FP_ENGINE_TRANSCRIPT_H
#include "anchor/json_strict.h"
#include "engine/engine.h"

#define FP__TRANSCRIPT_FORMAT "urn:fieldprint:transcript:v1"
#define FP__TRANSCRIPT_MAX_BYTES ((size_t)256 << 20)

typedef struct fp__transcript_leaf {
    fp__text_kind kind;
    fp_role role; /* messages */
    fp_label label;
    fp__buf bytes; /* text; kv head: 32 bytes; masses: rows:u64 then [L][H] u64, little-endian, empty without
                      anchors */
    fp__ids ids;
    uint8_t salt[32];
} fp__transcript_leaf;

/* Zero-initialise; release with fp__transcript_free. */
typedef struct fp__transcript {
    bool raw;
    fp__buf *stops; /* [n_stops] stop strings of the last answer */
    size_t n_stops;
    fp__transcript_leaf *leaves; /* [n] */
    size_t n;
} fp__transcript;

void fp__transcript_free(fp__transcript *t);
/* Everything said so far in a session, with fresh salts; waits for the hash workers. */
fp_status fp__transcript_of_session(fp_session *s, fp__transcript *out) FP_WARN_UNUSED;
/* Root of the RFC 6962 tree over the leaves. */
fp_status fp__transcript_root(const fp__transcript *t, uint8_t out[32]) FP_WARN_UNUSED;
/* SHA-256 over n:u32 and, for each stop string, size:u32 and bytes. */
fp_status fp__transcript_stops_digest(const fp__transcript *t, uint8_t out[32]) FP_WARN_UNUSED;
fp_status fp__transcript_write(const fp__transcript *t, fp__buf *out) FP_WARN_UNUSED; /* JSON, appended */
/* Untrusted bytes, strict: FP_FORMAT, FP_LIMIT. The last two leaves are the kv head and the masses, and an
 * answer is there. */
fp_status fp__transcript_parse(const void *data, size_t size, fp__transcript *out) FP_WARN_UNUSED;
/* Index of the last answer. */
size_t fp__transcript_answer(const fp__transcript *t);
#endif
