/* Byte-level BPE: each word of the pre-tokenizer is a chain of symbols, one per byte at first; the pair with
 * the lowest merge rank (then the leftmost) becomes one symbol until no pair has a merge. O(n log n) in the
 * length of a word. */
#include "model/tokenizer_impl.h"
#include <stdlib.h>

#define END UINT32_MAX

typedef struct link {
    uint32_t symbol, prev, next; /* END at the ends */
    uint32_t rank;               /* of the merge with next; END: none, or this link is gone */
} link;

typedef struct encoder {
    const fp__tokenizer *tok;
    link *links;
    size_t capacity;
    fp__heap heap; /* rank << 32 | link; an entry counts while the link still has that rank */
    fp__buf mapped;
    fp__ids *out;
} encoder;

size_t fp__byte_to_text(uint8_t byte, uint8_t out[2])
{
    uint32_t c = byte; /* printable bytes stand for themselves; the others follow from U+0100 in order */
    if (byte <= 32)
        c = 256u + byte;
    else if (byte >= 127 && byte <= 160)
        c = 256u + 33u + (byte - 127u);
    else if (byte == 173)
        c = 256u + 67u;
    if (c < 128) {
        out[0] = (uint8_t)c;
        return 1;
    }
    out[0] = (uint8_t)(0xc0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 0x3f));
    return 2;
}

int fp__text_to_byte(uint32_t c)
{
    if ((c > 32 && c < 127) || (c > 160 && c < 256 && c != 173))
        return (int)c;
    if (c < 256 || c > 256 + 67)
        return -1;
    c -= 256;
    return c <= 32 ? (int)c : c < 67 ? (int)(c - 33 + 127) : 173;
}

static uint32_t find_rank(const fp__tokenizer *tok, uint32_t left, uint32_t right)
{
    for (uint32_t i = fp__merge_hash(left, right) & tok->merge_slots.mask;;
         i = (i + 1) & tok->merge_slots.mask) {
        uint32_t rank = tok->merge_slots.data[i];
        if (rank == FP__TOKEN_NONE)
            return END;
        if (tok->merges[rank].left == left && tok->merges[rank].right == right)
            return rank;
    }
}

/* Looks up the merge of link i with its next and queues it. */
static fp_status update_pair(encoder *e, uint32_t i)
{
    link *l = &e->links[i];
    l->rank = l->next == END ? END : find_rank(e->tok, l->symbol, e->links[l->next].symbol);
    return l->rank == END ? FP_OK : fp__heap_push(&e->heap, (uint64_t)l->rank << 32 | i);
}

static fp_status merge_all(encoder *e)
{
    while (e->heap.n) {
        uint64_t key = fp__heap_pop(&e->heap);
        uint32_t i = (uint32_t)key, rank = (uint32_t)(key >> 32);
        link *l = &e->links[i];
        if (l->rank != rank)
            continue; /* one of the two has been merged since */
        link *gone = &e->links[l->next];
        l->symbol = e->tok->merges[rank].merged;
        l->next = gone->next;
        gone->rank = END;
        if (l->next != END)
            e->links[l->next].prev = i;
        FP_TRY(update_pair(e, i));
        if (l->prev != END)
            FP_TRY(update_pair(e, l->prev));
    }
    return FP_OK;
}

/* The token of a symbol; a symbol that is no token, or one that plain text must not become, falls back to its
 * bytes. */
static fp_status append_symbol(const encoder *e, uint32_t symbol)
{
    if (fp__token_is_plain(e->tok, symbol))
        return fp__ids_append(e->out, symbol);
    size_t size;
    const uint8_t *text = fp__symbol_text(e->tok, symbol, &size);
    for (size_t i = 0; i < size;) {
        uint32_t c = text[i++];
        if (c >= 0x80) /* symbols made of bytes have no longer characters than two bytes */
            c = (c & 0x1f) << 6 | (i < size ? text[i++] & 0x3fu : 0);
        int byte = fp__text_to_byte(c);
        FP_CHECK(byte >= 0);
        FP_TRY(fp__append_byte_token(e->tok, (uint8_t)byte, e->out));
    }
    return FP_OK;
}

/* With ignore_merges: the word itself, if it is a token. */
static fp_status append_whole_word(encoder *e, const uint8_t *word, size_t size, bool *done)
{
    e->mapped.size = 0;
    FP_TRY(fp__buf_reserve(&e->mapped, 2 * size));
    for (size_t i = 0; i < size; i++) {
        uint8_t text[2];
        FP_TRY(fp__buf_append(&e->mapped, text, fp__byte_to_text(word[i], text)));
    }
    uint32_t id = fp__symbol_find(e->tok, e->mapped.data, e->mapped.size);
    *done = id != FP__TOKEN_NONE && fp__token_is_plain(e->tok, id);
    return *done ? fp__ids_append(e->out, id) : FP_OK;
}

static fp_status encode_word(encoder *e, const uint8_t *word, size_t size)
{
    if (size == 0)
        return FP_OK;
    if (fp__pretokenizer_ignores_merges(e->tok->pre)) {
        bool done = false;
        FP_TRY(append_whole_word(e, word, size, &done));
        if (done)
            return FP_OK;
    }
    if (size > e->capacity) {
        link *links = realloc(e->links, 2 * size * sizeof *links);
        if (!links)
            return fp__fail(FP_NO_MEMORY, "no memory for a word of %zu bytes", size);
        e->links = links;
        e->capacity = 2 * size;
    }
    for (size_t i = 0; i < size; i++)
        e->links[i] = (link){e->tok->byte_symbol[word[i]], i ? (uint32_t)i - 1 : END,
                             i + 1 < size ? (uint32_t)i + 1 : END, END};
    for (uint32_t i = 0; i + 1 < size; i++)
        FP_TRY(update_pair(e, i));
    FP_TRY(merge_all(e));
    for (uint32_t i = 0; i != END; i = e->links[i].next)
        FP_TRY(append_symbol(e, e->links[i].symbol));
    return FP_OK;
}

fp_status fp__bpe_encode(const fp__tokenizer *tok, const char *text, size_t size, fp__ids *out)
{
    encoder e = {.tok = tok, .out = out};
    size_t *ends = NULL, n = 0, capacity = 0;
    fp_status status = fp__pretokenize(tok->pre, text, size, &ends, &n, &capacity);
    for (size_t i = 0, begin = 0; i < n && status == FP_OK; begin = ends[i++])
        status = encode_word(&e, (const uint8_t *)text + begin, ends[i] - begin);
    free(ends);
    free(e.links);
    free(e.heap.data);
    fp__buf_free(&e.mapped);
    return status;
}
