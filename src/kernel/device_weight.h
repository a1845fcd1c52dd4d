/* Weights and activations as GPU kernels read them: everything is already where a lane of an int8 matrix
 * instruction (m16n8k32) wants it, so that all memory traffic is contiguous and nothing is rearranged on
 * chip.
 *
 * A unit is 16 rows × one segment (8 blocks of 32 inputs) of one matrix; a matrix is [tiles][segments][unit],
 * padded with zeros (a zero block adds +0 to a segment, which changes no bit of an output). Lane = 4·g + c of
 * a warp holds rows g and g + 8 and, of each block, inputs 4c..4c+3 and 16+4c..16+4c+3: four words a0 (row g,
 * first four), a1 (row g+8, first), a2 (row g, second), a3 (row g+8, second). Inside a unit, with pair p =
 * blocks 2p, 2p+1: low    4, 5, 6-bit types: [pair 4][lane 32][block 2]{ a0 | a2 << 4, a1 | a3 << 4 },
 * nibbles 8-bit types:       [block 8][lane 32]{ a0, a1, a2, a3 } high   5 bits: [pair 4][lane 32] u32, bit
 * 8·byte + 4·block + i belongs to a_i 6 bits: [pair 4][lane 32][block 2] u32, bits 8·byte + 2i, + 1 scale
 * Q4_0 Q5_0 Q8_0  [pair 4][g 8][block 2][row 2] f16 Q4_1 Q5_1       [pair 4][g 8][block 2][row 2] { f16 d, m
 * } Q4_K Q5_K       [pair 4][g 8][block 2][row 2] { u8 sc, m }, then [g 8][row 2] { f16 d, dmin } Q6_K [pair
 * 4][g 8][block 2][half 2][row 2] u8 (sc + 128), then [g 8][row 2] f16 d F32 F16 BF16    [pair 4][g 8][block
 * 2][row 2] f32, quantised at load by arithmetic §3 Types without a minimum keep signed quants, as two's
 * complement in their 4, 5, 6 or 8 bits; the others unsigned ones.
 *
 * Host code, part of every build (the tests read the layout back without a GPU); includable from C++. */
#ifndef FP_KERNEL_DEVICE_WEIGHT_H
#define FP_KERNEL_DEVICE_WEIGHT_H
#include "fieldprint/status.h"
#ifdef __CUDACC__
#define FP__HOST_DEVICE __host__ __device__
#else
#define FP__HOST_DEVICE
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* X(name, type number, bytes of low, of high, of scale) in a unit */
#define FP__DEVICE_TYPES(X)                                                                                  \
    X(F32, 0, 4096, 0, 512)                                                                                  \
    X(Q4_0, 2, 2048, 0, 256)                                                                                 \
    X(Q4_1, 3, 2048, 0, 512)                                                                                 \
    X(Q5_0, 6, 2048, 512, 256)                                                                               \
    X(Q5_1, 7, 2048, 512, 512)                                                                               \
    X(Q8_0, 8, 4096, 0, 256)                                                                                 \
    X(Q4_K, 12, 2048, 0, 320)                                                                                \
    X(Q5_K, 13, 2048, 512, 320)                                                                              \
    X(Q6_K, 14, 2048, 1024, 288)

enum { FP__DEVICE_TILE_ROWS = 16, FP__DEVICE_SEGMENT = 256 };

/* Activations (§3): [ceil(T/8)][segments] tiles of 8 tokens × 256 inputs:
 *   q   [pair 4][token 8][c 4][block 2]{ inputs 4c..4c+3, 16+4c..16+4c+3 } int8
 *   d   [block 8][token 8] f32
 *   ds  [block 8][token 8] f32: (float)sum(q) · d */
enum {
    FP__DEVICE_ACT_TOKENS = 8,
    FP__DEVICE_ACT_D = 2048,
    FP__DEVICE_ACT_DS = 2304,
    FP__DEVICE_ACT_BYTES = 2560
};

typedef struct fp__device_weight {
    int type;        /* packed type: F32 for F16 and BF16 too */
    int source_type; /* fp__wtype of the stored rows */
    int gated;       /* 1: tiles of 8 gate rows and 8 up rows, for silu(gate)·up in the kernel's epilogue */
    size_t rows, cols;        /* rows of the product before silu: gate and up rows counted both */
    size_t tiles, segments;   /* ceil(rows / 16), ceil(cols / 256) */
    size_t unit_bytes, bytes; /* bytes = tiles · segments · unit_bytes */
} fp__device_weight;

/* Sizes. With gated, rows is F of each of the two matrices (a multiple of 8). FP_UNSUPPORTED: unknown type,
 * rows or cols of 0, cols not a multiple of the type's block, gated rows not a multiple of 8. FP_LIMIT: too
 * large. */
fp_status fp__device_weight_plan(int type, size_t rows, size_t cols, int gated,
                                 fp__device_weight *w) FP_WARN_UNUSED;

/* Where stored rows go: at row `first` of the matrix (several matrices of one type make one: Q, K and V), or
 * as the gate or the up half of a gated one (first is 0). */
typedef enum fp__device_rows { FP__ROWS_AT, FP__ROWS_GATE, FP__ROWS_UP } fp__device_rows;
/* Packs stored rows [begin, end) of GGUF blocks (`stored` is row 0, any alignment, untrusted numbers) into
 * data[w->bytes], which was zeroed before the first call. Threads may pack rows of different tiles at once.
 * FP_FORMAT: a scale that is not finite, or a float out of range. */
fp_status fp__device_weight_pack(const fp__device_weight *w, uint8_t *data, const uint8_t *stored,
                                 fp__device_rows place, size_t first, size_t begin,
                                 size_t end) FP_WARN_UNUSED;

/* Bytes of activations of T tokens of width cols. */
static inline size_t fp__device_act_bytes(size_t tokens, size_t cols)
{
    return (tokens + 7) / 8 * ((cols + 255) / 256) * FP__DEVICE_ACT_BYTES;
}
/* Byte of input i of a token in its activation tile. */
FP__HOST_DEVICE static inline size_t fp__device_act_at(size_t token, size_t i)
{
    size_t block = i / 32 % 8, word = i % 32 / 4;
    return block / 2 * 512 + token % 8 * 64 + word % 4 * 16 + block % 2 * 8 + word / 4 * 4 + i % 4;
}
#ifdef __cplusplus
}
#endif
#endif
