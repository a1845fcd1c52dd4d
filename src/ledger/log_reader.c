/* The log's reader. What it trusts is the signed root; the right edge (the partial tile of every level) is
 * authenticated by recomputing that root, and every full tile by its hash, which is an entry of the tile
 * above. */
#include "core/file.h"
#include "core/trace.h"
#include "ledger/ledger.h"
#include "ledger/remote.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define CACHE_SLOTS 64

typedef struct slot {
    bool used;
    int level;
    uint64_t index, last_use;
    uint8_t hashes[FP__TILE_WIDTH][32];
} slot;

struct fp__ledger_reader {
    char *dir, *origin, *state_path; /* state_path: NULL for none */
    fp__source source;
    fp__note_key *keys;
    size_t key_count;
    fp__note_verdict verdicts[FP__NOTE_MAX_SIGNATURES];
    bool open; /* head, note and edge are those of an accepted checkpoint */
    fp__ledger_head head;
    fp__buf note;
    fp__tile_edge *edge; /* of head */
    slot *cache;         /* [CACHE_SLOTS] full tiles, authenticated */
    uint64_t uses;
    fp__buf scratch;
    fp__buf bundle_bytes; /* the last bundle, verified */
    fp__bundle bundle;    /* count 0: none */
    uint64_t bundle_index;
};

/* ---- tiles ---- */

static fp_status read_hash(fp__ledger_reader *r, int level, uint64_t index, uint8_t out[32]);

static fp_status load_full_tile(fp__ledger_reader *r, int level, uint64_t index, slot **out)
{
    uint8_t expected[32], computed[32];
    FP_TRY(read_hash(r, level + 1, index, expected));
    FP_TRY(fp__tile_fetch(r->source.fetch, r->source.arg, level, index, r->head.size, &r->scratch, NULL));
    fp__merkle_root(r->scratch.data, FP__TILE_WIDTH, computed);
    if (memcmp(computed, expected, 32) != 0) {
        char path[FP__TILE_PATH_MAX];
        fp__tile_path(level, index, FP__TILE_WIDTH, path);
        return fp__fail(FP_MISMATCH, "%s/%s: its hash is not the one in the tile above; the file was changed",
                        r->dir, path);
    }
    slot *oldest = r->cache;
    for (slot *s = r->cache; s < r->cache + CACHE_SLOTS; s++)
        if (!s->used || (oldest->used && s->last_use < oldest->last_use))
            oldest = s;
    memcpy(oldest->hashes, r->scratch.data, FP__TILE_BYTES);
    oldest->used = true;
    oldest->level = level;
    oldest->index = index;
    *out = oldest;
    return FP_OK;
}

/* The tile's hashes, authenticated; valid until the next tile is read. */
static fp_status read_tile(fp__ledger_reader *r, int level, uint64_t index, const uint8_t (**out)[32])
{
    unsigned width = fp__tile_width(level, index, r->head.size);
    FP_CHECK(width != 0);
    if (width < FP__TILE_WIDTH) {
        *out = (const uint8_t(*)[32])r->edge->tiles[level];
        return FP_OK;
    }
    slot *found = NULL;
    for (slot *s = r->cache; s < r->cache + CACHE_SLOTS && found == NULL; s++)
        if (s->used && s->level == level && s->index == index)
            found = s;
    if (found == NULL)
        FP_TRY(load_full_tile(r, level, index, &found));
    found->last_use = ++r->uses;
    *out = (const uint8_t(*)[32])found->hashes;
    return FP_OK;
}

static fp_status read_hash(fp__ledger_reader *r, int level, uint64_t index, uint8_t out[32])
{
    const uint8_t(*hashes)[32];
    FP_TRY(read_tile(r, level, index / FP__TILE_WIDTH, &hashes));
    memcpy(out, hashes[index % FP__TILE_WIDTH], 32);
    return FP_OK;
}

/* fp__merkle_read_fn over the reader's tree: a subtree of height 8·L + b is 2^b neighbours in a tile of level
 * L. */
static fp_status read_subtree(void *arg, unsigned height, uint64_t index, uint8_t out[32])
{
    const uint8_t(*hashes)[32];
    int level = (int)(height / 8);
    uint64_t first = index << height % 8;
    FP_TRY(read_tile(arg, level, first / FP__TILE_WIDTH, &hashes));
    fp__merkle_root(hashes[first % FP__TILE_WIDTH], (uint64_t)1 << height % 8, out);
    return FP_OK;
}

/* ---- moving forward ---- */

/* `what` names the older checkpoint. */
static fp_status check_not_back(const fp__ledger_reader *r, uint64_t older, uint64_t newer, const char *what)
{
    if (older <= newer)
        return FP_OK;
    return fp__fail(FP_MISMATCH,
                    "the log went back: %s has %llu entries, %s/checkpoint states %llu; after a power "
                    "failure, open the log for writing once; otherwise do not trust this copy",
                    what, (unsigned long long)older, r->dir, (unsigned long long)newer);
}

