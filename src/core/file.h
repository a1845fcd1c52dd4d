/* Durable files. Everything that must survive a crash is written through here: write to a temporary name in
 * the same folder, fsync, rename, fsync the folder. A failed or interrupted write leaves the old file
 * untouched. */
#ifndef FP_CORE_FILE_H
#define FP_CORE_FILE_H
#include "core/bytes.h"

/* Whole file into buf (appended); more than max_bytes is FP_LIMIT; FP_NOT_FOUND when absent. */
fp_status fp__file_read(const char *path, size_t max_bytes, fp__buf *buf) FP_WARN_UNUSED;
/* Atomic and durable replacement; mode as for open(2) (0600 for secrets). */
fp_status fp__file_write(const char *path, const void *data, size_t size, unsigned mode) FP_WARN_UNUSED;
/* As fp__file_write, but FP_EXISTS if the path is already there. */
fp_status fp__file_create(const char *path, const void *data, size_t size, unsigned mode) FP_WARN_UNUSED;
/* mkdir -p, durable. */
fp_status fp__dir_make(const char *path) FP_WARN_UNUSED;
fp_status fp__dir_sync(const char *path) FP_WARN_UNUSED;
int fp__file_exists(const char *path);

/* Streaming atomic writer for large files (artifacts). Abort removes the temporary file. */
typedef struct fp__file_writer fp__file_writer;
fp_status fp__writer_open(const char *path, unsigned mode, fp__file_writer **out) FP_WARN_UNUSED;
fp_status fp__writer_append(fp__file_writer *w, const void *data, size_t size) FP_WARN_UNUSED;
fp_status fp__writer_commit(fp__file_writer *w) FP_WARN_UNUSED; /* frees w in every case */
void fp__writer_abort(fp__file_writer *w);                      /* NULL is fine */

/* Read-only mapping. */
typedef struct fp__map {
    const uint8_t *data;
    size_t size;
} fp__map;
fp_status fp__map_open(const char *path, fp__map *out) FP_WARN_UNUSED;
void fp__map_close(fp__map *map);

/* Exclusive advisory lock on a file (created if absent, kept): FP_BUSY when another process holds it. */
typedef struct fp__lock {
    int fd;
} fp__lock;
fp_status fp__lock_take(const char *path, fp__lock *out) FP_WARN_UNUSED;
void fp__lock_release(fp__lock *lock);

/* path = dir "/" name in buf (reset first). Returns the text or NULL when memory is out. */
const char *fp__path_join(fp__buf *buf, const char *dir, const char *name);
#endif
