/* The engine: conversations over a model, with verified anchors, in steps that batch all of them.
 *
 * An engine owns a page pool, a thread team and hash workers for one model. Sessions are conversations;
 * anchors are verified sets of K/V pages that sessions share. A step (fp_engine_step) takes the next tokens
 * of every session that has work: what a session computes does not depend on which others are in the step, on
 * chunk size or on threads.
 *
 * Threads: an engine and its sessions belong to one thread at a time; the engine's own threads are inside.
 * Lifetime: model > engine > anchors > sessions. */
#ifndef FIELDPRINT_ENGINE_H
#define FIELDPRINT_ENGINE_H
#include "fieldprint/anchor.h"
#include "fieldprint/device.h"
#include "fieldprint/model.h"
#include "fieldprint/workspace.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_engine fp_engine;
typedef struct fp_anchors fp_anchors;
typedef struct fp_session fp_session;

/* What is checked beside the token loop, and how. Each level includes those before it. */
typedef enum fp_validation {
    FP_VALIDATE_HASH,  /* pages when they are sealed, against the checksums taken when they were written */
    FP_VALIDATE_SCRUB, /* what is resident: pages, block tables, packed weights, rotary table, at a rate; and
                          once more when an answer ends */
    FP_VALIDATE_REPLAY /* a share of the pages is computed again, with other kernels, from weights that were
                          loaded and packed a second time */
} fp_validation;
FP_API const char *fp_validation_name(fp_validation level); /* "scrub" */
/* "hash", "scrub", "replay", "replay:0.25": FP_USAGE. *replay_65536: the share, 65536 for all; 0 unless
 * replay. */
FP_API fp_status fp_validation_parse(const char *text, fp_validation *level,
                                     uint32_t *replay_65536) FP_WARN_UNUSED;

/* When text may leave. */
typedef enum fp_release {
    FP_RELEASE_OPTIMISTIC, /* at once; taken back if a check finds it wrong (on_retract) */
    FP_RELEASE_GATED,      /* when all that it was computed from was read again, unchanged, after its use */
    FP_RELEASE_FINAL       /* all of it at the end, after all checks */
} fp_release;
FP_API const char *fp_release_name(fp_release release); /* "gated" */
FP_API fp_status fp_release_parse(const char *text, fp_release *out) FP_WARN_UNUSED;

typedef struct fp_engine_options {
    const char *device; /* "cpu" (NULL), "cuda", "cuda:N", or "auto": a GPU if one can take the model. Changes
                           no result. Weights, pages and steps are then in the GPU's memory */
    size_t threads;     /* 0: one per usable core */
    size_t hash_threads;   /* workers that hash sealed pages off the token loop; 0: 1. SIZE_MAX: hash in the
                              loop */
    size_t context_tokens; /* per session, anchors included; 0: what the model was trained for, at most 8,192,
                              and what fits the GPU's memory */
    size_t max_sessions;   /* 0: 1 */
    size_t chunk_tokens;   /* tokens per step; 0: 512, on a GPU 2,048 */
    void (*progress)(void *context, double done); /* of long work (compile, audit); may be NULL */
    void *progress_context;
    const volatile int *cancel; /* when it becomes nonzero, long calls return FP_CANCELLED; may be NULL */
    fp_validation validation;
    uint32_t replay_65536; /* FP_VALIDATE_REPLAY: share of the pages, in 1/65536; 0: all */
    size_t window_pages;   /* most pages of a session that are sealed and not yet checked; 0: 8, on a GPU
                              32 */
    uint64_t scrub_page_bytes_per_s;   /* of K/V pages; 0: 8 MiB */
    uint64_t scrub_weight_bytes_per_s; /* of packed weights; 0: 64 MiB */
} fp_engine_options;

/* FP_UNSUPPORTED: the device is not there, cannot be used, or cannot compute this model (fp_devices_list says
 * what is there); FP_NO_MEMORY: the context does not fit its memory. */
FP_API fp_status fp_engine_create(const fp_model *model, const fp_engine_options *options,
                                  fp_engine **out) FP_WARN_UNUSED;
FP_API void fp_engine_destroy(fp_engine *engine); /* sessions and anchors first; NULL is fine */
FP_API size_t fp_engine_context_tokens(const fp_engine *engine);
FP_API const char *fp_engine_device(const fp_engine *engine); /* in use: "cpu", "cuda:0" */

