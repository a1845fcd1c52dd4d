/* Attention of up to 8 query tokens a sequence, and of queries stacked over a shared anchor: a persistent
 * grid of one CTA a multiprocessor, of quads of 4 warps. A warp holds NT tiles of 4 rows. A quad works on one
 * unit at a time:
 *
 *  - split: the rows of a warp. A chunk, of which each warp takes a span, or a span, of which each takes a
 * page (what gives all quads work decides; the plan chose). A short end of two spans is done for two KV heads
 * at once (paired). The parts are chained in canonical order through shared memory, each warp a share of the
 * channels.
 *  - stacked: other rows in each warp. All warps take all pages of up to a chunk, in step, so that K/V comes
 * into shared memory once.
 *
 * A warp fills its ring of half slabs ahead, across units. A unit writes one state a row; the merge kernel
 * makes outputs of the states. Pages that were complete before the step are read while the kernels before
 * this one still run. The first quad of a CTA takes units from the front of the list, the others from its
 * end; the first two are fixed, the others drawn from a counter. Results are placed by index, so who did what
 * changes no bit. */
#ifndef FP_KERNEL_CUDA_ATTENTION_DECODE_CUH
#define FP_KERNEL_CUDA_ATTENTION_DECODE_CUH
#include "kernel/cuda/attention_columns.cuh"

