#include "model/tokenizer.h"
#include "model/tokenizer_impl.h"
#include "model/unicode_class.h"
#include <stdlib.h>

/* ---- lists ---- */

void fp__ids_free(fp__ids *ids)
{
    free(ids->data);
    *ids = (fp__ids){0};
}

fp_status fp__ids_reserve(fp__ids *ids, size_t extra)
{
    size_t need, bytes;
    if (!fp__size_add(ids->size, extra, &need))
        return fp__fail(FP_NO_MEMORY, "too many tokens");
    if (need <= ids->capacity)
        return FP_OK;
    size_t capacity = need < 2 * ids->capacity ? 2 * ids->capacity : need < 64 ? 64 : need;
    uint32_t *data = fp__size_mul(capacity, sizeof *data, &bytes) ? realloc(ids->data, bytes) : NULL;
    if (!data)
        return fp__fail(FP_NO_MEMORY, "no memory for %zu tokens", capacity);
    ids->data = data;
    ids->capacity = capacity;
    return FP_OK;
}

fp_status fp__ids_append(fp__ids *ids, uint32_t id)
{
    FP_TRY(fp__ids_reserve(ids, 1));
    ids->data[ids->size++] = id;
    return FP_OK;
}

fp_status fp__heap_push(fp__heap *h, uint64_t key)
{
    if (h->n == h->capacity) {
        size_t capacity = h->capacity ? 2 * h->capacity : 256;
        uint64_t *data = realloc(h->data, capacity * sizeof *data);
        if (!data)
            return fp__fail(FP_NO_MEMORY, "no memory for %zu merges", capacity);
        h->data = data;
        h->capacity = capacity;
    }
    size_t i = h->n++;
    for (; i && h->data[(i - 1) / 2] > key; i = (i - 1) / 2)
        h->data[i] = h->data[(i - 1) / 2];
    h->data[i] = key;
    return FP_OK;
}

uint64_t fp__heap_pop(fp__heap *h)
{
    uint64_t top = h->data[0], key = h->data[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->data[child + 1] < h->data[child])
            child++;
        if (h->data[child] >= key)
            break;
        h->data[i] = h->data[child];
    }
    h->data[i] = key;
    return top;
}

/* ---- properties ---- */

uint32_t fp__tokenizer_size(const fp__tokenizer *tok)
{
    return tok->V;
}

const char *fp__tokenizer_model(const fp__tokenizer *tok)
{
    return tok->kind == FP__TOKENIZER_BPE ? "gpt2" : "llama";
}

const char *fp__tokenizer_pre(const fp__tokenizer *tok)
{
    return tok->pre ? fp__pretokenizer_name(tok->pre) : "";
}

uint32_t fp__tokenizer_bos(const fp__tokenizer *tok)
{
    return tok->bos;
}

uint32_t fp__tokenizer_eos(const fp__tokenizer *tok)
{
    return tok->eos;
}

uint32_t fp__tokenizer_eot(const fp__tokenizer *tok)
{
    return tok->eot;
}

uint32_t fp__tokenizer_unk(const fp__tokenizer *tok)
{
    return tok->unk;
}

bool fp__tokenizer_adds_bos(const fp__tokenizer *tok)
{
    return tok->add_bos;
}

bool fp__tokenizer_adds_eos(const fp__tokenizer *tok)
{
    return tok->add_eos;
}

bool fp__tokenizer_is_eog(const fp__tokenizer *tok, uint32_t id)
{
    return id < tok->V && tok->eog[id];
}

bool fp__tokenizer_is_control(const fp__tokenizer *tok, uint32_t id)
{
    return id < tok->V && (tok->type[id] == FP__TOKEN_CONTROL || tok->type[id] == FP__TOKEN_UNKNOWN);
}

uint32_t fp__tokenizer_find(const fp__tokenizer *tok, const char *text, size_t size)
{
    uint32_t id = size ? fp__symbol_find(tok, (const uint8_t *)text, size) : FP__TOKEN_NONE;
    return id < tok->V ? id : FP__TOKEN_NONE;
}

fp__gguf_string fp__tokenizer_text(const fp__tokenizer *tok, uint32_t id)
{
    FP_CHECK(id < tok->V);
    size_t size;
    const uint8_t *text = fp__symbol_text(tok, id, &size);
    return (fp__gguf_string){(const char *)text, size};
}

/* ---- encoding ---- */

fp_status fp__append_byte_token(const fp__tokenizer *tok, uint8_t byte, fp__ids *out)
{
    uint32_t id = tok->byte_symbol[byte];
    if (id < tok->V)
        return fp__ids_append(out, id);
    if (tok->kind == FP__TOKENIZER_BPE)
        return FP_OK;
    if (tok->unk >= tok->V)
        return fp__fail(FP_UNSUPPORTED,
                        "the vocabulary has no token for byte 0x%02x and none for unknown text", byte);
    return fp__ids_append(out, tok->unk);
}

