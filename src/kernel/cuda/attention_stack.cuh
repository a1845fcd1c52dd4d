/* Decode beside large stacks (Hopper): many rows that see the same pages, as the queries of a batch over a
 * shared anchor, or several query tokens of a sequence. Decode waits for memory and a stack computes, so each
 * multiprocessor does both at once. A CTA is two quads of decode (attention_decode.cuh) and a group that does
 * what one of the prefill kernel does (attention_prefill.cuh): 64 rows of a stack against some pages of its
 * segment, up to a chunk. The group's warps copy pages themselves. It writes states, which the merge kernel
 * takes: one for each span; or, of units of more than STACK_SPAN_PAGES, one for the chunk, merged in device
 * memory. Units are dealt to the groups in a fixed order. While the kernels ahead end, a group goes through
 * its first page with whatever queries are there: the code is then in the instruction caches. */
#ifndef FP_KERNEL_CUDA_ATTENTION_STACK_CUH
#define FP_KERNEL_CUDA_ATTENTION_STACK_CUH
#include "kernel/cuda/attention_decode.cuh"
#include "kernel/cuda/attention_prefill.cuh"

namespace fp
{
namespace attn
{
namespace stack
{

/* Where a thread's rows have their states. */
struct Target {
    size_t row[2];
    bool on[2];
};

/* `state`: of the unit's first row. */
static __device__ __forceinline__ Target find_target(uint32_t warp, uint32_t lane, uint32_t rows,
                                                     size_t state)
{
    Target to;
#pragma unroll
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t row = warp * 16 + lane / 4 + 8 * r;
        to.on[r] = row < rows;
        to.row[r] = state + row;
    }
    return to;
}

/* A span to a state of its own. `begins`: it begins a chunk, is merged into an empty one (-0 becomes +0). */
template <int D>
static __device__ __forceinline__ void write_span(const Params &p, const Target &to, const float4 &heads,
                                                  const prefill::Span<D> &span, bool begins, uint32_t c)
{
    const float m[2] = {heads.x, heads.y}, l[2] = {heads.z, heads.w}, zero = begins ? 0.0f : -0.0f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (!to.on[r])
            continue;
        float *o = p.states + to.row[r] * D + 2 * c;
        if (c == 0)
            write_head(p, to.row[r], m[r], l[r], begins);
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *reinterpret_cast<float2 *>(o + 8 * j) = make_float2(__fadd_rn(span.o[4 * j + 2 * r], zero),
                                                                 __fadd_rn(span.o[4 * j + 2 * r + 1], zero));
    }
}

/* A further span of a chunk into its state, of which each thread reads what it wrote. chunk: its heads. */
template <int D>
static __device__ __forceinline__ void merge_span(const Params &p, const Target &to, const float4 &heads,
                                                  const prefill::Span<D> &span, float4 &chunk, uint32_t c)
{
    constexpr int BATCH = D / 32; /* on their way together */
    float a[2], b[2];
    const bool live[2] = {to.on[0] && heads.x != FP_NEG_INF, to.on[1] && heads.y != FP_NEG_INF};
    prefill::merge_row(chunk.x, chunk.z, heads.x, heads.z, a[0], b[0]);
    prefill::merge_row(chunk.y, chunk.w, heads.y, heads.w, a[1], b[1]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (!live[r])
            continue;
        float *o = p.states + to.row[r] * D + 2 * c;
        if (c == 0)
            write_head(p, to.row[r], r ? chunk.y : chunk.x, r ? chunk.w : chunk.z, true);
#pragma unroll
        for (int first = 0; first < D / 8; first += BATCH) {
            float2 before[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                before[i] = __ldcg(reinterpret_cast<const float2 *>(o + 8 * (first + i)));
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int at = 4 * (first + i) + 2 * r;
                *reinterpret_cast<float2 *>(o + 8 * (first + i)) =
                    make_float2(__fmaf_rn(before[i].x, a[r], __fmul_rn(span.o[at], b[r])),
                                __fmaf_rn(before[i].y, a[r], __fmul_rn(span.o[at + 1], b[r])));
            }
        }
    }
}

/* The span that ends with a page, or that no row sees. */
template <int D>
static __device__ __forceinline__ void end_span(const prefill::Consumer<D, 1> &k, Target &to, uint32_t page,
                                                bool chunks, uint32_t rows, prefill::Span<D> &span,
                                                float4 &chunk)
{
    const float4 heads = k.mine.span();
    bool begins = page % CHUNK_PAGES < SPAN_PAGES;
    if (begins || !chunks) {
        write_span<D>(k.p, to, heads, span, begins, k.lane % 4);
        chunk = heads;
    } else {
        merge_span<D>(k.p, to, heads, span, chunk, k.lane % 4);
    }
    if (!chunks)
        to.row[0] += rows, to.row[1] += rows;
    span.clear();
    __syncwarp(); /* all four threads of a row have read what is theirs together */
    k.mine.span() = prefill::no_heads();
}

/* A warp's share of the copy of a page; that of its scales is one warp's, which prepares them. */
template <int D>
static __device__ __forceinline__ void copy_share(uint32_t stage, const uint8_t *slab, uint32_t part,
                                                  bool scales, uint32_t lane)
{
    uint32_t n = lane % 8, deep = lane / 8;
    const uint8_t *k = slab + (4 * (n / 2) + n % 2 + 16 * part) * D + 16 * deep;
    uint32_t to = stage + deep * 1024 + n * 16 + part * 256;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < (D + 63) / 64; j++)
            if (D % 64 == 0 || j < D / 64 || deep < D % 64 / 16)
                prefill::copy16(to + j * 4096 + i * 128, k + 2 * i * D + 64 * j);
    constexpr int V_ROWS = D / 8 / QUAD; /* of 8 channels */
    const uint8_t *v = slab + 64 * D + (8 * V_ROWS * part + n) * PAGE + 16 * deep;
    to = stage + prefill::Stage<D>::V + deep * 16 * D + V_ROWS * part * 128 + n * 16;
#pragma unroll
    for (int i = 0; i < V_ROWS; i++)
        prefill::copy16(to + i * 128, v + 8 * i * PAGE);
    if (scales && lane < 16)
        prefill::copy16(stage + prefill::Stage<D>::SCALES + (uint32_t)offsetof(prefill::Scales, raw) +
                            16 * lane,
                        slab + 128 * D + 16 * lane);
}