namespace fp
{
namespace attn
{

/* What a warp found in its part of a unit, for one row: o is in shared memory at this offset. */
struct Part {
    float m, l, unit; /* O' = fma(O, a, o·(b·unit)) */
    uint32_t at;
};
static_assert(sizeof(Part) == PART_BYTES, "the plan knows what parts take");

struct Unit {
    uint32_t number; /* see find_item; beyond the last: no more */
    uint32_t words;  /* of its item, by lane */
};

/* Halves of a unit that a warp fetches: page half / 2 of the unit; K, then V. */
struct Walk {
    uint32_t half, end, step, kv_offset;
};

/* STACKS: whether there may be stacked units. */
template <int D, int NT, int QUADS, bool STACKS> struct DecodeWarp {
    const Params &p;
    uint8_t *shared;
    Part *parts;    // [QUAD][4·NT] of this quad
    uint32_t *mail; // [0] number of the unit after next, [1 + warp] its place at the start of a stacked unit
    uint32_t lane, part, quad, singles,
        units;           /* singles: units of one KV head each come first, then paired ones */
    uint32_t ring, full; /* shared addresses of this warp's stages and barriers */
    uint32_t place, fill_slot,
        ahead; /* place: slot + stages·parity of the next to use; ahead: filled, not released */
    Unit now, next;
    Walk walk; /* what is to be fetched */
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
        first = STACKS && flags & STACKED ? 0 : min(at * each, pages);
        last = STACKS && flags & STACKED ? pages : min(first + each, pages);
    }
    __device__ __forceinline__ Walk open(const Unit &u) const
    {
        uint32_t first, last, item, head;
        bool stacked = STACKS && word(u.words, FLAGS) & STACKED;
        range(u.words, first, last);
        find_item(u.number, item, head);
        return {stacked ? part : 2 * first, 2 * last, stacked ? QUAD : 1u, head * (128 * D + 256)};
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
        uint32_t words = feeds_next ? next.words : now.words, page = walk.half / 2;
        uint32_t to = ring + fill_slot * stage_bytes(D), b = full + 8 * fill_slot;
        if (walk.half % 2 == 0 || walk.step > 1)
            slab = p.kv + word(words, INLINE + (int)page) * p.group_bytes + p.layer_offset + walk.kv_offset;
        bool values = walk.half % 2;
        fill_stage(b, to, values ? slab + 64 * D : slab, 64 * D, slab + 128 * D, values ? 0 : 256, lane);
        walk.half += walk.step;
        ahead++;
        if (++fill_slot == p.decode_stages)
            fill_slot = 0;
    }
    /* Fills the ring up to `most` stages. */
    __device__ __forceinline__ void fill(uint32_t most)
    {
        while (ahead < most) {
            if (walk.half >= walk.end) {
                if (feeds_next || next.number >= units)
                    return;
                feeds_next = true;
                walk = open(next);
                continue;
            }
            if (!waited && walk.half / 2 >= word(feeds_next ? next.words : now.words, EARLY))
                return;
            fetch_half();
        }
    }
    /* Asks for half slabs of a unit behind the ring, one a lane. Returns how many. */
    __device__ __forceinline__ uint32_t ask(const Walk &from, uint32_t words, uint32_t most) const
    {
        uint32_t half = from.half + lane * from.step, page = half / 2, early = word(words, EARLY),
                 number = __shfl_sync(~0u, words, INLINE + min(page, (uint32_t)CHUNK_PAGES - 1));
        bool on = half < from.end && page < early && lane < most;
#if FP_CUDA_BULK
        const uint8_t *at =
            p.kv + number * p.group_bytes + p.layer_offset + from.kv_offset + half % 2 * (64 * D);
        if (on) /* the scales lie behind V */
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(at)),
                         "r"(half % 2 ? 64 * D + 256 : 64 * D)
                         : "memory");
#endif
        return __popc(__ballot_sync(~0u, on));
    }
    /* The rings are full when a kernel begins in earnest; what is read next comes into L2 until they are
     * used. */
    __device__ __forceinline__ void ask_ahead() const
    {
        uint32_t asked = ask(walk, feeds_next ? next.words : now.words, p.ahead_halves);
        if (!feeds_next && next.number < units)
            ask(open(next), next.words, p.ahead_halves - asked);
    }
    /* Whether rings are filled and units drawn as late as they can be: where a ring has several stages. Twice
     * the rows leave no registers for it. */
    static constexpr bool LATE = NT == 1 && D <= 128;
    /* What the kernels before wrote is there from now on. Until then a stage is filled when the one before is
     * there: that keeps memory as busy as all at once, but what those kernels still have to read does not
     * wait behind all of it. */
    __device__ __forceinline__ void begin()
    {
#pragma unroll 1
        for (uint32_t most = p.early_pace + 2; LATE && most <= p.early_stages && ahead > 0; most++) {
            wait(part, further(place, ahead - 1));
            fill(most);
        }
        wait_previous();
        waited = true;
        if (!LATE)
            draw();
    }
    __device__ __forceinline__ void release()
    {
        __syncwarp();
        if (waited)
            ahead--, place = further(place, 1);
    }
    __device__ __forceinline__ void meet() const
    {
        __syncwarp(); /* lanes may leave a wait one by one, and this barrier counts warps */
        asm volatile("bar.sync %0, %1;" ::"r"(quad + 1), "n"(QUAD * 32) : "memory");
    }
    __device__ __forceinline__ void draw()
    {
        if (part != 0 || lane != 0)
            return;
        unsigned long long taken = atomicAdd(&p.control->decode_taken, quad == 0 ? 1ull : 1ull << 32);
        drawn =
            unit_at(2 * gridDim.x + (uint32_t)taken, 2 * (QUADS - 1) * gridDim.x + (uint32_t)(taken >> 32));
    }
    /* The unit of this quad, when so many are taken from the front and from the end. */
    __device__ __forceinline__ uint32_t unit_at(uint32_t front, uint32_t back) const
    {
        return front + back >= units ? NONE : quad == 0 ? front : units - 1 - back;
    }
    /* The first units of a quad. */
    __device__ __forceinline__ uint32_t fixed_unit(uint32_t round) const
    {
        uint32_t cta = blockIdx.x, ctas = gridDim.x, back = round * (QUADS - 1) * ctas;
        return quad == 0 ? unit_at(round * ctas + cta, back)
                         : unit_at((round + 1) * ctas, back + (quad - 1) * ctas + cta);
    }
    __device__ __forceinline__ void advance(uint32_t after_next)
    {
        now = next;
        next.number = after_next;
        next.words = load_words(after_next);
        if (!feeds_next && now.number < units)
            walk = open(now);
        feeds_next = false;
    }
};

template <int D, int NT>
static __device__ __forceinline__ void merge_state(Piece<D, NT> &into, const Piece<D, NT> &from)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (from.m[n] == FP_NEG_INF)
            continue;
        float m = into.m[n] > from.m[n] ? into.m[n] : from.m[n];
        float a = exp2c(__fsub_rn(into.m[n], m)), b = exp2c(__fsub_rn(from.m[n], m));
        into.m[n] = m;
        into.l[n] = __fmaf_rn(into.l[n], a, __fmul_rn(from.l[n], b));
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            into.o[n][i] = __fmaf_rn(into.o[n][i], a, __fmul_rn(from.o[n][i], b));
    }
}

