/* Attention of many rows: up to 128 rows (prefill tiles, stacked queries) and all 8 warps of a CTA per item,
 * one persistent grid. The warps share a ring of half slabs; warp w holds rows 16w..16w+15; span states in
 * registers, chunk and segment states in shared memory. Items are taken from a counter; results are placed by
 * index, so who did what changes no bit. Whole items write outputs, others states for the merge kernel. */
#ifndef FP_KERNEL_CUDA_ATTENTION_TEAM_CUH
#define FP_KERNEL_CUDA_ATTENTION_TEAM_CUH
#include "kernel/cuda/attention_mix.cuh"
#include "kernel/cuda/attention_rows.cuh"

namespace fp
{
namespace attn
{

struct Ring {
    uint32_t data, full, empty; /* shared addresses */
    uint32_t stages, bytes;
    uint32_t slot, parity;           /* consumer */
    uint32_t fill_slot, fill_parity; /* producer */
    uint32_t filled, freed;          /* stages */

    __device__ __forceinline__ uint32_t stage() const
    {
        return data + slot * bytes;
    }
    __device__ __forceinline__ void wait() const
    {
        barrier_wait(full + 8 * slot, parity);
    }
    __device__ __forceinline__ void release(uint32_t lane)
    {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(empty + 8 * slot);
        freed++;
        if (++slot == stages)
            slot = 0, parity ^= 1;
    }
};

/* The producer's place in the work: an item (word by lane), a run of pages, a page, a half. */
struct Feed {
    uint32_t words, table, window;
    uint32_t pages, page, half, runs; /* runs: still to come after this one */
    uint32_t kv_head;
    const uint8_t *slab;
    bool open;
};

/* Runs of a whole item: anchor (if any), then context (if any). */
static __device__ __forceinline__ void feed_run(Feed &f, const Header &h, uint32_t at, uint32_t pages)
{
    f.table = h.pages_at + at;
    f.pages = pages;
    f.page = 0;
}

static __device__ __forceinline__ void feed_open(Feed &f, const Header &h, uint32_t words, uint32_t kv_head)
{
    f.words = words;
    f.kv_head = kv_head;
    f.half = 0;
    f.open = true;
    f.runs = 0;
    feed_run(f, h, word(words, TABLE), word(words, PAGES));
    if (word(words, FLAGS) & WHOLE) {
        uint32_t anchor_pages = word(words, ANCHOR_PAGES);
        if (anchor_pages && f.pages)
            f.runs = 1;
        if (anchor_pages)
            feed_run(f, h, word(words, ANCHOR_TABLE), anchor_pages);
    }
}

template <int D>
static __device__ __forceinline__ void feed_stage(Feed &f, Ring &ring, const Params &p, const Header &h,
                                                  uint32_t lane)
{
    if (f.half == 0) {
        uint32_t page;
        if (word(f.words, FLAGS) & INLINED) {
            page = word(f.words, INLINE + (int)f.page);
        } else {
            if (f.page % 32 == 0)
                f.window = f.page + lane < f.pages ? __ldg(p.plan + f.table + f.page + lane) : 0;
            page = word(f.window, (int)(f.page % 32));
        }
        f.slab = p.kv + page * p.group_bytes + p.layer_offset + f.kv_head * (size_t)(128 * D + 256);
    }
    if (ring.filled >= ring.stages)
        barrier_wait(ring.empty + 8 * ring.fill_slot, ring.fill_parity ^ 1);
    uint32_t to = ring.data + ring.fill_slot * ring.bytes;
    if (f.half == 0)
        fill_stage(ring.full + 8 * ring.fill_slot, to, f.slab, 64 * D, f.slab + 128 * D, 256, lane);
    else
        fill_stage(ring.full + 8 * ring.fill_slot, to, f.slab + 64 * D, 64 * D, nullptr, 0, lane);
    ring.filled++;
    if (++ring.fill_slot == ring.stages)
        ring.fill_slot = 0, ring.fill_parity ^= 1;
    f.half ^= 1;
    if (f.half == 0 && ++f.page == f.pages) {
        if (f.runs) {
            f.runs = 0;
            feed_run(f, h, word(f.words, TABLE), word(f.words, PAGES));
        } else {
            f.open = false;
        }
    }
}

template <int D, int NT> struct SpanView { /* State with Level's accessors */
    const State<D, NT> &s;
    __device__ __forceinline__ float m(int t) const
    {
        return s.m[t];
    }
    __device__ __forceinline__ float l(int t) const
    {
        return s.l[t];
    }
    __device__ __forceinline__ void get(int t, int i, float (&x)[4]) const
    {
#pragma unroll
        for (int k = 0; k < 4; k++)
            x[k] = s.o[t][4 * i + k];
    }
};

/* State of the chunk or segment that spans are merged into, in shared memory [float4][lane]. */
template <int D, int NT> struct Level {
    float m_[NT], l_[NT];
    float4 *o; /* [NT·D/16][32], at this lane */
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int t = 0; t < NT; t++)
            m_[t] = FP_NEG_INF, l_[t] = 0.0f;
    }
    __device__ __forceinline__ float m(int t) const
    {
        return m_[t];
    }
    __device__ __forceinline__ float l(int t) const
    {
        return l_[t];
    }
    /* A state that nothing was merged into has no o in memory: it is zero. */
    __device__ __forceinline__ void get(int t, int i, float (&out)[4]) const
    {
        float4 v = m_[t] == FP_NEG_INF ? make_float4(0, 0, 0, 0) : o[(t * (D / 16) + i) * 32];
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
    template <typename From> __device__ __forceinline__ void merge_from(const From &from)
    {
#pragma unroll
        for (int t = 0; t < NT; t++) {
            float fm = from.m(t);
            if (fm == FP_NEG_INF)
                continue;
            float m = m_[t] > fm ? m_[t] : fm;
            float a = exp2c(__fsub_rn(m_[t], m)), b = exp2c(__fsub_rn(fm, m));
            bool first = m_[t] == FP_NEG_INF;
            l_[t] = __fmaf_rn(l_[t], a, __fmul_rn(from.l(t), b));
            m_[t] = m;
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                float4 *at = &o[(t * (D / 16) + i) * 32];
                float4 v = first ? make_float4(0, 0, 0, 0) : *at;
                float x[4];
                from.get(t, i, x);
                v.x = __fmaf_rn(v.x, a, __fmul_rn(x[0], b));
                v.y = __fmaf_rn(v.y, a, __fmul_rn(x[1], b));
                v.z = __fmaf_rn(v.z, a, __fmul_rn(x[2], b));
                v.w = __fmaf_rn(v.w, a, __fmul_rn(x[3], b));
                *at = v;
            }
        }
    }
    __device__ __forceinline__ void merge(const State<D, NT> &s)
    {
        merge_from(SpanView<D, NT>{s});
    }
};

