/* Recomputes a whole log from its entries, on its own: shares the file format with the reader, not its
 * shortcuts. */
#include "ledger/ledger.h"
#include "ledger/remote.h"
#include <stdlib.h>

typedef struct check {
    const char *dir;
    fp__source source;
    fp__tile_edge edge; /* recomputed from the entries so far */
    fp__buf tile, bundle;
    fp__ledger_report report;
} check;

static fp_status fetch(void *arg, const char *path, size_t max_bytes, fp__buf *out)
{
    check *c = arg;
    return c->source.fetch(c->source.arg, path, max_bytes, out);
}

static fp_status at_path(fp_status status, const check *c, int level, uint64_t index, unsigned width)
{
    char path[FP__TILE_PATH_MAX];
    fp__tile_path(level, index, width, path);
    return fp__fail_context(status, "%s/%s", c->dir, path);
}

/* Compares the tile's file with `width` recomputed hashes, [width][32]. */
static fp_status compare_tile(check *c, int level, uint64_t index, unsigned width, const uint8_t *hashes)
{
    FP_TRY(fp__tile_fetch(fetch, c, level, index, c->report.head.size, &c->tile, NULL));
    c->report.tiles++;
    for (unsigned i = 0; i < width; i++) {
        if (memcmp(c->tile.data + i * 32, hashes + i * 32, 32) == 0)
            continue;
        uint64_t first = (index * FP__TILE_WIDTH + i) << 8 * level;
        return at_path(fp__fail(FP_MISMATCH, "hash %u differs from what entries %llu to %llu give", i,
                                (unsigned long long)first,
                                (unsigned long long)(first + ((uint64_t)1 << 8 * level) - 1)),
                       c, level, index, width);
    }
    return FP_OK;
}

static fp_status compare_full_tile(void *arg, int level, uint64_t index, const uint8_t *hashes)
{
    return compare_tile(arg, level, index, FP__TILE_WIDTH, hashes);
}

static fp_status check_bundle(check *c, uint64_t index)
{
    fp__bundle entries;
    bool whole = false;
    unsigned width = fp__tile_width(FP__TILE_ENTRIES, index, c->report.head.size);
    FP_TRY(fp__tile_fetch(fetch, c, FP__TILE_ENTRIES, index, c->report.head.size, &c->bundle, &whole));
    fp_status status = fp__bundle_parse(c->bundle.data, c->bundle.size, width, whole, &entries);
    if (status != FP_OK)
        return at_path(status, c, FP__TILE_ENTRIES, index, width);
    c->report.bundles++;
    for (unsigned i = 0; i < width; i++) {
        uint8_t leaf[32];
        fp__merkle_leaf(entries.data + entries.begin[i], entries.length[i], leaf);
        c->report.entry_bytes += entries.length[i];
        FP_TRY(fp__tile_edge_append(&c->edge, leaf, compare_full_tile, c));
    }
    return FP_OK;
}

static fp_status check_all(check *c)
{
    uint64_t size = c->report.head.size;
    for (uint64_t index = 0; index < (size + FP__TILE_WIDTH - 1) / FP__TILE_WIDTH; index++)
        FP_TRY(check_bundle(c, index));
    for (int level = 0; level < FP__TILE_LEVELS; level++) {
        uint64_t hashes = size >> 8 * level;
        if ((hashes & 255) != 0)
            FP_TRY(compare_tile(c, level, hashes >> 8, (unsigned)(hashes & 255), c->edge.tiles[level][0]));
    }
    uint8_t root[32];
    fp__tile_edge_root(&c->edge, root);
    if (memcmp(root, c->report.head.root, 32) != 0)
        return fp__fail(FP_MISMATCH, "%s/checkpoint: its root is not that of the log's %llu entries", c->dir,
                        (unsigned long long)size);
    return FP_OK;
}

static fp_status read_checkpoint(check *c, const char *origin, const fp__note_key *keys, size_t key_count)
{
    fp__checkpoint checkpoint;
    fp__buf note = {0};
    fp_status status = fetch(c, "checkpoint", FP__NOTE_MAX_BYTES, &note);
    if (status == FP_NOT_FOUND)
        status = fp__fail(FP_NOT_FOUND, "there is no ledger in '%s'", c->dir);
    else if (status == FP_OK)
        status = fp__checkpoint_open(note.data, note.size, origin, keys, key_count, NULL, &checkpoint);
    fp__buf_free(&note);
    if (status != FP_OK)
        return fp__fail_context(status, "%s/checkpoint", c->dir);
    c->report.head.size = checkpoint.size;
    memcpy(c->report.head.root, checkpoint.root, 32);
    return FP_OK;
}

fp_status fp__ledger_fsck(const char *dir, const char *origin, const fp__note_key *keys, size_t key_count,
                          fp__ledger_report *report)
{
    check *c = calloc(1, sizeof *c);
    if (c == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory to check the ledger");
    c->dir = dir;
    fp_status status = fp__source_open(dir, &c->source);
    if (status == FP_OK)
        status = read_checkpoint(c, origin, keys, key_count);
    if (status == FP_OK)
        status = check_all(c);
    if (status == FP_OK && report != NULL)
        *report = c->report;
    fp__buf_free(&c->tile);
    fp__buf_free(&c->bundle);
    fp__source_close(&c->source);
    free(c);
    return status;
}
