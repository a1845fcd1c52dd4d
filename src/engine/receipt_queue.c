/* Receipts off the token loop: one thread writes their files, then one entry of the ledger for all of them. A
 * receipt is acknowledged after both are durable, so that nothing that was acknowledged is lost. */
#include "engine/receipt.h"
#include "fieldprint/receipts.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { DEFAULT_WAITING = 4096 };

typedef struct entry {
    struct entry *next;
    fp__receipt_files files;
} entry;

struct fp_receipts {
    fp_receipts_options o;
    fp_workspace *workspace; /* of the thread */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    entry *first, **last; /* that wait */
    size_t waiting;
    bool end;
    uint64_t done; /* acknowledged or failed */
    fp_receipts_status status;
    fp_status failure; /* the first one since the last flush */
    char why[512];
};

/* ---- the thread ---- */

/* Up to a batch of those that wait; NULL when the queue ends. */
static entry *take(fp_receipts *q, size_t *n)
{
    pthread_mutex_lock(&q->lock);
    while (!q->first && !q->end)
        pthread_cond_wait(&q->changed, &q->lock);
    if (q->o.wait_ms && q->first) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(q->o.wait_ms % 1000) * 1000000;
        until.tv_sec += (time_t)(q->o.wait_ms / 1000) + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        while (q->waiting < q->o.batch && !q->end &&
               pthread_cond_timedwait(&q->changed, &q->lock, &until) != ETIMEDOUT)
            ;
    }
    entry *list = q->first, *end = NULL;
    *n = 0;
    for (entry *e = list; e && *n < q->o.batch; e = e->next, ++*n)
        end = e;
    if (end) {
        q->first = end->next;
        end->next = NULL;
        q->waiting -= *n;
        if (!q->first)
            q->last = &q->first;
    }
    pthread_mutex_unlock(&q->lock);
    return list;
}

/* Files, then the entry for those whose files are there. */
static void log_batch(fp_receipts *q, entry *list, size_t n)
{
    static const char unknown[] = "no memory";
    FP_CHECK(n > 0);
    uint64_t start = fp__now_ns();
    uint8_t(*ids)[32] = calloc(n, sizeof *ids);
    fp_status *status = calloc(n, sizeof *status), logged = FP_OK;
    char(*why)[256] = calloc(n, sizeof *why);
    fp_event_receipt event = {0};
    size_t stored = 0, i = 0;
    bool memory = ids && status && why;
    for (entry *e = list; e && memory; e = e->next, i++) {
        status[i] = fp__receipt_store(&e->files);
        if (status[i] == FP_OK)
            memcpy(ids[stored++], e->files.id, 32);
        else
            snprintf(why[i], sizeof why[i], "%s", fp_error_detail());
    }
    if (stored > 0)
        logged = fp_receipts_log(q->workspace, (const uint8_t(*)[32])ids, stored, &event);
    if (logged == FP_OK && stored > 0 && !event.appended)
        logged = fp__fail(FP_DENIED, "receipts: the policy wants more signatures than are held here");
    const char *log_why = logged == FP_OK ? "" : fp_error_detail();
    pthread_mutex_lock(&q->lock);
    q->status.entries += stored > 0 && logged == FP_OK;
    pthread_mutex_unlock(&q->lock);
    i = 0;
    for (entry *e = list, *next; e; e = next, i++) {
        fp_status one = !memory ? FP_NO_MEMORY : status[i] != FP_OK ? status[i] : logged;
        const char *detail = !memory ? unknown : status[i] != FP_OK ? why[i] : log_why;
        if (q->o.on_logged)
            q->o.on_logged(q->o.on_logged_context, e->files.id, one, detail, event.index);
        pthread_mutex_lock(&q->lock);
        q->status.logged += one == FP_OK;
        q->status.failed += one != FP_OK;
        if (one != FP_OK && q->failure == FP_OK) {
            q->failure = one;
            snprintf(q->why, sizeof q->why, "%s", detail);
        }
        pthread_mutex_unlock(&q->lock);
        next = e->next;
        fp__receipt_files_free(&e->files);
        free(e);
    }
    free(ids);
    free(status);
    free(why);
    pthread_mutex_lock(&q->lock);
    q->done += n;
    q->status.busy_ns += fp__now_ns() - start;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

static void *work(void *arg)
{
    fp_receipts *q = arg;
    size_t n;
    for (entry *list; (list = take(q, &n)) != NULL;)
        log_batch(q, list, n);
    return NULL;
}

/* ---- callers ---- */

fp_status fp_receipts_open(const char *path, const fp_receipts_options *options, fp_receipts **out)
{
    fp_receipts *q = calloc(1, sizeof *q);
    if (!q)
        return fp__fail(FP_NO_MEMORY, "receipts: no memory");
    if (options)
        q->o = *options;
    if (q->o.batch == 0 || q->o.batch > FP_RECEIPTS_BATCH_MAX)
        q->o.batch = FP_RECEIPTS_BATCH_MAX;
    if (q->o.waiting == 0)
        q->o.waiting = DEFAULT_WAITING;
    q->last = &q->first;
    fp_status status = fp_workspace_open(path, NULL, &q->workspace);
    if (status != FP_OK) {
        free(q);
        return status;
    }
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    if (pthread_create(&q->thread, NULL, work, q) != 0) {
        pthread_cond_destroy(&q->changed);
        pthread_mutex_destroy(&q->lock);
        fp_workspace_close(q->workspace);
        free(q);
        return fp__fail(FP_NO_MEMORY, "receipts: the system gives no thread");
    }
    *out = q;
    return FP_OK;
}

fp_status fp_receipts_add(fp_receipts *q, fp_session *session, fp_workspace *workspace, uint8_t id[32],
                          char *receipt_path, char *transcript_path)
{
    entry *e = calloc(1, sizeof *e);
    if (!e)
        return fp__fail(FP_NO_MEMORY, "receipts: no memory");
    fp_status status = fp__receipt_make(session, workspace, &e->files);
    if (status != FP_OK) {
        fp__receipt_files_free(&e->files);
        free(e);
        return status;
    }
    fp__receipt_made(session, &e->files, id, receipt_path, transcript_path);
    pthread_mutex_lock(&q->lock);
    while (q->waiting >= q->o.waiting)
        pthread_cond_wait(&q->changed, &q->lock);
    *q->last = e;
    q->last = &e->next;
    q->waiting++;
    q->status.added++;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    return FP_OK;
}

fp_status fp_receipts_flush(fp_receipts *q)
{
    char why[512];
    pthread_mutex_lock(&q->lock);
    uint64_t added = q->status.added;
    while (q->done < added)
        pthread_cond_wait(&q->changed, &q->lock);
    fp_status failure = q->failure;
    snprintf(why, sizeof why, "%s", q->why);
    q->failure = FP_OK;
    pthread_mutex_unlock(&q->lock);
    return failure == FP_OK ? FP_OK : fp__fail(failure, "%s", why);
}

void fp_receipts_get_status(fp_receipts *q, fp_receipts_status *out)
{
    pthread_mutex_lock(&q->lock);
    *out = q->status;
    pthread_mutex_unlock(&q->lock);
}

void fp_receipts_close(fp_receipts *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    q->end = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    fp_workspace_close(q->workspace);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
}
