/* The ledger: an append-only log in a folder that any web server can serve as it is (c2sp.org/tlog-tiles),
 * with signed checkpoints. One writer, any number of readers.
 *
 *   checkpoint            signed note, replaced by rename
 *   tile/<L>/<N>[.p/<W>]  hashes; tile/entries/<N>[.p/<W>] entries
 *   .writer.lock, .writer.stage, .writer.spare/   the writer's own; not part of the served log
 *
 * Consistency: appends are linearizable in the writer. A reader moves only forward: it keeps its last
 * checkpoint in a state file outside the folder and demands that the next one continues it. Every byte a
 * reader returns has been authenticated against a checkpoint with the log's signature. */
#ifndef FP_LEDGER_LEDGER_H
#define FP_LEDGER_LEDGER_H
#include "ledger/tiles.h"
#include "ledger/tlog_proof.h"

typedef struct fp__ledger_head {
    uint64_t size;
    uint8_t root[32];
} fp__ledger_head;

/* An entry to append: at most FP__ENTRY_MAX_BYTES. */
typedef fp__part fp__ledger_entry;

/* ---- Writer ---- */
/* Makes the folder and signs the empty checkpoint. FP_EXISTS if the folder has a checkpoint. The origin is
 * the name of the log's key too; see fp__note_key_make for what it may contain. */
fp_status fp__ledger_create(const char *dir, const char *origin, const fp__ed25519_key *key) FP_WARN_UNUSED;

typedef struct fp__ledger_writer fp__ledger_writer;
/* Takes the lock (FP_BUSY when another process, or this one, is the writer), finishes what a crash left
 * half-done and verifies the edge of the tree. key must outlive the writer. FP_SIGNATURE: the checkpoint is
 * not this key's. FP_MISMATCH, FP_FORMAT: the folder is damaged (see fp__ledger_fsck). */
fp_status fp__ledger_writer_open(const char *dir, const char *origin, const fp__ed25519_key *key,
                                 fp__ledger_writer **out) FP_WARN_UNUSED;
/* Appends n entries, all or none, and returns when they are durable and a signed checkpoint that covers them
 * is published. Concurrent callers share one commit (group commit); calls are linearizable. first_index and
 * head (the tree right after the commit) may be NULL. FP_LIMIT: an entry is too long, or more than
 * FP__LEDGER_BATCH_MAX_BYTES. After FP_IO it is not known whether the entries are in the log: the writer
 * refuses further appends; open it again and look. Thread-safe. */
#define FP__LEDGER_BATCH_MAX_BYTES ((size_t)256 << 20)
fp_status fp__ledger_append(fp__ledger_writer *writer, const fp__ledger_entry *entries, size_t n,
                            uint64_t *first_index, fp__ledger_head *head) FP_WARN_UNUSED;
void fp__ledger_writer_head(fp__ledger_writer *writer, fp__ledger_head *out); /* thread-safe */
/* Publishes the checkpoint of `head` again with witnesses' cosignature lines (whole lines; verified by the
 * caller) after the log's own. FP_BUSY: the log has grown meanwhile; nothing is changed. Durable.
 * Thread-safe.
 */
fp_status fp__ledger_writer_cosign(fp__ledger_writer *writer, const fp__ledger_head *head, const void *lines,
                                   size_t size) FP_WARN_UNUSED;
/* Makes tiles and checkpoint durable under their own names, forgets the stage, removes superseded partial
 * tiles. Done by itself from time to time and by close; an append is durable without it. */
fp_status fp__ledger_writer_sync(fp__ledger_writer *writer) FP_WARN_UNUSED;
void fp__ledger_writer_close(fp__ledger_writer *writer); /* no call may be in progress; NULL is fine */

/* Called before ("…", done = 0) and after (done = 1) each step of a commit, for tests that crash there. NULL
 * in use. */
typedef void fp__ledger_fault_fn(const char *step, const char *path, int done);
extern fp__ledger_fault_fn *fp__ledger_fault;

