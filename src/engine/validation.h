/* Checks beside the token loop, what they allow to leave, and the way back when they fail (docs/concepts.md;
 * the protocol is the one of proofs/protocol/validation.pml, names in brackets below are its).
 *
 *   validation.c   rounds of checks, the scrub, marks, what may leave
 *   rollback.c     the one place where something goes back
 *   replay.c       pages computed again elsewhere
 *
 * The token loop calls fp__validation_meet between two steps; nothing else of it waits for a check, unless it
 * has nothing left to do: then it makes the missing checks itself (fp__validation_help).
 *
 * Marks count committed tokens. A check vouches for what was committed when it began (its mark), not for what
 * is when it reports; a rollback voids the checks that are under way. */
#ifndef FP_ENGINE_VALIDATION_H
#define FP_ENGINE_VALIDATION_H
#include "cache/sequence.h"
#include "fieldprint/engine.h"
#include "model/integrity.h"
#include <stdatomic.h>

enum {
    FP__FAILURES_MAX = 3, /* of one page: then the sequence ends with an error [FAILURES_MAX] */
    FP__ROUND_JOBS = 4,
    FP__FINDINGS_MAX = 8,
    FP__QUARANTINE_MAX = 32, /* page groups that were found bad and are not used again */
    FP__RETRACTIONS_MAX = 16 /* of one answer */
};

typedef enum fp__found { FP__FOUND_CONTEXT, FP__FOUND_ANCHOR, FP__FOUND_WEIGHTS } fp__found;
typedef struct fp__finding {
    fp__found what;
    size_t item; /* page, or item of the weights */
    fp__kv_check check;
} fp__finding;

/* One round of checks: pages of a context, pages of its anchors, items of the weights, shared out among the
 * hash workers and whoever waits for it. */
typedef struct fp__round {
    struct fp__round_job {
        fp__hash_job job; /* first */
        struct fp__round *round;
    } jobs[FP__ROUND_JOBS];
    fp__hash_owner owner;
    fp_engine *engine;
    const fp__kvseq *context, *anchors; /* NULL: none */
    size_t context_first, context_pages, context_sealed;
    size_t anchor_first, anchor_pages, anchor_sealed;
    size_t weight_first, weights;
    size_t batch, context_items, items;
    atomic_size_t next, found;
    fp__finding findings[FP__FINDINGS_MAX];
    bool in_flight;
    size_t mark; /* committed tokens that it vouches for [job_mark] */
} fp__round;

/* What a rollback goes back to: at each boundary (64·p committed tokens) that a step ended at. */
typedef struct fp__boundary {
    bool here;
    uint32_t id;        /* the token that follows, if it is known then; else FP__TOKEN_NONE */
    size_t safe;        /* bytes of the answer's text that could leave */
    uint64_t passed_ns; /* when */
} fp__boundary;

typedef struct fp__replay fp__replay;
typedef struct fp__replay_unit fp__replay_unit;

/* Of a session. */
typedef struct fp__checks {
    size_t pages_max;
    fp__boundary *boundary;          /* [pages_max + 1] */
    uint64_t *mass;                  /* [pages_max + 1][L][H] at each boundary; NULL: no anchors */
    uint8_t *failures;               /* [pages_max] of this answer */
    size_t at;                       /* last boundary that a step ended at, in tokens */
    size_t verified;                 /* tokens whose pages passed [verified] */
    size_t verified_bytes;           /* of the text: what these allow to leave */
    size_t sure_bytes;               /* most that ever was: it stays right whatever fails later */
    size_t round_ok;                 /* mark of the last round that found nothing */
    size_t weights_ok, weights_pass; /* tokens committed when the last clean pass over the weights, the one
                                        under way, began */
    size_t replay_from, replay_ok; /* tokens that were given to re-execution; that passed or were left out */
    fp__replay_unit *units, *last_unit;
    size_t replaying_pages; /* in these */
    fp__round round;
    bool stalled;
    bool doubtful;         /* went back in this answer: what has left is compared with what is verified */
    size_t retried;        /* committed tokens at which a step failed once; SIZE_MAX: none */
    size_t high, replayed; /* most tokens there ever were; tokens computed again [high, replayed] */
    uint32_t failed, rollbacks; /* of this answer */
    size_t retractions;
    uint8_t retraction[FP__RETRACTIONS_MAX][32];
    bool logged[FP__RETRACTIONS_MAX];
    char reason[256]; /* of the last failure */
    fp_standing standing;
} fp__checks;

/* Where the fault injector may act (engine/faults.c); in the token loop's thread. */
typedef enum fp__fault_point {
    FP__FAULT_STEP,      /* a step begins */
    FP__FAULT_COMPUTED,  /* its K/V is written, and not yet summed */
    FP__FAULT_WRITTEN,   /* summed, and not yet committed */
    FP__FAULT_COMMITTED, /* committed, tokens sampled */
    FP__FAULT_NOTICED,   /* a check has failed; nothing has gone back yet */
    FP__FAULT_POINTS
} fp__fault_point;