/* The group of a CTA. Its shared memory: queries, what is kept of the rows, a ring of pages. */
template <int D> struct Group {
    const Params &p;
    const Header &h;
    uint32_t q, part, lane; /* q: shared address; part: of the warp */
    bool waited;            /* for the kernels before */

    __device__ __forceinline__ uint32_t rows() const
    {
        return q + 128 * D;
    }
    __device__ __forceinline__ uint32_t stage(uint32_t page) const
    {
        return q + 128 * D + 3 * 32 * 16 + page % STACK_STAGES * prefill::Stage<D>::BYTES;
    }
    __device__ __forceinline__ void meet() const
    {
        prefill::group_barrier(BARRIER);
    }
    static constexpr uint32_t BARRIER = 2; /* behind those of the quads */

    /* Starts the copy of a page of a unit; nothing behind its end. */
    __device__ __forceinline__ void start_page(uint32_t words, uint32_t kv_head, uint32_t page,
                                               uint32_t pages) const
    {
        uint32_t number = word(words, INLINE + (int)min(page, (uint32_t)CHUNK_PAGES - 1));
        if (page < pages)
            copy_share<D>(stage(page),
                          p.kv + number * p.group_bytes + p.layer_offset + kv_head * (size_t)(128 * D + 256),
                          part, part == page % QUAD, lane);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    /* This thread's share of a page is there, the last one may be under way; its scales are prepared. */
    __device__ __forceinline__ void finish_page(uint32_t words, uint32_t page, uint32_t pages) const
    {
        asm volatile("cp.async.wait_group %0;" ::"n"(STACK_STAGES - 2) : "memory");
        uint32_t fill = page_fill(words, min(page, (uint32_t)CHUNK_PAGES - 1));
        if (page < pages && part == page % QUAD) {
            __syncwarp();
            prefill::prepare_scales(
                prefill::at_shared<prefill::Scales>(stage(page) + prefill::Stage<D>::SCALES), fill, lane);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __device__ __forceinline__ void wait()
    {
        if (!waited)
            wait_previous();
        waited = true;
    }
};

/* A page of which the product with Q (hi, lo) is under way, into its span. rehearsed: as if all were seen. */
template <int D>
static __device__ __forceinline__ void take_page(const prefill::Consumer<D, 1> &k, const uint32_t *item,
                                                 const prefill::Tile &t, uint32_t stage, uint32_t before,
                                                 uint32_t fill, bool rehearsed, int (&hi)[32], int (&lo)[32],
                                                 prefill::Span<D> &span)
{
    using namespace prefill;
    uint32_t c = k.lane % 4 * 4;
    bool whole = fill ? fill == PAGE : t.least >= (int)(before + PAGE);
    const Scales *s = at_shared<const Scales>(stage + Stage<D>::SCALES);
    Scores scores;
    prefill::Weights weights;
    wgmma_wait<0>();
    wgmma_results(hi);
    wgmma_results(lo);
    find_scores(k.mine.scale(), s, c, hi, lo, scores);
    if (whole || rehearsed) {
        const int all[2] = {0, 0};
        make_weights<false>(s, before, all, c, scores, weights);
    } else {
        const int limits[2] = {k.limit_of(item, LIMIT, 0), k.limit_of(item, LIMIT, 1)};
        make_weights<true>(s, before, limits, c, scores, weights);
    }
    k.values(weights, stage, span);
}

template <int D> static __device__ __forceinline__ void stack_unit(Group<D> &group, uint32_t unit)
{
    using namespace prefill;
    const Params &p = group.p;
    const uint32_t *item = p.plan + group.h.stack_at + unit / p.kv_heads * ITEM_WORDS;
    uint32_t words = __ldg(item + group.lane), kv_head = unit % p.kv_heads, pages = word(words, PAGES),
             first_page = word(words, FIRST_PAGE), rows = word(words, ROWS);
    Shared none = {};
    Consumer<D, 1> k = {p,          group.h, none,
                        {0, 0},     0,       group.part,
                        group.lane, group.q, {0, group.rows() + threadIdx.x % 128 / 4 * 16},
                        nullptr};
    if (word(words, EARLY) < min(pages, STACK_STAGES - 1))
        group.wait(); /* for pages that were not complete before the step */
    group.meet();     /* nobody reads what a unit before left */
    for (uint32_t page = 0; page < STACK_STAGES - 1; page++)
        group.start_page(words, kv_head, page, pages);
    Tile t = {group.q, 0, 0};
    Target to =
        find_target(k.warp, k.lane, rows, word(words, STATE) + (size_t)kv_head * word(words, STATE_STRIDE));
    Span<D> span;
    float4 chunk = no_heads();
    span.clear();
    k.mine.span() = no_heads();
    group.finish_page(words, 0, pages);
    group.meet();
    uint32_t seen = 1; /* pages, when the rows are known */
    bool ready = false;
    if (group.waited) {
        load_tile<D>(p, item, kv_head, 0, group.BARRIER, k.warp, k.lane, k.mine.scale(), t);
        ready = true;
    }
#pragma unroll 1
    for (uint32_t number = 0;;) {
        if (ready && number == 0) {
            set_limits(p, item, LIMIT, 0, t);
            uint32_t visible = ((uint32_t)t.most + PAGE - 1) / PAGE;
            seen = visible > first_page ? min(visible - first_page, pages) : 0;
        }
        if (number >= seen)
            break;
        uint32_t before = (first_page + number) * PAGE, stage = group.stage(number),
                 fill = page_fill(words, number);
        int hi[32], lo[32];
        multiply_keys<D>(t, stage, hi, lo);
        if (ready)
            group.start_page(words, kv_head, number + STACK_STAGES - 1, pages);
        take_page<D>(k, item, t, stage, before, fill, !ready, hi, lo, span);
        if (!ready) { /* that was a rehearsal */
            group.wait();
            load_tile<D>(p, item, kv_head, 0, group.BARRIER, k.warp, k.lane, k.mine.scale(), t);
            span.clear();
            __syncwarp();
            k.mine.span() = no_heads();
            __syncwarp();
            ready = true;
            continue;
        }
        if (number % SPAN_PAGES == SPAN_PAGES - 1 || number + 1 == seen)
            end_span<D>(k, to, first_page + number, pages > STACK_SPAN_PAGES, rows, span, chunk);
        number++;
        group.finish_page(words, number, pages);
        group.meet();
    }
    /* spans that no row sees have empty states */
    for (uint32_t number = (seen + SPAN_PAGES - 1) / SPAN_PAGES * SPAN_PAGES; number < pages;
         number += SPAN_PAGES)
        end_span<D>(k, to, first_page + number, pages > STACK_SPAN_PAGES, rows, span, chunk);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/* Registers of a lane at the start, of a quad's and of the group's. */
constexpr int START = DECODE_REGISTERS / 3, QUAD_REGISTERS = 128, GROUP_REGISTERS = 176;
static_assert(2 * QUAD_REGISTERS + GROUP_REGISTERS <= 3 * START, "more registers than there are");

template <int D> __global__ void __maxnreg__(START) decode_beside_stacks(const __grid_constant__ Params p)
{
#if FP_CUDA_WGMMA
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    uint32_t warp = __shfl_sync(~0u, threadIdx.x / 32, 0); /* known to be uniform */
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    if (warp < 2 * QUAD) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(QUAD_REGISTERS));
        decode_units<D, 1, 2, false>(p, h, shared);
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUP_REGISTERS));
    uint32_t q = shared_address(shared) + 2 * DECODE_QUAD_BYTES + 2 * QUAD * p.decode_stages * stage_bytes(D);
    asm volatile("" : "+r"(q)); /* is not to be worked out again and again */
    Group<D> group = {p, h, q, warp % QUAD, threadIdx.x % 32, false};
#pragma unroll 1
    for (uint32_t u = blockIdx.x; u < h.stack_items * p.kv_heads; u += gridDim.x)
        stack_unit<D>(group, u);
#endif
}

template <int D> static Kernel stack_kernel()
{
    return decode_beside_stacks<D>;
}

} // namespace stack
} // namespace attn
} // namespace fp
#endif