/* ---- Reader ---- One thread at a time; open several for several threads. */
typedef struct fp__ledger_reader fp__ledger_reader;
/* Opens the log in a folder, or at a URL (ledger/remote.h), at its newest checkpoint. keys[0] is the log's
 * key, further ones are witnesses'. state_path: where this reader remembers its last checkpoint, outside the
 * log's folder (made if absent; several processes may share one); NULL: starts from whatever the log says
 * now. Errors as for refresh. */
fp_status fp__ledger_reader_open(const char *dir, const char *origin, const fp__note_key *keys,
                                 size_t key_count, const char *state_path,
                                 fp__ledger_reader **out) FP_WARN_UNUSED;
/* Moves to the newest checkpoint if it continues the one at hand. *advanced (may be NULL): it moved. On
 * failure the reader stays where it was. FP_SIGNATURE, FP_FORMAT: the checkpoint; FP_MISMATCH: the log went
 * back, forked, or its tiles do not add up to what was signed. */
fp_status fp__ledger_reader_refresh(fp__ledger_reader *reader, bool *advanced) FP_WARN_UNUSED;
void fp__ledger_reader_head(const fp__ledger_reader *reader, fp__ledger_head *out);
/* The signed checkpoint, verbatim, valid until the next refresh; verdicts [key_count] of its signatures. */
const fp__buf *fp__ledger_reader_note(const fp__ledger_reader *reader);
const fp__note_verdict *fp__ledger_reader_verdicts(const fp__ledger_reader *reader);
const fp__note_key *fp__ledger_reader_key(const fp__ledger_reader *reader); /* the log's */
/* Entry `index`, appended to out. FP_USAGE if index ≥ size; FP_MISMATCH, FP_FORMAT, FP_NOT_FOUND name the
 * file. */
fp_status fp__ledger_reader_entry(fp__ledger_reader *reader, uint64_t index, fp__buf *out) FP_WARN_UNUSED;
/* Calls back for entries begin ≤ i < end in order, each already verified; a bundle is read and verified at a
 * time. A status other than FP_OK stops the scan and is returned. The bytes are valid during the call. */
typedef fp_status fp__ledger_visit_fn(void *arg, uint64_t index, const uint8_t *entry, size_t size);
fp_status fp__ledger_reader_scan(fp__ledger_reader *reader, uint64_t begin, uint64_t end,
                                 fp__ledger_visit_fn *visit, void *arg) FP_WARN_UNUSED;
/* Proofs for trees up to the reader's size; FP_USAGE outside of it. */
fp_status fp__ledger_reader_leaf(fp__ledger_reader *reader, uint64_t index, uint8_t out[32]) FP_WARN_UNUSED;
fp_status fp__ledger_reader_root_at(fp__ledger_reader *reader, uint64_t size, uint8_t out[32]) FP_WARN_UNUSED;
fp_status fp__ledger_reader_inclusion(fp__ledger_reader *reader, uint64_t index, uint64_t size,
                                      fp__merkle_proof *out) FP_WARN_UNUSED;
fp_status fp__ledger_reader_consistency(fp__ledger_reader *reader, uint64_t m, uint64_t n,
                                        fp__merkle_proof *out) FP_WARN_UNUSED;
/* Appends the tlog-proof of an entry in the tree of the reader's checkpoint. extra may be NULL. */
fp_status fp__ledger_reader_tlog_proof(fp__ledger_reader *reader, uint64_t index, const void *extra,
                                       size_t extra_size, fp__buf *out) FP_WARN_UNUSED;
void fp__ledger_reader_close(fp__ledger_reader *reader); /* NULL is fine */

/* ---- Check of a whole log ---- */
typedef struct fp__ledger_report {
    fp__ledger_head head;
    uint64_t tiles, bundles, entry_bytes; /* what was read */
} fp__ledger_report;
/* Recomputes every hash of the log in a folder, or at a URL, from the entries up and compares every tile and
 * the checkpoint. The first difference is returned (FP_MISMATCH, FP_FORMAT, FP_NOT_FOUND, FP_SIGNATURE),
 * naming file and entry. Takes no lock; report may be NULL. */
fp_status fp__ledger_fsck(const char *dir, const char *origin, const fp__note_key *keys, size_t key_count,
                          fp__ledger_report *report) FP_WARN_UNUSED;
#endif
