/* Receipts: the input is taken as an envelope and, since base64 hides a payload from the fuzzer, as a payload
 * too. What parses comes back the same when it is written. */
#include "engine/receipt.h"

static void try_payload(const uint8_t *data, size_t size)
{
    fp__receipt r = {0}, again = {0};
    fp__dsse dsse = {0};
    if (fp__receipt_parse(data, size, &r) != FP_OK)
        return;
    FP_CHECK(r.anchors <= FP__SET_ANCHORS_MAX && r.first_size <= r.last_size);
    fp_status status = fp__receipt_create(&r, &dsse); /* escapes may grow it over the limit */
    FP_CHECK(status == FP_OK || status == FP_LIMIT);
    if (status == FP_OK) {
        FP_CHECK(fp__receipt_parse(dsse.payload.data, dsse.payload.size, &again) == FP_OK);
        FP_CHECK(memcmp(r.root, again.root, 32) == 0 && r.finish == again.finish && r.label == again.label);
        FP_CHECK(memcmp(&r.sampling, &again.sampling, sizeof r.sampling) == 0);
        FP_CHECK(r.proof.size == again.proof.size && strcmp(r.origin, again.origin) == 0);
        fp__receipt_free(&again);
    }
    fp__dsse_free(&dsse);
    fp__receipt_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fp__dsse dsse = {0};
    try_payload(data, size);
    if (fp__dsse_parse(data, size, &dsse) != FP_OK)
        return 0;
    try_payload(dsse.payload.data, dsse.payload.size);
    fp__dsse_free(&dsse);
    return 0;
}
