/* The log's writer. A commit: stage (durable) → bundles and tiles → signed checkpoint, each file put in place
 * by rename, → partial tiles that are full now put aside, to be written again. Tiles and checkpoint become
 * durable under their own names in a sync, after which the stage is cleared; until then the stage can produce
 * them again, byte for byte, because Ed25519 and the tree are deterministic. So an append costs one
 * fdatasync, and whatever a crash leaves of unsynced files does not matter. */
#include "core/file.h"
#include "core/trace.h"
#include "ledger/log_spare.h"
#include "ledger/log_stage.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRTY_MAX 16384 /* files between two syncs */
#define PARTIAL_BUNDLES_MAX                                                                                  \
    ((uint64_t)64 << 20) /* bytes of superseded partial bundles that are kept until the full one */
#define PARTIAL_BUNDLES_KEPT 16
#define SYNC_ALL_FROM                                                                                        \
    8 /* files; from there on one syncfs is faster than an fsync each, though it takes others' data along */

typedef struct tile_name {
    int level;
    unsigned width;
    uint64_t index;
} tile_name;

/* An append in progress; lives on its caller's stack. */
typedef struct request {
    struct request *next;
    const fp__ledger_entry *entries;
    size_t n, bytes; /* bytes in bundle format */
    uint64_t first_index;
    fp__ledger_head head;
    bool done;
    fp_status status;
    char detail[256];
} request;

struct fp__ledger_writer {
    char *dir;
    int dir_fd;
    fp__lock lock;
    const fp__ed25519_key *key;
    fp__note_key note_key;
    fp__stage stage;
    fp__spares spares;
    fp__buf bundle;   /* the partial bundle's bytes */
    fp__buf payload;  /* of the commit at hand */
    tile_name *dirty; /* written and not yet synced */
    size_t dirty_count, dirty_capacity;
    uint64_t partial_bytes; /* of partial bundles of the current index since the last trim */
    bool failed;            /* memory and folder may differ: only opening again helps */
    pthread_mutex_t mutex;  /* guards what follows */
    pthread_cond_t changed;
    bool committing; /* whoever sets it owns everything above */
    request *first, *last;
    fp__ledger_head head;
    fp__tile_edge edge; /* owned by the committer */
};

static fp_status io_fail(const char *what, const char *path)
{
    return fp__fail(FP_IO, "cannot %s %s in the ledger: %s", what, path, strerror(errno));
}

/* ---- files ---- */

static void make_parents(int dir_fd, const char *path)
{
    char prefix[FP__TILE_PATH_MAX];
    for (size_t i = 0; i < sizeof prefix && path[i] != 0; i++) {
        if (path[i] == '/') {
            prefix[i] = 0;
            (void)mkdirat(dir_fd, prefix, 0755); /* the rename that follows tells */
        }
        prefix[i] = path[i];
    }
}

/* With `swap`, what the path named before takes the spare's place. */
static int rename_spare(fp__ledger_writer *w, const char *spare, const char *path, bool swap)
{
    if (swap && renameat2(w->spares.dir_fd, spare, w->dir_fd, path, RENAME_EXCHANGE) == 0)
        return 1;
    int result = renameat(w->spares.dir_fd, spare, w->dir_fd, path);
    if (result != 0 && errno == ENOENT) {
        make_parents(w->dir_fd, path);
        result = renameat(w->spares.dir_fd, spare, w->dir_fd, path);
    }
    return result;
}

enum put {
    PUT_NEW,    /* the path is not there */
    PUT_SWAP,   /* it is; what it named becomes a spare file */
    PUT_DURABLE /* as PUT_SWAP, the bytes durable before the name is theirs; sync the folder next */
};

