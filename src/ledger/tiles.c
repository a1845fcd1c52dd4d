#include "ledger/tiles.h"
#include "core/file.h"
#include "ledger/note.h"
#include <stdio.h>

void fp__tile_path(int level, uint64_t index, unsigned width, char *out)
{
    FP_CHECK(level >= FP__TILE_ENTRIES && level < 64 && width >= 1 && width <= FP__TILE_WIDTH);
    FP_CHECK(index <= UINT64_MAX >> 1);
    size_t left = FP__TILE_PATH_MAX;
    int n = level == FP__TILE_ENTRIES ? snprintf(out, left, "tile/entries")
                                      : snprintf(out, left, "tile/%d", level);
    size_t at = (size_t)n;
    uint64_t divisor = 1;
    while (index / divisor >= 1000)
        divisor *= 1000;
    for (; divisor != 0; divisor /= 1000)
        at += (size_t)snprintf(out + at, left - at, "/%s%03u", divisor > 1 ? "x" : "",
                               (unsigned)(index / divisor % 1000));
    if (width < FP__TILE_WIDTH)
        at += (size_t)snprintf(out + at, left - at, ".p/%u", width);
    FP_CHECK(at < left);
}

/* Reads the path leniently, writes what was read again, and compares: only the canonical spelling passes. */
fp_status fp__tile_path_parse(const char *path, int *level, uint64_t *index, unsigned *width)
{
    const char *at = path;
    uint64_t n = 0;
    unsigned w = FP__TILE_WIDTH, l = 0;
    bool entries = strncmp(path, "tile/entries/", 13) == 0;
    int skipped = 0;
    if (entries)
        at += 13;
    else if (sscanf(path, "tile/%2u/%n", &l, &skipped) == 1 && skipped != 0 && l < 64)
        at += skipped;
    else
        return fp__fail(FP_FORMAT, "'%s' is not the path of a tile", path);
    for (; *at == 'x' || *at == '/' || (*at >= '0' && *at <= '9'); at++)
        if (*at >= '0' && *at <= '9' && n <= (UINT64_MAX >> 1) / 10 - 1)
            n = n * 10 + (unsigned)(*at - '0');
    if (strncmp(at, ".p/", 3) == 0 && sscanf(at + 3, "%3u", &w) != 1)
        w = 0;
    char again[FP__TILE_PATH_MAX] = "";
    if (w >= 1 && w <= FP__TILE_WIDTH)
        fp__tile_path(entries ? FP__TILE_ENTRIES : (int)l, n, w, again);
    if (strcmp(again, path) != 0)
        return fp__fail(FP_FORMAT, "'%s' is not the path of a tile", path);
    *level = entries ? FP__TILE_ENTRIES : (int)l;
    *index = n;
    *width = w;
    return FP_OK;
}

unsigned fp__tile_width(int level, uint64_t index, uint64_t size)
{
    unsigned shift = level == FP__TILE_ENTRIES ? 0 : 8 * (unsigned)level;
    uint64_t count = shift >= 64 ? 0 : size >> shift;
    if (index > count / FP__TILE_WIDTH)
        return 0;
    uint64_t left = count - index * FP__TILE_WIDTH;
    return left < FP__TILE_WIDTH ? (unsigned)left : FP__TILE_WIDTH;
}

fp_status fp__bundle_parse(const void *data, size_t size, unsigned count, bool whole, fp__bundle *out)
{
    FP_CHECK(count <= FP__TILE_WIDTH);
    const uint8_t *bytes = data;
    size_t at = 0;
    if (size > FP__BUNDLE_MAX_BYTES)
        return fp__fail(FP_FORMAT, "a bundle of %zu bytes is longer than 256 entries can be", size);
    out->data = bytes;
    out->count = count;
    for (unsigned i = 0; i < count; i++) {
        if (size - at < 2)
            return fp__fail(FP_FORMAT, "it ends before the length of its entry %u of %u", i, count);
        uint16_t length = (uint16_t)(bytes[at] << 8 | bytes[at + 1]);
        at += 2;
        if (size - at < length)
            return fp__fail(FP_FORMAT, "its entry %u of %u has %u bytes, but only %zu are left", i, count,
                            length, size - at);
        out->begin[i] = (uint32_t)at;
        out->length[i] = length;
        at += length;
    }
    if (whole && at != size)
        return fp__fail(FP_FORMAT, "it has %zu bytes after its %u entries", size - at, count);
    return FP_OK;
}

fp_status fp__bundle_append(const void *entry, size_t size, fp__buf *out)
{
    if (size > FP__ENTRY_MAX_BYTES)
        return fp__fail(FP_LIMIT, "an entry of %zu bytes; a log entry has at most %d", size,
                        FP__ENTRY_MAX_BYTES);
    uint8_t length[2] = {(uint8_t)(size >> 8), (uint8_t)size};
    FP_TRY(fp__buf_append(out, length, 2));
    return fp__buf_append(out, entry, size);
}

fp_status fp__tile_edge_append(fp__tile_edge *edge, const uint8_t leaf_hash[32], fp__tile_full_fn *full,
                               void *arg)
{
    FP_CHECK(edge->size < FP__MERKLE_SIZE_MAX);
    uint8_t hash[32];
    memcpy(hash, leaf_hash, 32);
    uint64_t count = edge->size; /* hashes of this level before */
    for (int level = 0; level < FP__TILE_LEVELS; level++) {
        unsigned at = (unsigned)(count & 255);
        memcpy(edge->tiles[level][at], hash, 32);
        if (at != 255)
            break;
        if (full != NULL)
            FP_TRY(full(arg, level, count >> 8, edge->tiles[level][0]));
        fp__merkle_root(edge->tiles[level][0], FP__TILE_WIDTH, hash);
        count >>= 8;
    }
    edge->size++;
    return FP_OK;
}

