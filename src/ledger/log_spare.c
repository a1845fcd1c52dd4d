#include "ledger/log_spare.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_BYTES (256 << 10) /* a larger file is not worth its room */
/* So many files lie between putting one in and taking it out: whoever was just opening it under its old name
 * has it open by then, and the lease shows it. */
#define READY_MIN 64

void fp__spare_name(uint32_t name, char out[FP__SPARE_NAME_MAX])
{
    snprintf(out, FP__SPARE_NAME_MAX, "%u", name);
}

static bool push(fp__spare_queue *queue, uint32_t name)
{
    if (queue->count == FP__SPARES_MAX)
        return false;
    queue->names[(queue->first + queue->count++) % FP__SPARES_MAX] = name;
    return true;
}

static uint32_t pop(fp__spare_queue *queue)
{
    uint32_t name = queue->names[queue->first];
    queue->first = (queue->first + 1) % FP__SPARES_MAX;
    queue->count--;
    return name;
}

static fp_status list_folder(fp__spares *spares)
{
    int fd = dup(spares->dir_fd);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return fp__fail(FP_IO, "cannot list %s: %s", FP__SPARE_FOLDER, strerror(errno));
    }
    for (const struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        unsigned long name = strtoul(item->d_name, NULL, 10);
        if (name == 0 || name >= UINT32_MAX)
            continue;
        if (name >= spares->next)
            spares->next = (uint32_t)name + 1;
        fp__spares_add(spares, (uint32_t)name, true);
    }
    closedir(folder);
    return FP_OK;
}

fp_status fp__spares_open(int log_fd, fp__spares *out)
{
    if (mkdirat(log_fd, FP__SPARE_FOLDER, 0755) != 0 && errno != EEXIST)
        return fp__fail(FP_IO, "cannot make %s in the ledger: %s", FP__SPARE_FOLDER, strerror(errno));
    memset(out, 0, sizeof *out);
    out->next = 1;
    out->dir_fd = openat(log_fd, FP__SPARE_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (out->dir_fd < 0)
        return fp__fail(FP_IO, "cannot open %s in the ledger: %s", FP__SPARE_FOLDER, strerror(errno));
    return list_folder(out);
}

void fp__spares_close(fp__spares *spares)
{
    if (spares->dir_fd >= 0)
        close(spares->dir_fd);
    spares->dir_fd = -1;
}

static void discard(const fp__spares *spares, uint32_t name)
{
    char text[FP__SPARE_NAME_MAX];
    fp__spare_name(name, text);
    (void)unlinkat(spares->dir_fd, text, 0); /* a left-over is not an error */
}

/* The oldest ready file, if nobody else has it open; -1 if there is none. */
static int take_ready(fp__spares *spares, uint32_t *name, size_t *size)
{
    for (int attempt = 0; attempt < 4 && spares->ready.count >= READY_MIN && !spares->no_leases; attempt++) {
        char text[FP__SPARE_NAME_MAX];
        struct stat st;
        *name = pop(&spares->ready);
        fp__spare_name(*name, text);
        int fd = openat(spares->dir_fd, text, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue;
        if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_SETLEASE, F_UNLCK) == 0 &&
            fstat(fd, &st) == 0) {
            *size = (size_t)st.st_size;
            return fd;
        }
        spares->no_leases = errno != EAGAIN;
        close(fd);
        fp__spares_add(spares, *name, false);
    }
    return -1;
}

fp_status fp__spares_take(fp__spares *spares, uint32_t *name, int *fd, size_t *size)
{
    *fd = take_ready(spares, name, size);
    if (*fd >= 0)
        return FP_OK;
    char text[FP__SPARE_NAME_MAX];
    do {
        *name = spares->next++;
        fp__spare_name(*name, text);
        *fd = openat(spares->dir_fd, text, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    } while (*fd < 0 && errno == EEXIST && spares->next != UINT32_MAX);
    *size = 0;
    return *fd >= 0 ? FP_OK
                    : fp__fail(FP_IO, "cannot make a temporary file in the ledger: %s", strerror(errno));
}

void fp__spares_add(fp__spares *spares, uint32_t name, bool resting)
{
    char text[FP__SPARE_NAME_MAX];
    struct stat st;
    fp__spare_name(name, text);
    if (spares->no_leases || fstatat(spares->dir_fd, text, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_size > FILE_MAX_BYTES ||
        !push(resting ? &spares->resting : &spares->ready, name))
        discard(spares, name);
}

bool fp__spares_move(fp__spares *spares, int dir_fd, const char *path, bool resting)
{
    char text[FP__SPARE_NAME_MAX];
    fp__spare_name(spares->next, text);
    if (renameat(dir_fd, path, spares->dir_fd, text) != 0)
        return false;
    fp__spares_add(spares, spares->next++, resting);
    return true;
}

void fp__spares_settle(fp__spares *spares)
{
    while (spares->resting.count != 0 && spares->ready.count < FP__SPARES_MAX)
        (void)push(&spares->ready, pop(&spares->resting));
}