/* Whole or absent for every reader, but (PUT_DURABLE apart) not durable yet. */
static fp_status put_file(fp__ledger_writer *w, const char *path, const void *data, size_t size, enum put how)
{
    uint32_t name = 0;
    int fd = -1;
    size_t old_size = 0;
    char spare[FP__SPARE_NAME_MAX];
    FP_TRY(fp__spares_take(&w->spares, &name, &fd, &old_size));
    fp__spare_name(name, spare);
    fp_status status = fp__ledger_write_all(fd, data, size, -1, path);
    if (status == FP_OK && old_size > size && ftruncate(fd, (off_t)size) != 0)
        status = io_fail("write", path);
    if (status == FP_OK && how == PUT_DURABLE) {
        fp__ledger_step("fsync bytes", path, 0);
        if (fsync(fd) != 0)
            status = io_fail("make durable", path);
        fp__ledger_step("fsync bytes", path, 1);
    }
    if (close(fd) != 0 && status == FP_OK)
        status = io_fail("write", path);
    int result = -1;
    if (status == FP_OK) {
        fp__ledger_step("rename", path, 0);
        result = rename_spare(w, spare, path, how != PUT_NEW);
        if (result < 0)
            status = io_fail("rename a temporary file to", path);
        else
            fp__ledger_step("rename", path, 1);
    }
    if (result != 0)
        fp__spares_add(&w->spares, name, false);
    return status;
}

static fp_status put_tile(fp__ledger_writer *w, int level, uint64_t index, unsigned width, const void *data,
                          size_t size)
{
    char path[FP__TILE_PATH_MAX];
    fp__tile_path(level, index, width, path);
    if (w->dirty_count == w->dirty_capacity) {
        size_t capacity = w->dirty_capacity ? w->dirty_capacity * 2 : 256;
        tile_name *grown = realloc(w->dirty, capacity * sizeof *grown);
        if (grown == NULL)
            return fp__fail(FP_NO_MEMORY, "no memory for the list of written tiles");
        w->dirty = grown;
        w->dirty_capacity = capacity;
    }
    FP_TRY(put_file(w, path, data, size, PUT_NEW));
    w->dirty[w->dirty_count++] = (tile_name){.level = level, .width = width, .index = index};
    return FP_OK;
}

static fp_status put_full_tile(void *arg, int level, uint64_t index, const uint8_t *hashes)
{
    return put_tile(arg, level, index, FP__TILE_WIDTH, hashes, FP__TILE_BYTES);
}

/* ---- commit ---- */

/* Appends staged entries to the tree and writes every bundle and tile that changed. */
static fp_status apply(fp__ledger_writer *w, const uint8_t *payload, size_t size, uint32_t count)
{
    uint64_t old_size = w->edge.size;
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t length = size - at < 2 ? SIZE_MAX : (size_t)(payload[at] << 8 | payload[at + 1]);
        if (length > size - at - 2)
            return fp__fail(FP_FORMAT, "the staged entries end within entry %u", i);
        uint8_t leaf[32];
        fp__merkle_leaf(payload + at + 2, length, leaf);
        FP_TRY(fp__buf_append(&w->bundle, payload + at, length + 2));
        FP_TRY(fp__tile_edge_append(&w->edge, leaf, put_full_tile, w));
        at += length + 2;
        if ((w->edge.size & 255) == 0) {
            FP_TRY(put_tile(w, FP__TILE_ENTRIES, (w->edge.size >> 8) - 1, FP__TILE_WIDTH, w->bundle.data,
                            w->bundle.size));
            w->bundle.size = 0;
            w->partial_bytes = 0;
        }
    }
    if (at != size)
        return fp__fail(FP_FORMAT, "the staged entries are followed by other bytes");
    if ((w->edge.size & 255) != 0) {
        FP_TRY(put_tile(w, FP__TILE_ENTRIES, w->edge.size >> 8, (unsigned)(w->edge.size & 255),
                        w->bundle.data, w->bundle.size));
        w->partial_bytes += w->bundle.size;
    }
    for (int level = 0; level < FP__TILE_LEVELS; level++) {
        uint64_t hashes = w->edge.size >> 8 * level;
        if (hashes != old_size >> 8 * level && (hashes & 255) != 0)
            FP_TRY(put_tile(w, level, hashes >> 8, (unsigned)(hashes & 255), w->edge.tiles[level][0],
                            (size_t)(hashes & 255) * 32));
    }
    return FP_OK;
}

