/* Attention of up to 8 query tokens a sequence, and of queries stacked over a shared anchor: a persistent
 * grid of one CTA a multiprocessor, two quads of 4 warps each. A quad works on one unit
 * at a time:
 *
 *  - split: up to 8 rows. A chunk, of which each warp takes a span, or a span, of which each takes a page
 * (what gives all quads work decides; the plan chose). A short end of two spans is done for two KV heads at
 * once (paired). The parts are chained in canonical order through shared memory, each warp a share of the
 * channels.
 *  - stacked: up to 32 rows, 8 a warp. All warps take all pages of up to a chunk, in step, so that K/V comes
 * into shared memory once.
 *
 * A warp fills its ring of half slabs ahead, across units. A unit writes one state a row; the merge kernel
 * makes outputs of the states. Pages that were complete before the step are read while the kernels before
 * this one still run. A quad's first two units are fixed, the others drawn from a counter; results are placed
 * by index, so who did what changes no bit. */
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
static_assert(sizeof(Part) * DECODE_WARPS * 8 == DECODE_PART_BYTES, "the plan knows what parts take");

struct Unit {
    uint32_t number; /* see find_item; beyond the last: no more */
    uint32_t words;  /* of its item, by lane */
};

template <int D> struct DecodeWarp {
    const Params &p;
    uint8_t *shared;
    Part *parts;    // [QUAD][8] of this quad
    uint32_t *mail; // [0] number of the unit after next, [1 + warp] its place at the start of a stacked unit
    uint32_t lane, part, quad, singles,
        units;           /* singles: units of one KV head each come first, then paired ones */
    uint32_t ring, full; /* shared addresses of this warp's stages and barriers */
    uint32_t place, fill_slot,
        ahead; /* place: slot + stages·parity of the next to use; ahead: filled, not released */
    Unit now, next;
    uint32_t half, end, step, kv_offset; /* halves to be fetched: page half / 2 of the unit; K, then V */
    const uint8_t *slab;
    bool feeds_next;
    bool waited;    /* for the kernels before; not while the first unit is rehearsed */
    uint32_t drawn; /* at the quad's first lane */

    __device__ __forceinline__ explicit DecodeWarp(const Params &params) : p(params)
    {
    }

    /* Item and KV head of a unit. */
    __device__ __forceinline__ void find_item(uint32_t number, uint32_t &item, uint32_t &kv_head) const
    {
        bool paired = number >= singles;
        uint32_t heads = paired ? p.kv_heads / 2 : p.kv_heads, i = paired ? number - singles : number;
        item = i / heads + (paired ? singles / p.kv_heads : 0);
        kv_head = paired ? i % heads * 2 + part / 2 : i % heads;
    }
    __device__ __forceinline__ uint32_t kv_head() const
    {
        uint32_t item, head;
        find_item(now.number, item, head);
        return head;
    }
    __device__ __forceinline__ uint32_t load_words(uint32_t number) const
    {
        uint32_t item, head;
        find_item(number, item, head);
        return number < units ? __ldg(p.plan + DECODE_AT + item * ITEM_WORDS + lane) : 0;
    }
    /* The pages of a unit that this warp works on. */
    __device__ __forceinline__ void range(uint32_t words, uint32_t &first, uint32_t &last) const
    {
        uint32_t flags = word(words, FLAGS), pages = word(words, PAGES),
                 each = flags & PAGED ? 1 : SPAN_PAGES;
        uint32_t at = flags & PAIRED ? part % 2 : part;
        first = flags & STACKED ? 0 : min(at * each, pages);
        last = flags & STACKED ? pages : min(first + each, pages);
    }
    /* The halves of a unit that this warp fetches. */
    __device__ __forceinline__ void open(const Unit &u)
    {
        uint32_t first, last, item, head;
        bool stacked = word(u.words, FLAGS) & STACKED;
        range(u.words, first, last);
        find_item(u.number, item, head);
        kv_offset = head * (128 * D + 256);
        half = stacked ? part : 2 * first;
        end = 2 * last;
        step = stacked ? QUAD : 1;
    }
    /* A place `n` further on in a ring. */
    __device__ __forceinline__ uint32_t further(uint32_t at, uint32_t n) const
    {
        at += n;
        while (at >= 2 * p.decode_stages)
            at -= 2 * p.decode_stages;
        return at;
    }
    __device__ __forceinline__ uint32_t slot(uint32_t at) const
    {
        return at >= p.decode_stages ? at - p.decode_stages : at;
    }
    /* A stage of a warp of this quad. */
    __device__ __forceinline__ uint32_t stage(uint32_t owner, uint32_t at) const
    {
        return ring + ((owner - part) * p.decode_stages + slot(at)) * stage_bytes(D);
    }
    __device__ __forceinline__ void wait(uint32_t owner, uint32_t at) const
    {
        barrier_wait(full + ((owner - part) * MAX_STAGES + slot(at)) * 8, at >= p.decode_stages);
    }
    __device__ __forceinline__ void fetch_half()
    {
        uint32_t words = feeds_next ? next.words : now.words, page = half / 2;
        uint32_t to = ring + fill_slot * stage_bytes(D), b = full + 8 * fill_slot;
        if (half % 2 == 0 || step > 1)
            slab = p.kv + word(words, INLINE + (int)page) * p.group_bytes + p.layer_offset + kv_offset;
        bool values = half % 2;
        fill_stage(b, to, values ? slab + 64 * D : slab, 64 * D, slab + 128 * D, values ? 0 : 256, lane);
        half += step;
        ahead++;
        if (++fill_slot == p.decode_stages)
            fill_slot = 0;
    }
    __device__ __forceinline__ void fill()
    {
        while (ahead < p.decode_stages) {
            if (half >= end) {
                if (feeds_next || next.number >= units)
                    return;
                feeds_next = true;
                open(next);
                continue;
            }
            if (!waited && half / 2 >= word(feeds_next ? next.words : now.words, EARLY))
                return;
            fetch_half();
        }
    }
    /* What the kernels before wrote is there from now on. */
    __device__ __forceinline__ void begin()
    {
        wait_previous();
        waited = true;
        fill();
        draw();
    }
    __device__ __forceinline__ void release()
    {
        __syncwarp();
        ahead--;
        place = further(place, 1);
        fill();
    }
    __device__ __forceinline__ void meet() const
    {
        __syncwarp(); /* lanes may leave a wait one by one, and this barrier counts warps */
        asm volatile("bar.sync %0, %1;" ::"r"(quad + 1), "n"(QUAD * 32) : "memory");
    }
    __device__ __forceinline__ void draw()
    {
        if (part == 0 && lane == 0)
            drawn = 2 * QUADS * gridDim.x + atomicAdd(&p.control->decode_taken, 1u);
    }
    __device__ __forceinline__ void advance(uint32_t after_next)
    {
        now = next;
        next.number = after_next;
        next.words = load_words(after_next);
        if (!feeds_next && now.number < units)
            open(now);
        feeds_next = false;
    }
};

