/* Log proofs: what parses is written back byte for byte, and does not verify. */
#include "ledger/tlog_proof.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t public_key[32] = {3}, leaf[32] = {0};
    fp__note_key key;
    fp__tlog_proof proof;
    if (fp__note_key_make("example.com/log", FP__NOTE_ED25519, public_key, &key) != FP_OK)
        abort();
    if (fp__tlog_proof_parse(data, size, &proof) == FP_OK) {
        fp__buf again = {0};
        const void *extra = proof.extra.data != NULL ? proof.extra.data : (const uint8_t *)"";
        if (fp__tlog_proof_format(proof.index, &proof.path, proof.has_extra ? extra : NULL, proof.extra.size,
                                  proof.note, proof.note_size, &again) != FP_OK ||
            again.size != size || memcmp(again.data, data, size) != 0)
            abort();
        fp__buf_free(&again);
        if (fp__tlog_proof_verify(&proof, leaf, "example.com/log", &key, 1, NULL, NULL) == FP_OK)
            abort();
    }
    fp__tlog_proof_free(&proof);
    return 0;
}