/* What the checks have done so far, and how long a fault can stay unseen. */
typedef struct fp_validation_status {
    fp_validation validation;
    uint32_t replay_65536;
    /* A fault that stays is noticed within this time of work: that in which each byte is read once, as the
     * rates and what is resident now have it, or, if that is longer (a worker without a core cannot keep the
     * rate), the time since the last complete pass began. 0: not read at a rate. Pages of a conversation at
     * rest are read when it goes on. At the end of each answer all of it is read at this level, whatever the
     * rates. */
    uint64_t page_window_ns, weight_window_ns;
    uint64_t page_pass_ns, weight_pass_ns; /* longest pass that was seen */
    uint64_t pages_sealed, pages_checked, pages_replayed, weight_bytes_checked;
    uint64_t
        check_cpu_ns; /* processor time of these checks, hashes at sealing and re-execution not counted */
    uint64_t failures, rollbacks, tokens_replayed, retractions;
    uint64_t rollback_ns, rollback_max_ns; /* time in rollbacks, without computing anew; the longest */
    /* From the moment at which a page was full to the one at which it was verified: in gated release, when
     * its text left. */
    uint64_t boundaries, verify_ns, verify_max_ns;
    size_t unverified_pages;
} fp_validation_status;
FP_API void fp_engine_validation(const fp_engine *engine, fp_validation_status *out);

/* ---- Anchors ---- */

/* Computes the K/V pages of a set (in this order) and writes them to an artifact in the workspace, then logs
 * the compile event. The gate is asked first (all but not-compiled). kv_head may be NULL. */
FP_API fp_status fp_anchors_compile(fp_engine *engine, fp_workspace *workspace, const uint8_t (*ids)[32],
                                    size_t n, fp_event_receipt *event, uint8_t kv_head[32], uint32_t *tokens,
                                    uint32_t *pages) FP_WARN_UNUSED;

typedef struct fp_anchors_options {
    const char *reader;        /* tenant; NULL: the local operator */
    uint32_t gamma;            /* raises γ to this many 1/65536, within policy; 0: as signed */
    uint64_t now;              /* 0: the system clock */
    const char *artifact_path; /* NULL: the workspace's own */
    /* Ask the gate again when an answer begins, and at commit boundaries (a page of a session is sealed) when
     * the log has grown or a second has passed. When it says no, by a revocation that another process logged,
     * say, the answers that attend to these anchors end with FP_FINISH_ANCHOR_REVOKED. An anchor that was
     * superseded meanwhile serves the answers in progress and no new ones. The workspace must outlive the
     * anchors and be used in the engine's thread only. */
    bool watch;
} fp_anchors_options;
/* Passes the gate, copies the set's pages into the engine's own memory, hashes that copy and compares it with
 * the K/V head that the log names. FP_DENIED (gate, with reason and remedy), FP_MISMATCH (naming page, layer
 * and head): then no page reaches a kernel. *gate may be NULL; it is filled on success and on FP_DENIED. */
FP_API fp_status fp_anchors_load(fp_engine *engine, fp_workspace *workspace, const uint8_t (*ids)[32],
                                 size_t n, const fp_anchors_options *options, fp_anchors **out,
                                 fp_gate_result *gate) FP_WARN_UNUSED;
FP_API void fp_anchors_release(fp_anchors *anchors); /* sessions that use it first; NULL is fine */
FP_API uint32_t fp_anchors_tokens(const fp_anchors *anchors);
FP_API uint32_t fp_anchors_pages(const fp_anchors *anchors);

/* ---- Sessions ---- */

typedef struct fp_sampling {
    float temperature;                         /* 0: greedy */
    uint32_t top_k;                            /* 0: off */
    float top_p, min_p;                        /* 1 and 0: off */
    float repeat_penalty;                      /* 1: off */
    float frequency_penalty, presence_penalty; /* 0: off */
    uint32_t repeat_last_n; /* tokens looked back at by the penalties; 0: all of the context */
    uint64_t seed;
} fp_sampling;
FP_API void fp_sampling_default(fp_sampling *out); /* greedy, everything off, seed 0 */

typedef enum fp_role { FP_ROLE_SYSTEM, FP_ROLE_USER, FP_ROLE_ASSISTANT } fp_role;
typedef enum fp_finish {
    FP_FINISH_NONE,   /* still running */
    FP_FINISH_STOP,   /* end of generation token or stop string */
    FP_FINISH_LENGTH, /* max_tokens, or the context is full */
    FP_FINISH_CANCELLED,
    FP_FINISH_ERROR,
    FP_FINISH_ANCHOR_REVOKED /* the gate withdrew an anchor: stopped at the commit boundary */
} fp_finish;
FP_API const char *fp_finish_name(fp_finish finish); /* "stop" */

