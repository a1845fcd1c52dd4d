#include "ledger/tlog_proof.h"

static const char header[] = "c2sp.org/tlog-proof@v1";

fp_status fp__tlog_proof_format(uint64_t index, const fp__merkle_proof *path, const void *extra,
                                size_t extra_size, const void *note, size_t note_size, fp__buf *out)
{
    if (extra != NULL && extra_size > FP__TLOG_PROOF_MAX_EXTRA)
        return fp__fail(FP_LIMIT, "%zu bytes of extra data; a proof carries at most %d", extra_size,
                        FP__TLOG_PROOF_MAX_EXTRA);
    FP_TRY(fp__buf_printf(out, "%s\n", header));
    if (extra != NULL) {
        FP_TRY(fp__buf_append_text(out, "extra "));
        FP_TRY(fp__base64_encode(extra, extra_size, out));
        FP_TRY(fp__buf_append_text(out, "\n"));
    }
    FP_TRY(fp__buf_printf(out, "index %llu\n", (unsigned long long)index));
    for (size_t i = 0; i < path->count; i++) {
        FP_TRY(fp__base64_encode(path->hashes[i], 32, out));
        FP_TRY(fp__buf_append_text(out, "\n"));
    }
    FP_TRY(fp__buf_append_text(out, "\n"));
    return fp__buf_append(out, note, note_size);
}

/* The next line, or FP_FORMAT when the text has ended. All text ends in a newline (checked). */
static fp_status next_line(fp__reader *r, const char **line, size_t *size, const char *what)
{
    size_t left = fp__reader_left(r);
    const uint8_t *at = r->data + r->offset, *newline = left == 0 ? NULL : memchr(at, '\n', left);
    if (newline == NULL)
        return fp__fail(FP_FORMAT, "it ends before %s", what);
    *line = (const char *)at;
    *size = (size_t)(newline - at);
    r->offset += *size + 1;
    return FP_OK;
}

static bool skip_word(const char **line, size_t *size, const char *word)
{
    size_t n = strlen(word);
    if (*size < n || memcmp(*line, word, n) != 0)
        return false;
    *line += n;
    *size -= n;
    return true;
}

static fp_status parse_path(fp__reader *r, fp__merkle_proof *out)
{
    fp__buf hash = {0};
    fp_status status;
    for (;;) {
        const char *line = NULL;
        size_t size = 0;
        status = next_line(r, &line, &size, "the empty line and the checkpoint");
        if (status != FP_OK || size == 0)
            break;
        hash.size = 0;
        if (out->count == FP__MERKLE_PROOF_MAX)
            status = fp__fail(FP_FORMAT, "it has more than %d hashes", FP__MERKLE_PROOF_MAX);
        else
            status = fp__base64_decode(line, size, &hash);
        if (status == FP_OK && hash.size != 32)
            status = fp__fail(FP_FORMAT, "it has %zu bytes instead of 32", hash.size);
        if (status != FP_OK) {
            status = fp__fail_context(status, "hash %zu", out->count + 1);
            break;
        }
        memcpy(out->hashes[out->count++], hash.data, 32);
    }
    fp__buf_free(&hash);
    return status;
}

static fp_status parse(const void *data, size_t size, fp__tlog_proof *out)
{
    fp__reader r = {data, size, 0, "proof"};
    const char *line = NULL;
    size_t n = 0;
    if (size > FP__TLOG_PROOF_MAX_BYTES)
        return fp__fail(FP_LIMIT, "it has %zu bytes; at most %d are read", size, FP__TLOG_PROOF_MAX_BYTES);
    FP_TRY(fp__note_check_text(data, size, "it"));
    FP_TRY(next_line(&r, &line, &n, "its header"));
    if (n != strlen(header) || memcmp(line, header, n) != 0)
        return fp__fail(FP_FORMAT, "the first line is not '%s'", header);
    FP_TRY(next_line(&r, &line, &n, "the index"));
    if (skip_word(&line, &n, "extra ")) {
        out->has_extra = true;
        fp_status status = fp__base64_decode(line, n, &out->extra);
        if (status != FP_OK)
            return fp__fail_context(status, "extra data");
        if (out->extra.size > FP__TLOG_PROOF_MAX_EXTRA)
            return fp__fail(FP_LIMIT, "it has %zu bytes of extra data; at most %d are read", out->extra.size,
                            FP__TLOG_PROOF_MAX_EXTRA);
        FP_TRY(next_line(&r, &line, &n, "the index"));
    }
    if (!skip_word(&line, &n, "index "))
        return fp__fail(FP_FORMAT, "it has no line 'index' where one must be");
    FP_TRY(fp__note_parse_decimal(line, n, &out->index, "the index"));
    FP_TRY(parse_path(&r, &out->path));
    out->note = r.data + r.offset;
    out->note_size = fp__reader_left(&r);
    return out->note_size != 0 ? FP_OK : fp__fail(FP_FORMAT, "it ends before the checkpoint");
}

fp_status fp__tlog_proof_parse(const void *data, size_t size, fp__tlog_proof *out)
{
    memset(out, 0, sizeof *out);
    fp_status status = parse(data, size, out);
    if (status == FP_OK)
        return FP_OK;
    fp__tlog_proof_free(out);
    return fp__fail_context(status, "log proof");
}

void fp__tlog_proof_free(fp__tlog_proof *proof)
{
    fp__buf_free(&proof->extra);
    memset(proof, 0, sizeof *proof);
}

fp_status fp__tlog_proof_verify(const fp__tlog_proof *proof, const uint8_t leaf_hash[32], const char *origin,
                                const fp__note_key *keys, size_t count, fp__note_verdict *verdicts,
                                fp__checkpoint *out)
{
    fp__checkpoint checkpoint;
    fp_status status =
        fp__checkpoint_open(proof->note, proof->note_size, origin, keys, count, verdicts, &checkpoint);
    if (status == FP_OK)
        status = fp__merkle_verify_inclusion(leaf_hash, proof->index, checkpoint.size, proof->path.hashes[0],
                                             proof->path.count, checkpoint.root);
    if (status != FP_OK)
        return fp__fail_context(status, "log proof");
    if (out != NULL)
        *out = checkpoint;
    return FP_OK;
}
