/* SPM (SentencePiece BPE as llama uses it): a chain of characters; the neighbours whose joint text is the
 * token with the highest score (then the leftmost) become one until none is a token; what is no token at the
 * end falls back to bytes. */
#include "model/tokenizer_impl.h"
#include <stdlib.h>

#define END UINT32_MAX

typedef struct link {
    uint32_t begin, size; /* in the escaped text */
    uint32_t prev, next;  /* END at the ends */
    uint32_t joint;       /* the token of this and next; END: none, or this link is gone */
} link;

typedef struct encoder {
    const fp__tokenizer *tok;
    const uint8_t *text;
    link *links;
    fp__heap heap; /* falling score << 32 | link */
} encoder;

/* Rises as the score falls. */
static uint32_t score_key(const fp__tokenizer *tok, uint32_t id)
{
    uint32_t bits;
    memcpy(&bits, &tok->score[id], 4);
    uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~rising;
}

static fp_status update_pair(encoder *e, uint32_t i)
{
    link *l = &e->links[i];
    l->joint = END;
    if (l->next == END)
        return FP_OK;
    uint32_t id = fp__symbol_find(e->tok, e->text + l->begin, l->size + e->links[l->next].size);
    if (id == FP__TOKEN_NONE || !fp__token_is_plain(e->tok, id))
        return FP_OK;
    l->joint = id;
    return fp__heap_push(&e->heap, (uint64_t)score_key(e->tok, id) << 32 | i);
}

static fp_status merge_all(encoder *e)
{
    while (e->heap.n) {
        uint64_t key = fp__heap_pop(&e->heap);
        uint32_t i = (uint32_t)key;
        link *l = &e->links[i];
        if (l->joint == END || score_key(e->tok, l->joint) != (uint32_t)(key >> 32))
            continue; /* one of the two has been merged since */
        link *gone = &e->links[l->next];
        l->size += gone->size;
        l->next = gone->next;
        gone->joint = END;
        if (l->next != END)
            e->links[l->next].prev = i;
        FP_TRY(update_pair(e, i));
        if (l->prev != END)
            FP_TRY(update_pair(e, l->prev));
    }
    return FP_OK;
}

static fp_status append_link(const encoder *e, const link *l, fp__ids *out)
{
    uint32_t id = fp__symbol_find(e->tok, e->text + l->begin, l->size);
    if (id != FP__TOKEN_NONE && fp__token_is_plain(e->tok, id))
        return fp__ids_append(out, id);
    for (uint32_t i = 0; i < l->size; i++)
        FP_TRY(fp__append_byte_token(e->tok, e->text[l->begin + i], out));
    return FP_OK;
}

static fp_status encode_escaped(encoder *e, size_t size, fp__ids *out)
{
    uint32_t n = 0;
    if (size == 0)
        return FP_OK;
    e->links = malloc(size * sizeof *e->links);
    if (!e->links)
        return fp__fail(FP_NO_MEMORY, "no memory for a text of %zu bytes", size);
    for (size_t i = 0; i < size;) {
        size_t length = 1;
        while (i + length < size && (e->text[i + length] & 0xc0) == 0x80)
            length++;
        e->links[n] = (link){(uint32_t)i, (uint32_t)length, n ? n - 1 : END, n + 1, END};
        i += length;
        n++;
    }
    e->links[n - 1].next = END;
    for (uint32_t i = 0; i + 1 < n; i++)
        FP_TRY(update_pair(e, i));
    FP_TRY(merge_all(e));
    for (uint32_t i = 0; i != END; i = e->links[i].next)
        FP_TRY(append_link(e, &e->links[i], out));
    return FP_OK;
}

/* Spaces become U+2581. */
static fp_status escape(const char *text, size_t size, bool prefix, fp__buf *out)
{
    if (prefix)
        FP_TRY(fp__buf_append(out, "\xe2\x96\x81", 3));
    for (size_t i = 0; i < size;) {
        const char *space = memchr(text + i, ' ', size - i);
        size_t n = space ? (size_t)(space - text) - i : size - i;
        FP_TRY(fp__buf_append(out, text + i, n));
        i += n;
        if (space) {
            FP_TRY(fp__buf_append(out, "\xe2\x96\x81", 3));
            i++;
        }
    }
    return FP_OK;
}

fp_status fp__spm_encode(const fp__tokenizer *tok, const char *text, size_t size, bool prefix, fp__ids *out)
{
    fp__buf escaped = {0};
    encoder e = {.tok = tok};
    fp_status status = escape(text, size, prefix, &escaped);
    e.text = escaped.data;
    if (status == FP_OK)
        status = encode_escaped(&e, escaped.size, out);
    free(e.links);
    free(e.heap.data);
    fp__buf_free(&escaped);
    return status;
}