typedef struct fp_session_options {
    fp_anchors *anchors; /* NULL: none */
    const char *tenant;  /* NULL: "local" */
    const uint8_t
        *nonce; /* [32] of the client: the seed is derived from it (docs/formats.md); NULL: the seed given */
    bool raw;   /* prompts are plain text to be completed: no chat template */
    fp_release release;
    fp_workspace *workspace; /* where a retraction is logged when it happens; NULL: with the receipt. Must
                                outlive the session */
} fp_session_options;
/* FP_LIMIT when max_sessions are open. */
FP_API fp_status fp_session_create(fp_engine *engine, const fp_session_options *options,
                                   fp_session **out) FP_WARN_UNUSED;
FP_API void fp_session_destroy(fp_session *session); /* NULL is fine */

/* Adds a message (UTF-8, checked: FP_TEXT). Messages are turned into tokens when fp_session_begin is called.
 * In a raw session only user messages, each plain text. */
FP_API fp_status fp_session_add_message(fp_session *session, fp_role role, const char *text,
                                        size_t size) FP_WARN_UNUSED;

/* Where a text comes from. It decides the label: user, or external for tool output and retrieved text
 * (files too). fp_session_add_message is for system, user and assistant text: label user. */
typedef enum fp_source { FP_SOURCE_SYSTEM, FP_SOURCE_USER, FP_SOURCE_TOOL, FP_SOURCE_RETRIEVED } fp_source;
FP_API const char *fp_source_name(fp_source source); /* "retrieved" */
FP_API fp_status fp_source_parse(const char *name, fp_source *out) FP_WARN_UNUSED;
/* As fp_session_add_message, with a source. With `endorsements` (NULL: none) a signed, logged endorsement of
 * exactly this text gives it the label user; nothing else raises a label. Whatever attends to an external
 * text is external: the pages after it and the answer. */
FP_API fp_status fp_session_add_text(fp_session *session, fp_role role, fp_source source,
                                     fp_workspace *endorsements, const char *text,
                                     size_t size) FP_WARN_UNUSED;
/* Lowest label of all that the next answer would attend to, at most user: an answer's label. */
FP_API fp_label fp_session_label(const fp_session *session);

/* Forgets the messages that were added since the last answer began (one was too long, say). */
FP_API fp_status fp_session_drop_messages(fp_session *session) FP_WARN_UNUSED;

typedef struct fp_generate_options {
    fp_sampling sampling;
    uint32_t max_tokens;      /* 0: until the context is full */
    const char *const *stops; /* [n_stops] strings that end the answer; they are not part of the text */
    size_t n_stops;
    bool ignore_eog; /* goes on after end-of-generation tokens (benchmarks) */
    /* New text, whole UTF-8 characters, in the thread that steps; may be NULL. Returning nonzero cancels
     * (an answer that ends with this text anyway is not cancelled). */
    int (*on_text)(void *context, const char *text, size_t size);
    void *on_text_context;
    /* A check found that text was wrong which had left: all but the first keep_bytes of what on_text was
     * given is withdrawn; on_text goes on from there. With on_text's context; may be NULL. */
    void (*on_retract)(void *context, size_t keep_bytes, const char *reason);
    /* [n_holds] strings at which something acts (a tool call): from the first of them on, text leaves only
     * when it is verified, whatever the release. */
    const char *const *holds;
    size_t n_holds;
} fp_generate_options;
/* Starts an answer to the messages added. FP_LIMIT (context overflow, with the numbers) leaves the session as
 * it was, the messages still waiting (see fp_session_drop_messages). The options' strings are copied. */
FP_API fp_status fp_session_begin(fp_session *session, const fp_generate_options *options) FP_WARN_UNUSED;
/* One step for all sessions that have work; *active = sessions that still have. A session that fails ends
 * with FP_FINISH_ERROR and fp_session_error; others go on. */
FP_API fp_status fp_engine_step(fp_engine *engine, size_t *active) FP_WARN_UNUSED;
/* Steps until this session is done (others progress too). FP_CANCELLED leaves what was generated, and so does
 * FP_DENIED: the gate withdrew an anchor (FP_FINISH_ANCHOR_REVOKED). */
FP_API fp_status fp_session_run(fp_session *session) FP_WARN_UNUSED;

