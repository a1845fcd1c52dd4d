/* Receipts off the token loop: answers of any number of sessions go into a queue, whose thread writes their
 * files and logs many of them with one entry of the ledger (a group commit). */
#ifndef FIELDPRINT_RECEIPTS_H
#define FIELDPRINT_RECEIPTS_H
#include "fieldprint/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_receipts fp_receipts;

typedef struct fp_receipts_options {
    size_t batch;     /* receipts of one entry at most; 0: FP_RECEIPTS_BATCH_MAX */
    size_t waiting;   /* receipts that may wait; then fp_receipts_add blocks; 0: 4096 */
    uint32_t wait_ms; /* how long the first of a batch waits for others; 0: not at all (what comes while one
                         batch is being logged makes the next) */
    /* A receipt is acknowledged: its files and the ledger entry that names it are durable, and stay so after
     * a crash or kill -9. Or it is not, status says why and detail is the sentence: its files may be there,
     * the ledger does not name it. Called in the queue's thread; NULL: none. */
    void (*on_logged)(void *context, const uint8_t id[32], fp_status status, const char *detail,
                      uint64_t index);
    void *on_logged_context;
} fp_receipts_options;

/* Opens the workspace in `path` (as fp_workspace_open) a second time, for its thread. options NULL: defaults.
 */
FP_API fp_status fp_receipts_open(const char *path, const fp_receipts_options *options,
                                  fp_receipts **out) FP_WARN_UNUSED;
/* As fp_session_receipt, but what is written to disk is written later: makes and signs the receipt in the
 * calling thread, which may go on with its session at once. `workspace` is the session's own handle. Blocks
 * only while `waiting` receipts wait. Thread-safe for different sessions. */
FP_API fp_status fp_receipts_add(fp_receipts *queue, fp_session *session, fp_workspace *workspace,
                                 uint8_t id[32], char *receipt_path, char *transcript_path) FP_WARN_UNUSED;
/* Waits until all that were added before are acknowledged or failed; the first failure since the last flush.
 */
FP_API fp_status fp_receipts_flush(fp_receipts *queue) FP_WARN_UNUSED;

typedef struct fp_receipts_status {
    uint64_t added, logged, failed, entries; /* entries of the ledger: group commits */
    uint64_t busy_ns;                        /* that the queue's thread wrote and logged */
} fp_receipts_status;
FP_API void fp_receipts_get_status(fp_receipts *queue, fp_receipts_status *out);
/* Flushes first; NULL is fine. Sessions may live on. */
FP_API void fp_receipts_close(fp_receipts *queue);

#ifdef __cplusplus
}
#endif
#endif
