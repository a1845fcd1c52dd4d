/* KV artifacts from untrusted bytes: opening, and loading with the kv head that the header claims (an
 * attacker who knows what is expected). Whatever loads must hold what was expected and give its pages back.
 */
#include "cache/artifact.h"
#include "core/bytes.h"
#include "merkle/sha256.h"

#include <stdint.h>
#include <stdlib.h>

static void open_and_load(const uint8_t *data, size_t size)
{
    fp__artifact *artifact;
    if (fp__artifact_open_memory("fuzz", data, size, &artifact) != FP_OK)
        return;
    const fp__artifact_info *info = fp__artifact_info_get(artifact);
    size_t manifest_size;
    const uint8_t *manifest = fp__artifact_manifest(artifact, &manifest_size);
    uint8_t sum = 0;
    for (size_t i = 0; i < manifest_size; i++)
        sum = (uint8_t)(sum + manifest[i]);
    (void)sum;
    fp__artifact_expect expect = {.kind = info->kind,
                                  .kv_head = info->kv_head,
                                  .anchor_kv_head = info->anchor_kv_head,
                                  .label = FP_LABEL_CORE};
    fp__pool *pool = NULL;
    fp__hasher *hasher = NULL;
    fp__kvseq *seq = NULL;
    FP_CHECK(fp__pool_create(&info->geometry, info->pages, NULL, &pool) == FP_OK);
    FP_CHECK(fp__hasher_create(0, &hasher) == FP_OK);
    if (fp__artifact_load(artifact, &expect, pool, hasher, &seq) == FP_OK) {
        uint8_t head[32];
        FP_CHECK(fp__kvseq_head(seq, head) == FP_OK);
        FP_CHECK(memcmp(head, info->kv_head, 32) == 0);
        FP_CHECK(fp__kvseq_verify(seq, 0, fp__kvseq_pages(seq)) == FP_OK);
        fp__kvseq_destroy(seq);
    }
    fp__hasher_destroy(hasher);
    FP_CHECK(fp__pool_stats_get(pool).used_groups == 0);
    fp__pool_destroy(pool);
    fp__artifact_close(artifact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_and_load(data, size);
    /* Again with the header's digest made right, or no change behind the fixed part would get past it. */
    uint64_t header_bytes = size >= 24 ? fp__load_le64(data + 16) : 0;
    uint8_t *copy = header_bytes >= 32 && header_bytes <= size ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, data, size);
        fp__sha256(copy, (size_t)header_bytes - 32, copy + header_bytes - 32);
        open_and_load(copy, size);
        free(copy);
    }
    return 0;
}
