/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy
 * as 1, 2, 3", SC'11). No state: a number is a function of seed, token position and choice index, so a replay
 * after a rollback and an audit years later draw the same ones. Integers only, the same on every machine. */
#ifndef FP_EXACT_RNG_H
#define FP_EXACT_RNG_H
#include <stdint.h>

void fp__philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* The 64 bits that decide the token at `position` (§7): key = seed (lo, hi), counter = (position lo, position
 * hi, choice, 0), result = x0 | x1 << 32. */
uint64_t fp__rng_draw(uint64_t seed, uint64_t position, uint32_t choice);
#endif
