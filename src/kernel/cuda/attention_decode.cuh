/* Attention of up to 8 query tokens a sequence, and of queries stacked over a shared anchor: a persistent grid of
 * one CTA of 8 warps a multiprocessor, two quads of 4 warps each.
 *
 * A unit of work is a chunk, of which each warp of a quad takes a span, or a span, of which each takes a page
 * (what gives all quads work decides; the plan chose). A warp streams its half slabs through a ring of its own,
 * filled ahead across units. At the end of a unit the four parts are chained in canonical order through shared
 * memory, and the quad writes one state; the merge kernel makes outputs of the states.
 *
 * Pages that were complete before the step are read while the kernels before this one still run. A quad's first two
 * units are fixed, the others drawn from a counter; results are placed by index, so who did what changes no bit. */
#ifndef FP_KERNEL_CUDA_ATTENTION_DECODE_CUH
#define FP_KERNEL_CUDA_ATTENTION_DECODE_CUH
#include "kernel/cuda/attention_rows.cuh"

namespace fp
{
namespace attn
{

/* What a warp found in its part of a unit, for one row: o is in shared memory at this offset. */
struct Part {
    float m, l, unit; /* O' = fma(O, a, o·(b·unit)) */
    uint32_t at;
};
static_assert(sizeof(Part) * WARPS * 16 == DECODE_PART_BYTES, "16 rows a warp at most");

struct Unit {
    uint32_t number; /* item·HK + KV head; NONE: no more */
    uint32_t words;  /* of its item, by lane */
};

template <int D> struct DecodeWarp {
    const Params &p;
    uint8_t *shared;
    Part *parts;    // [QUAD][16] of this quad
    uint32_t *mail; // number of the unit after next, of this quad
    uint32_t lane, part, quad, units;
    uint32_t ring, full, slot, parity, fill_slot, ahead; /* ahead: stages filled and not yet released */
    Unit now, next;
    uint32_t page, end, half; /* to be fetched, within the unit */
    bool feeds_next, waited;
    uint32_t drawn; /* at the quad's first lane */

    __device__ __forceinline__ explicit DecodeWarp(const Params &params) : p(params)
    {
    }

    __device__ __forceinline__ uint32_t load_words(uint32_t number) const
    {
        return number < units ? __ldg(p.plan + DECODE_AT + number / p.kv_heads * ITEM_WORDS + lane) : 0;
    }
    /* The pages of a unit that are this warp's. */
    __device__ __forceinline__ void range(uint32_t words, uint32_t &first, uint32_t &last) const
    {
        uint32_t each = word(words, FLAGS) & PAGED ? 1 : SPAN_PAGES, pages = word(words, PAGES);
        first = min(part * each, pages);
        last = min(first + each, pages);
    }
    __device__ __forceinline__ void wait_once()
    {
        if (!waited)
            wait_previous();
        waited = true;
    }
    __device__ __forceinline__ void fetch_half()
    {
        uint32_t words = feeds_next ? next.words : now.words, number = feeds_next ? next.number : now.number;
        uint32_t barrier = full + 8 * fill_slot, to = ring + fill_slot * stage_bytes(D);
        const uint8_t *slab = p.kv + word(words, INLINE + (int)page) * p.group_bytes + p.layer_offset +
                              number % p.kv_heads * (size_t)(128 * D + 256);
        if (page >= word(words, EARLY))
            wait_once();
        if (half == 0)
            fill_stage(barrier, to, slab, 64 * D, slab + 128 * D, 256, lane);
        else
            fill_stage(barrier, to, slab + 64 * D, 64 * D, nullptr, 0, lane);
        page += half;
        half ^= 1;
        ahead++;
        if (++fill_slot == p.decode_stages)
            fill_slot = 0;
    }
    __device__ __forceinline__ void fill()
    {
        while (ahead < p.decode_stages) {
            if (page == end) {
                if (feeds_next || next.number >= units)
                    return;
                feeds_next = true;
                range(next.words, page, end);
                continue;
            }
            fetch_half();
        }
    }
    __device__ __forceinline__ uint32_t stage() const
    {
        return ring + slot * stage_bytes(D);
    }
    __device__ __forceinline__ void release()
    {
        __syncwarp();
        ahead--;
        if (++slot == p.decode_stages)
            slot = 0, parity ^= 1;
        fill();
    }
    __device__ __forceinline__ void meet() const
    {
        asm volatile("bar.sync %0, %1;" ::"r"(quad + 1), "n"(QUAD * 32) : "memory");
    }
    __device__ __forceinline__ void draw()
    {
        if (part == 0 && lane == 0)
            drawn = 2 * QUADS * gridDim.x + atomicAdd(&p.control->decode_taken, 1u);
    }
    /* Between the quad's two meetings of a unit, all know the number of the unit after next. */
    __device__ __forceinline__ void advance(uint32_t after_next)
    {
        now = next;
        next.number = after_next;
        next.words = load_words(after_next);
        if (!feeds_next && now.number < units)
            range(now.words, page, end);
        feeds_next = false;
    }
};

/* A part to shared memory, into the stage that held its last half slab. */
template <int D, int NT>
static __device__ __forceinline__ void share_part(const DecodeWarp<D> &w, const State<D, NT> &s,
                                                  const float (&unit)[NT], bool any)
{
    uint32_t at = w.stage() - shared_address(w.shared);
    float4 *o = reinterpret_cast<float4 *>(w.shared + at) + w.lane;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        if (w.lane % 4 == 0)
            w.parts[w.part * 16 + t * 8 + w.lane / 4] = {s.m[t], s.l[t], unit[t], at};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            if (any)
                o[(t * (D / 16) + i) * 32] =
                    make_float4(s.o[t][4 * i], s.o[t][4 * i + 1], s.o[t][4 * i + 2], s.o[t][4 * i + 3]);
    }
#if FP_CUDA_BULK
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* a copy fills the stage next */
#endif
}

/* The quad's parts in order → one state. Each warp chains its share of the channels. */
template <int D, int NT>
static __device__ __forceinline__ void chain_parts(const DecodeWarp<D> &w, const Places<NT> &at)
{
    uint32_t c = w.lane % 4, words = w.now.words, kv_head = w.now.number % w.p.kv_heads;
    bool chunk_begins = word(words, FIRST_PAGE) % CHUNK_PAGES == 0;
    /* a span that begins a chunk is merged into an empty one: -0 becomes +0 */
    float zero = chunk_begins && (word(words, FLAGS) & PAGED) ? 0.0f : -0.0f;
    size_t state = word(words, STATE) + (size_t)kv_head * word(words, STATE_STRIDE);
#pragma unroll
    for (int t = 0; t < NT; t++) {
        if (at.row[t] == NONE)
            continue;
        float m = FP_NEG_INF, l = 0.0f, a[QUAD], b[QUAD];
        const float4 *from[QUAD];
#pragma unroll
        for (int q = 0; q < QUAD; q++) {
            Part part = w.parts[q * 16 + t * 8 + w.lane / 4];
            from[q] = part.m == FP_NEG_INF ? nullptr
                                           : reinterpret_cast<const float4 *>(w.shared + part.at) + w.lane +
                                                 t * (D / 16) * 32;
            if (part.m == FP_NEG_INF)
                continue;
            float high = m > part.m ? m : part.m;
            a[q] = exp2c(__fsub_rn(m, high)), b[q] = exp2c(__fsub_rn(part.m, high));
            l = __fmaf_rn(l, a[q], __fmul_rn(part.l, b[q]));
            b[q] = __fmul_rn(b[q], part.unit);
            m = high;
        }
        size_t row = state + at.row[t];
        if (w.part == 0 && c == 0)
            *reinterpret_cast<uint4 *>(w.p.heads + row) =
                make_uint4(__float_as_uint(m), __float_as_uint(l), chunk_begins, 0);
        float *out = w.p.states + row * D + 2 * c;
#pragma unroll
        for (uint32_t k = 0; k < (D / 16 + QUAD - 1) / QUAD; k++) {
            uint32_t i = w.part + QUAD * k;
            if (i >= D / 16)
                continue;
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int q = 0; q < QUAD; q++) {
                if (!from[q])
                    continue;
                float4 x = from[q][i * 32];
                v.x = __fmaf_rn(v.x, a[q], __fmul_rn(x.x, b[q]));
                v.y = __fmaf_rn(v.y, a[q], __fmul_rn(x.y, b[q]));
                v.z = __fmaf_rn(v.z, a[q], __fmul_rn(x.z, b[q]));
                v.w = __fmaf_rn(v.w, a[q], __fmul_rn(x.w, b[q]));
            }
            *reinterpret_cast<float2 *>(out + 16 * i) = make_float2(__fadd_rn(v.x, zero), __fadd_rn(v.y, zero));
            *reinterpret_cast<float2 *>(out + 16 * i + 8) =
                make_float2(__fadd_rn(v.z, zero), __fadd_rn(v.w, zero));
        }
    }
}

