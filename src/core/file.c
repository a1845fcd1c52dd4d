#include "core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- errors ---- */

/* What to do next, for the errors that people meet; NULL for others. */
static const char *advice(int error)
{
    switch (error) {
    case ENOENT:
        return "there is no such file or folder; check the path";
    case EEXIST:
        return "it is already there; choose another name or remove it first";
    case EACCES:
        return "permission denied; use an account that may, or choose another folder";
    case EPERM:
        return "operation not permitted; use an account that may, or choose another folder";
    case EROFS:
        return "the file system is read-only; choose a folder that can be written";
    case ENOSPC:
        return "no space left on the disk; free some space there and try again";
    case EDQUOT:
        return "the disk quota is used up; free some space there and try again";
    case EFBIG:
        return "the file would be larger than the limit; raise it (ulimit -f) or choose another disk";
    case ENOTDIR:
        return "a part of the path is a file, not a folder; check the path";
    case EISDIR:
        return "it is a folder; name a file";
    case EMFILE:
        return "too many open files; raise the limit (ulimit -n)";
    case ENFILE:
        return "too many open files on this machine; close other programs";
    case ENOMEM:
        return "out of memory; close other programs";
    default:
        return NULL;
    }
}

/* errno → status and message. `action` reads as in "cannot <action> 'path'". */
static fp_status fail_errno(int error, const char *action, const char *path)
{
    fp_status status = FP_IO;
    if (error == ENOENT || error == EEXIST || error == ENOMEM)
        status = error == ENOENT ? FP_NOT_FOUND : error == EEXIST ? FP_EXISTS : FP_NO_MEMORY;
    char text[128];
    const char *known = advice(error);
    return fp__fail(status, "cannot %s '%s': %s", action, path,
                    known ? known : strerror_r(error, text, sizeof text));
}