/* A part of the text: a special token, or text (id FP__TOKEN_NONE). */
typedef struct fragment {
    size_t begin, end;
    uint32_t id;
} fragment;

typedef struct fragments {
    fragment *data;
    size_t n, capacity;
} fragments;

static fp_status fragments_append(fragments *f, fragment item)
{
    if (f->n == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 16;
        fragment *data = realloc(f->data, capacity * sizeof *data);
        if (!data)
            return fp__fail(FP_NO_MEMORY, "no memory for %zu parts of a text", capacity);
        f->data = data;
        f->capacity = capacity;
    }
    f->data[f->n++] = item;
    return FP_OK;
}

/* Cuts every text fragment of a at the occurrences of one special token, into b. */
static fp_status split_at(const char *text, fp__gguf_string special, uint32_t id, const fragments *a,
                          fragments *b)
{
    for (size_t i = 0; i < a->n; i++) {
        fragment f = a->data[i];
        while (f.id == FP__TOKEN_NONE && f.begin < f.end) {
            const char *found = memmem(text + f.begin, f.end - f.begin, special.data, special.size);
            if (!found)
                break;
            size_t at = (size_t)(found - text);
            if (at > f.begin)
                FP_TRY(fragments_append(b, (fragment){f.begin, at, FP__TOKEN_NONE}));
            FP_TRY(fragments_append(b, (fragment){at, at + special.size, id}));
            f.begin = at + special.size;
        }
        if (f.begin < f.end)
            FP_TRY(fragments_append(b, f));
    }
    return FP_OK;
}

/* Longest special tokens first, each over all the text that is left: so the order decides, not the place. */
static fp_status split_specials(const fp__tokenizer *tok, const char *text, size_t size, bool control,
                                fragments *out)
{
    fragments other = {0};
    fp_status status = fragments_append(out, (fragment){0, size, FP__TOKEN_NONE});
    for (size_t i = 0; i < tok->n_special && status == FP_OK; i++) {
        uint32_t id = tok->special[i];
        fp__gguf_string special = fp__tokenizer_text(tok, id);
        if ((!control && tok->type[id] != FP__TOKEN_USER) || !memmem(text, size, special.data, special.size))
            continue;
        other.n = 0;
        status = split_at(text, special, id, out, &other);
        fragments t = *out;
        *out = other;
        other = t;
    }
    free(other.data);
    return status;
}

static fp_status encode_fragments(const fp__tokenizer *tok, const char *text, const fragments *f,
                                  bool after_special, fp__ids *out)
{
    for (size_t i = 0; i < f->n; i++) {
        const fragment *p = &f->data[i];
        if (p->id != FP__TOKEN_NONE)
            FP_TRY(fp__ids_append(out, p->id));
        else if (tok->kind == FP__TOKENIZER_BPE)
            FP_TRY(fp__bpe_encode(tok, text + p->begin, p->end - p->begin, out));
        else
            FP_TRY(fp__spm_encode(tok, text + p->begin, p->end - p->begin,
                                  tok->add_space_prefix && after_special, out));
        after_special = p->id != FP__TOKEN_NONE;
    }
    return FP_OK;
}

fp_status fp__tokenizer_encode(const fp__tokenizer *tok, const char *text, size_t size, unsigned flags,
                               fp__ids *out)
{
    size_t bad, before = out->size;
    if (size > FP__TOKENIZER_MAX_TEXT)
        return fp__fail(FP_LIMIT, "a text of %zu bytes; at most %zu are accepted", size,
                        FP__TOKENIZER_MAX_TEXT);
    if (!fp__utf8_valid(text, size, &bad))
        return fp__fail(FP_TEXT, "the text is not UTF-8 at byte %zu; convert it to UTF-8", bad);
    fragments f = {0};
    fp_status status = FP_OK;
    bool bos = (flags & FP__TOKENIZE_ADD) && tok->add_bos;
    if (bos)
        status = fp__ids_append(out, tok->bos);
    if (size && status == FP_OK)
        status = split_specials(tok, text, size, flags & FP__TOKENIZE_SPECIAL, &f);
    if (status == FP_OK)
        status = encode_fragments(tok, text, &f, bos || !(flags & FP__TOKENIZE_CONTINUE), out);
    if (status == FP_OK && (flags & FP__TOKENIZE_ADD) && tok->add_eos)
        status = fp__ids_append(out, tok->eos);
    free(f.data);
    if (status != FP_OK)
        out->size = before;
    return status;
}