/* Writes a state of the warp's rows as one piece. S: State or Level. */
template <int D, int NT, typename S>
static __device__ __forceinline__ void write_piece(const Params &p, const Places<NT> &at, size_t state,
                                                   bool starts_chunk, uint32_t lane, const S &s)
{
    uint32_t c = lane % 4;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        if (at.row[t] == NONE)
            continue;
        size_t row = state + at.row[t];
        if (c == 0)
            *reinterpret_cast<uint4 *>(p.heads + row) =
                make_uint4(__float_as_uint(s.m(t)), __float_as_uint(s.l(t)), starts_chunk, 0);
        float *o = p.states + row * D + 2 * c;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            float x[4];
            s.get(t, i, x);
            *reinterpret_cast<float2 *>(o + 16 * i) = make_float2(x[0], x[1]);
            *reinterpret_cast<float2 *>(o + 16 * i + 8) = make_float2(x[2], x[3]);
        }
    }
}

/* Outputs of a whole item's rows from the anchor's states (in scratch) and the context's. */
template <int D, int NT, typename S>
static __device__ __forceinline__ void write_outputs(const Params &p, const Places<NT> &at, uint32_t words,
                                                     const float4 *anchor, const float (&ma)[NT],
                                                     const float (&la)[NT], uint32_t lane, const S &context)
{
    uint32_t c = lane % 4, mode = word(words, MODE), gamma_row = word(words, GAMMA_ROW);
#pragma unroll
    for (int t = 0; t < NT; t++) {
        if (at.row[t] == NONE)
            continue;
        uint32_t gamma = p.gamma ? p.gamma[(size_t)gamma_row * p.heads_q + at.head[t]] : 0;
        Mix mix = mix_shares(ma[t], la[t], context.m(t), context.l(t), mode, gamma);
        size_t row = (size_t)at.token[t] * p.heads_q + at.head[t];
        float *out = p.out + row * D + 2 * c;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            float x[4], y[4];
            context.get(t, i, x);
            float4 a = mix.only_context ? make_float4(0, 0, 0, 0) : anchor[(t * (D / 16) + i) * 32];
            y[0] = mix_channel(mix, a.x, la[t], x[0], context.l(t));
            y[1] = mix_channel(mix, a.y, la[t], x[1], context.l(t));
            y[2] = mix_channel(mix, a.z, la[t], x[2], context.l(t));
            y[3] = mix_channel(mix, a.w, la[t], x[3], context.l(t));
            *reinterpret_cast<float2 *>(out + 16 * i) = make_float2(y[0], y[1]);
            *reinterpret_cast<float2 *>(out + 16 * i + 8) = make_float2(y[2], y[3]);
        }
        if (p.alpha && c == 0)
            p.alpha[row] = mix.alpha;
    }
}