/* Of an engine. */
typedef struct fp__validation {
    fp_validation level;
    uint32_t replay_65536;
    size_t window;
    uint64_t page_rate, weight_rate; /* bytes/s */
    fp__integrity *weights;          /* NULL: never checked (made when first needed) */
    fp__replay *replay;
    fp__round pages, weight_round; /* the scrub's */
    size_t target, target_page;    /* where the scrub of pages goes on: anchors or context of a session */
    size_t next_weight;
    uint64_t last_ns, page_pass_start, weight_pass_start;
    uint64_t met_ns;                     /* the last meeting */
    uint64_t pages_since, weights_since; /* when the last pass that read all of it began: what was wrong then
                                            has been noticed */
    bool has_skipped;                    /* the pass over the pages that is under way: hashes were missing */
    uint64_t page_debt, weight_debt;     /* bytes that are due, times 10^9 */
    fp__group *quarantine[FP__QUARANTINE_MAX];
    size_t quarantined;
    uint64_t random; /* chooses pages for re-execution */
    fp_validation_status count;
    atomic_size_t pages_checked;
    atomic_size_t weight_bytes_checked, check_cpu_ns;
    void (*fault)(void *arg, fp_engine *engine, fp__fault_point point); /* NULL: none */
    void *fault_arg;
} fp__validation;

fp_status fp__validation_create(fp_engine *engine, const fp_engine_options *options) FP_WARN_UNUSED;
void fp__validation_destroy(fp_engine *engine);
static inline void fp__fault_here(fp_engine *engine, fp__validation *v, fp__fault_point point)
{
    if (v->fault)
        v->fault(v->fault_arg, engine, point);
}

fp_status fp__checks_create(fp_session *s) FP_WARN_UNUSED;
void fp__checks_destroy(fp_session *s);
/* A new answer begins: failures and marks are counted anew. */
void fp__checks_begin(fp_session *s);
/* A step of `count` tokens was committed: notes the boundary if it ends at one. */
void fp__checks_step(fp_session *s, size_t count);
/* How many tokens of `waiting`, at most `limit` ≥ 1, the session may commit in the next step; 0: it is
 * stalled. */
size_t fp__checks_allow(fp_session *s, size_t waiting, size_t limit);

/* Between two steps: reports are taken, failures go back, what is verified leaves, answers settle, checks
 * begin. */
void fp__validation_meet(fp_engine *engine);
/* No session can go on without a check: makes those that are missing. */
void fp__validation_help(fp_engine *engine);
/* Before a step follows the block tables of these sessions: true if one was bad (it has gone back). */
bool fp__validation_bad_tables(fp_session *s);
/* A step of this session gave a number out of range: true if it is worth another try (a fault was found, and
 * it has gone back; or it is the first time). */
bool fp__validation_doubts(fp_session *s);
/* Reads everything that the session at rest was computed from once, here: the number of findings. */
size_t fp__validation_look(fp_session *s, bool weights);
/* Counts `n` failed checks; before anything goes back. */
void fp__validation_failed(fp_engine *engine, size_t n);
/* The windows of fp_engine_validation; `computed`: as the rates have them, whatever the workers' pace. */
void fp__validation_windows(const fp_engine *engine, bool computed, uint64_t *page_ns, uint64_t *weight_ns);
/* Ends what is under way on all pages of the engine; its reports do not count. */
void fp__validation_void(fp_engine *engine);

/* ---- rollback.c ---- */
/* Context page p of s failed a check. */
void fp__rollback_page(fp_session *s, size_t page, const char *what);
/* Re-execution gave another page p than s has, or another token or mass in it. */
void fp__rollback_replayed(fp_session *s, size_t page, const char *what);
/* The token after the boundary at `tokens` is not the one that was sampled there. */
void fp__rollback_token(fp_session *s, size_t tokens);
/* The open page was found bad when a step was taken back, and is dropped already. */
void fp__rollback_dropped(fp_session *s, const char *what);
/* A page of the anchors did: every running session that shares them goes back to its beginning. */
void fp__rollback_anchors(fp_anchors *anchors, size_t page, const char *what);
/* An item of the weights did: it is packed again from the model's file. */
void fp__rollback_weights(fp_engine *engine, size_t item);
/* Text that has left is compared with the first `bytes` of the answer's, which are verified. */
void fp__rollback_compare(fp_session *s, size_t bytes, bool complete);
/* A withdrawn answer keeps what has left: the rest is dropped. */
void fp__rollback_held(fp_session *s);
/* Logs the answer's retractions that are not logged yet. */
fp_status fp__retractions_log(fp_session *s, fp_workspace *workspace) FP_WARN_UNUSED;

/* ---- replay.c ---- */
fp_status fp__replay_create(fp_engine *engine, fp__replay **out) FP_WARN_UNUSED;
void fp__replay_destroy(fp__replay *replay); /* NULL is fine */
/* Gives committed tokens [from, to) of a context to re-execution: `from` a multiple of 64, `to` too or the
 * end of a turn; mass_from (NULL: zeros) and mass_to: [L][H] sums at both ends, or both NULL. Nothing of the
 * session is looked at later. */
fp_status fp__replay_submit(fp__replay *replay, fp_session *s, size_t from, size_t to,
                            const uint64_t *mass_from, const uint64_t *mass_to,
                            fp__replay_unit **out) FP_WARN_UNUSED;
/* True when it has reported. */
bool fp__replay_done(const fp__replay_unit *unit);
/* FP_MISMATCH with the first page that differs in *page. */
fp_status fp__replay_result(const fp__replay_unit *unit, size_t *page) FP_WARN_UNUSED;
void fp__replay_wait(fp__replay *replay, fp__replay_unit *unit); /* makes it itself if nobody has begun */
/* Frees it; not before it has reported, which is not waited for. */
void fp__replay_drop(fp__replay *replay, fp__replay_unit *unit);
struct fp__replay_unit { /* head of it */
    fp__replay_unit *next;
    size_t from, to;
};
#endif
