/* A workspace: the folder in which an operator keeps keys, policy, trust file, ledger, anchors and artifacts.
 *
 *   trust.json      the root of trust: origin, log key, digest of the first policy, witnesses
 *   policy.json     the policy that was proposed last (the one in force comes from the ledger)
 *   keys/           HOLDER/PURPOSE.pem private keys, mode 0600
 *   ledger/         the log, in C2SP tlog-tiles; may be served as static files
 *   ledger.url      in place of ledger/: the URL of a log that is written elsewhere, for reading only
 *   witness.policy  the witnesses that every append is shown to (c2sp.org/tlog-policy); may be absent
 *   ledger.state    the checkpoint this workspace has seen last: a reader never goes back
 *   registry.db     a cache of the replayed log; delete it and it comes back the same
 *   anchors/        ID.dsse.json statements      documents/   SHA256 documents
 *   pending/        ID.dsse.json events that need more signatures
 *   spool/          ID.dsse.json overrides that could not be logged yet
 *   artifacts/      SET.MODEL.fpkv K/V pages     receipts/    ID.dsse.json receipts
 *
 * A workspace handle belongs to one thread at a time. Several processes may hold one open: the log's writer
 * lock keeps appends apart (they wait up to 5 s for each other, then FP_BUSY).
 * Trusted as they stand: trust.json, keys/, and this machine's own notes ledger.state and registry.db. All
 * the rest (ledger, statements, documents, artifacts) may come from anywhere and is verified on use. With a
 * trust_path (an auditor) the notes are not used either: the log is replayed into memory, nothing is written.
 */
#ifndef FIELDPRINT_WORKSPACE_H
#define FIELDPRINT_WORKSPACE_H
#include "fieldprint/anchor.h"
#include "fieldprint/key.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_workspace fp_workspace;

/* Makes the folder: one holder with a key for every purpose, a policy in which that holder alone meets every
 * threshold, the trust file, and a ledger whose entry 0 is the policy. holder NULL: "operator"; origin NULL:
 * "fieldprint.local/" and 16 random hex digits. FP_EXISTS when there is a workspace already. path as for
 * open. */
FP_API fp_status fp_workspace_init(const char *path, const char *holder, const char *origin) FP_WARN_UNUSED;

/* ---- The same, step by step ----
 * fp_workspace_init is fp_keys_generate for one holder, fp_policy_create and fp_ledger_init. */

#define FP_HOLDER_MAX 64
typedef struct fp_key_row {
    char holder[FP_HOLDER_MAX + 1]; /* [A-Za-z0-9_-]+ */
    fp_purpose purpose;
    uint8_t public_key[32];
    char keyid[65];
} fp_key_row;
/* Makes keys/HOLDER/PURPOSE.pem, and the folder where it is missing. `purposes` is a set of bits 1u <<
 * fp_purpose; 0: every purpose but override, which needs two holders. holder NULL: "operator". FP_EXISTS, and
 * nothing is made, when one of the keys is there already. */
FP_API fp_status fp_keys_generate(const char *path, const char *holder, uint32_t purposes) FP_WARN_UNUSED;
/* Keys held in keys/, by holder, then purpose. FP_NOT_FOUND when there is no such folder. free(*rows). */
FP_API fp_status fp_keys_list(const char *path, fp_key_row **rows, size_t *n) FP_WARN_UNUSED;
typedef struct fp_policy_options {
    const char *origin;     /* as for init */
    uint32_t threshold;     /* holders who must agree in each role (override: two at least); 0: 1 */
    const char *log_holder; /* whose key signs the log; NULL: the first who holds one */
    /* A trust policy (c2sp.org/tlog-policy) whose quorum is k of a list of witnesses: trust file and policy
     * demand their cosignatures, and the file becomes the workspace's witness.policy. NULL: unwitnessed. */
    const char *witness_policy_path;
    uint64_t freshness_seconds; /* how old the cosignatures may be; 0: any age */
} fp_policy_options;
/* Writes policy.json, in which each role is met by `threshold` of the holders who hold a key for it, and
 * trust.json, which pins its digest, the key of the log and the witnesses. options NULL: the defaults.
 * FP_NOT_FOUND when a key that every log needs is missing; FP_EXISTS when there is a trust file; FP_USAGE for
 * a quorum of another shape, or freshness without witnesses. */
FP_API fp_status fp_policy_create(const char *path, const fp_policy_options *options) FP_WARN_UNUSED;
/* Makes the ledger: its entry 0 is policy.json, signed by every key that it names. FP_MISMATCH when
 * policy.json is not the policy that trust.json pins; FP_EXISTS when there is a ledger. */