/* This warp's pages of the unit → a part. Its last stage is not released. */
template <int D, int NT>
static __device__ __forceinline__ bool attend_part(DecodeWarp<D> &w, const Rows<D, NT> &rows,
                                                   const Places<NT> &at, State<D, NT> &state, float (&unit)[NT])
{
    Weights<NT> weights;
    uint32_t words = w.now.words, first, last;
    bool paged = word(words, FLAGS) & PAGED;
    w.range(words, first, last);
    state.clear();
#pragma unroll
    for (int t = 0; t < NT; t++)
        unit[t] = 1.0f;
#pragma unroll 1
    for (uint32_t i = first; i < last; i++) {
        uint32_t before = (word(words, FIRST_PAGE) + i) * PAGE,
                 fill = word(words, FILLS + (int)(i / 4)) >> (8 * (i % 4)) & 255;
        bool full = fill ? fill == PAGE : at.least >= before + PAGE;
        barrier_wait(w.full + 8 * w.slot, w.parity);
        page_scores<D, NT>(rows, w.stage(), before, fill, full, w.lane, state, weights);
        w.release();
#pragma unroll
        for (int t = 0; t < NT; t++) /* a page of its own: o as it is, 2^E beside it */
            if (paged)
                unit[t] = weights.unit[t], weights.scale[t] = 1.0f;
        barrier_wait(w.full + 8 * w.slot, w.parity);
        page_values<D, NT>(weights, w.stage(), w.lane, state);
        if (i + 1 < last)
            w.release();
    }
    return last > first;
}