template <int D>
static __device__ __forceinline__ void merge_state(State<D, 1> &into, const State<D, 1> &from)
{
    if (from.m[0] == FP_NEG_INF)
        return;
    float m = into.m[0] > from.m[0] ? into.m[0] : from.m[0];
    float a = exp2c(__fsub_rn(into.m[0], m)), b = exp2c(__fsub_rn(from.m[0], m));
    into.m[0] = m;
    into.l[0] = __fmaf_rn(into.l[0], a, __fmul_rn(from.l[0], b));
#pragma unroll
    for (int i = 0; i < D / 4; i++)
        into.o[0][i] = __fmaf_rn(into.o[0][i], a, __fmul_rn(from.o[0][i], b));
}

/* Row of states that a row of this unit goes to. */
template <int D>
static __device__ __forceinline__ size_t state_row(const DecodeWarp<D> &w, const Places<1> &at)
{
    return word(w.now.words, STATE) + (size_t)w.kv_head() * word(w.now.words, STATE_STRIDE) + at.row[0];
}
static __device__ __forceinline__ void write_head(const Params &p, size_t row, float m, float l,
                                                  bool chunk_begins)
{
    *reinterpret_cast<uint4 *>(p.heads + row) =
        make_uint4(__float_as_uint(m), __float_as_uint(l), chunk_begins, 0);
}

/* A part to shared memory, into the stage that held its last half slab. */
template <int D>
static __device__ __forceinline__ void share_part(const DecodeWarp<D> &w, const State<D, 1> &s, float unit,
                                                  bool any)
{
    uint32_t at = w.stage(w.part, w.place) - shared_address(w.shared);
    float4 *o = reinterpret_cast<float4 *>(w.shared + at) + w.lane;
    if (w.lane % 4 == 0)
        w.parts[w.part * 8 + w.lane / 4] = {s.m[0], s.l[0], unit, at};
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        if (any && w.waited)
            o[i * 32] = make_float4(s.o[0][4 * i], s.o[0][4 * i + 1], s.o[0][4 * i + 2], s.o[0][4 * i + 3]);
#if FP_CUDA_BULK
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* a copy fills the stage next */
#endif
}