FP_API fp_status fp_ledger_init(const char *path) FP_WARN_UNUSED;

/* ---- Opening ---- */

/* path NULL: $FIELDPRINT_WORKSPACE, else ./.fieldprint. trust_path NULL: trust.json of the folder; an auditor
 * names one that came another way. Reads the log (see fp_workspace_sync): FP_MISMATCH when it is inconsistent
 * with what was seen before. */
FP_API fp_status fp_workspace_open(const char *path, const char *trust_path,
                                   fp_workspace **out) FP_WARN_UNUSED;
FP_API void fp_workspace_close(fp_workspace *workspace); /* NULL is fine */
/* Where open and init look: path if not NULL, else the environment, else the default. */
FP_API const char *fp_workspace_default_path(const char *path);
FP_API bool fp_workspace_exists(const char *path);

/* Reads what is new in the log. Called by every function below that reads or appends. */
FP_API fp_status fp_workspace_sync(fp_workspace *workspace) FP_WARN_UNUSED;

typedef struct fp_workspace_info {
    const char *path;   /* lives as long as the workspace */
    const char *origin; /* of the log */
    const char *trust_path;
    uint64_t tree_size;
    uint8_t tree_root[32];
    uint8_t policy_digest[32]; /* in force at tree_size */
    uint64_t policy_index;     /* its index in the log */
    size_t anchors, receipts;  /* in the registry */
    uint32_t max_set_tokens;   /* of the policy */
    uint32_t witnesses;        /* how many cosignatures the trust file asks for; 0: unwitnessed */
} fp_workspace_info;
FP_API fp_status fp_workspace_get_info(fp_workspace *workspace, fp_workspace_info *out) FP_WARN_UNUSED;

/* Path of something in the workspace; `size` bytes at out. */
FP_API fp_status fp_workspace_artifact_path(const fp_workspace *workspace, const uint8_t set_id[32],
                                            const uint8_t model_digest[32], char *out,
                                            size_t size) FP_WARN_UNUSED;
FP_API fp_status fp_workspace_receipt_path(const fp_workspace *workspace, const uint8_t receipt_id[32],
                                           char *out, size_t size) FP_WARN_UNUSED;
/* A private key held here for this purpose, which the policy in force names; FP_NOT_FOUND with what to do. */
FP_API fp_status fp_workspace_key(fp_workspace *workspace, fp_purpose purpose, fp_key **out) FP_WARN_UNUSED;

/* ---- Policy ---- */
/* The policy in force, as logged. Free with fp_bytes_free. */
FP_API fp_status fp_policy_get(fp_workspace *workspace, uint8_t **data, size_t *size) FP_WARN_UNUSED;
/* Strict check of a policy file without a workspace: FP_FORMAT, FP_LIMIT with field and reason. */
FP_API fp_status fp_policy_check(const void *data, size_t size, uint8_t digest[32]) FP_WARN_UNUSED;
struct fp_event_receipt;
/* Logs a new policy: number and previous must continue the one in force; the policy role of the old one and
 * every key that is new sign it. */
FP_API fp_status fp_policy_propose(fp_workspace *workspace, const void *data, size_t size,
                                   struct fp_event_receipt *out) FP_WARN_UNUSED;

/* ---- Anchors, step by step ---- */
/* Stores the document and an unsigned statement for it. `statement`: name, version, type, readers, validity,
 * lineage, injection; document_sha256 is set here, and so is the salt when it is all zero. FP_DENIED when the
 * type is above that of a statement of the same document held here that is external or a memory (it has a
 * lineage), and no logged endorsement of the document says so. */
FP_API fp_status fp_anchor_create(fp_workspace *workspace, const void *document, size_t size,
                                  const fp_statement *statement, uint8_t id[32]) FP_WARN_UNUSED;
/* Adds the signatures of every author key held here (holder NULL) or of one holder. *added = signatures
 * added. */
FP_API fp_status fp_anchor_sign(fp_workspace *workspace, const uint8_t id[32], const char *holder,
                                size_t *added) FP_WARN_UNUSED;
/* Takes a signed statement made elsewhere and, if document is not NULL, its document. */
FP_API fp_status fp_anchor_import(fp_workspace *workspace, const void *envelope, size_t envelope_size,
                                  const void *document, size_t document_size, uint8_t id[32]) FP_WARN_UNUSED;

