#include "core/bytes.h"
#include "fieldprint/workspace.h"
#include "merkle/sha256.h"

fp_status fp_set_id(const uint8_t (*anchor_ids)[32], size_t n, uint8_t out[32])
{
    if (n > UINT32_MAX)
        return fp__fail(FP_LIMIT, "a set of %zu anchors", n);
    if (n == 0) {
        memset(out, 0, 32);
        return FP_OK;
    }
    uint8_t head[1 + 15 + 1 + 4] = "\x03"
                                   "fieldprint/sets\x01";
    fp__store_le32(head + 17, (uint32_t)n);
    const fp__part parts[] = {{head, sizeof head}, {anchor_ids, 32 * n}};
    fp__sha256_parts(parts, 2, out);
    return FP_OK;
}

fp_status fp_compile_token_ids_digest(const uint8_t salt[32], const uint32_t *token_ids, uint32_t tokens,
                                      uint8_t out[32])
{
    fp__buf text = {0};
    fp_status status = fp__buf_append(&text, "fieldprint/toks\x01", 16);
    if (status == FP_OK)
        status = fp__buf_append(&text, salt, 32);
    if (status == FP_OK)
        status = fp__buf_append_le32(&text, tokens);
    for (uint32_t i = 0; status == FP_OK && i < tokens; i++)
        status = fp__buf_append_le32(&text, token_ids[i]);
    if (status == FP_OK)
        fp__sha256(text.data, text.size, out);
    fp__buf_free(&text);
    return status;
}
