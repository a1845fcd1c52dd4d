/* Checkpoints (c2sp.org/tlog-checkpoint): the text of a signed note that names a log, a tree size and a root.
 */
#ifndef FP_LEDGER_CHECKPOINT_H
#define FP_LEDGER_CHECKPOINT_H
#include "ledger/note.h"

typedef struct fp__checkpoint {
    char origin[FP__NOTE_MAX_NAME + 1];
    uint64_t size;
    uint8_t root[32];
    const char *extensions; /* further lines with their newlines, into the parsed text; NULL if none */
    size_t extensions_size;
} fp__checkpoint;

/* Untrusted text (the note's text, with its last newline). FP_FORMAT naming the line. Sizes are below 2^63; a
 * tree of size 0 must have the empty root. */
fp_status fp__checkpoint_parse(const void *text, size_t size, fp__checkpoint *out) FP_WARN_UNUSED;
fp_status fp__checkpoint_format(const fp__checkpoint *checkpoint, fp__buf *out) FP_WARN_UNUSED; /* appends */
/* Untrusted note → checkpoint: parses, demands a valid signature of keys[0] (the log's), verifies those of
 * the other keys that are there (witnesses; verdicts [count] or NULL), demands the origin. FP_FORMAT,
 * FP_LIMIT, FP_SIGNATURE; FP_MISMATCH for another origin. out->extensions points into note. */
fp_status fp__checkpoint_open(const void *note, size_t size, const char *origin, const fp__note_key *keys,
                              size_t count, fp__note_verdict *verdicts, fp__checkpoint *out) FP_WARN_UNUSED;
/* The signed note of a checkpoint, by the log's key under the origin's name. Appends. Ed25519 is
 * deterministic: the same tree head always gives the same bytes. */
fp_status fp__checkpoint_sign(const fp__checkpoint *checkpoint, const fp__ed25519_key *key,
                              fp__buf *out) FP_WARN_UNUSED;
#endif