/* Where an event went: appended to the log, or waiting for signatures of other holders. */
typedef struct fp_event_receipt {
    uint8_t event_id[32];
    bool appended;
    uint64_t index;              /* in the log, when appended */
    uint64_t tree_size;          /* of the checkpoint that holds it */
    uint32_t signatures_missing; /* distinct holders still needed, when not appended */
    char pending_path[512];      /* the envelope to pass on, when not appended */
} fp_event_receipt;
/* Each builds an event, signs it with the keys of the role held here, and appends it if the policy is met;
 * otherwise leaves it in pending/ and returns FP_OK with appended = false. `out` may be NULL.
 * An event that the replay would skip is not appended: FP_DENIED with the reason. */
FP_API fp_status fp_anchor_register(fp_workspace *workspace, const uint8_t id[32],
                                    fp_event_receipt *out) FP_WARN_UNUSED;
FP_API fp_status fp_anchor_promote(fp_workspace *workspace, const uint8_t id[32],
                                   fp_event_receipt *out) FP_WARN_UNUSED;
FP_API fp_status fp_anchor_revoke(fp_workspace *workspace, const uint8_t id[32], const char *why,
                                  fp_event_receipt *out) FP_WARN_UNUSED;
FP_API fp_status fp_anchor_supersede(fp_workspace *workspace, const uint8_t old_id[32],
                                     const uint8_t new_id[32], const char *why,
                                     fp_event_receipt *out) FP_WARN_UNUSED;
/* ---- Other events ---- As above: signed with the keys held here, appended or left pending. `why` is for
 * people, at most 256 bytes; NULL: none. */
/* Voids what a stolen key signed from entry `from_index` of the log on. key_id: SHA-256 as fp_key_id gives
 * it. */
FP_API fp_status fp_event_distrust(fp_workspace *workspace, const uint8_t key_id[32], uint64_t from_index,
                                   const char *why, fp_event_receipt *out) FP_WARN_UNUSED;
/* Gives a content (its SHA-256: a document, or a retrieved text) a label for a time. valid_until 0: for ever.
 */
FP_API fp_status fp_event_endorse(fp_workspace *workspace, const uint8_t content_sha256[32], fp_label label,
                                  uint64_t valid_from, uint64_t valid_until, const char *why,
                                  fp_event_receipt *out) FP_WARN_UNUSED;
/* Says that the answer of a receipt must not be relied on. Memory made from it is denied from then on. */
FP_API fp_status fp_event_retract(fp_workspace *workspace, const uint8_t receipt_id[32], const char *why,
                                  fp_event_receipt *out) FP_WARN_UNUSED;

/* Break-glass. A halt denies anchors; a bypass lets them pass that are not promoted, superseded, not yet or
 * no longer valid, or stale: never one that is revoked, changed, badly signed or too low. */
#define FP_OVERRIDE_MAX_SECONDS 86400u
#define FP_OVERRIDE_ANCHORS_MAX 256
#define FP_DEPLOYMENT_MAX 64
typedef struct fp_override {
    bool halt; /* else bypass */
    size_t anchors;
    const uint8_t (*anchor_ids)[32];  /* [anchors]; 0: all anchors */
    const char *deployment;           /* which one (fp_workspace_set_deployment); "*" or NULL: every one */
    uint64_t valid_from, valid_until; /* at most 24 hours */
    const char *why;
} fp_override;
FP_API fp_status fp_event_override(fp_workspace *workspace, const fp_override *request,
                                   fp_event_receipt *out) FP_WARN_UNUSED;
/* The override as a file that is verified from a trust file alone: envelopes, one a line: the chain of policy
 * events, then the override. event_id: logged or pending. Free with fp_bytes_free. */
FP_API fp_status fp_override_export(fp_workspace *workspace, const uint8_t event_id[32], uint8_t **data,
                                    size_t *size) FP_WARN_UNUSED;
/* What such a file says. Untrusted bytes; needs nothing but the trust file, so it works with a damaged log or
 * registry. FP_FORMAT, FP_SIGNATURE with the reason. Whether it is the chain's end only the log can tell. */
typedef struct fp_override_info {
    uint8_t event_id[32];
    bool halt;
    size_t anchors;
    uint8_t anchor_ids[FP_OVERRIDE_ANCHORS_MAX][32];
    char deployment[FP_DEPLOYMENT_MAX + 1];
    uint64_t valid_from, valid_until;
    char why[257];
} fp_override_info;
FP_API fp_status fp_override_verify(const char *trust_path, const void *data, size_t size,
                                    fp_override_info *out) FP_WARN_UNUSED;
/* Verifies it, logs it if the log does not have it yet, and puts it in force for this handle's gate. Where
 * the log cannot be written, it goes to spool/, whence the next append takes it first; *logged tells. */
FP_API fp_status fp_override_use(fp_workspace *workspace, const void *data, size_t size,
                                 fp_override_info *out, bool *logged) FP_WARN_UNUSED;