/* Signs the tree as it is and replaces the checkpoint. cosignatures: lines to add, or NULL. */
static fp_status publish_with(fp__ledger_writer *w, const void *cosignatures, size_t size, enum put how,
                              fp__ledger_head *head)
{
    fp__checkpoint checkpoint = {.size = w->edge.size};
    fp__buf note = {0};
    fp__tile_edge_root(&w->edge, checkpoint.root);
    memcpy(checkpoint.origin, w->note_key.name, sizeof checkpoint.origin);
    fp_status status = fp__checkpoint_sign(&checkpoint, w->key, &note);
    if (status == FP_OK)
        status = fp__buf_append(&note, cosignatures, size);
    if (status == FP_OK)
        status = put_file(w, "checkpoint", note.data, note.size, how);
    fp__buf_free(&note);
    FP_TRY(status);
    head->size = checkpoint.size;
    memcpy(head->root, checkpoint.root, 32);
    return FP_OK;
}

static fp_status publish(fp__ledger_writer *w, fp__ledger_head *head)
{
    return publish_with(w, NULL, 0, PUT_SWAP, head);
}

/* A partial tile whose full one is there too. */
static bool is_superseded(const fp__ledger_writer *w, const tile_name *name)
{
    return name->width < FP__TILE_WIDTH &&
           fp__tile_width(name->level, name->index, w->edge.size) == FP__TILE_WIDTH;
}

/* Puts aside the partial tiles that this commit superseded. Those of the last sync stay until the next one: a
 * redo after a power failure begins with them. What a power failure brings back of the others, the redo
 * writes again. */
static void put_aside(fp__ledger_writer *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->dirty_count; i++) {
        char path[FP__TILE_PATH_MAX];
        if (!is_superseded(w, &w->dirty[i])) {
            w->dirty[kept++] = w->dirty[i];
            continue;
        }
        fp__tile_path(w->dirty[i].level, w->dirty[i].index, w->dirty[i].width, path);
        fp__ledger_step("put aside", path, 0);
        (void)fp__spares_move(&w->spares, w->dir_fd, path, false);
        fp__ledger_step("put aside", path, 1);
        *strrchr(path, '/') = 0;
        (void)unlinkat(w->dir_fd, path, AT_REMOVEDIR); /* when it is empty now */
    }
    w->dirty_count = kept;
}

static fp_status sync_log(fp__ledger_writer *w);

static fp_status commit_steps(fp__ledger_writer *w, const request *batch, fp__ledger_head *head)
{
    fp__stage_record record = {.base = *head};
    size_t count = 0;
    w->payload.size = 0;
    for (const request *r = batch; r != NULL; r = r->next) {
        for (size_t i = 0; i < r->n; i++)
            FP_TRY(fp__bundle_append(r->entries[i].data, r->entries[i].size, &w->payload));
        count += r->n;
    }
    if (count > UINT32_MAX || count > FP__MERKLE_SIZE_MAX - head->size)
        return fp__fail(FP_LIMIT, "%zu entries at once are too many", count);
    record.count = (uint32_t)count;
    record.payload = w->payload.data;
    record.size = w->payload.size;
    w->failed = true; /* until all is done */
    if (fp__stage_is_full(&w->stage, record.size) || w->dirty_count > DIRTY_MAX ||
        w->partial_bytes > PARTIAL_BUNDLES_MAX)
        FP_TRY(sync_log(w));
    FP_TRY(fp__stage_write(&w->stage, &record));
    FP_TRY(apply(w, record.payload, record.size, record.count));
    FP_TRY(publish(w, head));
    if (record.base.size >> 8 != head->size >> 8)
        put_aside(w);
    w->failed = false;
    return FP_OK;
}

static void commit(fp__ledger_writer *w, request *batch, fp__ledger_head *head)
{
    uint64_t index = head->size;
    fp_status status = FP_OK;
    if (w->failed)
        status = fp__fail(
            FP_IO, "an earlier append to the ledger failed half-way; close the writer and open it again, "
                   "which finishes or drops it");
    else
        status = commit_steps(w, batch, head);
    for (request *r = batch; r != NULL; r = r->next) {
        r->first_index = index;
        r->head = *head;
        r->status = status;
        index += r->n;
        if (status != FP_OK)
            snprintf(r->detail, sizeof r->detail, "%s", fp_error_detail());
    }
}

