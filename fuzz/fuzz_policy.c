/* Policies and trust files. */
#include "anchor/policy.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fp__policy policy;
    static fp__trust trust, again;
    fp__buf text = {0};
    if (fp__policy_parse(data, size, &policy) == FP_OK) {
        FP_CHECK(policy.roles[FP_PURPOSE_POLICY].threshold > 0);
        for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++)
            FP_CHECK(policy.roles[i].threshold <= policy.holders_count);
    }
    if (fp__trust_parse(data, size, &trust) == FP_OK) {
        FP_CHECK(fp__trust_write(&trust, &text) == FP_OK);
        FP_CHECK(fp__trust_parse(text.data, text.size, &again) == FP_OK);
        FP_CHECK(memcmp(&trust.log_key, &again.log_key, sizeof trust.log_key) == 0);
    }
    fp__buf_free(&text);
    return 0;
}
