/* Choices of the plan that a benchmark may force; 0: the plan's own choice. */
#ifndef FP_KERNEL_CUDA_ATTENTION_TUNING_H
#define FP_KERNEL_CUDA_ATTENTION_TUNING_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
enum {
    FP__TUNE_SPLIT_PAGES,   /* pages of a unit of decode: 4 or 16 */
    FP__TUNE_STACKED_PAGES, /* the same for units of stacked rows */
    FP__TUNE_TEAM_PAGES,    /* pages of a team item */
    FP__TUNE_WHOLE,         /* 1: prefills never take whole segments, 2: always */
    FP__TUNE_UNSHARED,      /* 1: anchors are not shared, 2: always */
    FP__TUNE_NO_OVERLAP,    /* 1: each kernel begins when the one before has ended */
    FP__TUNE_PREFILL, /* groups of 64 rows in a tile of the prefill kernel, 4: whole segments are for teams */
    FP__TUNE_AHEAD,  /* 1 + half slabs that a warp of decode asks into L2 when the kernels ahead have ended */
    FP__TUNE_TAIL,   /* 1 + units of a span for each quad that chunks are cut into, where there are many, in
                        quarters */
    FP__TUNE_STAGES, /* of the ring of a warp of decode */
    FP__TUNE_MERGE,  /* 1 + MergeForm */
    FP__TUNE_EARLY,  /* 1 + stages filled before the kernels ahead have ended */
    FP__TUNE_QUADS,  /* of decode: 2 or 3 */
    FP__TUNE_SOLO,   /* 1 + spans a quad up to which one sequence has a kernel of its own: 1 to 5 */
    FP__TUNE_SOLO_WINDOW, /* half slabs of a quad under way at once there, before the kernels ahead have ended
                           */
    FP__TUNE_PACE,        /* of these, filled at once */
    FP__TUNE_LARGE,       /* 1: no large stacks beside decode, 2: always */
    FP__TUNE_COUNT
};
extern uint32_t fp__cuda_attention_tuning[FP__TUNE_COUNT];
#ifdef __cplusplus
}
#endif
#endif