/* ---- sync ---- */

static fp_status sync_path(fp__ledger_writer *w, const char *path, int flags)
{
    fp__ledger_step("fsync", path, 0);
    int fd = openat(w->dir_fd, path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return io_fail("open", path);
    int result = fsync(fd);
    int error = errno;
    close(fd);
    errno = error;
    if (result != 0)
        return io_fail("make durable", path);
    fp__ledger_step("fsync", path, 1);
    return FP_OK;
}

/* The folders of `path` and above, each once: newest last, so that looking back finds it quickly. */
static fp_status note_folders(fp__buf *folders, const char *path)
{
    char folder[FP__TILE_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash = strrchr(folder, '/'); slash != NULL; slash = strrchr(folder, '/')) {
        *slash = 0;
        bool known = false;
        for (size_t at = 0; at < folders->size && !known; at += FP__TILE_PATH_MAX)
            known = strcmp((char *)folders->data + folders->size - FP__TILE_PATH_MAX - at, folder) == 0;
        if (known)
            return FP_OK; /* and so are those above it */
        char slot[FP__TILE_PATH_MAX] = {0};
        snprintf(slot, sizeof slot, "%s", folder);
        FP_TRY(fp__buf_append(folders, slot, sizeof slot));
    }
    return FP_OK;
}

/* One wait for all of `paths` instead of one each. */
static fp_status sync_filesystem(fp__ledger_writer *w, const fp__buf *paths)
{
    fp__ledger_step("fsync", "tile", 0);
    if (syncfs(w->dir_fd) != 0)
        return io_fail("make durable", "the tiles");
    fp__spares_settle(&w->spares);
    for (size_t at = 0; at < paths->size; at += FP__TILE_PATH_MAX)
        fp__ledger_step("fsync", (const char *)paths->data + at, 1);
    return FP_OK;
}

static fp_status list_unsynced(fp__ledger_writer *w, fp__buf *paths, fp__buf *folders)
{
    for (size_t i = 0; i < w->dirty_count; i++) {
        char path[FP__TILE_PATH_MAX] = {0};
        if (is_superseded(w, &w->dirty[i]))
            continue;
        fp__tile_path(w->dirty[i].level, w->dirty[i].index, w->dirty[i].width, path);
        FP_TRY(fp__buf_append(paths, path, sizeof path));
        FP_TRY(note_folders(folders, path));
    }
    return FP_OK;
}

static fp_status sync_tiles(fp__ledger_writer *w)
{
    fp__buf paths = {0}, folders = {0};
    fp_status status = list_unsynced(w, &paths, &folders);
    if (status == FP_OK && paths.size >= SYNC_ALL_FROM * FP__TILE_PATH_MAX) {
        status = sync_filesystem(w, &paths);
    } else {
        for (size_t at = 0; at < paths.size && status == FP_OK; at += FP__TILE_PATH_MAX)
            status = sync_path(w, (const char *)paths.data + at, 0);
        for (size_t at = 0; at < folders.size && status == FP_OK; at += FP__TILE_PATH_MAX)
            status = sync_path(w, (const char *)folders.data + at, O_DIRECTORY);
    }
    fp__buf_free(&paths);
    fp__buf_free(&folders);
    return status;
}

/* Puts aside all partial tiles of narrower than `below` hashes, and with them the folder if it is empty then.
 * Failures are left-overs, not errors. */
static void remove_partials(fp__ledger_writer *w, int level, uint64_t index, unsigned below)
{
    char path[FP__TILE_PATH_MAX + 3];
    fp__tile_path(level, index, FP__TILE_WIDTH, path);
    size_t end = strlen(path);
    snprintf(path + end, sizeof path - end, ".p");
    int fd = openat(w->dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    fp__ledger_step("put aside", path, 0);
    for (const struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        unsigned long width = strtoul(item->d_name, NULL, 10);
        if (width != 0 && width < below)
            (void)fp__spares_move(&w->spares, fd, item->d_name, true);
    }
    closedir(folder);
    (void)unlinkat(w->dir_fd, path, AT_REMOVEDIR);
    fp__ledger_step("put aside", path, 1);
}

/* Everything durable → left-overs removed → stage cleared. Until the last step, a crash applies the stage
 * again; it can, since what is removed has a durable wider or full twin. */
static fp_status sync_log(fp__ledger_writer *w)
{
    FP_TRY(sync_tiles(w));
    FP_TRY(sync_path(w, "checkpoint", 0));
    FP_TRY(sync_path(w, ".", O_DIRECTORY));
    for (size_t i = 0; i < w->dirty_count; i++)
        if (w->dirty[i].width == FP__TILE_WIDTH)
            remove_partials(w, w->dirty[i].level, w->dirty[i].index, FP__TILE_WIDTH);
    unsigned width = (unsigned)(w->edge.size & 255);
    if (w->partial_bytes > PARTIAL_BUNDLES_MAX && width > PARTIAL_BUNDLES_KEPT) {
        remove_partials(w, FP__TILE_ENTRIES, w->edge.size >> 8, width - PARTIAL_BUNDLES_KEPT);
        w->partial_bytes = 0;
    }
    w->dirty_count = 0;
    return w->stage.offset == 0 ? FP_OK : fp__stage_clear(&w->stage);
}

/* ---- opening and recovery ---- */

/* FP_NOT_FOUND also for a file that is empty or all zeroes, as a power failure can leave it. */
static fp_status read_own_checkpoint(fp__ledger_writer *w, fp__ledger_head *out)
{
    fp__buf note = {0};
    fp__checkpoint checkpoint = {.size = 0};
    fp_status status = fp__tile_fetch_folder(w->dir, "checkpoint", FP__NOTE_MAX_BYTES, &note);
    size_t zeroes = 0;
    while (zeroes < note.size && note.data[zeroes] == 0)
        zeroes++;
    if (status == FP_NOT_FOUND || (status == FP_OK && zeroes == note.size))
        status = fp__fail(FP_NOT_FOUND, "there is no ledger in '%s'; make one with `fieldprint ledger init`",
                          w->dir);
    else if (status == FP_OK)
        status =
            fp__checkpoint_open(note.data, note.size, w->note_key.name, &w->note_key, 1, NULL, &checkpoint);
    fp__buf_free(&note);
    if (status == FP_OK) {
        out->size = checkpoint.size;
        memcpy(out->root, checkpoint.root, 32);
    }
    return status == FP_OK || status == FP_NOT_FOUND ? status
                                                     : fp__fail_context(status, "%s/checkpoint", w->dir);
}

/* Edge and partial bundle of the tree `head`, verified. */
static fp_status load_state(fp__ledger_writer *w, const fp__ledger_head *head)
{
    FP_TRY(fp__tile_edge_load(fp__tile_fetch_folder, w->dir, head->size, head->root, &w->edge));
    unsigned width = (unsigned)(head->size & 255);
    w->bundle.size = 0;
    if (width == 0)
        return FP_OK;
    bool whole = false;
    fp__bundle entries;
    FP_TRY(fp__tile_fetch(fp__tile_fetch_folder, w->dir, FP__TILE_ENTRIES, head->size >> 8, head->size,
                          &w->bundle, &whole));
    fp_status status = fp__bundle_parse(w->bundle.data, w->bundle.size, width, whole, &entries);
    for (unsigned i = 0; i < width && status == FP_OK; i++) {
        uint8_t leaf[32];
        fp__merkle_leaf(entries.data + entries.begin[i], entries.length[i], leaf);
        if (memcmp(leaf, w->edge.tiles[0][i], 32) != 0)
            status = fp__fail(FP_MISMATCH, "entry %llu differs from what was logged",
                              (unsigned long long)(head->size - width + i));
    }
    char path[FP__TILE_PATH_MAX];
    fp__tile_path(FP__TILE_ENTRIES, head->size >> 8, width, path);
    if (status != FP_OK)
        return fp__fail_context(status, "%s", path);
    w->bundle.size = (size_t)entries.begin[width - 1] + entries.length[width - 1];
    return FP_OK;
}

/* Applies one staged record. The published checkpoint, if there is one, must be a tree on the way. */
static fp_status redo(fp__ledger_writer *w, const fp__stage_record *record, const fp__ledger_head *published)
{
    uint8_t root[32];
    fp__tile_edge_root(&w->edge, root);
    if (memcmp(root, record->base.root, 32) != 0)
        return fp__fail(FP_MISMATCH, "the staged entries do not continue the tree of %llu entries",
                        (unsigned long long)w->edge.size);
    FP_TRY(apply(w, record->payload, record->size, record->count));
    fp__tile_edge_root(&w->edge, root);
    if (published != NULL && w->edge.size == published->size && memcmp(root, published->root, 32) != 0)
        return fp__fail(FP_MISMATCH,
                        "the staged entries lead to another tree of %llu entries than the checkpoint; "
                        "nothing was signed: restore the folder from a copy",
                        (unsigned long long)published->size);
    return FP_OK;
}

/* *redone: there was something. published NULL: the checkpoint cannot be read. */
static fp_status redo_all(fp__ledger_writer *w, const uint8_t *data, size_t size,
                          const fp__ledger_head *published, bool *redone)
{
    size_t offset = 0;
    fp__stage_record record;
    bool begun = false, on_the_way = published == NULL;
    while (fp__stage_read(data, size, w->note_key.id, &offset, &record)) {
        if (!begun) {
            if (published != NULL && record.base.size > published->size)
                return fp__fail(FP_MISMATCH,
                                "the staged entries begin at %llu, after the checkpoint's %llu entries: "
                                "the checkpoint was put back; restore the newer one",
                                (unsigned long long)record.base.size, (unsigned long long)published->size);
            FP_TRY(load_state(w, &record.base));
            begun = true;
            on_the_way |= published != NULL && published->size == record.base.size &&
                          memcmp(published->root, record.base.root, 32) == 0;
        } else if (record.base.size != w->edge.size) {
            break; /* a left-over of an earlier round */
        }
        FP_TRY(redo(w, &record, published));
        on_the_way |= published != NULL && published->size == w->edge.size;
    }
    if (begun && !on_the_way)
        return fp__fail(FP_MISMATCH,
                        "the checkpoint's tree of %llu entries is not among those that the staged entries "
                        "lead to; restore the folder from a copy",
                        (unsigned long long)published->size);
    *redone = begun;
    return FP_OK;
}

static fp_status redo_stage(fp__ledger_writer *w, const fp__ledger_head *published, bool *redone)
{
    fp__buf path = {0};
    fp__map map = {0};
    fp_status status = FP_NO_MEMORY;
    if (fp__path_join(&path, w->dir, FP__STAGE_NAME) != NULL)
        status = fp__map_open((const char *)path.data, &map);
    fp__buf_free(&path);
    FP_TRY(status);
    status = redo_all(w, map.data, map.size, published, redone);
    fp__map_close(&map);
    return status;
}

/* A power failure can leave the checkpoint's name without its bytes, or with others: the stage knows better
 * then. It holds records whenever a checkpoint is not durable; records are of the key that signs. */
static fp_status recover(fp__ledger_writer *w)
{
    fp__ledger_head published = {0};
    bool redone = false;
    char why[256];
    fp_status read = read_own_checkpoint(w, &published);
    snprintf(why, sizeof why, "%s", read == FP_OK ? "" : fp_error_detail());
    if (read == FP_IO || read == FP_NO_MEMORY ||
        (read != FP_OK && faccessat(w->dir_fd, FP__STAGE_NAME, F_OK, 0) != 0))
        return fp__fail(read, "%s", why);
    FP_TRY(fp__stage_open(w->dir_fd, w->note_key.id, &w->stage));
    FP_TRY(redo_stage(w, read == FP_OK ? &published : NULL, &redone));
    if (!redone && read != FP_OK)
        return fp__fail(read, "%s", why);
    if (!redone)
        FP_TRY(load_state(w, &published));
    if (w->dirty_count != 0) {
        fp__trace(FP__TRACE_INFO,
                  "ledger %s: finished what an interrupted writer had staged, up to %llu entries", w->dir,
                  (unsigned long long)w->edge.size);
        FP_TRY(publish(w, &w->head));
        w->stage.offset = 1; /* the stage holds records: clear it in the sync */
        return sync_log(w);
    }
    w->head = published;
    return FP_OK;
}

static void destroy(fp__ledger_writer *w)
{
    fp__stage_close(&w->stage);
    fp__spares_close(&w->spares);
    if (w->dir_fd >= 0)
        close(w->dir_fd);
    if (w->lock.fd >= 0)
        fp__lock_release(&w->lock);
    fp__buf_free(&w->bundle);
    fp__buf_free(&w->payload);
    free(w->dirty);
    free(w->dir);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

static fp_status take_folder(fp__ledger_writer *w, const char *dir)
{
    fp__buf path = {0};
    fp_status status = FP_NO_MEMORY;
    w->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->dir_fd < 0)
        return fp__fail(errno == ENOENT ? FP_NOT_FOUND : FP_IO, "cannot open the ledger's folder '%s': %s",
                        dir, strerror(errno));
    if (fp__path_join(&path, dir, ".writer.lock") != NULL)
        status = fp__lock_take((const char *)path.data, &w->lock);
    fp__buf_free(&path);
    if (status == FP_BUSY)
        return fp__fail(FP_BUSY, "the ledger in '%s' has a writer already; a ledger has one writer at a time",
                        dir);
    FP_TRY(status);
    return fp__spares_open(w->dir_fd, &w->spares);
}

static fp_status new_writer(const char *dir, const char *origin, const fp__ed25519_key *key,
                            fp__ledger_writer **out)
{
    fp__ledger_writer *w = calloc(1, sizeof *w);
    if (w == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the ledger's writer");
    w->dir_fd = w->lock.fd = w->stage.fd = w->spares.dir_fd = -1;
    w->key = key;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->dir = strdup(dir);
    fp_status status = w->dir != NULL ? FP_OK : fp__fail(FP_NO_MEMORY, "no memory for the ledger's writer");
    if (status == FP_OK)
        status = fp__note_key_make(origin, FP__NOTE_ED25519, fp__ed25519_public(key), &w->note_key);
    if (status == FP_OK)
        status = take_folder(w, dir);
    if (status != FP_OK) {
        destroy(w);
        return status;
    }
    *out = w;
    return FP_OK;
}

fp_status fp__ledger_create(const char *dir, const char *origin, const fp__ed25519_key *key)
{
    fp__ledger_writer *w = NULL;
    fp__ledger_head head;
    FP_TRY(fp__dir_make(dir));
    FP_TRY(new_writer(dir, origin, key, &w));
    fp_status status;
    if (faccessat(w->dir_fd, "checkpoint", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        status = fp__fail(FP_EXISTS, "there is a ledger in '%s' already", dir);
    else
        status = publish(w, &head);
    if (status == FP_OK)
        status = sync_log(w);
    destroy(w);
    return status;
}

fp_status fp__ledger_writer_open(const char *dir, const char *origin, const fp__ed25519_key *key,
                                 fp__ledger_writer **out)
{
    fp__ledger_writer *w = NULL;
    FP_TRY(new_writer(dir, origin, key, &w));
    fp_status status = recover(w);
    if (status != FP_OK) {
        destroy(w);
        return fp__fail_context(status, "ledger %s", dir);
    }
    *out = w;
    return FP_OK;
}

/* ---- calls of other threads ---- */

static void lock_committer(fp__ledger_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    while (w->committing)
        pthread_cond_wait(&w->changed, &w->mutex);
    w->committing = true;
    pthread_mutex_unlock(&w->mutex);
}

static void unlock_committer(fp__ledger_writer *w)
{
    pthread_mutex_lock(&w->mutex);
    w->committing = false;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

/* Takes the waiting requests, as many as one commit may hold. Called with the mutex. */
static request *take_batch(fp__ledger_writer *w)
{
    request *batch = w->first, *end = batch;
    size_t bytes = batch->bytes;
    while (end->next != NULL && bytes + end->next->bytes <= FP__LEDGER_BATCH_MAX_BYTES) {
        end = end->next;
        bytes += end->bytes;
    }
    w->first = end->next;
    if (w->first == NULL)
        w->last = NULL;
    end->next = NULL;
    return batch;
}

/* Group commit: the first caller that finds no commit in progress commits for all who wait. */
static void run_request(fp__ledger_writer *w, request *mine)
{
    pthread_mutex_lock(&w->mutex);
    if (w->last != NULL)
        w->last->next = mine;
    else
        w->first = mine;
    w->last = mine;
    for (;;) {
        while (!mine->done && w->committing)
            pthread_cond_wait(&w->changed, &w->mutex);
        if (mine->done)
            break;
        w->committing = true;
        request *batch = take_batch(w);
        fp__ledger_head head = w->head;
        pthread_mutex_unlock(&w->mutex);
        commit(w, batch, &head);
        pthread_mutex_lock(&w->mutex);
        w->head = head;
        w->committing = false;
        while (batch != NULL) { /* a request may vanish with its caller's stack once it is done */
            request *next = batch->next;
            batch->done = true;
            batch = next;
        }
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->mutex);
}

fp_status fp__ledger_append(fp__ledger_writer *w, const fp__ledger_entry *entries, size_t n,
                            uint64_t *first_index, fp__ledger_head *head)
{
    request mine = {.entries = entries, .n = n};
    for (size_t i = 0; i < n; i++) {
        if (entries[i].size > FP__ENTRY_MAX_BYTES)
            return fp__fail(FP_LIMIT, "entry %zu of %zu has %zu bytes; a ledger entry has at most %d", i + 1,
                            n, entries[i].size, FP__ENTRY_MAX_BYTES);
        mine.bytes += entries[i].size + 2;
        if (mine.bytes > FP__LEDGER_BATCH_MAX_BYTES)
            return fp__fail(FP_LIMIT, "more than %zu bytes of entries at once; append them in parts",
                            FP__LEDGER_BATCH_MAX_BYTES);
    }
    if (n == 0) {
        fp__ledger_writer_head(w, &mine.head);
        mine.first_index = mine.head.size;
    } else {
        run_request(w, &mine);
        if (mine.status != FP_OK)
            return fp__fail(mine.status, "%s", mine.detail);
    }
    if (first_index != NULL)
        *first_index = mine.first_index;
    if (head != NULL)
        *head = mine.head;
    return FP_OK;
}

void fp__ledger_writer_head(fp__ledger_writer *w, fp__ledger_head *out)
{
    pthread_mutex_lock(&w->mutex);
    *out = w->head;
    pthread_mutex_unlock(&w->mutex);
}

fp_status fp__ledger_writer_cosign(fp__ledger_writer *w, const fp__ledger_head *head, const void *lines,
                                   size_t size)
{
    fp__ledger_head now;
    lock_committer(w);
    fp_status status = FP_OK;
    if (w->failed)
        status = fp__fail(FP_IO, "an earlier append to the ledger failed half-way; open it again");
    else if (w->head.size != head->size || memcmp(w->head.root, head->root, 32) != 0)
        status = fp__fail(FP_BUSY, "the log has grown since it was shown to the witnesses; ask them again");
    if (status == FP_OK)
        status = publish_with(w, lines, size, PUT_DURABLE, &now);
    if (status == FP_OK)
        status = sync_path(w, ".", O_DIRECTORY);
    unlock_committer(w);
    return status;
}

fp_status fp__ledger_writer_sync(fp__ledger_writer *w)
{
    lock_committer(w);
    fp_status status = w->failed
                           ? fp__fail(FP_IO, "an earlier append to the ledger failed half-way; open it again")
                           : sync_log(w);
    unlock_committer(w);
    return status;
}

void fp__ledger_writer_close(fp__ledger_writer *w)
{
    if (w == NULL)
        return;
    if (!w->failed && (w->dirty_count != 0 || w->stage.offset != 0) && sync_log(w) != FP_OK)
        fp__trace(FP__TRACE_WARN, "ledger %s: %s; the next writer will finish this", w->dir,
                  fp_error_detail());
    destroy(w);
}