/* Takes work and keeps the ring filled, one item ahead. All lanes of a warp call everything together. */
template <int D> struct Worker {
    const Params &p;
    const Header &h;
    Ring ring;
    Feed feed;
    bool ahead; /* the feed has gone on to the next item */
    uint32_t lane, warp;
    uint32_t unit, next_unit; /* item·HK + KV head; NONE: no more */
    uint32_t words, next_words;
    uint32_t units;
    uint32_t *mail; /* shared [2]: the unit */
    uint32_t mails;
    uint32_t drawn; /* at lane 0 */
    bool asked;

    __device__ __forceinline__ Worker(const Params &params, const Header &header) : p(params), h(header)
    {
    }
    __device__ __forceinline__ bool leads() const
    {
        return warp == 0;
    }
    /* Draws the next number; the answer is looked at later, in collect(). */
    __device__ __forceinline__ void request()
    {
        drawn = 0;
        if (lane == 0)
            drawn = atomicAdd(&p.control->team_taken, 1u);
        asked = true;
    }
    __device__ __forceinline__ void collect()
    {
        uint32_t got = __shfl_sync(~0u, drawn, 0);
        next_unit = got < units ? got : NONE;
        next_words = load_words(next_unit);
        asked = false;
    }
    __device__ __forceinline__ uint32_t load_words(uint32_t u) const
    {
        return u == NONE ? 0 : __ldg(p.plan + h.team_at + u / p.kv_heads * ITEM_WORDS + lane);
    }
    /* The leader stays a stage behind what is free, so that it need not wait for the slowest warp each time.
     */
    __device__ __forceinline__ void fill()
    {
        if (!leads())
            return;
        while (ring.filled + 1 < ring.freed + ring.stages) {
            if (!feed.open) {
                if (ahead || next_unit == NONE)
                    return;
                feed_open(feed, h, next_words, next_unit % p.kv_heads);
                ahead = true;
            }
            feed_stage<D>(feed, ring, p, h, lane);
        }
    }
    __device__ __forceinline__ void announce()
    {
        if (threadIdx.x == 0)
            mail[mails & 1] = unit;
        __syncthreads();
        unit = *reinterpret_cast<volatile uint32_t *>(&mail[mails & 1]);
        mails++;
        if (!leads())
            words = load_words(unit);
    }
    __device__ __forceinline__ void begin()
    {
        unit = next_unit = NONE;
        ahead = feed.open = asked = false;
        if (leads()) {
            request();
            collect();
            unit = next_unit;
            next_unit = NONE;
            if (unit != NONE) {
                words = next_words;
                feed_open(feed, h, words, unit % p.kv_heads);
                fill();
                request();
            }
        }
        announce();
    }
    __device__ __forceinline__ void advance()
    {
        if (leads()) {
            if (asked)
                collect();
            unit = next_unit;
            words = next_words;
            if (unit != NONE) {
                if (!ahead)
                    feed_open(feed, h, words, unit % p.kv_heads);
                ahead = false;
                next_unit = NONE;
                fill();
                request();
            }
        }
        announce();
    }
};

/* A run of pages by one warp: total (whole items) or pieces (others). */
template <int D, int NT>
static __device__ __forceinline__ void run_pages(Worker<D> &w, const Rows<D, NT> &rows, const Places<NT> &at,
                                                 uint32_t table, uint32_t first, uint32_t pages, bool whole,
                                                 size_t state, Level<D, NT> &chunk, Level<D, NT> *total)
{
    State<D, NT> span;
    Weights<NT> weights;
    uint32_t flags = word(w.words, FLAGS), n_rows = word(w.words, ROWS), fill_window = 0;
    span.clear();
    chunk.clear();
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t page = first + i, before = page * PAGE, fill;
        if (flags & INLINED) {
            fill = word(w.words, FILLS + (int)(i / 4)) >> (8 * (i % 4)) & 255;
        } else {
            const uint8_t *fills = reinterpret_cast<const uint8_t *>(w.p.plan + w.h.fills_at) + table;
            if (i % 32 == 0)
                fill_window = i + w.lane < pages ? __ldg(fills + i + w.lane) : 0;
            fill = word(fill_window, (int)(i % 32));
        }
        bool full = fill ? fill == PAGE : at.least >= before + PAGE;
        bool seen = at.active && (fill || at.most > before);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            w.ring.wait();
            if (seen && half == 0)
                page_scores<D, NT>(rows, w.ring.stage(), before, fill, full, w.lane, span, weights);
            else if (seen)
                page_values<D, NT>(weights, w.ring.stage(), w.lane, span);
            w.ring.release(w.lane);
            if (w.leads() && w.asked && half)
                w.collect();
            w.fill();
        }
        bool last = i + 1 == pages;
        if (page % SPAN_PAGES != SPAN_PAGES - 1 && !last)
            continue;
        if (!whole && page / CHUNK_PAGES * CHUNK_PAGES < first) { /* the chunk began in another item */
            write_piece<D, NT>(w.p, at, state, false, w.lane, SpanView<D, NT>{span});
            state += n_rows;
        } else {
            chunk.merge(span);
            if (page % CHUNK_PAGES == CHUNK_PAGES - 1 || last) {
                if (whole) {
                    total->merge_from(chunk);
                } else {
                    write_piece<D, NT>(w.p, at, state, true, w.lane, chunk);
                    state += n_rows;
                }
                chunk.clear();
            }
        }
        span.clear();
    }
}

