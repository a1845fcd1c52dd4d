/* The writer's stage: a write-ahead file in which a group of entries is durable (one fdatasync) before any
 * tile of the log is touched. After a crash its records are applied again; once the tiles themselves are
 * durable it is cleared.
 *
 * Record: "FPSTAGE" 02, base size u64, base root [32], entries u32, id of the log's key u32, payload bytes
 * u64, payload (bundle format), SHA-256 of all that. Records follow each other from offset 0; a record
 * continues the chain only if its base is the size that the one before leads to, so that left-overs of
 * earlier rounds (always of smaller bases) end it. The file is written over in place: its blocks exist
 * already, and a commit costs no file-system transaction. */
#ifndef FP_LEDGER_LOG_STAGE_H
#define FP_LEDGER_LOG_STAGE_H
#include "ledger/ledger.h"

#define FP__STAGE_NAME ".writer.stage"
#define FP__STAGE_BYTES ((size_t)4 << 20)
#define FP__STAGE_HEADER 64

typedef struct fp__stage {
    int fd;
    uint32_t key_id;
    uint64_t offset; /* where the next record goes */
} fp__stage;
typedef struct fp__stage_record {
    fp__ledger_head base;
    uint32_t count;
    const uint8_t *payload;
    size_t size;
} fp__stage_record;

/* Opens the file in the log's folder, making it and filling it up to FP__STAGE_BYTES if needed. */
fp_status fp__stage_open(int dir_fd, uint32_t key_id, fp__stage *out) FP_WARN_UNUSED;
void fp__stage_close(fp__stage *stage);
/* Writes a record and makes it durable. The caller makes room first (clear) when fp__stage_is_full says so.
 */
fp_status fp__stage_write(fp__stage *stage, const fp__stage_record *record) FP_WARN_UNUSED;
bool fp__stage_is_full(const fp__stage *stage, size_t payload_size);
fp_status fp__stage_clear(fp__stage *stage) FP_WARN_UNUSED; /* durable */
/* The record at *offset of the file's bytes; false when there is no whole one of this key. Advances *offset.
 */
bool fp__stage_read(const uint8_t *data, size_t size, uint32_t key_id, size_t *offset, fp__stage_record *out);

/* Shared with the writer: write(2) until all is written, with fault points before, in the middle and after.
 */
fp_status fp__ledger_write_all(int fd, const void *data, size_t size, int64_t offset,
                               const char *path) FP_WARN_UNUSED;
void fp__ledger_step(const char *step, const char *path, int done); /* calls fp__ledger_fault */
#endif