/* The reader's tree must continue the older one: a consistency proof, recomputed from authenticated tiles.
 * The old root's subtrees lie in tiles that were partial in the old tree, so the cache cannot hold them from
 * then. */
static fp_status check_continues(fp__ledger_reader *r, const fp__ledger_head *older, const char *what)
{
    uint8_t root[32];
    FP_TRY(check_not_back(r, older->size, r->head.size, what));
    FP_TRY(fp__merkle_root_at(read_subtree, r, older->size, root));
    if (memcmp(root, older->root, 32) != 0)
        return fp__fail(FP_MISMATCH,
                        "the log was forked: its first %llu entries have another root than %s, which was "
                        "signed with as many; keep both checkpoints as evidence and stop using it",
                        (unsigned long long)older->size, what);
    return FP_OK;
}

static fp_status read_state(fp__ledger_reader *r, bool *found, fp__ledger_head *out)
{
    fp__buf note = {0};
    fp__checkpoint checkpoint;
    *found = false;
    fp_status status = fp__file_read(r->state_path, FP__NOTE_MAX_BYTES, &note);
    if (status == FP_NOT_FOUND) {
        status = FP_OK;
    } else if (status == FP_OK) {
        /* Witness keys may have changed since: only the log's own signature matters here. */
        status = fp__checkpoint_open(note.data, note.size, r->origin, r->keys, 1, NULL, &checkpoint);
        if (status == FP_OK) {
            *found = true;
            out->size = checkpoint.size;
            memcpy(out->root, checkpoint.root, 32);
        } else {
            status = fp__fail_context(status, "the reader's state %s", r->state_path);
        }
    }
    fp__buf_free(&note);
    return status;
}

/* Other readers may share the file: under its lock, it only ever moves forward. */
static fp_status save_state_locked(fp__ledger_reader *r, const fp__buf *note)
{
    bool found = false;
    fp__ledger_head stored;
    FP_TRY(read_state(r, &found, &stored));
    if (found && stored.size > r->head.size)
        return FP_OK; /* it was checked by whoever wrote it, and our next refresh goes there */
    if (found)
        FP_TRY(check_continues(r, &stored, r->state_path));
    if (found && stored.size == r->head.size)
        return FP_OK; /* the same tree: only the log's own signature over it matters there */
    return fp__file_write(r->state_path, note->data, note->size, 0644);
}