/* Going on without anchors that were withdrawn, where the operator and the policy allow it: a new session
 * (a free place among max_sessions is needed) with the messages of a stopped one and none of its answers or
 * pages, which come from the anchors. fp_session_begin then computes everything anew. FP_DENIED when the
 * policy requires anchors. */
FP_API fp_status fp_session_without_anchors(const fp_session *session, fp_workspace *workspace,
                                            fp_session **out) FP_WARN_UNUSED;

typedef enum fp_standing {
    FP_STANDING_PROVISIONAL, /* checks are missing: it may be taken back */
    FP_STANDING_FINAL,       /* every check of its level was passed */
    FP_STANDING_RETRACTED    /* withdrawn, and there is nothing in its place */
} fp_standing;
FP_API const char *fp_standing_name(fp_standing standing); /* "final" */

typedef struct fp_result {
    fp_finish finish; /* FP_FINISH_NONE until its checks are done, too */
    fp_standing standing;
    fp_release release;
    uint32_t failures, rollbacks, retractions; /* of this answer */
    const char *text; /* of the answer; NUL-terminated; valid until the next begin or destroy */
    size_t text_size;
    const uint32_t *ids; /* [n_ids] generated */
    size_t n_ids;
    fp_label label;                          /* of the answer */
    uint32_t prompt_tokens;                  /* of this answer's messages */
    uint32_t anchor_tokens, context_tokens;  /* attended to at the end */
    uint64_t load_ns, prefill_ns, decode_ns; /* load: of the session's anchors */
    uint64_t mass_rows;                      /* token positions that the masses sum over */
    const uint64_t *mass;                    /* [L][H] Σ rint(α·2^24), NULL without anchors */
    size_t layers, heads;
    fp_sampling sampling; /* as used: with the seed derived */
} fp_result;
FP_API void fp_session_result(const fp_session *session, fp_result *out);
FP_API fp_status fp_session_error(const fp_session *session,
                                  const char **detail); /* FP_OK when it did not fail */
/* The K/V commitment of the context so far (docs/formats.md); waits for the hash workers. */
FP_API fp_status fp_session_kv_head(fp_session *session, uint8_t out[32]) FP_WARN_UNUSED;

/* ---- Saving and restoring ---- */

/* Writes context pages, tokens and transcript to a file, with a manifest signed by the workspace's engine
 * key: the file is worth nothing without it. */
FP_API fp_status fp_session_save(fp_session *session, fp_workspace *workspace,
                                 const char *path) FP_WARN_UNUSED;
/* Verifies the manifest (signature, tenant, model, anchors through the gate, expiry), copies the pages,
 * hashes the copy. Every refusal says why. The session continues the conversation; options->anchors must be
 * the set it was made with. */
FP_API fp_status fp_session_load(fp_engine *engine, fp_workspace *workspace, const char *path,
                                 const fp_session_options *options, fp_session **out) FP_WARN_UNUSED;

/* ---- Receipts ---- */

/* Receipt of the last answer, signed by the workspace's engine key and logged, as receipts/ID.dsse.json, and
 * its transcript (texts, salts, tokens) beside it. *_path: at least 1,024 bytes each, may be NULL. */
FP_API fp_status fp_session_receipt(fp_session *session, fp_workspace *workspace, uint8_t id[32],
                                    char *receipt_path, char *transcript_path) FP_WARN_UNUSED;

/* ---- Memory ---- */

/* Makes an anchor of the last answer: stores its text as a document and an unsigned statement for it, a
 * candidate like any other (sign, register, promote). It inherits: type = the answer's label (fp_label),
 * readers = those of all it attended to and, of a session with a tenant, that tenant only; lineage = the
 * session's anchors, and the receipt if one was made (of neither: the answer's own digest). FP_DENIED when
 * nobody could read it. */
FP_API fp_status fp_session_remember(fp_session *session, fp_workspace *workspace, const char *name,
                                     const char *version, uint8_t id[32]) FP_WARN_UNUSED;

/* ---- Scores ---- */

/* Log-probabilities of ids[i] given ids[0..i) for first ≤ i < n, each sequence on its own, `batch` of them at
 * a time: out[s][i - first] (natural logarithm; binary64 by fixed operations: docs/arithmetic.md). kv_heads
 * [sequences][32] or NULL. */
FP_API fp_status fp_engine_score(fp_engine *engine, const uint32_t *const *ids, const size_t *n,
                                 size_t sequences, size_t first, double *const *out,
                                 uint8_t (*kv_heads)[32]) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
