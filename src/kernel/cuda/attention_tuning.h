/* Choices of the plan that a benchmark may force; 0: the plan's own choice. */
#ifndef FP_KERNEL_CUDA_ATTENTION_TUNING_H
#define FP_KERNEL_CUDA_ATTENTION_TUNING_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
enum {
    FP__TUNE_SMALL_PAGES, /* pages of a single-warp item: 4, 16 or a multiple of 16 */
    FP__TUNE_TEAM_PAGES,  /* pages of a team item */
    FP__TUNE_TEAM_CTAS,   /* CTAs that begin with team items */
    FP__TUNE_WHOLE,       /* 1: prefills never take whole segments, 2: always */
    FP__TUNE_UNSHARED,    /* 1: anchors are not shared */
    FP__TUNE_FINE,        /* 1 + eighths of long work that are done span by span */
    FP__TUNE_ANCHOR_ROWS, /* most rows stacked over an anchor that go to single warps */
    FP__TUNE_PREFILL, /* groups of 64 rows in a tile of the prefill kernel, 4: whole segments are for teams */
    FP__TUNE_COUNT
};
extern uint32_t fp__cuda_attention_tuning[FP__TUNE_COUNT];
#ifdef __cplusplus
}
#endif
#endif
