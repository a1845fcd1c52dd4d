#include "ledger/checkpoint.h"
#include "merkle/tree.h"

/* The next line of [*at, end), without its newline, which is there. */
static const char *next_line(const char **at, const char *end, size_t *size)
{
    const char *line = *at, *newline = line == end ? NULL : memchr(line, '\n', (size_t)(end - line));
    if (newline == NULL)
        return NULL;
    *size = (size_t)(newline - line);
    *at = newline + 1;
    return line;
}

static fp_status parse_root(const char *line, size_t size, uint64_t tree_size, uint8_t out[32])
{
    fp__buf root = {0};
    fp_status status = fp__base64_decode(line, size, &root);
    if (status == FP_OK && root.size != 32)
        status = fp__fail(FP_FORMAT, "the root has %zu bytes instead of 32", root.size);
    if (status == FP_OK)
        memcpy(out, root.data, 32);
    fp__buf_free(&root);
    if (status != FP_OK)
        return fp__fail_context(status, "root hash (line 3)");
    uint8_t empty[32];
    fp__sha256(NULL, 0, empty);
    if (tree_size == 0 && memcmp(out, empty, 32) != 0)
        return fp__fail(FP_FORMAT,
                        "root hash (line 3): not the root of the empty tree, though the size is 0");
    return FP_OK;
}

static fp_status parse(const void *text, size_t size, fp__checkpoint *out)
{
    FP_TRY(fp__note_check_text(text, size, "it"));
    const char *at = text, *end = at + size;
    size_t origin_size, decimal_size = 0, root_size = 0;
    const char *origin = next_line(&at, end, &origin_size);
    const char *decimal = next_line(&at, end, &decimal_size);
    const char *root = next_line(&at, end, &root_size);
    if (origin == NULL || decimal == NULL || root == NULL)
        return fp__fail(FP_FORMAT, "it has fewer than the three lines origin, size and root");
    if (origin_size == 0 || origin_size > FP__NOTE_MAX_NAME)
        return fp__fail(FP_FORMAT, "the origin (line 1) has %zu bytes; 1 to %d are allowed", origin_size,
                        FP__NOTE_MAX_NAME);
    memcpy(out->origin, origin, origin_size);
    FP_TRY(fp__note_parse_decimal(decimal, decimal_size, &out->size, "the tree size (line 2)"));
    FP_TRY(parse_root(root, root_size, out->size, out->root));
    if (at == end)
        return FP_OK;
    out->extensions = at;
    out->extensions_size = (size_t)(end - at);
    size_t line_size;
    while (next_line(&at, end, &line_size) != NULL)
        if (line_size == 0)
            return fp__fail(FP_FORMAT, "it has an empty line among its extension lines");
    return FP_OK;
}

fp_status fp__checkpoint_parse(const void *text, size_t size, fp__checkpoint *out)
{
    fp__checkpoint parsed = {0};
    fp_status status = parse(text, size, &parsed);
    if (status != FP_OK)
        return fp__fail_context(status, "checkpoint");
    *out = parsed;
    return FP_OK;
}

fp_status fp__checkpoint_format(const fp__checkpoint *checkpoint, fp__buf *out)
{
    FP_TRY(fp__buf_printf(out, "%s\n%llu\n", checkpoint->origin, (unsigned long long)checkpoint->size));
    FP_TRY(fp__base64_encode(checkpoint->root, 32, out));
    FP_TRY(fp__buf_append_text(out, "\n"));
    return fp__buf_append(out, checkpoint->extensions, checkpoint->extensions_size);
}

static fp_status open_note(const fp__note *note, const char *origin, const fp__note_key *keys, size_t count,
                           fp__note_verdict *verdicts, fp__checkpoint *out)
{
    fp__checkpoint parsed;
    FP_TRY(fp__note_verify(note, keys, count, verdicts));
    if (!verdicts[0].valid)
        return fp__fail(FP_SIGNATURE, "checkpoint: not signed by the log's key %s (%08x)", keys[0].name,
                        keys[0].id);
    FP_TRY(fp__checkpoint_parse(note->text, note->text_size, &parsed));
    if (strcmp(parsed.origin, origin) != 0)
        return fp__fail(FP_MISMATCH, "checkpoint: it is of the log '%s', not of '%s'", parsed.origin, origin);
    *out = parsed;
    return FP_OK;
}

fp_status fp__checkpoint_open(const void *data, size_t size, const char *origin, const fp__note_key *keys,
                              size_t count, fp__note_verdict *verdicts, fp__checkpoint *out)
{
    fp__note_verdict local[FP__NOTE_MAX_SIGNATURES];
    if (count == 0 || count > FP__NOTE_MAX_SIGNATURES)
        return fp__fail(FP_USAGE, "a checkpoint needs the log's key and at most %d keys in all",
                        FP__NOTE_MAX_SIGNATURES);
    fp__note note;
    FP_TRY(fp__note_parse(data, size, &note));
    fp_status status = open_note(&note, origin, keys, count, local, out);
    if (status == FP_OK && verdicts != NULL)
        memcpy(verdicts, local, count * sizeof *local);
    fp__note_free(&note);
    return status;
}

fp_status fp__checkpoint_sign(const fp__checkpoint *checkpoint, const fp__ed25519_key *key, fp__buf *out)
{
    fp__buf text = {0};
    fp_status status = fp__checkpoint_format(checkpoint, &text);
    if (status == FP_OK)
        status = fp__note_sign(text.data, text.size, checkpoint->origin, key, out);
    fp__buf_free(&text);
    return status;
}
