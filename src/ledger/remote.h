/* Files over HTTP(S) or file:// (libcurl): how a log that lies elsewhere is read, and how witnesses are
 * asked.
 *
 * Everything that comes back is untrusted and bounded: in size (also after decompression) and in time; only
 * these schemes are spoken, no redirect is followed. Thread rule: one thread at a time per object. */
#ifndef FP_LEDGER_REMOTE_H
#define FP_LEDGER_REMOTE_H
#include "ledger/tiles.h"

#define FP__REMOTE_CONNECT_SECONDS 10
#define FP__REMOTE_TIMEOUT_SECONDS 60
#define FP__REMOTE_POST_SECONDS 15 /* somebody waits for it */
#define FP__REMOTE_URL_MAX 2000

typedef struct fp__remote fp__remote;
bool fp__remote_is_url(const char *place); /* begins with http://, https:// or file:// */
/* url: the log's (or the witness's) prefix, with or without a slash at the end. Asks nothing yet. FP_USAGE,
 * FP_LIMIT. */
fp_status fp__remote_open(const char *url, fp__remote **out) FP_WARN_UNUSED;
void fp__remote_close(fp__remote *remote); /* NULL is fine */
/* A fp__tile_fetch_fn; arg is the fp__remote. FP_NOT_FOUND for 404 and 410, FP_IO for every other answer that
 * is not 200, FP_LIMIT for more than max_bytes. */
fp_status fp__remote_fetch(void *remote, const char *path, size_t max_bytes, fp__buf *out) FP_WARN_UNUSED;
/* POST. FP_OK whatever the HTTP status is, which goes to *http; the body is appended to out. */
fp_status fp__remote_post(fp__remote *remote, const char *path, const void *body, size_t size,
                          size_t max_bytes, long *http, fp__buf *out) FP_WARN_UNUSED;

/* A log's files, wherever they are. */
typedef struct fp__source {
    fp__tile_fetch_fn *fetch;
    void *arg;
    fp__remote *remote; /* or NULL */
} fp__source;
/* place: a folder or a URL; must outlive the source. */
fp_status fp__source_open(const char *place, fp__source *out) FP_WARN_UNUSED;
void fp__source_close(fp__source *source);
#endif
