/* Spare files: superseded partial tiles and replaced checkpoints, kept to be written again. A log in steady
 * state then neither makes nor deletes files for its partial tiles, which file systems are slow at (ext4
 * looks at every recently deleted inode before it gives out one).
 *
 * A file is written only while it lies in the writer's own folder, under a name that no reader knows, and
 * only when a lease shows that no process has it open still (fcntl(2), F_SETLEASE); so a reader never sees
 * bytes change. Where there are no leases, files are made and deleted as usual. Thread rule: the writer's. */
#ifndef FP_LEDGER_LOG_SPARE_H
#define FP_LEDGER_LOG_SPARE_H
#include "core/error.h"
#include <stdbool.h>

#define FP__SPARE_FOLDER ".writer.spare"
#define FP__SPARES_MAX 1024u /* in each of the two queues; more are deleted */
#define FP__SPARE_NAME_MAX 16

typedef struct fp__spare_queue {
    uint32_t names[FP__SPARES_MAX];
    unsigned first, count;
} fp__spare_queue;
typedef struct fp__spares {
    int dir_fd; /* the folder; -1: closed */
    uint32_t next;
    bool no_leases;
    fp__spare_queue ready;   /* oldest first */
    fp__spare_queue resting; /* moved here, but a power failure could still undo that */
} fp__spares;

/* Makes the folder if needed; takes what is in it as resting. */
fp_status fp__spares_open(int log_fd, fp__spares *out) FP_WARN_UNUSED;
void fp__spares_close(fp__spares *spares);
void fp__spare_name(uint32_t name, char out[FP__SPARE_NAME_MAX]);
/* A file in the folder to write from its beginning: a spare one or a new one. *fd is the caller's; *size:
 * what it holds now. */
fp_status fp__spares_take(fp__spares *spares, uint32_t *name, int *fd, size_t *size) FP_WARN_UNUSED;
/* The file `name` of the folder is not needed any more. */
void fp__spares_add(fp__spares *spares, uint32_t name, bool resting);
/* Moves dir/path into the folder, or deletes it. False if it is not there. */
bool fp__spares_move(fp__spares *spares, int dir_fd, const char *path, bool resting);
/* Every rename so far is durable: what rests is ready. */
void fp__spares_settle(fp__spares *spares);
#endif
