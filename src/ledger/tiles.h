/* The file format of a tiled log (c2sp.org/tlog-tiles): paths, tiles of 256 hashes, entry bundles, and the
 * right edge of the tree, which is all that one needs to append to it and to authenticate every other tile.
 */
#ifndef FP_LEDGER_TILES_H
#define FP_LEDGER_TILES_H
#include "core/bytes.h"
#include "merkle/tree.h"

#define FP__TILE_WIDTH 256
#define FP__TILE_BYTES (FP__TILE_WIDTH * 32)
#define FP__TILE_LEVELS 8     /* 256^8 > 2^63 */
#define FP__TILE_ENTRIES (-1) /* as a level: the entry bundles */
#define FP__ENTRY_MAX_BYTES 65535
#define FP__BUNDLE_MAX_BYTES (FP__TILE_WIDTH * (size_t)(FP__ENTRY_MAX_BYTES + 2))
#define FP__TILE_PATH_MAX 64

/* "tile/<level>/x001/x234/067" or "tile/entries/…", with ".p/<width>" when width is 1 … 255; width 256 is the
 * full tile. out holds FP__TILE_PATH_MAX chars. */
void fp__tile_path(int level, uint64_t index, unsigned width, char *out);
/* The inverse; FP_FORMAT for anything that fp__tile_path does not write. Untrusted (URL paths). */
fp_status fp__tile_path_parse(const char *path, int *level, uint64_t *index, unsigned *width) FP_WARN_UNUSED;
/* How many hashes (entries) of tile `index` at this level a tree of this size has: 0 … 256. */
unsigned fp__tile_width(int level, uint64_t index, uint64_t size);

/* Entry i of a bundle is data[begin[i] .. begin[i] + length[i]). Untrusted: FP_FORMAT naming the entry. */
typedef struct fp__bundle {
    const uint8_t *data;
    unsigned count;
    uint32_t begin[FP__TILE_WIDTH];
    uint16_t length[FP__TILE_WIDTH];
} fp__bundle;
/* Reads `count` entries. With `whole`, they must fill data exactly; else more may follow (a wider bundle's
 * prefix). */
fp_status fp__bundle_parse(const void *data, size_t size, unsigned count, bool whole,
                           fp__bundle *out) FP_WARN_UNUSED;
fp_status fp__bundle_append(const void *entry, size_t size,
                            fp__buf *out) FP_WARN_UNUSED; /* FP_LIMIT over 65,535 bytes */

/* The right edge: the partial tile of every level, width (size >> 8·level) & 255. 64 KiB; zero-initialise. */
typedef struct fp__tile_edge {
    uint64_t size;
    uint8_t tiles[FP__TILE_LEVELS][FP__TILE_WIDTH][32];
} fp__tile_edge;
/* Called for each tile that an append completed, from level 0 up. */
typedef fp_status fp__tile_full_fn(void *arg, int level, uint64_t index, const uint8_t *hashes); // [256][32]
fp_status fp__tile_edge_append(fp__tile_edge *edge, const uint8_t leaf_hash[32], fp__tile_full_fn *full,
                               void *arg) FP_WARN_UNUSED; /* full may be NULL */
void fp__tile_edge_root(const fp__tile_edge *edge, uint8_t out[32]);

/* Where files of a log come from; `path` is relative to the log. Appends at most max_bytes to out.
 * FP_NOT_FOUND, FP_LIMIT, FP_IO. The local folder is one implementation, a URL another. */
typedef fp_status fp__tile_fetch_fn(void *arg, const char *path, size_t max_bytes, fp__buf *out);
fp_status fp__tile_fetch_folder(void *dir, const char *path, size_t max_bytes, fp__buf *out) FP_WARN_UNUSED;
/* Fetches the tile or bundle that a tree of `size` leaves has there. When that partial file is gone the full
 * one or, as the log says it is at size_hint now, a wider one serves instead (tiles grow at their end only).
 * *whole: it is exactly the tile asked for. Nothing is verified but, for tiles, the length: FP_FORMAT. */
fp_status fp__tile_fetch(fp__tile_fetch_fn *fetch, void *arg, int level, uint64_t index, uint64_t size,
                         fp__buf *out, bool *whole) FP_WARN_UNUSED;
/* Loads the edge of a tree of this size and compares its root: FP_MISMATCH. */
fp_status fp__tile_edge_load(fp__tile_fetch_fn *fetch, void *arg, uint64_t size, const uint8_t root[32],
                             fp__tile_edge *out) FP_WARN_UNUSED;
#endif