static fp_status save_state(fp__ledger_reader *r, const fp__buf *note)
{
    fp__buf path = {0};
    if (r->state_path == NULL)
        return FP_OK;
    FP_TRY(fp__buf_printf(&path, "%s.lock", r->state_path));
    int fd = open((const char *)path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    int result = fd < 0 ? -1 : flock(fd, LOCK_EX);
    while (fd >= 0 && result != 0 && errno == EINTR)
        result = flock(fd, LOCK_EX);
    fp_status status = result != 0 ? fp__fail(FP_IO, "cannot lock %s: %s", (char *)path.data, strerror(errno))
                                   : save_state_locked(r, note);
    if (fd >= 0)
        close(fd);
    fp__buf_free(&path);
    return status;
}

/* Takes the checkpoint as the reader's head: edge, consistency with what is held and stored (NULL: nothing),
 * state. */
static fp_status advance(fp__ledger_reader *r, const fp__checkpoint *checkpoint, const fp__buf *note,
                         const fp__ledger_head *held, const fp__ledger_head *stored)
{
    fp__ledger_head head = {.size = checkpoint->size};
    memcpy(head.root, checkpoint->root, 32);
    FP_TRY(fp__tile_edge_load(r->source.fetch, r->source.arg, head.size, head.root, r->edge));
    r->head = head;
    if (held != NULL)
        FP_TRY(check_continues(r, held, "the checkpoint read before"));
    if (stored != NULL)
        FP_TRY(check_continues(r, stored, r->state_path));
    return save_state(r, note);
}

static fp_status accept_note(fp__ledger_reader *r, fp__buf *note, const fp__ledger_head *stored)
{
    fp__checkpoint checkpoint;
    fp__note_verdict verdicts[FP__NOTE_MAX_SIGNATURES];
    fp_status opened =
        fp__checkpoint_open(note->data, note->size, r->origin, r->keys, r->key_count, verdicts, &checkpoint);
    if (opened != FP_OK)
        return fp__fail_context(opened, "file checkpoint");
    fp__ledger_head held = r->head;
    if (r->open)
        FP_TRY(check_not_back(r, held.size, checkpoint.size, "the checkpoint read before"));
    if (stored != NULL)
        FP_TRY(check_not_back(r, stored->size, checkpoint.size, r->state_path));
    fp__tile_edge *old_edge = r->edge, *edge = malloc(sizeof *edge);
    if (edge == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the ledger's reader");
    r->edge = edge;
    fp_status status = advance(r, &checkpoint, note, r->open ? &held : NULL, stored);
    if (status != FP_OK) { /* stay where it was; what the cache took under the refused root goes */
        r->edge = old_edge;
        r->head = held;
        free(edge);
        memset(r->cache, 0, CACHE_SLOTS * sizeof *r->cache);
        return status;
    }
    free(old_edge);
    memcpy(r->verdicts, verdicts, r->key_count * sizeof *verdicts);
    fp__buf_free(&r->note);
    r->note = *note;
    *note = (fp__buf){0};
    r->open = true;
    return FP_OK;
}

fp_status fp__ledger_reader_refresh(fp__ledger_reader *r, bool *advanced)
{
    fp__buf note = {0};
    fp__ledger_head stored, before = r->head;
    bool found = false;
    if (!r->open && r->state_path != NULL) /* before the checkpoint: others may move both on in between */
        FP_TRY(read_state(r, &found, &stored));
    fp_status status = r->source.fetch(r->source.arg, "checkpoint", FP__NOTE_MAX_BYTES, &note);
    if (status == FP_NOT_FOUND)
        status = fp__fail(FP_NOT_FOUND, "there is no ledger in '%s'; make one with `fieldprint ledger init`",
                          r->dir);
    bool same = r->open && note.size == r->note.size && memcmp(note.data, r->note.data, note.size) == 0;
    if (status == FP_OK && !same) {
        status = accept_note(r, &note, found ? &stored : NULL);
        if (status != FP_OK)
            status = fp__fail_context(status, "ledger %s", r->dir);
    }
    fp__buf_free(&note);
    FP_TRY(status);
    if (advanced != NULL)
        *advanced = r->head.size != before.size;
    return FP_OK;
}

/* ---- opening ---- */

static fp_status set_up(fp__ledger_reader *r, const char *dir, const char *origin, const fp__note_key *keys,
                        size_t key_count, const char *state_path)
{
    r->dir = strdup(dir);
    r->origin = strdup(origin);
    r->state_path = state_path != NULL ? strdup(state_path) : NULL;
    r->keys = calloc(key_count, sizeof *keys);
    r->edge = calloc(1, sizeof *r->edge);
    r->cache = calloc(CACHE_SLOTS, sizeof *r->cache);
    if (r->dir == NULL || r->origin == NULL || (state_path != NULL && r->state_path == NULL) ||
        r->keys == NULL || r->edge == NULL || r->cache == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the ledger's reader");
    memcpy(r->keys, keys, key_count * sizeof *keys);
    r->key_count = key_count;
    FP_TRY(fp__source_open(r->dir, &r->source));
    return fp__ledger_reader_refresh(r, NULL);
}

fp_status fp__ledger_reader_open(const char *dir, const char *origin, const fp__note_key *keys,
                                 size_t key_count, const char *state_path, fp__ledger_reader **out)
{
    if (key_count == 0 || key_count > FP__NOTE_MAX_SIGNATURES)
        return fp__fail(FP_USAGE, "a ledger is read with the log's key and at most %d keys in all",
                        FP__NOTE_MAX_SIGNATURES);
    fp__ledger_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for the ledger's reader");
    fp_status status = set_up(r, dir, origin, keys, key_count, state_path);
    if (status != FP_OK) {
        fp__ledger_reader_close(r);
        return status;
    }
    *out = r;
    return FP_OK;
}

void fp__ledger_reader_close(fp__ledger_reader *r)
{
    if (r == NULL)
        return;
    fp__buf_free(&r->note);
    fp__buf_free(&r->scratch);
    fp__buf_free(&r->bundle_bytes);
    fp__source_close(&r->source);
    free(r->cache);
    free(r->edge);
    free(r->keys);
    free(r->state_path);
    free(r->origin);
    free(r->dir);
    free(r);
}

void fp__ledger_reader_head(const fp__ledger_reader *r, fp__ledger_head *out)
{
    *out = r->head;
}

const fp__buf *fp__ledger_reader_note(const fp__ledger_reader *r)
{
    return &r->note;
}

const fp__note_key *fp__ledger_reader_key(const fp__ledger_reader *r)
{
    return &r->keys[0];
}

const fp__note_verdict *fp__ledger_reader_verdicts(const fp__ledger_reader *r)
{
    return r->verdicts;
}

/* ---- entries ---- */

static fp_status verify_bundle(fp__ledger_reader *r, uint64_t index, unsigned width, bool whole)
{
    const uint8_t(*hashes)[32];
    FP_TRY(fp__bundle_parse(r->bundle_bytes.data, r->bundle_bytes.size, width, whole, &r->bundle));
    FP_TRY(read_tile(r, 0, index, &hashes));
    for (unsigned i = 0; i < width; i++) {
        uint8_t leaf[32];
        fp__merkle_leaf(r->bundle.data + r->bundle.begin[i], r->bundle.length[i], leaf);
        if (memcmp(leaf, hashes[i], 32) != 0)
            return fp__fail(FP_MISMATCH, "entry %llu differs from what was logged",
                            (unsigned long long)(index * FP__TILE_WIDTH + i));
    }
    return FP_OK;
}

/* Makes the bundle that holds `entry` the reader's current one. */
static fp_status load_bundle(fp__ledger_reader *r, uint64_t entry)
{
    uint64_t index = entry / FP__TILE_WIDTH;
    bool whole = false;
    if (r->bundle.count > entry % FP__TILE_WIDTH && r->bundle_index == index)
        return FP_OK;
    r->bundle.count = 0;
    unsigned width = fp__tile_width(FP__TILE_ENTRIES, index, r->head.size);
    FP_TRY(fp__tile_fetch(r->source.fetch, r->source.arg, FP__TILE_ENTRIES, index, r->head.size,
                          &r->bundle_bytes, &whole));
    fp_status status = verify_bundle(r, index, width, whole);
    if (status != FP_OK) {
        char path[FP__TILE_PATH_MAX];
        fp__tile_path(FP__TILE_ENTRIES, index, width, path);
        r->bundle.count = 0;
        return fp__fail_context(status, "%s/%s", r->dir, path);
    }
    r->bundle_index = index;
    return FP_OK;
}

static fp_status check_index(const fp__ledger_reader *r, uint64_t index)
{
    if (index < r->head.size)
        return FP_OK;
    return fp__fail(FP_USAGE, "there is no entry %llu in the ledger of %llu entries",
                    (unsigned long long)index, (unsigned long long)r->head.size);
}

fp_status fp__ledger_reader_entry(fp__ledger_reader *r, uint64_t index, fp__buf *out)
{
    FP_TRY(check_index(r, index));
    FP_TRY(load_bundle(r, index));
    unsigned i = (unsigned)(index % FP__TILE_WIDTH);
    return fp__buf_append(out, r->bundle.data + r->bundle.begin[i], r->bundle.length[i]);
}

fp_status fp__ledger_reader_scan(fp__ledger_reader *r, uint64_t begin, uint64_t end,
                                 fp__ledger_visit_fn *visit, void *arg)
{
    if (begin > end || end > r->head.size)
        return fp__fail(FP_USAGE, "there are no entries %llu to %llu in the ledger of %llu entries",
                        (unsigned long long)begin, (unsigned long long)end, (unsigned long long)r->head.size);
    for (uint64_t index = begin; index < end; index++) {
        FP_TRY(load_bundle(r, index));
        unsigned i = (unsigned)(index % FP__TILE_WIDTH);
        FP_TRY(visit(arg, index, r->bundle.data + r->bundle.begin[i], r->bundle.length[i]));
    }
    return FP_OK;
}

/* ---- proofs ---- */

fp_status fp__ledger_reader_leaf(fp__ledger_reader *r, uint64_t index, uint8_t out[32])
{
    FP_TRY(check_index(r, index));
    return read_hash(r, 0, index, out);
}

static fp_status check_size(const fp__ledger_reader *r, uint64_t size)
{
    if (size <= r->head.size)
        return FP_OK;
    return fp__fail(FP_USAGE, "the ledger has %llu entries, not %llu", (unsigned long long)r->head.size,
                    (unsigned long long)size);
}

fp_status fp__ledger_reader_root_at(fp__ledger_reader *r, uint64_t size, uint8_t out[32])
{
    FP_TRY(check_size(r, size));
    return fp__merkle_root_at(read_subtree, r, size, out);
}

fp_status fp__ledger_reader_inclusion(fp__ledger_reader *r, uint64_t index, uint64_t size,
                                      fp__merkle_proof *out)
{
    FP_TRY(check_size(r, size));
    return fp__merkle_inclusion(read_subtree, r, index, size, out);
}

fp_status fp__ledger_reader_consistency(fp__ledger_reader *r, uint64_t m, uint64_t n, fp__merkle_proof *out)
{
    FP_TRY(check_size(r, n));
    return fp__merkle_consistency(read_subtree, r, m, n, out);
}

fp_status fp__ledger_reader_tlog_proof(fp__ledger_reader *r, uint64_t index, const void *extra,
                                       size_t extra_size, fp__buf *out)
{
    fp__merkle_proof path;
    FP_TRY(fp__ledger_reader_inclusion(r, index, r->head.size, &path));
    return fp__tlog_proof_format(index, &path, extra, extra_size, r->note.data, r->note.size, out);
}