/* Both segments of a team's rows, to the outputs. */
template <int D, int NT>
static __device__ __forceinline__ void run_whole(Worker<D> &w, Level<D, NT> &chunk, Level<D, NT> &total)
{
    Rows<D, NT> rows;
    Places<NT> at;
    float ma[NT], la[NT];
    uint32_t kv_head = w.unit % w.p.kv_heads, first = w.warp * 8 * NT;
    float4 *scratch = reinterpret_cast<float4 *>(w.p.anchor_scratch) +
                      (size_t)(blockIdx.x * WARPS + w.warp) * (NT * D / 16 * 32) + w.lane;
    total.clear();
#pragma unroll
    for (int t = 0; t < NT; t++)
        ma[t] = FP_NEG_INF, la[t] = 0.0f;
    for (int run = 0; run < 2; run++) { /* anchor, context */
        uint32_t pages = word(w.words, run ? PAGES : ANCHOR_PAGES);
        if (pages == 0)
            continue;
        load_rows<D, NT>(w.p, w.h, w.words, kv_head, first, word(w.words, run ? LIMIT : ANCHOR_LIMIT), w.lane,
                         rows, at);
        run_pages<D, NT>(w, rows, at, word(w.words, run ? TABLE : ANCHOR_TABLE), 0, pages, true, 0, chunk,
                         &total);
        if (run)
            continue;
#pragma unroll
        for (int t = 0; t < NT; t++) {
            ma[t] = total.m(t), la[t] = total.l(t);
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                float x[4];
                total.get(t, i, x);
                scratch[(t * (D / 16) + i) * 32] = make_float4(x[0], x[1], x[2], x[3]);
            }
        }
        total.clear();
    }
    write_outputs<D, NT>(w.p, at, w.words, scratch, ma, la, w.lane, total);
}

template <int D, int NT> static __device__ __forceinline__ void run_part(Worker<D> &w, Level<D, NT> &chunk)
{
    Rows<D, NT> rows;
    Places<NT> at;
    uint32_t kv_head = w.unit % w.p.kv_heads;
    size_t state = word(w.words, STATE) + (size_t)kv_head * word(w.words, STATE_STRIDE);
    load_rows<D, NT>(w.p, w.h, w.words, kv_head, w.warp * 8 * NT, word(w.words, LIMIT), w.lane, rows, at);
    run_pages<D, NT>(w, rows, at, word(w.words, TABLE), word(w.words, FIRST_PAGE), word(w.words, PAGES),
                     false, state, chunk, nullptr);
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32, 1) attend_team(const __grid_constant__ Params p)
{
    constexpr int NT = team_tiles(D);
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint32_t mail[2];
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    uint32_t base = shared_address(shared);
    Worker<D> w(p, h);
    w.lane = threadIdx.x % 32, w.warp = threadIdx.x / 32;
    launch_next();
    wait_previous();
    if (w.warp == 0)
        barrier_init(base + w.lane * 8, w.lane < MAX_STAGES ? FILL_ARRIVALS : WARPS);
    barrier_init_fence();
    __syncthreads();
    w.units = h.team_items * p.kv_heads;
    w.mail = mail, w.mails = 0;
    w.ring = {};
    w.ring.full = base, w.ring.empty = base + 8 * MAX_STAGES;
    w.ring.data = base + TEAM_BARRIER_BYTES + 2 * p.level_bytes;
    w.ring.stages = p.team_stages, w.ring.bytes = stage_bytes(D);
    Level<D, NT> chunk, total;
    chunk.o = reinterpret_cast<float4 *>(shared + TEAM_BARRIER_BYTES) + w.warp * (NT * D / 16 * 32) + w.lane;
    total.o = reinterpret_cast<float4 *>(shared + TEAM_BARRIER_BYTES + p.level_bytes) +
              w.warp * (NT * D / 16 * 32) + w.lane;
    for (w.begin(); w.unit != NONE; w.advance()) {
        if (word(w.words, FLAGS) & WHOLE)
            run_whole<D, NT>(w, chunk, total);
        else
            run_part<D, NT>(w, chunk);
    }
}

} // namespace attn
} // namespace fp
#endif
