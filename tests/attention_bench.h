/* The speed of attention on the GPU, for tests/cuda_attention.c: JSON lines of the device, then of each case.
 */
#ifndef FP_TESTS_ATTENTION_BENCH_H
#define FP_TESTS_ATTENTION_BENCH_H

/* only: parts of names, a|b|c; a case is timed if its name has one of them. NULL: all but those that are
 * timed only when asked for. Returns 0. */
int attention_bench(const char *only);

#endif