static __device__ __forceinline__ void write_head(const Params &p, size_t row, float m, float l,
                                                  bool chunk_begins)
{
    *reinterpret_cast<uint4 *>(p.heads + row) =
        make_uint4(__float_as_uint(m), __float_as_uint(l), chunk_begins, 0);
}
/* Four of a piece's channels, o[4i]…, of row `row` of the states. */
static __device__ __forceinline__ void write_channels(const Params &p, uint32_t d, size_t row, uint32_t i,
                                                      uint32_t g, const float4 &v)
{
    float *out = p.states + row * d + 32 * i + g;
    out[0] = v.x, out[8] = v.y, out[16] = v.z, out[24] = v.w;
}
template <int D, int NT>
static __device__ __forceinline__ float4 channels(const Piece<D, NT> &s, int n, int i)
{
    return make_float4(s.o[n][4 * i], s.o[n][4 * i + 1], s.o[n][4 * i + 2], s.o[n][4 * i + 3]);
}

/* A part to shared memory, into the stage that held its last half slab. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void share_part(const DecodeWarp<D, NT, QUADS, STACKS> &w,
                                                  const Piece<D, NT> &s, const float (&unit)[NT], bool any)
{
    uint32_t at = w.stage(w.part, w.place) - shared_address(w.shared);
    float4 *o = reinterpret_cast<float4 *>(w.shared + at) + w.lane;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (w.lane < 4)
            w.parts[w.part * 4 * NT + 4 * n + w.lane] = {s.m[n], s.l[n], unit[n], at};
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            if (any && w.waited)
                o[(n * (D / 32) + i) * 32] = channels(s, n, i);
    }
#if FP_CUDA_BULK
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* a copy fills the stage next */
#endif
}

/* The parts of a KV head in order → one state. Each of its warps chains a share of the channels. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void chain_parts(const DecodeWarp<D, NT, QUADS, STACKS> &w,
                                                   const Places<NT> &at)
{
    uint32_t words = w.now.words, flags = word(words, FLAGS);
    uint32_t warps = flags & PAIRED ? 2 : QUAD, base = w.part / warps * warps;
    bool chunk_begins = word(words, FIRST_PAGE) % CHUNK_PAGES == 0;
    /* a span that begins a chunk is merged into an empty one: -0 becomes +0 */
    float zero = chunk_begins && (flags & PAGED) ? 0.0f : -0.0f;
    size_t state = word(words, STATE) + (size_t)w.kv_head() * word(words, STATE_STRIDE);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (at.row[n] == NONE)
            continue;
        float m = FP_NEG_INF, l = 0.0f, a[QUAD], b[QUAD];
        const float4 *from[QUAD];
#pragma unroll
        for (uint32_t q = 0; q < QUAD; q++) {
            Part part = w.parts[(base + q) % QUAD * 4 * NT + 4 * n + w.lane % 4];
            bool live = q < warps && part.m != FP_NEG_INF;
            from[q] = live ? reinterpret_cast<const float4 *>(w.shared + part.at) + n * (D / 32) * 32 + w.lane
                           : nullptr;
            if (!live)
                continue;
            float high = m > part.m ? m : part.m;
            a[q] = exp2c(__fsub_rn(m, high)), b[q] = exp2c(__fsub_rn(part.m, high));
            l = __fmaf_rn(l, a[q], __fmul_rn(part.l, b[q]));
            b[q] = __fmul_rn(b[q], part.unit);
            m = high;
        }
        size_t row = state + at.row[n];
        if (w.part == base && w.lane < 4 && w.waited)
            write_head(w.p, row, m, l, chunk_begins);
#pragma unroll 1
        for (uint32_t i = w.part - base; i < D / 32; i += warps) {
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
            v = make_float4(__fadd_rn(v.x, zero), __fadd_rn(v.y, zero), __fadd_rn(v.z, zero),
                            __fadd_rn(v.w, zero));
            if (w.waited)
                write_channels(w.p, D, row, i, w.lane / 4, v);
        }
    }
}

/* A stacked warp's own rows. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void write_rows(const DecodeWarp<D, NT, QUADS, STACKS> &w,
                                                  const Places<NT> &at, const Piece<D, NT> &s)
{
    uint32_t words = w.now.words; /* all lanes take part in reading the item */
    size_t state = word(words, STATE) + (size_t)w.kv_head() * word(words, STATE_STRIDE);
    bool chunk_begins = word(words, FIRST_PAGE) % CHUNK_PAGES == 0;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        if (at.row[n] == NONE || !w.waited)
            continue;
        if (w.lane < 4)
            write_head(w.p, state + at.row[n], s.m[n], s.l[n], chunk_begins);
