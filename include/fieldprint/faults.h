/* Fault injection: does everything that goes wrong get noticed, and does the answer come out right all the
 * same?
 *
 * Answers are generated over and over with one fault each: flipped bits in K/V pages, block tables, resident
 * anchors, weights, the rotary plan; wrong computations, tokens and masses; slow and dying hash workers;
 * damaged artifacts, session files and logs; a full disk. Each answer is compared with that of a run without
 * faults, bit for bit: tokens, text, K/V root, masses, and what was given out on the way. */
#ifndef FIELDPRINT_FAULTS_H
#define FIELDPRINT_FAULTS_H
#include "fieldprint/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FP_FAULT_LEVELS = 4, FP_FAULT_RELEASES = 3, FP_FAULT_KINDS = 16, FP_FAULT_PROBLEMS = 8 };

typedef struct fp_fault_options {
    const char *folder; /* an empty one, for a workspace; stays there */
    uint64_t seed;
    uint32_t faults;      /* how many */
    uint64_t clean_pages; /* checks of pages without any fault, for false alarms */
    uint32_t tokens;      /* of an answer; 0: 150 */
    size_t threads;       /* of the engines; 0: 1 */
    void (*progress)(void *context, double done);
    void *progress_context;
    const volatile int *cancel;
} fp_fault_options;

/* Of the faults of one kind, or of one validation level and release. */
typedef struct fp_fault_counts {
    uint64_t injected;
    uint64_t persistent, persistent_checked; /* stayed; of these, that this level and release look at */
    uint64_t detected, missed;               /* of persistent_checked. missed must be 0 */
    uint64_t transient, transient_detected;  /* gone again after a moment, or wrong once */
    uint64_t corrected;                      /* detected, and the answer equals the one without faults */
    uint64_t without_effect;                 /* not detected, and it equals all the same */
    uint64_t wrong;                          /* it differs: beyond what this level and release look at */
    uint64_t errors; /* ended with an error: faults that came back each time, refused files */
    uint64_t retractions;
    uint64_t gave_out_wrong; /* something left that the answer without faults does not begin with */
    /* Of those detected, and struck where a window is promised: pages that are being filled, at most
     * window_pages unchecked ones; pages, anchors and weights that are scrubbed, the time of
     * fp_engine_validation at that moment; what a release looks at, before the answer is final; block tables,
     * before the next step. outside must be 0. */
    uint64_t windowed, outside;
    uint64_t
        scrubbed; /* of those in the scrub's windows: noticed before the answer ended, when all is read */
    uint64_t beyond_rate; /* within a window that was longer than the rates alone have it: no core was free */
    double detect_ms_max, detect_ms_mean; /* from fault to notice */
    double window_share_max; /* largest part of a window, in pages or time, that passed until the notice */
    double rollback_ms_max;  /* without computing anew */
} fp_fault_counts;

typedef struct fp_fault_result {
    fp_fault_counts cell[FP_FAULT_LEVELS][FP_FAULT_RELEASES];
    fp_fault_counts kind[FP_FAULT_KINDS];
    fp_fault_counts all;
    uint64_t clean_pages, false_alarms;
    double page_window_ms, weight_window_ms, page_pass_ms, weight_pass_ms; /* of the last scrubbing engine */
    double rollback_ms_max, rollback_ms_mean;                              /* without computing anew */
    uint64_t tokens_replayed;
    double token_ms; /* of the run without faults */
    /* What must not be: */
    uint64_t violations;
    size_t problems;
    char problem[FP_FAULT_PROBLEMS][256]; /* the first of them, with what is needed to see them again */
} fp_fault_result;

FP_API const char *fp_fault_level_name(size_t level); /* "replay:0.25" */
FP_API const char *fp_fault_kind_name(size_t kind);   /* "block table"; NULL past the end */
/* The model is changed in memory, and changed back: nobody else may use it meanwhile. Signals: SIGXFSZ is
 * ignored while the disk is "full". FP_OK with violations in the result, or an operating error. */
FP_API fp_status fp_faults_run(const fp_model *model, const fp_fault_options *options,
                               fp_fault_result *out) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