/* ---- decoding ---- */

/* GPT-2's characters back to bytes; characters outside the mapping stay as they are. */
static fp_status unmap_bytes(const uint8_t *text, size_t size, fp__buf *out)
{
    FP_TRY(fp__buf_reserve(out, size));
    for (size_t i = 0; i < size;) {
        uint32_t c = text[i];
        size_t length = c >= 0xc4 && c <= 0xc5 ? 2 : c == 0xc2 || c == 0xc3 ? 2 : 1;
        if (length == 2 && i + 1 < size)
            c = (c & 0x1f) << 6 | (text[i + 1] & 0x3fu);
        else
            length = 1;
        int byte = length == 2 || c < 0x80 ? fp__text_to_byte(c) : -1;
        uint8_t mapped = (uint8_t)byte;
        FP_TRY(byte >= 0 ? fp__buf_append(out, &mapped, 1) : fp__buf_append(out, text + i, length));
        i += length;
    }
    return FP_OK;
}

/* U+2581 back to spaces. */
static fp_status unescape(const uint8_t *text, size_t size, fp__buf *out)
{
    FP_TRY(fp__buf_reserve(out, size));
    for (size_t i = 0; i < size;) {
        bool mark = size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        FP_TRY(fp__buf_append(out, mark ? (const uint8_t *)" " : text + i, 1));
        i += mark ? 3 : 1;
    }
    return FP_OK;
}

static int hex_digit(uint8_t c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

fp_status fp__tokenizer_piece(const fp__tokenizer *tok, uint32_t id, unsigned flags, fp__buf *out)
{
    if (id >= tok->V)
        return fp__fail(FP_USAGE, "token id %u; the vocabulary has %u", id, tok->V);
    size_t size;
    const uint8_t *text = fp__symbol_text(tok, id, &size);
    switch (tok->type[id]) {
    case FP__TOKEN_CONTROL:
    case FP__TOKEN_UNKNOWN:
        return flags & FP__DETOK_SPECIAL ? fp__buf_append(out, text, size) : FP_OK;
    case FP__TOKEN_USER:
        return fp__buf_append(out, text, size);
    case FP__TOKEN_BYTE:
        if (size == 6 && hex_digit(text[3]) >= 0 && hex_digit(text[4]) >= 0) {
            uint8_t byte = (uint8_t)(hex_digit(text[3]) * 16 + hex_digit(text[4]));
            return fp__buf_append(out, &byte, 1);
        }
        return fp__buf_append(out, text, size);
    default:
        return tok->kind == FP__TOKENIZER_BPE ? unmap_bytes(text, size, out) : unescape(text, size, out);
    }
}

void fp__detok_init(fp__detok *d, const fp__tokenizer *tok, unsigned flags)
{
    *d = (fp__detok){.tok = tok, .flags = flags};
}

/* The piece of id without the space that encoding put in front of the text. */
static fp_status next_piece(fp__detok *d, uint32_t id, fp__buf *piece)
{
    size_t before = piece->size;
    FP_TRY(fp__tokenizer_piece(d->tok, id, d->flags, piece));
    bool plain = piece->size > before && !fp__tokenizer_is_control(d->tok, id);
    if (plain && !d->started) {
        d->started = true;
        if (d->tok->add_space_prefix && !(d->flags & FP__DETOK_CONTINUE) && piece->data[before] == ' ' &&
            d->tok->type[id] != FP__TOKEN_USER) {
            memmove(piece->data + before, piece->data + before + 1, piece->size - before - 1);
            piece->size--;
        }
    }
    return FP_OK;
}

/* Length of the well-formed sequence at p, 0 if what is there cannot become one, or -k if it is the first k
 * bytes of one. Ranges of the second byte: Unicode, table 3-7. */
static int sequence(const uint8_t *p, size_t n, size_t *bad)
{
    uint8_t c = p[0];
    if (c < 0x80)
        return 1;
    *bad = 1;
    int length = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!length)
        return 0;
    uint8_t low = c == 0xe0   ? 0xa0
                  : c == 0xf0 ? 0x90
                              : 0x80,
            high = c == 0xed   ? 0x9f
                   : c == 0xf4 ? 0x8f
                               : 0xbf;
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n)
            return -i;
        if (p[i] < low || p[i] > high)
            return 0;
        *bad = (size_t)i + 1;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

