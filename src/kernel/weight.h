/* Packed weights: the one layout that every CPU backend computes on, made once at load from the GGUF blocks.
 *
 * Rows are taken in groups of 16 (the last group is filled up with zero rows: zero scales). Each block of 32
 * inputs is cut into 8 runs of 4; a plane of 64 bytes holds one run of 16 rows: lane r (4 bytes) is row r.
 * That is the operand of vpdpbusd (AVX-512), of two halves in AVX2, of four in NEON sdot. Quants are stored
 * unsigned (q + bias); the bias is taken back through the activation sums, which is exact.
 *
 * A group is three regions, one after the other, so that planes stay aligned to 64 bytes for every type:
 *   low    [blocks][4][64]  nibbles: plane k has run k in the low and run 4 + k in the high nibbles
 *          [blocks][8][64]  bytes (Q8_0, F32, F16, BF16): plane k has run k
 *   high   [blocks][64]     fifth bits (Q5_*): bit k of a byte belongs to run k
 *          [blocks][2][64]  fifth and sixth bits (Q6_K): bits 2f, 2f+1 of a byte of plane v belong to run 4v
 * + f scale  Q4_0 Q5_0 Q8_0   [blocks] f16 d[16] Q4_1 Q5_1        [blocks] { f16 d[16], m[16] } Q4_K Q5_K
 * [blocks/8] { u8 a[8][16] = sc | m << 6; u8 b[4][16] = m[2i] >> 2 | m[2i+1] >> 2 << 4; f16 d[16], dmin[16]
 * }, sc and m the 6-bit numbers of each sub-block Q6_K             [blocks/8] { i8 sc[8][2][16]; f16 d[16] }
 *          F32 F16 BF16     [blocks] f32 d[16], quantised at load by arithmetic §3
 * The same number of bytes as the GGUF blocks for every stored type (group_bytes is rounded up to 64). */
#ifndef FP_KERNEL_WEIGHT_H
#define FP_KERNEL_WEIGHT_H
#include "core/error.h"
#include "exact/exact.h"

enum { FP__GROUP_ROWS = 16, FP__PLANE_BYTES = 64 };

typedef struct fp__weight {
    int type;            /* fp__wtype as stored in the GGUF */
    size_t rows, cols;   /* y[rows] = W[rows][cols] · x[cols]; cols is a multiple of 32 */
    size_t groups;       /* ceil(rows / 16) */
    size_t group_bytes;  /* bytes of one packed group, a multiple of 64 */
    size_t high_offset;  /* of the regions in a group */
    size_t scale_offset; /* */
    uint8_t *data;       /* [groups][group_bytes], 64-byte aligned; owned by whoever allocated it */
} fp__weight;

/* Fills in everything but data (NULL) and gives the bytes to allocate. FP_UNSUPPORTED: unknown type, no rows
 * or cols, or cols not a multiple of the type's block (and of 32). FP_LIMIT: more bytes than an address can
 * hold. */
fp_status fp__weight_plan(int type, size_t rows, size_t cols, fp__weight *w, size_t *bytes) FP_WARN_UNUSED;
/* Bytes of the stored rows (as in the GGUF) that fp__weight_pack reads: rows · cols / block · block bytes. */
size_t fp__weight_stored_bytes(const fp__weight *w);
/* Packs groups [group_begin, group_end) from the stored rows, `stored` being row 0 (any alignment; untrusted
 * numbers: a non-finite scale or a float out of range is FP_FORMAT). Threads may pack different groups at
 * once. */
fp_status fp__weight_pack(fp__weight *w, const uint8_t *stored, size_t group_begin,
                          size_t group_end) FP_WARN_UNUSED;
/* One row back as canonical blocks [cols/32] (reference backend, tests): what fp__exact_decode_block gives.
 */
void fp__weight_row(const fp__weight *w, size_t row, fp__wblock *out);
/* Embedding lookup: out[cols] = dw·q + mw. */
void fp__weight_embed(const fp__weight *w, size_t row, float *out);

/* Quantised activations (§3) of one block of 32 inputs of 8 tokens: a kernel reaches everything of a tile
 * with constant offsets. Next to the numbers of the definition it has what cancels the bias of unsigned
 * quants. */
enum { FP__ACT_TILE = 8 };
typedef struct fp__act_block {
    int8_t q[FP__ACT_TILE][FP__BLOCK];
    float d[FP__ACT_TILE];
    float ds[FP__ACT_TILE];           /* (float)sum(q) · d */
    int32_t minus8[FP__ACT_TILE];     /* -8 · sum(q) */
    int32_t minus128[FP__ACT_TILE];   /* -128 · sum(q) */
    int32_t minus32[2][FP__ACT_TILE]; /* -32 · sum of q[0..15], of q[16..31] (sub-blocks of 16) */
} fp__act_block;
_Static_assert(sizeof(fp__act_block) == 448, "seven cache lines, no padding");

/* Activations of T tokens of width K = cols. */
typedef struct fp__act {
    size_t tokens, cols, blocks; /* blocks = cols / 32 */
    fp__act_block *block;        /* [ceil(tokens / 8)][blocks] */
} fp__act;
/* Bytes of memory for T tokens of width cols, and the binding to it (the caller's, 64-byte aligned). */
size_t fp__act_bytes(size_t tokens, size_t cols);
void fp__act_bind(fp__act *act, void *memory, size_t tokens, size_t cols);

static inline fp__act_block *fp__act_at(const fp__act *act, size_t token, size_t b)
{
    return act->block + token / FP__ACT_TILE * act->blocks + b;
}
/* Block b of a token as the definition has it. */
static inline void fp__act_store(fp__act *act, size_t token, size_t b, const fp__qblock *x)
{
    fp__act_block *to = fp__act_at(act, token, b);
    size_t slot = token % FP__ACT_TILE;
    int32_t half[2] = {0, 0};
    for (size_t j = 0; j < FP__BLOCK; j++)
        half[j / 16] += x->q[j];
    memcpy(to->q[slot], x->q, FP__BLOCK);
    to->d[slot] = x->d;
    to->ds[slot] = (float)(half[0] + half[1]) * x->d;
    to->minus8[slot] = -8 * (half[0] + half[1]);
    to->minus128[slot] = -128 * (half[0] + half[1]);
    to->minus32[0][slot] = -32 * half[0];
    to->minus32[1][slot] = -32 * half[1];
}
static inline void fp__act_load(const fp__act *act, size_t token, size_t b, fp__qblock *x)
{
    const fp__act_block *from = fp__act_at(act, token, b);
    memcpy(x->q, from->q[token % FP__ACT_TILE], FP__BLOCK);
    x->d = from->d[token % FP__ACT_TILE];
}
#endif