/* The parts of a KV head in order → one state. Each of its warps chains a share of the channels. */
template <int D>
static __device__ __forceinline__ void chain_parts(const DecodeWarp<D> &w, const Places<1> &at)
{
    uint32_t c = w.lane % 4, words = w.now.words, flags = word(words, FLAGS);
    uint32_t warps = flags & PAIRED ? 2 : QUAD, base = w.part / warps * warps;
    bool chunk_begins = word(words, FIRST_PAGE) % CHUNK_PAGES == 0;
    /* a span that begins a chunk is merged into an empty one: -0 becomes +0 */
    float zero = chunk_begins && (flags & PAGED) ? 0.0f : -0.0f;
    size_t row = state_row(w, at);
    if (at.row[0] == NONE)
        return;
    float m = FP_NEG_INF, l = 0.0f, a[QUAD], b[QUAD];
    const float4 *from[QUAD];
#pragma unroll
    for (uint32_t q = 0; q < QUAD; q++) {
        Part part = w.parts[(base + q) % QUAD * 8 + w.lane / 4];
        bool live = q < warps && part.m != FP_NEG_INF;
        from[q] = live ? reinterpret_cast<const float4 *>(w.shared + part.at) + w.lane : nullptr;
        if (!live)
            continue;
        float high = m > part.m ? m : part.m;
        a[q] = exp2c(__fsub_rn(m, high)), b[q] = exp2c(__fsub_rn(part.m, high));
        l = __fmaf_rn(l, a[q], __fmul_rn(part.l, b[q]));
        b[q] = __fmul_rn(b[q], part.unit);
        m = high;
    }
    if (w.part == base && c == 0 && w.waited)
        write_head(w.p, row, m, l, chunk_begins);
    float *out = w.p.states + row * D + 2 * c;
#pragma unroll 2
    for (uint32_t i = w.part - base; i < D / 16; i += warps) {
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
        if (!w.waited)
            continue;
        *reinterpret_cast<float2 *>(out + 16 * i) = make_float2(__fadd_rn(v.x, zero), __fadd_rn(v.y, zero));
        *reinterpret_cast<float2 *>(out + 16 * i + 8) =
            make_float2(__fadd_rn(v.z, zero), __fadd_rn(v.w, zero));
    }
}

/* A stacked warp's own rows. */
template <int D>
static __device__ __forceinline__ void write_rows(const DecodeWarp<D> &w, const Places<1> &at,
                                                  const State<D, 1> &s)
{
    size_t row = state_row(w, at); /* all lanes take part in reading the item */
    bool chunk_begins = word(w.now.words, FIRST_PAGE) % CHUNK_PAGES == 0;
    if (at.row[0] == NONE)
        return;
    if (w.lane % 4 == 0)
        write_head(w.p, row, s.m[0], s.l[0], chunk_begins);
    float *out = w.p.states + row * D + 2 * (w.lane % 4);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        *reinterpret_cast<float2 *>(out + 16 * i) = make_float2(s.o[0][4 * i], s.o[0][4 * i + 1]);
        *reinterpret_cast<float2 *>(out + 16 * i + 8) = make_float2(s.o[0][4 * i + 2], s.o[0][4 * i + 3]);
    }
}

/* This warp's pages of the unit → a part (split; its last stage is not released), or the rows' state
 * (stacked). */
template <int D>
static __device__ __forceinline__ bool attend_part(DecodeWarp<D> &w, const Rows<D, 1> &rows,
                                                   const Places<1> &at, State<D, 1> &span, State<D, 1> &chunk,
                                                   float &unit)
{
    Weights<1> weights;
    uint32_t words = w.now.words, flags = word(words, FLAGS), first_page = word(words, FIRST_PAGE), first,
             last;
    bool stacked = flags & STACKED;
    w.range(words, first, last);
    if (!w.waited)
        last = min(first + 1, last);
    span.clear();
    chunk.clear();
    unit = 1.0f;
#pragma unroll 1
    for (uint32_t i = first; i < last; i++) {
        uint32_t before = (first_page + i) * PAGE,
                 fill = word(words, FILLS + (int)(i / 4)) >> (8 * (i % 4)) & 255;
        bool full = fill ? fill == PAGE : at.least >= before + PAGE;
        bool seen = !stacked || (at.active && (fill || at.most > before));
        /* stacked: halves lie in the rings of the quad's warps in turn */
        uint32_t owner = stacked ? i % 2 * 2 : w.part,
                 k = stacked ? w.further(w.mail[1 + owner], i / 2) : w.place;
        uint32_t v = stacked ? w.further(w.mail[2 + owner], i / 2) : w.further(w.place, 1), other = stacked;
        if (w.waited || w.ahead > 0)
            w.wait(owner, k);
        if (seen)
            page_scores<D, 1>(rows, w.stage(owner, k), before, fill, full, w.lane, span, weights);
        if (!stacked && w.waited)
            w.release();
        if (flags & PAGED) /* a page of its own: o as it is, 2^E beside it */
            unit = weights.unit[0], weights.scale[0] = 1.0f;
        if (w.waited || w.ahead > 1)
            w.wait(owner + other, v);
        if (seen)
            page_values<D, 1>(weights, w.stage(owner + other, v), w.lane, span);
        if (!stacked) {
            if (i + 1 < last)
                w.release();
            continue;
        }
        w.meet();
        if (w.part / 2 == i % 2)
            w.release();
        if ((first_page + i) % SPAN_PAGES != SPAN_PAGES - 1 && i + 1 < last)
            continue;
        if (first_page % CHUNK_PAGES == 0)
            merge_state(chunk, span);
        else
            chunk = span; /* a span of a chunk that began in another unit */
        span.clear();
    }
    return last > first;
}

