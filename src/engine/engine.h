/* Inside of the engine: what engine.c, session.c, anchors.c, receipt.c, audit.c and session_file.c share. The
 * public side is fieldprint/engine.h. */
#ifndef FP_ENGINE_ENGINE_H
#define FP_ENGINE_ENGINE_H
#include "cache/artifact.h"
#include "engine/validation.h"
#include "exact/sampling.h"
#include "fieldprint/engine.h"
#include "model/device.h"

enum { FP__CONTEXT_MAX = 1 << 24 };     /* tokens of a session */
enum { FP__LOGIT_ROWS = 64 };           /* rows of logits that one call of the forward pass gives at most */
enum { FP__ANSWER_OVERRIDES_MAX = 16 }; /* that a receipt names */
enum { FP__ANCHOR_PAGES = 256 };        /* of all anchors of an engine */

struct fp_engine {
    const fp_model *model;
    fp_engine_options options;
    size_t context_tokens, max_sessions, chunk_tokens;
    char device[16]; /* "cpu", "cuda:0" */
    fp__team *team;
    fp__gpu *gpu; /* NULL: the CPU computes */
    fp__forward *forward;
    fp__pool *pool;
    fp__hasher *hasher;
    fp_session **sessions; /* [max_sessions], NULL: free */
    /* one step */
    fp__forward_span *spans; /* [max_sessions] */
    fp_session **stepping;   /* [max_sessions] session of a span */
    size_t *counts;          /* [max_sessions] tokens of a span */
    size_t *rows;            /* [max_sessions] rows whose logits are wanted */
    fp__kvseq **step_seqs;   /* [max_sessions] sequence of a span */
    uint64_t *step_mass;     /* [max_sessions][L][H] */
    fp__validation checks;
};

struct fp_anchors {
    fp_engine *engine;
    fp__kvseq *seq;
    fp_gate_result gate;
    uint8_t (*ids)[32]; /* [n] anchor ids in order */
    size_t n;
    uint32_t *g;     /* [L][H] */
    uint32_t raised; /* options.gamma */
    uint64_t load_ns;
    /* making the pages again when they fail a check: rollback.c */
    fp_workspace *workspace; /* NULL: cannot be compiled again */
    char path[4096];         /* of the artifact */
    unsigned failures;
    /* asking the gate again: withdraw.c */
    fp_workspace *watched; /* NULL: not asked again */
    bool has_reader;
    char reader[FP_READER_MAX + 1];
    fp_status verdict;  /* of the last time: FP_OK or why not */
    fp_gate_result now; /* of the last time */
    char why[512];
    uint64_t asked_epoch; /* inputs_epoch of the workspace then */
    bool asked_running;   /* asked for an answer in progress, the last time */
};

/* A decision of the gate that a session goes by. */
typedef struct fp__let_in {
    uint64_t size;
    uint8_t root[32], policy[32];
    uint64_t time;
} fp__let_in;

/* One message or answer, in order; its tokens are context ids [first, first + count). */
typedef struct fp__turn {
    fp__text_kind kind;
    fp_role role;
    fp_label label;
    fp__buf text;
    size_t first, count;
    uint32_t closed_by; /* answers: the end-of-generation token that was sampled last and taken out of the
                           context again, as the template closes the turn itself; else FP__TOKEN_NONE */
} fp__turn;

/* The answer in progress. */
typedef struct fp__answer {
    fp_sampling sampling;
    uint32_t max_tokens;
    bool ignore_eog, cancelled; /* cancelled: on_text wants no more */
    char **stops;
    size_t n_stops;
    int (*on_text)(void *context, const char *text, size_t size);
    void *on_text_context;
    void (*on_retract)(void *context, size_t keep_bytes, const char *reason);
    char **holds;
    size_t n_holds;
    size_t turn;  /* index of the answer's turn */
    size_t safe;  /* bytes of its text that cannot become part of a stop string */
    fp__buf left; /* text that was given to on_text */
    bool settled; /* its checks are done; until then it can go back */
    fp__detok detok;
    uint32_t prompt_tokens;
    uint64_t start_ns, first_ns, end_ns;
    fp_finish finish;
    fp_status status;
    char error[512];
} fp__answer;

struct fp_session {
    fp_engine *engine;
    fp_anchors *anchors;
    fp__kvseq *context;
    char tenant[FP_READER_MAX + 1];
    bool has_tenant, has_nonce, raw, has_receipt;
    uint8_t receipt_id[32]; /* of the last answer */
    fp__let_in first, last; /* when the answer began; the last time that the gate was asked */
    uint64_t asked_ns;      /* that last time */
    size_t overrides_count; /* in force at any time of the answer, in the order in which they were noticed */
    uint8_t overrides[FP__ANSWER_OVERRIDES_MAX][32];
    uint8_t nonce[32];
    fp__turn *turns; /* [n_turns] */
    size_t n_turns, turns_capacity;
    size_t pending_turns; /* messages added since the last begin: the last ones of turns */
    fp__ids ids;          /* context tokens: committed ones first, then those waiting to be consumed */
    uint64_t *mass;       /* [L][H] */
    uint64_t mass_rows;
    fp__sampler *sampler;
    fp__answer answer;
    fp_release release;
    size_t context_limit;    /* tokens, anchors included: the engine's, or in an audit the receipt's */
    fp_workspace *workspace; /* for retractions, or NULL */
    fp__checks checks;
};