/* Name of this deployment, for overrides that name one. NULL: none. At most FP_DEPLOYMENT_MAX bytes. */
FP_API fp_status fp_workspace_set_deployment(fp_workspace *workspace, const char *name) FP_WARN_UNUSED;

/* SHA-256, which endorsements name. */
FP_API void fp_content_digest(const void *text, size_t size, uint8_t out[32]);
/* Label that an endorsement in force gives to a text; FP_NOT_FOUND when there is none. */
FP_API fp_status fp_content_label(fp_workspace *workspace, const void *text, size_t size,
                                  fp_label *out) FP_WARN_UNUSED;

/* Shows what will be signed before it is: called with the type of the event ("promote"; "statement" for one)
 * and the payload. A result other than 0 declines: FP_CANCELLED, and nothing is signed. Not called for what
 * an engine signs by itself (receipts, compile events). */
typedef int fp_confirm_fn(void *context, const char *what, const uint8_t *payload, size_t size);
FP_API void fp_workspace_set_confirm(fp_workspace *workspace, fp_confirm_fn *confirm, void *context);

/* What an event that is pending says, and how it stands now. */
typedef struct fp_event_info {
    uint8_t event_id[32], target[32];
    char type[24];
    uint32_t signatures;         /* in the envelope */
    uint32_t signatures_missing; /* distinct holders */
    bool counts;                 /* it would count as the next entry */
    char why[160];               /* why not */
} fp_event_info;
FP_API fp_status fp_event_inspect(fp_workspace *workspace, const void *envelope, size_t size,
                                  fp_event_info *out) FP_WARN_UNUSED;
/* The payload of an envelope: what is signed. Free with fp_bytes_free. */
FP_API fp_status fp_envelope_payload(const void *envelope, size_t envelope_size, uint8_t **data,
                                     size_t *size) FP_WARN_UNUSED;
/* Adds the signatures of the keys held here to a pending event and appends it if the policy is met now. */
FP_API fp_status fp_event_sign(fp_workspace *workspace, const void *envelope, size_t size,
                               fp_event_receipt *out) FP_WARN_UNUSED;
/* create, sign, register and promote at once. FP_DENIED when the keys held here do not suffice. */
FP_API fp_status fp_anchor_add(fp_workspace *workspace, const void *document, size_t size,
                               const fp_statement *statement, uint8_t id[32]) FP_WARN_UNUSED;

/* ---- Compile events ---- */
typedef struct fp_compile_record {
    const uint8_t (*anchor_ids)[32];
    size_t anchors;
    uint8_t model_digest[32];
    uint16_t arithmetic_version;
    const uint32_t *token_ids; /* [tokens] of the whole set */
    uint32_t tokens, pages;
    uint8_t kv_head[32];
} fp_compile_record;
FP_API fp_status fp_anchor_record_compile(fp_workspace *workspace, const fp_compile_record *record,
                                          fp_event_receipt *out) FP_WARN_UNUSED;
/* H("fieldprint/toks" 01 salt[32] n:u32 ids:u32[n]): binds the tokens without telling them. */
FP_API fp_status fp_compile_token_ids_digest(const uint8_t salt[32], const uint32_t *token_ids,
                                             uint32_t tokens, uint8_t out[32]) FP_WARN_UNUSED;

/* ---- Receipts ---- */
#define FP_RECEIPTS_BATCH_MAX 256
/* Logs the ids of up to FP_RECEIPTS_BATCH_MAX receipts as one event. */
FP_API fp_status fp_receipts_log(fp_workspace *workspace, const uint8_t (*receipt_ids)[32], size_t n,
                                 fp_event_receipt *out) FP_WARN_UNUSED;
/* Index of the event that logged a receipt; FP_NOT_FOUND. */
FP_API fp_status fp_receipt_find(fp_workspace *workspace, const uint8_t receipt_id[32],
                                 uint64_t *index) FP_WARN_UNUSED;

/* ---- Looking ---- */
typedef enum fp_anchor_state {
    FP_ANCHOR_UNLOGGED,  /* a statement in the folder only */
    FP_ANCHOR_CANDIDATE, /* registered */
    FP_ANCHOR_PROMOTED,
    FP_ANCHOR_SUPERSEDED,
    FP_ANCHOR_REVOKED,
    FP_ANCHOR_EXPIRED /* promoted, but now is past its validity */
} fp_anchor_state;
FP_API const char *fp_anchor_state_name(fp_anchor_state state);