fp_status fp__detok_push(fp__detok *d, uint32_t id, fp__buf *out)
{
    fp__buf piece = {0};
    size_t bad;
    fp_status status = fp__buf_append(&piece, d->held, d->held_bytes);
    if (status == FP_OK)
        status = next_piece(d, id, &piece);
    if (status != FP_OK) {
        fp__buf_free(&piece);
        return status;
    }
    d->held_bytes = 0;
    for (size_t i = 0; i < piece.size && status == FP_OK;) {
        int length = sequence(piece.data + i, piece.size - i, &bad);
        if (length > 0) {
            status = fp__buf_append(out, piece.data + i, (size_t)length);
            i += (size_t)length;
        } else if (length == 0) {
            status = fp__buf_append(out, "\xef\xbf\xbd", 3);
            i += bad;
        } else {
            d->held_bytes = (uint8_t)-length;
            memcpy(d->held, piece.data + i, d->held_bytes);
            break;
        }
    }
    fp__buf_free(&piece);
    return status;
}

fp_status fp__detok_flush(fp__detok *d, fp__buf *out)
{
    if (!d->held_bytes)
        return FP_OK;
    d->held_bytes = 0;
    return fp__buf_append(out, "\xef\xbf\xbd", 3);
}

fp_status fp__tokenizer_decode(const fp__tokenizer *tok, const uint32_t *ids, size_t n, unsigned flags,
                               fp__buf *out)
{
    fp__detok d;
    fp__detok_init(&d, tok, flags);
    for (size_t i = 0; i < n; i++)
        FP_TRY(next_piece(&d, ids[i], out));
    return FP_OK;
}

/* ---- canonical bytes ---- */

static fp_status put_string(fp__buf *out, const void *text, size_t size)
{
    FP_TRY(fp__buf_append_le32(out, (uint32_t)size));
    return fp__buf_append(out, text, size);
}

static fp_status put_vocabulary(const fp__tokenizer *tok, fp__buf *out)
{
    FP_TRY(fp__buf_append_le32(out, tok->V));
    for (uint32_t i = 0; i < tok->V; i++) {
        size_t size;
        const uint8_t *text = fp__symbol_text(tok, i, &size);
        uint32_t score = 0;
        if (tok->score)
            memcpy(&score, &tok->score[i], 4);
        FP_TRY(put_string(out, text, size));
        FP_TRY(fp__buf_append(out, &tok->type[i], 1));
        FP_TRY(fp__buf_append_le32(out, score));
    }
    return FP_OK;
}

static fp_status put_merges(const fp__tokenizer *tok, fp__buf *out)
{
    FP_TRY(fp__buf_append_le32(out, tok->n_merges));
    for (uint32_t i = 0; i < tok->n_merges; i++) {
        FP_TRY(fp__buf_append_le32(out, tok->merges[i].left));
        FP_TRY(fp__buf_append_le32(out, tok->merges[i].right));
        FP_TRY(fp__buf_append_le32(out, tok->merges[i].merged));
    }
    FP_TRY(fp__buf_append_le32(out, tok->n_symbols - tok->V));
    for (uint32_t i = tok->V; i < tok->n_symbols; i++) {
        size_t size;
        const uint8_t *text = fp__symbol_text(tok, i, &size);
        FP_TRY(put_string(out, text, size));
    }
    return FP_OK;
}

fp_status fp__tokenizer_serialize(const fp__tokenizer *tok, fp__buf *out)
{
    const char *model = fp__tokenizer_model(tok), *pre = fp__tokenizer_pre(tok);
    const uint32_t ids[] = {tok->bos, tok->eos, tok->eot, tok->unk, tok->pad};
    const uint8_t bools[] = {tok->add_bos, tok->add_eos, tok->add_space_prefix,
                             tok->pre && fp__pretokenizer_ignores_merges(tok->pre)};
    FP_TRY(fp__buf_reserve(out, tok->text.size + 9 * (size_t)tok->V + 12 * (size_t)tok->n_merges + 256));
    FP_TRY(fp__buf_append(out, "fieldprint/tokn\x01", 16));
    FP_TRY(put_string(out, model, strlen(model)));
    FP_TRY(put_string(out, pre, strlen(pre)));
    FP_TRY(fp__buf_append_le32(out, FP__UNICODE_VERSION));
    for (size_t i = 0; i < 5; i++)
        FP_TRY(fp__buf_append_le32(out, ids[i]));
    FP_TRY(fp__buf_append(out, bools, 4));
    FP_TRY(put_vocabulary(tok, out));
    FP_TRY(put_merges(tok, out));
    uint32_t n_eog = 0;
    for (uint32_t i = 0; i < tok->V; i++)
        n_eog += tok->eog[i];
    FP_TRY(fp__buf_append_le32(out, n_eog));
    for (uint32_t i = 0; i < tok->V; i++)
        if (tok->eog[i])
            FP_TRY(fp__buf_append_le32(out, i));
    return FP_OK;
}