uint64_t fp__now_ns(void);
/* First 8 bytes of SHA-256(05 ‖ nonce), little-endian. */
uint64_t fp__seed_from_nonce(const uint8_t nonce[32]);
static inline size_t fp__session_anchor_tokens(const fp_session *s)
{
    return s->anchors ? fp__kvseq_tokens(s->anchors->seq) : 0;
}
bool fp__engine_cancelled(const fp_engine *engine);
void fp__engine_progress(const fp_engine *engine, double done);

/* ---- session.c ---- */
fp_status fp__session_add_turn(fp_session *s, fp__text_kind kind, fp_role role, const char *text, size_t size,
                               fp__turn **out) FP_WARN_UNUSED;
/* Context tokens of the pending messages (appended to ids), with first/count of their turns set. */
fp_status fp__session_render(fp_session *s, fp__ids *ids) FP_WARN_UNUSED;
/* Samples from the i-th of the rows whose logits the forward pass gave last, which follows the last context
 * token: appends the token, ends the answer where it ends. */
void fp__session_sample(fp_session *s, size_t i);
/* Takes a token as the next one of the answer, as if it had been sampled. */
void fp__session_take(fp_session *s, uint32_t id);
/* Ends the answer: what was held back becomes part of its text, unless a stop string ended it. */
void fp__session_end(fp_session *s, fp_finish finish);
/* Appends the tokens of a turn to ids, as its transcript has them (untrusted: FP_INVALID); of an answer that
 * others follow (not `last`) without the token that ended its generation, as fp_session_begin does. */
fp_status fp__session_replay_turn(fp_session *s, fp__turn *turn, const fp__ids *tokens, bool last,
                                  fp__ids *ids) FP_WARN_UNUSED;
fp_status fp__session_check_sampling(const fp_session *s, const fp_sampling *sampling) FP_WARN_UNUSED;
fp__sampling fp__session_sampling(const fp_session *s);
void fp__session_fail(fp_session *s, fp_status status);
/* Back to the first `keep` context tokens, of which those from the answer's first one on were sampled: its
 * text, and what it holds back, are again what they were then. */
fp_status fp__session_rewind(fp_session *s, size_t keep) FP_WARN_UNUSED;
/* Gives out what may leave by now; asks the gate first about what was held back. */
void fp__session_leave(fp_session *s);
bool fp__session_active(const fp_session *s);

/* Commits the first n reserved tokens, each with the label of the turn that it belongs to. */
fp_status fp__session_commit(fp_session *s, const uint32_t *ids, size_t n) FP_WARN_UNUSED;
/* As fp_session_add_text, with the label. */
fp_status fp__session_add_labelled(fp_session *s, fp_role role, fp_label label, const char *text,
                                   size_t size) FP_WARN_UNUSED;

static inline bool
fp__session_ended(const fp_session *s) /* generated to its end; its checks may be missing */
{
    return s->answer.finish != FP_FINISH_NONE;
}

/* ---- withdraw.c ---- */
/* Asks the gate again if the anchors are watched; `running`: of an answer in progress. FP_DENIED, or an
 * operating error, with its detail. */
fp_status fp__anchors_ask(fp_anchors *anchors, bool running) FP_WARN_UNUSED;
/* Notes in a session what its answer goes by. FP_LIMIT: more overrides than a receipt can name. */
fp_status fp__session_note_gate(fp_session *s, bool begins) FP_WARN_UNUSED;
/* A commit boundary of a running answer: ends it when its anchors are withdrawn. */
void fp__session_boundary(fp_session *s);
/* Before a step: an answer that has not passed the gate for a second (its caller waited, or the model is
 * slow) passes it again before its next token. */
void fp__session_wake(fp_session *s);

/* ---- anchors.c ---- */
/* Tokens of the documents of a set, anchor by anchor: ids appended, counts[n] filled. */
fp_status fp__anchors_tokenize(const fp_model *model, fp_workspace *workspace, const uint8_t (*ids)[32],
                               size_t n, fp__ids *out, size_t *counts) FP_WARN_UNUSED;
/* The pages of a set from its artifact, or compiled anew; verified against the K/V head that the log names.
 */
fp_status fp__anchors_reload(fp_anchors *anchors, bool compile) FP_WARN_UNUSED;
/* Prefill of a set into a new anchor sequence. */
fp_status fp__anchors_prefill(fp_engine *engine, const fp__ids *ids, const size_t *counts,
                              const fp_label *labels, size_t n, fp__kvseq **out) FP_WARN_UNUSED;

/* ---- engine.c ---- */
/* Runs tokens [committed, committed + n) of a sequence's segment through the model and commits them. anchors:
 * what a context attends to, or NULL. rows, out: logits wanted of these tokens (NULL, 0: none). */
typedef struct fp__feed {
    fp__kvseq *seq;
    const fp_anchors *anchors;
    const uint32_t *ids;
    size_t n;
    fp_label label;
    uint64_t *mass;      /* [L][H] or NULL */
    fp_session *session; /* not NULL: seq is its context, and the labels are those of its turns */
} fp__feed;
fp_status fp__engine_feed(fp_engine *engine, const fp__feed *feeds, size_t n) FP_WARN_UNUSED;
#endif
