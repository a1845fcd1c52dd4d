/* Signed notes (c2sp.org/signed-note): text, an empty line, signature lines. Verifier keys ("vkeys").
 * Cosignatures of type 0x04 (c2sp.org/tlog-cosignature) are notes' signatures over a timestamped text.
 *
 * All input is untrusted: strict UTF-8, no control characters but newline, bounded in size and number of
 * signatures. */
#ifndef FP_LEDGER_NOTE_H
#define FP_LEDGER_NOTE_H
#include "core/bytes.h"
#include "ledger/ed25519.h"

#define FP__NOTE_MAX_BYTES (256 * 1024)
#define FP__NOTE_MAX_SIGNATURES 64
#define FP__NOTE_MAX_NAME 255

enum fp__note_type {
    FP__NOTE_ED25519 = 0x01,
    FP__NOTE_COSIGNATURE = 0x04, /* timestamped Ed25519 cosignature of a checkpoint */
};

/* Who may have signed: a name and a public key. */
typedef struct fp__note_key {
    char name[FP__NOTE_MAX_NAME + 1];
    uint32_t id;  /* SHA-256(name ‖ 0x0A ‖ type ‖ public key), first four bytes, big-endian */
    uint8_t type; /* fp__note_type */
    uint8_t public_key[32];
} fp__note_key;
/* FP_FORMAT for a name that notes cannot carry (empty, too long, not UTF-8, space, plus, control character).
 */
fp_status fp__note_key_make(const char *name, uint8_t type, const uint8_t public_key[32],
                            fp__note_key *out) FP_WARN_UNUSED;
/* "<name>+<id, 8 hex digits>+<base64 of type ‖ public key>": FP_FORMAT if malformed or if the id is not the
 * key's, FP_UNSUPPORTED for another type. A trailing newline is not accepted. */
fp_status fp__note_key_parse(const char *text, size_t size, fp__note_key *out) FP_WARN_UNUSED;
fp_status fp__note_key_format(const fp__note_key *key, fp__buf *out) FP_WARN_UNUSED; /* appends, no newline */

typedef struct fp__note_signature {
    const char *name; /* into the parsed bytes, not NUL-terminated */
    size_t name_size;
    uint32_t key_id;
    size_t offset, size; /* of the signature bytes after the key id, in fp__note.decoded */
} fp__note_signature;
typedef struct fp__note {
    const uint8_t *text; /* into the parsed bytes; ends in a newline */
    size_t text_size;
    size_t signature_count;
    fp__note_signature signatures[FP__NOTE_MAX_SIGNATURES];
    fp__buf decoded;
} fp__note;
/* Well-formed UTF-8, no control characters but newline, not empty, newline at the end: what notes and proofs
 * are made of. FP_FORMAT naming `what`. */
fp_status fp__note_check_text(const void *data, size_t size, const char *what) FP_WARN_UNUSED;
/* ASCII decimal without leading zeroes, at most 2^63 - 1, nothing else: FP_FORMAT naming `what`. */
fp_status fp__note_parse_decimal(const void *text, size_t size, uint64_t *out,
                                 const char *what) FP_WARN_UNUSED;

/* *out refers to data, which must outlive it; release with fp__note_free (also after a failure: it is left
 * zeroed). FP_FORMAT or FP_LIMIT, naming the line. Says nothing about who signed: see fp__note_verify. */
fp_status fp__note_parse(const void *data, size_t size, fp__note *out) FP_WARN_UNUSED;
void fp__note_free(fp__note *note);

typedef struct fp__note_verdict {
    bool valid;
    uint64_t timestamp; /* of a cosignature, seconds since 1970 (the latest, if it signed twice); else 0 */
} fp__note_verdict;
/* Checks every signature that carries the name and id of one of the keys. FP_SIGNATURE if one of those is not
 * valid, or if there is none; signatures of unknown keys are ignored. verdicts: [count] or NULL. */
fp_status fp__note_verify(const fp__note *note, const fp__note_key *keys, size_t count,
                          fp__note_verdict *verdicts) FP_WARN_UNUSED;

/* Appends the whole note: text (which must end in a newline), an empty line, one Ed25519 signature line. */
fp_status fp__note_sign(const void *text, size_t size, const char *name, const fp__ed25519_key *key,
                        fp__buf *out) FP_WARN_UNUSED;
/* Appends one cosignature line over a checkpoint's text, to be put after the log's own. */
fp_status fp__note_cosign(const void *text, size_t size, const char *name, const fp__ed25519_key *key,
                          uint64_t timestamp, fp__buf *out) FP_WARN_UNUSED;
#endif
