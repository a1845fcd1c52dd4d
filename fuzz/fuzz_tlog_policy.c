/* Trust policies: one that parses has an answer for every set of witnesses, and more witnesses never answer
 * less. */
#include "ledger/tlog_policy.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fp__tlog_policy policy;
    if (fp__tlog_policy_parse(data, size, &policy) != FP_OK)
        return 0;
    uint32_t all = (uint32_t)(((uint64_t)1 << policy.witnesses_count) - 1), some = all & 0x55555555;
    if (!fp__tlog_policy_met(&policy, all) || /* thresholds are within the members */
        (fp__tlog_policy_met(&policy, 0) && !fp__tlog_policy_met(&policy, some)))
        abort();
    fp__note_verdict verdicts[FP__TLOG_WITNESSES_MAX] = {0};
    for (size_t i = 0; i < policy.witnesses_count; i++)
        verdicts[i] = (fp__note_verdict){true, 10 + i};
    uint64_t seconds = 0;
    if (!fp__tlog_policy_time(&policy, verdicts, &seconds) ||
        (policy.quorum.threshold == 0) != (seconds == 0))
        abort();
    return 0;
}
