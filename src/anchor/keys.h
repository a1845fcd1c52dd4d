/* Inside of fp_key: what signs. The public side is fieldprint/key.h. */
#ifndef FP_ANCHOR_KEYS_H
#define FP_ANCHOR_KEYS_H
#include "fieldprint/key.h"
#include "ledger/ed25519.h"

fp_status fp__key_sign(const fp_key *key, const void *data, size_t size, uint8_t out[64]) FP_WARN_UNUSED;
const fp__ed25519_key *fp__key_ed25519(const fp_key *key); /* lives as long as the key */
#endif