#define FP_INDEX_NONE UINT64_MAX
typedef struct fp_anchor_row {
    uint8_t id[32];
    fp_anchor_state state;
    fp_label type;
    bool have_statement, have_document; /* name, version are empty without the statement */
    char name[FP_ANCHOR_NAME_MAX + 1], version[FP_ANCHOR_VERSION_MAX + 1];
    uint32_t signatures; /* distinct author holders of the policy whose signature verifies */
    uint64_t valid_from, valid_until;
    uint64_t register_index, promote_index, supersede_index, revoke_index; /* in the log, or FP_INDEX_NONE */
    uint8_t successor[32];                                                 /* zero if none */
    uint32_t models; /* for how many models the set of this anchor alone is compiled */
    uint32_t pages;  /* of the newest of them */
} fp_anchor_row;
/* All anchors known: logged ones in log order, then statements that are only in the folder, by id. Free with
 * fp_anchor_rows_free. */
FP_API fp_status fp_anchor_list(fp_workspace *workspace, fp_anchor_row **rows, size_t *n) FP_WARN_UNUSED;
FP_API void fp_anchor_rows_free(fp_anchor_row *rows);
/* row and statement may be NULL. FP_NOT_FOUND when neither log nor folder knows it. */
FP_API fp_status fp_anchor_show(fp_workspace *workspace, const uint8_t id[32], fp_anchor_row *row,
                                fp_statement *statement) FP_WARN_UNUSED;
/* What a person typed: an id, the beginning of one (≥ 4 digits), a name, or name@version; FP_USAGE with the
 * candidates when it is not unique. A name means its promoted anchors first. */
FP_API fp_status fp_anchor_find(fp_workspace *workspace, const char *text, uint8_t id[32]) FP_WARN_UNUSED;
/* The document, verified against the statement. Free with fp_bytes_free. FP_NOT_FOUND, FP_MISMATCH. */
FP_API fp_status fp_anchor_document(fp_workspace *workspace, const uint8_t id[32], uint8_t **data,
                                    size_t *size) FP_WARN_UNUSED;
/* The envelope as stored (untrusted until parsed), or the payload that is signed. Free with fp_bytes_free. */
FP_API fp_status fp_anchor_envelope(fp_workspace *workspace, const uint8_t id[32], uint8_t **data,
                                    size_t *size) FP_WARN_UNUSED;
FP_API fp_status fp_anchor_payload(fp_workspace *workspace, const uint8_t id[32], uint8_t **data,
                                   size_t *size) FP_WARN_UNUSED;
FP_API void fp_bytes_free(void *data);

/* ---- Gate ---- */
/* Syncs, then decides. FP_OK with result->reason = FP_GATE_ALLOW, FP_DENIED with the reason and the detail as
 * the error detail too, or an operating error. An inconsistent log is a reason, not an error. */
FP_API fp_status fp_gate_check(fp_workspace *workspace, const fp_gate_query *query,
                               fp_gate_result *result) FP_WARN_UNUSED;

/* ---- Ledger ---- */
typedef struct fp_ledger_row {
    uint64_t index;
    uint8_t event_id[32]; /* zero when the entry is not a fieldprint event */
    char type[24];        /* "promote"; "" when not an event */
    uint8_t target[32];
    bool valid;    /* counted by the replay */
    char why[160]; /* why it was skipped */
} fp_ledger_row;
/* Rows [begin, begin + *n) of the log as the replay saw them; *n in: room at rows, out: filled. */
FP_API fp_status fp_ledger_rows(fp_workspace *workspace, uint64_t begin, fp_ledger_row *rows,
                                size_t *n) FP_WARN_UNUSED;
/* Entry `index`, verbatim: a DSSE envelope, where it is an event. FP_USAGE when the log is shorter. Free with
 * fp_bytes_free. */
FP_API fp_status fp_ledger_entry(fp_workspace *workspace, uint64_t index, uint8_t **data,
                                 size_t *size) FP_WARN_UNUSED;
/* That entry `index` is in the tree of the newest checkpoint, as c2sp.org/tlog-proof@v1: text that other
 * people's tools verify. Free with fp_bytes_free. */
FP_API fp_status fp_ledger_proof(fp_workspace *workspace, uint64_t index, char **text,
                                 size_t *size) FP_WARN_UNUSED;
typedef struct fp_ledger_report {
    uint64_t size;
    uint8_t root[32];
    uint64_t tiles, bundles, entry_bytes; /* what was read */
} fp_ledger_report;
/* Recomputes every hash of the log from its entries. Needs the trust file only, so it works where the
 * workspace does not open; path and trust_path as for open. The first difference is returned, naming file and
 * entry. */
FP_API fp_status fp_ledger_fsck(const char *path, const char *trust_path,
                                fp_ledger_report *report) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
