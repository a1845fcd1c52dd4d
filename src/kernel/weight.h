/* Packed weights: the one layout that every CPU backend computes on, made once at load from the GGUF blocks.
 *
 * Rows are taken in groups of 16 (the last group is filled up with zero rows: zero scales). A group is a
 * sequence of blocks of 32 inputs (superblocks of 256 for the K types), each with the quants of 16 rows
 * interleaved in runs of 4 inputs, so that one 64-byte load holds 4 consecutive inputs of 16 rows: lane r (4
 * bytes) is row r. That is the operand of vpdpbusd (AVX-512), of two halves in AVX2, of four in NEON sdot.
 * Quants are stored unsigned (q + bias), the bias is taken back through the activation sums, which is exact.
 * Same number of bytes as the GGUF blocks, for every type; F32, F16 and BF16 matrices become 8-bit integers
 * with binary32 scales (arithmetic §4). */
#ifndef FP_KERNEL_WEIGHT_H
#define FP_KERNEL_WEIGHT_H
#include "core/error.h"
#include "exact/exact.h"

enum { FP__GROUP_ROWS = 16 };

typedef struct fp__weight {
    int type;           /* fp__wtype as stored in the GGUF */
    size_t rows, cols;  /* y[rows] = W[rows][cols] · x[cols]; cols is a multiple of 32 */
    size_t groups;      /* ceil(rows / 16) */
    size_t group_bytes; /* bytes of one packed group */
    uint8_t *data;      /* [groups][group_bytes], 64-byte aligned; owned by whoever allocated it */
} fp__weight;

/* Fills in type, rows, cols, groups, group_bytes (data stays NULL) and gives the bytes to allocate.
 * FP_UNSUPPORTED: unknown type or cols not a multiple of the type's block (and of 32). */
fp_status fp__weight_plan(int type, size_t rows, size_t cols, fp__weight *w, size_t *bytes) FP_WARN_UNUSED;
/* Packs groups [group_begin, group_end) from the stored rows (untrusted numbers: a non-finite scale or a
 * float out of range is FP_FORMAT). Threads may pack different groups at once. */
fp_status fp__weight_pack(fp__weight *w, const uint8_t *stored, size_t group_begin,
                          size_t group_end) FP_WARN_UNUSED;
/* One row back as canonical blocks [cols/32] (reference backend, embedding lookup, tests). */
void fp__weight_row(const fp__weight *w, size_t row, fp__wblock *out);
/* Embedding lookup: out[cols] = dw·q + mw. */
void fp__weight_embed(const fp__weight *w, size_t row, float *out);

/* Quantised activations of T tokens of width K = cols (§3), in tiles of 8 tokens so that a kernel reaches the
 * 8 with constant offsets. bind() lays them out in caller's memory of fp__act_bytes(T, K) bytes, 64-byte
 * aligned. */
enum { FP__ACT_TILE = 8 };
typedef struct fp__act {
    size_t tokens, cols, blocks; /* blocks = cols / 32 */
    int8_t *q;                   /* [tiles][blocks][8][32] */
    float *d;                    /* [tiles][blocks][8] */
    int32_t *sum;                /* [tiles][blocks][8] sum of q */
    int32_t *half;               /* [tiles][blocks][8] sum of the first 16 q (sub-blocks of 16) */
    float *ds;                   /* [tiles][blocks][8] (float)sum * d */
} fp__act;
size_t fp__act_bytes(size_t tokens, size_t cols);
void fp__act_bind(fp__act *act, void *memory, size_t tokens, size_t cols);
#endif