#pragma unroll
        for (int i = 0; i < D / 32; i++)
            write_channels(w.p, D, state + at.row[n], i, w.lane / 4, channels(s, n, i));
    }
}

/* What a warp makes of its part of a unit, half slab by half slab. */
template <int D, int NT> struct Work {
    Columns<D, NT> rows;
    Places<NT> at;
    PageWeights<NT> weights;
    Piece<D, NT> span, chunk;
    float unit[NT];
    uint32_t loaded;           /* stream that rows are of */
    uint32_t page, half, last; /* the next to do, of the unit's pages */
    uint32_t draws;            /* page before which the quad draws the unit after next */
    bool any;
};

/* A unit begins. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void begin_unit(DecodeWarp<D, NT, QUADS, STACKS> &w, const Header &h,
                                                  Work<D, NT> &k)
{
    uint32_t words = w.now.words, kv_head = w.kv_head(),
             stream = word(words, STREAM) * w.p.kv_heads + kv_head;
    bool stacked = STACKS && word(words, FLAGS) & STACKED;
    if (stream != k.loaded && w.waited) {
        load_columns<D, NT>(w.p, h, words, kv_head, stacked ? 4 * NT * w.part : 0, w.lane, k.rows, k.at);
        if (k.loaded == NONE)
            w.ask_ahead(); /* while the queries come */
        k.loaded = stream;
    }
    if (stacked) {
        if (w.lane == 0)
            w.mail[1 + w.part] = w.place;
        w.meet();
    }
    w.range(words, k.page, k.last);
    k.any = k.page < k.last;
    if (!w.waited)
        k.last = min(k.page + 1, k.last);
    k.half = 0;
    /* the answer must be there when the unit ends, many microseconds later when memory is busy */
    k.draws = D < 128 || k.last > SPAN_PAGES ? k.last / 2 : k.last - 1;
    k.span.clear();
    k.chunk.clear();
#pragma unroll
    for (int n = 0; n < NT; n++)
        k.unit[n] = 1.0f;
}

/* Visible tokens of a page of the unit, the same for all rows, or 0: causal. */
static __device__ __forceinline__ uint32_t page_fill(uint32_t words, uint32_t page)
{
    return word(words, FILLS + (int)(page / 4)) >> (8 * (page % 4)) & 255;
}

/* The next half slab of the unit. A split unit's last stage is not released. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void take_half(DecodeWarp<D, NT, QUADS, STACKS> &w, Work<D, NT> &k)
{
    uint32_t words = w.now.words, flags = word(words, FLAGS), first_page = word(words, FIRST_PAGE),
             before = (first_page + k.page) * PAGE, fill = page_fill(words, k.page);
    bool stacked = STACKS && flags & STACKED, full = fill ? fill == PAGE : k.at.least >= before + PAGE;
    bool seen = !stacked || (k.at.active && (fill || k.at.most > before));
    /* stacked: halves lie in the rings of the quad's warps in turn */
    bool turns = stacked && w.waited;
    uint32_t number = 2 * k.page + k.half, owner = turns ? number % QUAD : w.part,
             place = turns ? w.further(w.mail[1 + owner], number / QUAD) : w.place;
    if (w.waited || w.ahead > 0)
        w.wait(owner, place);
    uint32_t stage = w.stage(owner, place);
    if (k.half == 0) {
        if (seen)
            scores<D, NT>(k.rows, stage, before, fill, full, w.lane, k.span, k.weights);
        if (flags & PAGED) /* a page of its own: o as it is, 2^E beside it */
#pragma unroll
            for (int n = 0; n < NT; n++)
                k.unit[n] = k.weights.unit[n], k.weights.scale[n] = 1.0f;
    } else if (seen) {
        values<D, NT>(k.weights, stage, w.lane, k.span);
    }
    k.half ^= 1;
    if (k.half == 0)
        k.page++;
    if (!stacked) {
        if (k.page < k.last)
            w.release();
        return;
    }
    if (k.half)
        return;
    w.meet();
    if (w.part / 2 != k.page % 2) /* of the page that is done */
        w.release();
    if ((first_page + k.page) % SPAN_PAGES != 0 && k.page < k.last)
        return;
    if (first_page % CHUNK_PAGES == 0)
        merge_state(k.chunk, k.span);
    else
        k.chunk = k.span; /* a span of a chunk that began in another unit */
    k.span.clear();
}