/* ---- system calls that a signal may interrupt ---- */

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int fsync_retry(int fd)
{
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

/* close without losing errno; for paths where another error is already being reported, or only reading was
 * done. */
static void close_quietly(int fd)
{
    int saved = errno;
    close(fd);
    errno = saved;
}

static int write_all(int fd, const void *data, size_t size)
{
    const uint8_t *p = data;
    while (size > 0) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0) { /* not possible for size > 0 on a regular file; never loop on it */
            errno = EIO;
            return -1;
        }
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* ---- paths ---- */

const char *fp__path_join(fp__buf *buf, const char *dir, const char *name)
{
    buf->size = 0;
    size_t n = strlen(dir);
    const char *slash = n > 0 && dir[n - 1] != '/' ? "/" : "";
    return fp__buf_printf(buf, "%s%s%s", dir, slash, name) == FP_OK ? (const char *)buf->data : NULL;
}

/* Folder that holds `path`, as a new string; NULL when memory is out. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *parent = !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!parent)
        (void)fp__fail(FP_NO_MEMORY, "no memory for the path '%s'", path);
    return parent;
}

int fp__file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* ---- folders ---- */

fp_status fp__dir_sync(const char *path)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fail_errno(errno, "open the folder", path);
    /* EINVAL: this file system does not sync folders (it keeps names in order itself, or cannot do better).
     */
    int result = fsync_retry(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return result ? fail_errno(result, "sync the folder", path) : FP_OK;
}

static fp_status sync_parent(const char *path)
{
    char *parent = parent_of(path);
    if (!parent)
        return FP_NO_MEMORY;
    fp_status status = fp__dir_sync(parent);
    free(parent);
    return status;
}

static fp_status dir_make_one(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return sync_parent(path);
    int error = errno;
    struct stat st;
    if (stat(path, &st) == 0) /* also where mkdir gives EROFS or EACCES for a folder that is there */
        return S_ISDIR(st.st_mode) ? FP_OK : fail_errno(ENOTDIR, "make the folder", path);
    return fail_errno(error, "make the folder", path);
}

fp_status fp__dir_make(const char *path)
{
    if (!*path)
        return fp__fail(FP_USAGE, "the name of the folder is empty");
    char *part = strdup(path);
    if (!part)
        return fp__fail(FP_NO_MEMORY, "no memory for the path '%s'", path);
    size_t n = strlen(part);
    while (n > 1 && part[n - 1] == '/')
        part[--n] = 0;
    fp_status status = FP_OK;
    for (size_t i = 1; i < n && status == FP_OK; i++) {
        if (part[i] != '/' || part[i - 1] == '/')
            continue;
        part[i] = 0;
        status = dir_make_one(part);
        part[i] = '/';
    }
    if (status == FP_OK)
        status = dir_make_one(part);
    free(part);
    return status;
}

/* ---- reading ---- */

static fp_status read_some(int fd, const char *path, size_t max_bytes, size_t expected, fp__buf *buf)
{
    size_t start = buf->size;
    FP_TRY(fp__buf_reserve(buf, expected));
    for (;;) {
        size_t got = buf->size - start;
        FP_TRY(fp__buf_reserve(buf, 1));
        size_t room = buf->capacity - buf->size - 1; /* one is for the NUL */
        /* One byte more than allowed is asked for, to see that there is more. */
        size_t want = room <= max_bytes - got ? room : max_bytes - got + 1;
        ssize_t n = read(fd, buf->data + buf->size, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(errno, "read", path);
        if ((size_t)n > max_bytes - got)
            return fp__fail(FP_LIMIT, "'%s' is larger than %zu bytes, the most that is read here", path,
                            max_bytes);
        buf->size += (size_t)n;
        buf->data[buf->size] = 0;
        if (n == 0)
            return FP_OK;
    }
}

fp_status fp__file_read(const char *path, size_t max_bytes, fp__buf *buf)
{
    int fd = open_retry(path, O_RDONLY, 0);
    if (fd < 0)
        return fail_errno(errno, "open", path);
    struct stat st;
    fp_status status;
    size_t before = buf->size;
    if (fstat(fd, &st) != 0)
        status = fail_errno(errno, "examine", path);
    else if (S_ISDIR(st.st_mode))
        status = fail_errno(EISDIR, "read", path);
    else if (S_ISREG(st.st_mode) && (uintmax_t)st.st_size > max_bytes)
        status = fp__fail(FP_LIMIT, "'%s' has %ju bytes, more than the %zu that are read here", path,
                          (uintmax_t)st.st_size, max_bytes);
    else
        status = read_some(fd, path, max_bytes, S_ISREG(st.st_mode) ? (size_t)st.st_size : 0, buf);
    if (status != FP_OK && buf->data) {
        buf->size = before;
        buf->data[before] = 0;
    }
    close(fd);
    return status;
}

fp_status fp__map_open(const char *path, fp__map *out)
{
    static const uint8_t nothing[1];
    int fd = open_retry(path, O_RDONLY, 0);
    if (fd < 0)
        return fail_errno(errno, "open", path);
    struct stat st;
    fp_status status = FP_OK;
    fp__map map = {.data = nothing};
    if (fstat(fd, &st) != 0)
        status = fail_errno(errno, "examine", path);
    else if (S_ISDIR(st.st_mode))
        status = fail_errno(EISDIR, "map", path);
    else if (!S_ISREG(st.st_mode))
        status = fp__fail(FP_IO, "cannot map '%s': it is not a regular file; copy it to one first", path);
    else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            status = fail_errno(errno, "map", path);
        else
            map = (fp__map){p, (size_t)st.st_size};
    }
    close(fd);
    if (status == FP_OK)
        *out = map;
    return status;
}

void fp__map_close(fp__map *map)
{
    if (map->size > 0)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (fp__map){0};
}

/* ---- writing ---- */

enum { WRITER_BUFFER_BYTES = 64 * 1024 };

struct fp__file_writer {
    char *path, *temporary;
    int fd;
    fp_status failed; /* first failure of an append: what is there is not whole, so commit refuses */
    size_t held;
    uint8_t buffer[WRITER_BUFFER_BYTES];
};

static void writer_free(fp__file_writer *w)
{
    if (w->fd >= 0)
        close_quietly(w->fd);
    free(w->path);
    free(w->temporary);
    free(w);
}

void fp__writer_abort(fp__file_writer *w)
{
    if (!w)
        return;
    unlink(w->temporary);
    writer_free(w);
}

/* A rename would replace a device or a pipe such as /dev/stdout by a file. */
static fp_status check_target(const char *path)
{
    struct stat st;
    size_t n = strlen(path);
    if (n == 0)
        return fp__fail(FP_USAGE, "the name of the file to write is empty");
    if (path[n - 1] == '/' || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return fail_errno(EISDIR, "write", path);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fp__fail(FP_IO, "cannot write '%s': it is not a regular file; name a file", path);
    return FP_OK;
}

/* Opens a new file beside w->path; a name that a crashed process of this number left is passed over. 0 or
 * errno. */
static int open_temporary(fp__file_writer *w, unsigned mode)
{
    static atomic_uint serial;
    do {
        free(w->temporary);
        if (asprintf(&w->temporary, "%s.tmp-%ld-%u", w->path, (long)getpid(), atomic_fetch_add(&serial, 1)) <
            0) {
            w->temporary = NULL;
            return ENOMEM;
        }
        w->fd = open_retry(w->temporary, O_WRONLY | O_CREAT | O_EXCL, (mode_t)mode);
    } while (w->fd < 0 && errno == EEXIST);
    return w->fd < 0 ? errno : 0;
}

fp_status fp__writer_open(const char *path, unsigned mode, fp__file_writer **out)
{
    FP_TRY(check_target(path));
    fp__file_writer *w = malloc(sizeof *w);
    if (!w)
        return fp__fail(FP_NO_MEMORY, "no memory to write '%s'", path);
    w->fd = -1;
    w->failed = FP_OK;
    w->held = 0;
    w->temporary = NULL;
    w->path = strdup(path);
    int error = w->path ? open_temporary(w, mode) : ENOMEM;
    if (error != 0) {
        writer_free(w);
        return fp__not_ok(fail_errno(error, "write", path));
    }
    *out = w;
    return FP_OK;
}

static fp_status writer_put(fp__file_writer *w, const void *data, size_t size)
{
    if (write_all(w->fd, data, size) != 0)
        w->failed = fail_errno(errno, "write", w->path);
    return w->failed;
}

fp_status fp__writer_append(fp__file_writer *w, const void *data, size_t size)
{
    if (w->failed != FP_OK)
        return fp__fail(w->failed, "cannot write '%s': an earlier write failed", w->path);
    if (size > sizeof w->buffer - w->held) {
        FP_TRY(writer_put(w, w->buffer, w->held));
        w->held = 0;
    }
    if (size > sizeof w->buffer)
        return writer_put(w, data, size);
    if (size > 0)
        memcpy(w->buffer + w->held, data, size);
    w->held += size;
    return FP_OK;
}

/* Gives the temporary file its name; errno and -1 on failure. */
static int publish(const fp__file_writer *w, bool replace)
{
    if (replace)
        return rename(w->temporary, w->path);
    if (renameat2(AT_FDCWD, w->temporary, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    /* This file system has no RENAME_NOREPLACE; link(2) does not replace either. */
    return link(w->temporary, w->path) == 0 ? unlink(w->temporary) : -1;
}

static fp_status writer_finish(fp__file_writer *w, bool replace)
{
    if (w->failed != FP_OK)
        return fp__fail(w->failed, "cannot write '%s': an earlier write failed", w->path);
    FP_TRY(writer_put(w, w->buffer, w->held));
    if (fsync_retry(w->fd) != 0)
        return fail_errno(errno, "write", w->path);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && errno != EINTR)
        return fail_errno(errno, "write", w->path);
    if (publish(w, replace) != 0)
        return fail_errno(errno, replace ? "replace" : "create", w->path);
    return FP_OK;
}

static fp_status writer_commit(fp__file_writer *w, bool replace)
{
    fp_status status = writer_finish(w, replace);
    if (status != FP_OK) {
        fp__writer_abort(w);
        return status;
    }
    status = sync_parent(w->path);
    writer_free(w);
    return status;
}

fp_status fp__writer_commit(fp__file_writer *w)
{
    return writer_commit(w, true);
}

static fp_status write_file(const char *path, const void *data, size_t size, unsigned mode, bool replace)
{
    fp__file_writer *w = NULL;
    FP_TRY(fp__writer_open(path, mode, &w));
    fp_status status = fp__writer_append(w, data, size);
    if (status != FP_OK) {
        fp__writer_abort(w);
        return status;
    }
    return writer_commit(w, replace);
}

fp_status fp__file_write(const char *path, const void *data, size_t size, unsigned mode)
{
    return write_file(path, data, size, mode, true);
}

fp_status fp__file_create(const char *path, const void *data, size_t size, unsigned mode)
{
    if (fp__file_exists(path)) /* before the work; publish() decides */
        return fail_errno(EEXIST, "create", path);
    return write_file(path, data, size, mode, false);
}

/* ---- locks ---- */

fp_status fp__lock_take(const char *path, fp__lock *out)
{
    int fd = open_retry(path, O_RDWR | O_CREAT, 0666);
    if (fd < 0)
        return fail_errno(errno, "open the lock", path);
    int result;
    do
        result = flock(fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result != 0) {
        int error = errno;
        close(fd);
        if (error == EWOULDBLOCK)
            return fp__fail(FP_BUSY, "'%s' is locked by another process; try again when that one has ended",
                            path);
        return fail_errno(error, "lock", path);
    }
    out->fd = fd;
    return FP_OK;
}

void fp__lock_release(fp__lock *lock)
{
    if (lock->fd >= 0)
        close(lock->fd); /* the lock goes with the last descriptor */
    lock->fd = -1;
}
