#include "ledger/log_stage.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t magic[8] = {'F', 'P', 'S', 'T', 'A', 'G', 'E', 2};

fp__ledger_fault_fn *fp__ledger_fault;

void fp__ledger_step(const char *step, const char *path, int done)
{
    if (fp__ledger_fault != NULL)
        fp__ledger_fault(step, path, done);
}

fp_status fp__ledger_write_all(int fd, const void *data, size_t size, int64_t offset, const char *path)
{
    const uint8_t *bytes = data;
    size_t at = 0;
    fp__ledger_step("write", path, 0);
    while (at < size) {
        size_t part = size - at;
        if (fp__ledger_fault != NULL && at == 0 && part > 1)
            part /= 2; /* a test may want to stop half-way */
        ssize_t n =
            offset < 0 ? write(fd, bytes + at, part) : pwrite(fd, bytes + at, part, offset + (int64_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fp__fail(FP_IO, "cannot write %s: %s", path, strerror(errno));
        at += (size_t)n;
        fp__ledger_step("write", path, at == size);
    }
    return FP_OK;
}

static fp_status sync_data(int fd)
{
    fp__ledger_step("fsync", FP__STAGE_NAME, 0);
    if (fdatasync(fd) != 0)
        return fp__fail(FP_IO, "cannot make %s durable: %s", FP__STAGE_NAME, strerror(errno));
    fp__ledger_step("fsync", FP__STAGE_NAME, 1);
    return FP_OK;
}

/* Writes zeroes (a hole would cost a transaction for every block that is filled later). */
static fp_status fill(int dir_fd, int fd, size_t have)
{
    static const uint8_t zeroes[1 << 16];
    for (size_t at = have; at < FP__STAGE_BYTES;) {
        size_t part = FP__STAGE_BYTES - at < sizeof zeroes ? FP__STAGE_BYTES - at : sizeof zeroes;
        ssize_t n = pwrite(fd, zeroes, part, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fp__fail(FP_IO, "cannot make room for %s: %s", FP__STAGE_NAME, strerror(errno));
        at += (size_t)n;
    }
    if (fsync(fd) != 0 || fsync(dir_fd) != 0)
        return fp__fail(FP_IO, "cannot make %s durable: %s", FP__STAGE_NAME, strerror(errno));
    return FP_OK;
}

fp_status fp__stage_open(int dir_fd, uint32_t key_id, fp__stage *out)
{
    int fd = openat(dir_fd, FP__STAGE_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fp__fail(FP_IO, "cannot open %s: %s", FP__STAGE_NAME, strerror(errno));
    struct stat st;
    fp_status status = FP_OK;
    if (fstat(fd, &st) != 0)
        status = fp__fail(FP_IO, "cannot look at %s: %s", FP__STAGE_NAME, strerror(errno));
    else if ((size_t)st.st_size < FP__STAGE_BYTES)
        status = fill(dir_fd, fd, (size_t)st.st_size);
    if (status != FP_OK) {
        close(fd);
        return status;
    }
    *out = (fp__stage){.fd = fd, .key_id = key_id, .offset = 0};
    return FP_OK;
}

void fp__stage_close(fp__stage *stage)
{
    if (stage->fd >= 0)
        close(stage->fd);
    stage->fd = -1;
}

bool fp__stage_is_full(const fp__stage *stage, size_t payload_size)
{
    return stage->offset != 0 && stage->offset + FP__STAGE_HEADER + payload_size + 32 > FP__STAGE_BYTES;
}

fp_status fp__stage_write(fp__stage *stage, const fp__stage_record *record)
{
    size_t size = FP__STAGE_HEADER + record->size + 32;
    uint8_t *bytes = malloc(size);
    if (bytes == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory to stage %zu bytes of entries", record->size);
    memcpy(bytes, magic, 8);
    fp__store_le64(bytes + 8, record->base.size);
    memcpy(bytes + 16, record->base.root, 32);
    fp__store_le32(bytes + 48, record->count);
    fp__store_le32(bytes + 52, stage->key_id);
    fp__store_le64(bytes + 56, record->size);
    memcpy(bytes + FP__STAGE_HEADER, record->payload, record->size);
    fp__sha256(bytes, size - 32, bytes + size - 32);
    fp_status status = fp__ledger_write_all(stage->fd, bytes, size, (int64_t)stage->offset, FP__STAGE_NAME);
    free(bytes);
    FP_TRY(status);
    FP_TRY(sync_data(stage->fd));
    stage->offset += size;
    return FP_OK;
}

fp_status fp__stage_clear(fp__stage *stage)
{
    static const uint8_t zeroes[FP__STAGE_HEADER];
    FP_TRY(fp__ledger_write_all(stage->fd, zeroes, sizeof zeroes, 0, FP__STAGE_NAME));
    FP_TRY(sync_data(stage->fd));
    if (stage->offset > FP__STAGE_BYTES && ftruncate(stage->fd, (off_t)FP__STAGE_BYTES) != 0)
        return fp__fail(FP_IO, "cannot shorten %s: %s", FP__STAGE_NAME, strerror(errno));
    stage->offset = 0;
    return FP_OK;
}

bool fp__stage_read(const uint8_t *data, size_t size, uint32_t key_id, size_t *offset, fp__stage_record *out)
{
    size_t left = size - *offset;
    const uint8_t *at = data + *offset;
    if (left < FP__STAGE_HEADER + 32 || memcmp(at, magic, 8) != 0 || fp__load_le32(at + 52) != key_id)
        return false;
    uint64_t payload = fp__load_le64(at + 56);
    if (payload > left - FP__STAGE_HEADER - 32 || fp__load_le32(at + 48) == 0)
        return false;
    uint8_t hash[32];
    size_t hashed = FP__STAGE_HEADER + (size_t)payload;
    fp__sha256(at, hashed, hash);
    if (memcmp(hash, at + hashed, 32) != 0)
        return false;
    out->base.size = fp__load_le64(at + 8);
    memcpy(out->base.root, at + 16, 32);
    out->count = fp__load_le32(at + 48);
    out->payload = at + FP__STAGE_HEADER;
    out->size = (size_t)payload;
    *offset += hashed + 32;
    return true;
}
