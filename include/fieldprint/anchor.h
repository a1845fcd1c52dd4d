/* Anchors: what a statement says, and what the gate decides.
 *
 * An anchor is a document that its authors signed (an in-toto Statement in a DSSE envelope) and that the
 * ledger registered and promoted. Its id is the SHA-256 of the bytes that were signed (the DSSE PAE). */
#ifndef FIELDPRINT_ANCHOR_H
#define FIELDPRINT_ANCHOR_H
#include "fieldprint/status.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Integrity label, and the type of an anchor: external < user < core. The numbers are hashed into pages. */
typedef enum fp_label {
    FP_LABEL_EXTERNAL = 0,
    FP_LABEL_USER = 1,
    FP_LABEL_CORE = 2,
    FP_LABEL_COUNT = 3
} fp_label;
FP_API const char *fp_label_name(fp_label label); /* "core" */
FP_API fp_status fp_label_parse(const char *name, fp_label *out) FP_WARN_UNUSED;

/* Latest time that a validity may name: "for ever". Times are seconds since 1970-01-01T00:00:00Z. */
#define FP_TIME_FOREVER UINT64_C(9007199254740991)

/* ---- Injection: how the anchor's and the context's partial results are mixed (γ = gamma / 65536) ---- */
typedef enum fp_inject_mode {
    FP_INJECT_COMPETE = 0, /* softmax over both */
    FP_INJECT_FLOOR = 1,   /* the anchor's share is at least γ */
    FP_INJECT_RESERVE = 2  /* the anchor's share is γ */
} fp_inject_mode;
FP_API const char *fp_inject_mode_name(fp_inject_mode mode); /* "compete", "floor", "reserve" */
FP_API fp_status fp_inject_mode_parse(const char *name, fp_inject_mode *out) FP_WARN_UNUSED;

#define FP_GAMMA_ONE 65536u
#define FP_INJECT_MAX_LAYERS 256
#define FP_INJECT_MAX_OVERRIDES 512
#define FP_INJECT_ALL_HEADS UINT16_MAX
typedef struct fp_inject_override {
    uint16_t layer, head; /* head FP_INJECT_ALL_HEADS: every query head of the layer */
    uint32_t gamma;       /* 0..65536 */
} fp_inject_override;
typedef struct fp_injection {
    fp_inject_mode mode;
    uint32_t gamma;                        /* 0..65536; 0 for compete */
    uint16_t layers_count;                 /* 0: all layers */
    uint16_t layers[FP_INJECT_MAX_LAYERS]; /* strictly ascending; other layers compete */
    uint16_t overrides_count;
    fp_inject_override overrides[FP_INJECT_MAX_OVERRIDES]; /* applied in order */
} fp_injection;
/* Fills gamma for a model; FP_LIMIT when a layer or head named does not exist in it. */
FP_API fp_status fp_injection_resolve(const fp_injection *injection, size_t layers, size_t heads,
                                      uint32_t *gamma /* [L][H] */) FP_WARN_UNUSED;
FP_API bool fp_injection_equal(const fp_injection *a, const fp_injection *b);

/* ---- Statement ---- */
#define FP_ANCHOR_NAME_MAX 64
#define FP_ANCHOR_VERSION_MAX 32
#define FP_READER_MAX 64
#define FP_ANCHOR_READERS_MAX 32
#define FP_ANCHOR_LINEAGE_MAX 32
#define FP_ANCHOR_DOCUMENT_MAX_BYTES (1u << 20)
typedef enum fp_lineage_kind { FP_LINEAGE_ANCHOR, FP_LINEAGE_DOCUMENT, FP_LINEAGE_RECEIPT } fp_lineage_kind;
typedef struct fp_lineage {
    fp_lineage_kind kind;
    uint8_t id[32]; /* anchor id, SHA-256 of a document, receipt id */
} fp_lineage;
typedef struct fp_statement {
    char name[FP_ANCHOR_NAME_MAX + 1];       /* [A-Za-z0-9._-]+ */
    char version[FP_ANCHOR_VERSION_MAX + 1]; /* [A-Za-z0-9._+-]+ */
    fp_label type;
    uint8_t document_sha256[32];
    uint16_t readers_count; /* ≥ 1; the single reader "*" is everybody */
    char readers[FP_ANCHOR_READERS_MAX][FP_READER_MAX + 1];
    uint64_t valid_from, valid_until; /* [from, until) */
    uint16_t lineage_count;
    fp_lineage lineage[FP_ANCHOR_LINEAGE_MAX];
    fp_injection injection;
    uint8_t salt[32];
} fp_statement;
/* name "anchor", version "1", type user, readers *, valid for ever, compete; salt and document are left zero.
 */
FP_API void fp_statement_default(fp_statement *out);
/* Reads a DSSE envelope (untrusted bytes; strict). Signatures are not looked at: that is the gate's work. */
FP_API fp_status fp_statement_parse(const void *envelope, size_t size, fp_statement *out,
                                    uint8_t id[32]) FP_WARN_UNUSED;

/* Set id of an ordered list of anchors: H(03 "fieldprint/sets" 01 n:u32 anchor_id[32·n]). n = 0 gives zeros.
 */
FP_API fp_status fp_set_id(const uint8_t (*anchor_ids)[32], size_t n, uint8_t out[32]) FP_WARN_UNUSED;