/* Units of one width, as long as they come. */
template <int D, int NT> static __device__ __forceinline__ void run_units(DecodeWarp<D> &w, const Header &h)
{
    Rows<D, NT> rows;
    Places<NT> at;
    uint32_t loaded = NONE;
    do {
        uint32_t kv_head = w.now.number % w.p.kv_heads, stream = word(w.now.words, STREAM) * w.p.kv_heads + kv_head;
        if (stream != loaded)
            load_rows<D, NT>(w.p, h, w.now.words, kv_head, 0, word(w.now.words, LIMIT), w.lane, rows, at);
        loaded = stream;
        State<D, NT> state;
        float unit[NT];
        bool any = attend_part<D, NT>(w, rows, at, state, unit);
        share_part<D, NT>(w, state, unit, any);
        if (w.part == 0 && w.lane == 0)
            *w.mail = w.drawn;
        w.meet();
        uint32_t after_next = *reinterpret_cast<volatile uint32_t *>(w.mail);
        chain_parts<D, NT>(w, at);
        w.meet();
        w.advance(after_next);
        w.draw();
        if (any)
            w.release();
        else
            w.fill();
    } while (w.now.number < w.units && (word(w.now.words, ROWS) > 8) == (NT > 1));
}

/* The registers left over are for CTAs of the kernels before and after. */
template <int D> __global__ void __maxnreg__(224) decode(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    DecodeWarp<D> w(p);
    uint32_t warp = threadIdx.x / 32, worker = warp / QUAD * gridDim.x + blockIdx.x, base = shared_address(shared);
    launch_next();
    w.lane = threadIdx.x % 32, w.part = warp % QUAD, w.quad = warp / QUAD;
    /* items of both fixed units and the header in one go: the list begins at a fixed place; neighbouring units go to
     * different multiprocessors */
    w.units = NONE;
    w.now = {worker, w.load_words(worker)};
    w.next = {worker + QUADS * gridDim.x, w.load_words(worker + QUADS * gridDim.x)};
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    w.shared = shared;
    w.parts = reinterpret_cast<Part *>(shared + DECODE_BARRIER_BYTES) + w.quad * QUAD * 16;
    w.mail = reinterpret_cast<uint32_t *>(shared + DECODE_BARRIER_BYTES + DECODE_PART_BYTES) + w.quad;
    w.full = base + warp * 8 * MAX_STAGES;
    w.ring = base + DECODE_FIXED_BYTES + warp * p.decode_stages * stage_bytes(D);
    w.slot = w.parity = w.fill_slot = w.ahead = w.half = 0;
    w.feeds_next = w.waited = false;
    if (w.lane < MAX_STAGES)
        barrier_init(w.full + 8 * w.lane, FILL_ARRIVALS);
    barrier_init_fence();
    __syncwarp();
    w.units = h.decode_items * p.kv_heads;
    if (w.now.number >= w.units)
        return;
    w.range(w.now.words, w.page, w.end);
    w.fill();
    w.wait_once();
    w.draw();
    while (w.now.number < w.units) {
        if (decode_tiles(D) > 1 && word(w.now.words, ROWS) > 8)
            run_units<D, decode_tiles(D)>(w, h);
        else
            run_units<D, 1>(w, h);
    }
}

} // namespace attn
} // namespace fp
#endif