void fp__tile_edge_root(const fp__tile_edge *edge, uint8_t out[32])
{
    uint8_t root[32], left[32];
    bool first = true;
    for (int level = 0; level < FP__TILE_LEVELS; level++) {
        unsigned end = (unsigned)(edge->size >> 8 * level & 255);
        for (unsigned bit = 0; bit < 8; bit++) { /* from the right: the smallest subtree first */
            if ((end >> bit & 1) == 0)
                continue;
            end -= 1u << bit;
            fp__merkle_root(edge->tiles[level][end], (uint64_t)1 << bit, first ? root : left);
            if (!first)
                fp__merkle_node(left, root, root);
            first = false;
        }
    }
    if (first)
        fp__sha256(NULL, 0, root);
    memcpy(out, root, 32);
}

fp_status fp__tile_fetch_folder(void *dir, const char *path, size_t max_bytes, fp__buf *out)
{
    fp__buf joined = {0};
    fp_status status = FP_NO_MEMORY;
    if (fp__path_join(&joined, dir, path) != NULL)
        status = fp__file_read((const char *)joined.data, max_bytes, out);
    fp__buf_free(&joined);
    return status;
}

/* The size that the log's checkpoint states now. A hint about which files exist; nothing is believed because
 * of it. */
static uint64_t size_hint(fp__tile_fetch_fn *fetch, void *arg)
{
    fp__buf note = {0};
    uint64_t size = 0;
    if (fetch(arg, "checkpoint", FP__NOTE_MAX_BYTES, &note) == FP_OK) {
        const char *line = note.size == 0 ? NULL : memchr(note.data, '\n', note.size);
        const char *end = (const char *)note.data + note.size;
        const char *newline = line == NULL ? NULL : memchr(line + 1, '\n', (size_t)(end - line - 1));
        if (newline == NULL ||
            fp__note_parse_decimal(line + 1, (size_t)(newline - line - 1), &size, "the tree size") != FP_OK)
            size = 0;
    }
    fp__buf_free(&note);
    return size;
}

static fp_status fetch_width(fp__tile_fetch_fn *fetch, void *arg, int level, uint64_t index, unsigned width,
                             fp__buf *out)
{
    char path[FP__TILE_PATH_MAX];
    fp__tile_path(level, index, width, path);
    size_t max = level == FP__TILE_ENTRIES ? FP__BUNDLE_MAX_BYTES : FP__TILE_BYTES;
    out->size = 0;
    fp_status status = fetch(arg, path, max, out);
    if (status == FP_LIMIT)
        return fp__fail(FP_FORMAT, "%s: longer than a tile can be", path);
    if (status == FP_OK && level != FP__TILE_ENTRIES && out->size != (size_t)width * 32)
        return fp__fail(FP_FORMAT, "%s: it has %zu bytes; %u hashes have %u", path, out->size, width,
                        width * 32);
    return status;
}

fp_status fp__tile_fetch(fp__tile_fetch_fn *fetch, void *arg, int level, uint64_t index, uint64_t size,
                         fp__buf *out, bool *whole)
{
    unsigned width = fp__tile_width(level, index, size), got = width;
    FP_CHECK(width != 0);
    fp_status status = fetch_width(fetch, arg, level, index, width, out);
    /* The writer may be at work: what was partial a moment ago is wider now, and may be so once more before
     * we look. */
    for (int attempt = 0; status == FP_NOT_FOUND && width < FP__TILE_WIDTH && attempt < 16; attempt++) {
        got = FP__TILE_WIDTH;
        status = fetch_width(fetch, arg, level, index, got, out);
        if (status != FP_NOT_FOUND)
            break;
        unsigned wider = fp__tile_width(level, index, size_hint(fetch, arg));
        if (wider <= width)
            break;
        got = wider;
        status = fetch_width(fetch, arg, level, index, got, out);
    }
    if (status == FP_NOT_FOUND) {
        char path[FP__TILE_PATH_MAX];
        fp__tile_path(level, index, width, path);
        return fp__fail(FP_NOT_FOUND, "the log of %llu entries has no file %s", (unsigned long long)size,
                        path);
    }
    FP_TRY(status);
    if (level != FP__TILE_ENTRIES)
        out->size = (size_t)width * 32;
    if (whole != NULL)
        *whole = got == width;
    return FP_OK;
}

fp_status fp__tile_edge_load(fp__tile_fetch_fn *fetch, void *arg, uint64_t size, const uint8_t root[32],
                             fp__tile_edge *out)
{
    fp__buf tile = {0};
    fp_status status = FP_OK;
    out->size = size;
    for (int level = 0; level < FP__TILE_LEVELS && status == FP_OK; level++) {
        uint64_t count = size >> 8 * level;
        if ((count & 255) == 0)
            continue;
        status = fp__tile_fetch(fetch, arg, level, count >> 8, size, &tile, NULL);
        if (status == FP_OK)
            memcpy(out->tiles[level], tile.data, tile.size);
    }
    fp__buf_free(&tile);
    FP_TRY(status);
    uint8_t computed[32];
    fp__tile_edge_root(out, computed);
    if (memcmp(computed, root, 32) == 0)
        return FP_OK;
    char path[FP__TILE_PATH_MAX] = "none";
    if (size != 0) {
        int lowest = __builtin_ctzll(size) / 8;
        fp__tile_path(lowest, size >> 8 * lowest >> 8, (unsigned)(size >> 8 * lowest & 255), path);
    }
    return fp__fail(FP_MISMATCH,
                    "the partial tiles of the tree of %llu entries (%s and those above it) do not give the "
                    "root that the checkpoint states: one of them was changed",
                    (unsigned long long)size, path);
}