/* ---- Gate ---- */
/* X(NAME, text, remedy in one line). The order is the order in which the gate looks. */
#define FP_GATE_TABLE(X)                                                                                     \
    X(ALLOW, "allow", "nothing to do")                                                                       \
    X(SIGNATURE, "signature",                                                                                \
      "get the statement again from its authors, or sign it again: fieldprint anchor sign ID")               \
    X(KEY_NOT_IN_POLICY, "key-not-in-policy",                                                                \
      "have a holder of the author role sign it, or add the key to the policy")                              \
    X(THRESHOLD, "threshold", "have more holders of the role sign it: fieldprint anchor sign ID")            \
    X(NOT_LOGGED, "not-logged", "log it: fieldprint anchor register ID")                                     \
    X(STALE_CHECKPOINT, "stale-checkpoint",                                                                  \
      "wait for, or fetch, a checkpoint that enough witnesses cosigned recently")                            \
    X(INCONSISTENT_LOG, "inconsistent-log",                                                                  \
      "stop using this log, keep the folder as evidence: fieldprint ledger fsck")                            \
    X(UNKNOWN_EVENT, "unknown-event",                                                                        \
      "the log holds an event type this version does not know: upgrade fieldprint")                          \
    X(NOT_PROMOTED, "not-promoted", "have the role promote approve it: fieldprint anchor promote ID")        \
    X(SUPERSEDED, "superseded", "use its successor: fieldprint anchor show ID names it")                     \
    X(REVOKED, "revoked", "revocation is final: create and promote a new anchor")                            \
    X(DISTRUSTED, "distrusted", "a key that signed it was declared stolen: have other keys sign it again")   \
    X(NOT_YET_VALID, "not-yet-valid", "wait until its validity begins, or set the clock right")              \
    X(EXPIRED, "expired", "create and promote a new version: fieldprint anchor add FILE")                    \
    X(NOT_PERMITTED, "not-permitted", "ask for what the policy allows, or change the policy")                \
    X(WRONG_MODEL, "wrong-model", "compile it for this model: fieldprint anchor compile ID -m MODEL")        \
    X(WRONG_ARITHMETIC, "wrong-arithmetic",                                                                  \
      "compile it with this version of the arithmetic: fieldprint anchor compile ID -m MODEL")               \
    X(NOT_COMPILED, "not-compiled", "compile it: fieldprint anchor compile ID -m MODEL")                     \
    X(ROOT_MISMATCH, "root-mismatch",                                                                        \
      "the K/V bytes are not those that were logged: delete the artifact and compile again")                 \
    X(READER_NOT_ALLOWED, "reader-not-allowed", "use a tenant that the anchor names among its readers")      \
    X(LABEL_TOO_LOW, "label-too-low", "use an anchor of a higher type, or have it endorsed")                 \
    X(MISSING_STATEMENT, "missing-statement",                                                                \
      "put the signed statement into the workspace: fieldprint anchor import FILE")                          \
    X(OVERRIDDEN, "overridden", "a halt override is in force: wait until it ends")

typedef enum fp_gate_reason {
#define FP_GATE_ENUM(name, text, remedy) FP_GATE_##name,
    FP_GATE_TABLE(FP_GATE_ENUM)
#undef FP_GATE_ENUM
        FP_GATE_COUNT
} fp_gate_reason;
FP_API const char *fp_gate_reason_name(fp_gate_reason reason);   /* "not-promoted" */
FP_API const char *fp_gate_reason_remedy(fp_gate_reason reason); /* one line, an imperative */

typedef struct fp_gate_query {
    const uint8_t (*anchor_ids)[32]; /* the set, in order */
    size_t anchors;
    const uint8_t *model_digest; /* [32] */
    uint16_t arithmetic_version;
    const char *reader; /* tenant; NULL: the local operator, who may read every anchor of the workspace */
    fp_label min_label; /* the lowest type that may take part */
    uint32_t gamma;     /* raises the set's γ to this (≤ the policy's maximum); 0: as signed */
    bool for_compile;   /* about to compile it: no compile event is asked for */
    bool running;       /* of a turn that has begun: it may end although an anchor was superseded since */
    uint64_t now;       /* seconds; 0: the system clock */
} fp_gate_query;

#define FP_GATE_OVERRIDES_MAX 8 /* beyond that many a bypass lets nothing pass */
/* What is decided, at which tree. Everything but reason, anchor_id, detail, time, overrides and the
 * tree is meaningful on ALLOW only. */
typedef struct fp_gate_result {
    fp_gate_reason reason;
    uint8_t anchor_id[32]; /* which anchor the reason is about; zero: the set */
    char detail[384];      /* a sentence with the remedy; empty on allow */
    uint64_t time;         /* seconds since 1970 by which validity was judged */
    uint64_t tree_size;    /* the decision was made at this tree head */
    uint8_t tree_root[32];
    uint8_t policy_digest[32];
    uint8_t set_id[32];
    fp_label label;         /* lowest type of the set */
    fp_injection injection; /* of the set, γ raised as asked */
    bool compiled;          /* the rest comes from the compile event */
    uint8_t kv_head[32];    /* expected head: the loader compares, and says root-mismatch */
    uint8_t salt[32];
    uint8_t token_ids_digest[32];
    uint32_t tokens, pages;
    uint64_t compile_index; /* of the compile event in the log */
    bool bypassed;          /* a bypass override replaced a refusal */
    /* Overrides in force for the set: the halts that refuse it, the bypasses that let it pass or could. */
    uint32_t overrides_count;
    uint8_t overrides[FP_GATE_OVERRIDES_MAX][32];
    /* Who may read what is made from the set: the readers of its anchors, of what they were made from and of
     * the policy, intersected. 0: nobody; the single reader "*": everybody. */
    uint16_t readers_count;
    char readers[FP_ANCHOR_READERS_MAX][FP_READER_MAX + 1];
} fp_gate_result;

#ifdef __cplusplus
}
#endif
#endif