/* All units of a quad, a half slab a turn. The first unit is rehearsed with queries of zero, on one page,
 * while the kernels before end: the code is then in the instruction caches when it counts. A miss takes as
 * long as what is on its way from memory, many microseconds; so there is one loop, and one place that
 * fetches. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void run_units(DecodeWarp<D, NT, QUADS, STACKS> &w, const Header &h)
{
    Work<D, NT> k = {};
    bool fresh = true;
    k.loaded = NONE;
    k.at.active = true;
    k.at.least = k.at.most = 0x7fffffffu;
#pragma unroll 1
    while (w.now.number < w.units) {
        w.fill(w.waited ? w.p.decode_stages
               : w.LATE ? min(w.p.early_pace + k.half, w.p.early_stages)
                        : w.p.early_stages);
        if (fresh)
            begin_unit(w, h, k);
        fresh = false;
        if (k.page < k.last) {
            if (w.LATE && k.half == 0 && k.page == k.draws && w.waited)
                w.draw();
            take_half(w, k);
            if (k.page < k.last)
                continue;
        }
        bool stacked = STACKS && word(w.now.words, FLAGS) & STACKED;
        if (!stacked)
            share_part(w, k.span, k.unit, k.any);
        if (w.part == 0 && w.lane == 0)
            w.mail[0] = w.drawn;
        w.meet();
        uint32_t after_next = *reinterpret_cast<volatile uint32_t *>(w.mail);
        if (stacked)
            write_rows(w, k.at, k.chunk);
        else
            chain_parts(w, k.at);
        w.meet();
        fresh = true;
        if (!w.waited) {
            w.begin();
            continue;
        }
        w.advance(after_next);
        if (!w.LATE)
            w.draw();
        if (!stacked && k.any)
            w.release();
    }
}

/* What the quads of a CTA do, the first of its warps. */
template <int D, int NT, int QUADS, bool STACKS>
static __device__ __forceinline__ void decode_units(const Params &p, const Header &h, uint8_t *shared)
{
    DecodeWarp<D, NT, QUADS, STACKS> w(p);
    uint32_t warp = threadIdx.x / 32, base = shared_address(shared);
    w.lane = threadIdx.x % 32, w.part = warp % QUAD, w.quad = warp / QUAD;
    w.shared = shared;
    uint8_t *beside = shared + w.quad * DECODE_QUAD_BYTES; /* what a quad tells each other, then the rings */
    w.mail = reinterpret_cast<uint32_t *>(beside + DECODE_BARRIER_BYTES);
    w.parts = reinterpret_cast<Part *>(beside + DECODE_BARRIER_BYTES + DECODE_MAIL_BYTES);
    w.full = base + w.quad * DECODE_QUAD_BYTES + w.part * 8 * MAX_STAGES;
    w.ring = base + QUADS * DECODE_QUAD_BYTES + warp * p.decode_stages * stage_bytes(D);
    w.place = w.fill_slot = w.ahead = 0;
    w.feeds_next = w.waited = false;
    w.drawn = 0;
    if (w.lane < MAX_STAGES)
        barrier_init(w.full + 8 * w.lane, FILL_ARRIVALS);
    barrier_init_fence();
    w.singles = h.decode_singles * p.kv_heads;
    w.units = w.singles + (h.decode_items - h.decode_singles) * (p.kv_heads / 2);
    /* neighbouring units go to different multiprocessors */
    w.now.number = w.fixed_unit(0), w.next.number = w.fixed_unit(1);
    w.now.words = w.load_words(w.now.number), w.next.words = w.load_words(w.next.number);
    if (w.now.number >= w.units)
        return;
    w.walk = w.open(w.now);
    /* the quad waits on each other's barriers */
    w.meet();
    run_units(w, h);
}

/* The registers left over are for CTAs of the kernels before and after. */
template <int D, int NT, int QUADS>
__global__ void __maxnreg__(DECODE_REGISTERS / QUADS) decode(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    decode_units<D, NT, QUADS, true>(p, h, shared);
}

template <int D> static Kernel decode_kernel(uint32_t tiles, uint32_t quads)
{
    return tiles == 2   ? (Kernel)decode<D, 2, 2>
           : quads == 2 ? (Kernel)decode<D, 1, 2>
                        : (Kernel)decode<D, 1, 3>;
}

} // namespace attn
} // namespace fp
#endif