/* All units of a quad. A split first unit is rehearsed with queries of zero, on one page, while the kernels
 * before end: the code is then in the instruction caches when it counts. */
template <int D> static __device__ __forceinline__ void run_units(DecodeWarp<D> &w, const Header &h)
{
    Rows<D, 1> rows = {};
    Places<1> at = {};
    uint32_t loaded = NONE;
    rows.limit[0] = at.least = at.most = 0x7fffffffu;
    if (word(w.now.words, FLAGS) & STACKED)
        w.begin();
    while (w.now.number < w.units) {
        uint32_t words = w.now.words, kv_head = w.kv_head(),
                 stream = word(words, STREAM) * w.p.kv_heads + kv_head;
        bool stacked = word(words, FLAGS) & STACKED;
        if (stream != loaded && w.waited) {
            load_rows<D, 1>(w.p, h, words, kv_head, stacked ? 8 * w.part : 0, word(words, LIMIT), w.lane,
                            rows, at);
            loaded = stream;
        }
        if (stacked) {
            if (w.lane == 0)
                w.mail[1 + w.part] = w.place;
            w.meet();
        }
        State<D, 1> span, chunk;
        float unit;
        bool any = attend_part(w, rows, at, span, chunk, unit);
        if (!stacked)
            share_part(w, span, unit, any);
        if (w.part == 0 && w.lane == 0)
            w.mail[0] = w.drawn;
        w.meet();
        uint32_t after_next = *reinterpret_cast<volatile uint32_t *>(w.mail);
        if (stacked)
            write_rows(w, at, chunk);
        else
            chain_parts(w, at);
        w.meet();
        if (!w.waited) {
            w.begin();
            continue;
        }
        w.advance(after_next);
        w.draw();
        if (!stacked && any)
            w.release();
        else
            w.fill();
    }
}

/* The registers left over are for CTAs of the kernels before and after. */
template <int D> __global__ void __maxnreg__(DECODE_REGISTERS) decode(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    DecodeWarp<D> w(p);
    uint32_t warp = threadIdx.x / 32, worker = warp / QUAD * gridDim.x + blockIdx.x,
             base = shared_address(shared);
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    w.lane = threadIdx.x % 32, w.part = warp % QUAD, w.quad = warp / QUAD;
    w.shared = shared;
    w.parts = reinterpret_cast<Part *>(shared + DECODE_BARRIER_BYTES) + w.quad * QUAD * 8;
    w.mail = reinterpret_cast<uint32_t *>(shared + DECODE_BARRIER_BYTES + DECODE_PART_BYTES) + w.quad * 8;
    w.full = base + warp * 8 * MAX_STAGES;
    w.ring = base + DECODE_FIXED_BYTES + warp * p.decode_stages * stage_bytes(D);
    w.place = w.fill_slot = w.ahead = 0;
    w.feeds_next = w.waited = false;
    w.drawn = 0;
    if (w.lane < MAX_STAGES)
        barrier_init(w.full + 8 * w.lane, FILL_ARRIVALS);
    barrier_init_fence();
    w.singles = h.decode_singles * p.kv_heads;
    w.units = w.singles + (h.decode_items - h.decode_singles) * (p.kv_heads / 2);
    /* neighbouring units go to different multiprocessors */
    w.now = {worker, w.load_words(worker)};
    w.next = {worker + QUADS * gridDim.x, w.load_words(worker + QUADS * gridDim.x)};
    if (w.now.number >= w.units)
        return;
    w.open(w.now);
    /* the quad waits on each other's barriers */
    w.meet();
    w.fill();
    run_units(w, h);
}

} // namespace attn
} // namespace fp
#endif
