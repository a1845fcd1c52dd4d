/* Saving and restoring a conversation: an artifact of its context pages whose manifest an engine key of this
 * deployment signed. Nothing else in the file is believed.
 *
 * Manifest section: envelope_bytes:u32, the envelope, then the transcript (private; its digest is in the
 * payload). */
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "engine/receipt.h"
#include "merkle/sha256.h"
#include <openssl/rand.h>
#include <stdlib.h>
#include <time.h>

#define SESSION_PREDICATE "urn:fieldprint:session:v1"
#define SESSION_LIFE_SECONDS (UINT64_C(30) * 24 * 3600)

typedef struct manifest {
    uint8_t session[32], tenant[32], model[32], kv_head[32], transcript[32], set_id[32], anchor_kv_head[32],
        injection[32];
    uint64_t tokens, mass_rows, created, expires;
    bool has_anchors;
} manifest;

/* ---- writing
 * ---------------------------------------------------------------------------------------------------------
 */

static json_t *hex32(const uint8_t value[32])
{
    return fp__json_hex_value(value, 32);
}

static json_t *manifest_json(const manifest *m)
{
    json_t *p = json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I}", "tenant", hex32(m->tenant),
                          "model", hex32(m->model), "kvHead", hex32(m->kv_head), "transcript",
                          hex32(m->transcript), "injection", hex32(m->injection), "tokens",
                          (json_int_t)m->tokens, "massRows", (json_int_t)m->mass_rows, "created",
                          (json_int_t)m->created, "expires", (json_int_t)m->expires);
    if (p && m->has_anchors)
        json_object_set_new(
            p, "anchors",
            json_pack("{s:o, s:o}", "set", hex32(m->set_id), "kvHead", hex32(m->anchor_kv_head)));
    return fp__intoto_build("session", "fieldprintSessionV1", m->session, SESSION_PREDICATE, p);
}

static fp_status fill(fp_session *s, const fp__buf *transcript, manifest *m)
{
    const fp__hparams *hp = &s->engine->model->hp;
    *m = (manifest){.tokens = fp__kvseq_tokens(s->context),
                    .mass_rows = s->mass_rows,
                    .created = (uint64_t)time(NULL),
                    .has_anchors = s->anchors != NULL};
    m->expires = m->created + SESSION_LIFE_SECONDS;
    if (RAND_bytes(m->session, 32) != 1)
        return fp__fail(FP_INTERNAL, "session: the system gives no random numbers");
    fp__receipt_tenant(s->tenant, m->tenant);
    memcpy(m->model, s->engine->model->digest, 32);
    fp__sha256(transcript->data, transcript->size, m->transcript);
    if (s->anchors) {
        memcpy(m->set_id, s->anchors->gate.set_id, 32);
        memcpy(m->anchor_kv_head, s->anchors->gate.kv_head, 32);
        fp__receipt_injection(s->anchors->gate.injection.mode, s->anchors->g, hp->layers * hp->heads,
                              m->injection);
    }
    return fp_session_kv_head(s, m->kv_head);
}

static fp_status sign_manifest(fp_workspace *w, const manifest *m, const fp__buf *transcript, fp__buf *out)
{
    fp__dsse dsse = {0};
    fp__buf envelope = {0};
    fp_key *key = NULL;
    fp_status status = fp_workspace_key(w, FP_PURPOSE_ENGINE, &key);
    if (status == FP_OK)
        status = fp__dsse_create_json(manifest_json(m), &dsse);
    if (status == FP_OK)
        status = fp__dsse_sign(&dsse, key);
    if (status == FP_OK)
        status = fp__dsse_write(&dsse, &envelope);
    if (status == FP_OK)
        status = fp__buf_append_le32(out, (uint32_t)envelope.size);
    if (status == FP_OK)
        status = fp__buf_append(out, envelope.data, envelope.size);
    if (status == FP_OK)
        status = fp__buf_append(out, transcript->data, transcript->size);
    fp_key_free(key);
    fp__dsse_free(&dsse);
    fp__buf_free(&envelope);
    return status;
}

fp_status fp_session_save(fp_session *s, fp_workspace *w, const char *path)
{
    if (s->answer.start_ns == 0 || fp__session_active(s) || s->answer.finish == FP_FINISH_ERROR ||
        fp__kvseq_tokens(s->context) == 0)
        return fp__fail(FP_USAGE, "session: there is no finished answer to save");
    fp__transcript t = {0};
    fp__buf transcript = {0}, section = {0};
    manifest m;
    fp_status status = fp__transcript_of_session(s, &t);
    if (status == FP_OK)
        status = fp__transcript_write(&t, &transcript);
    if (status == FP_OK)
        status = fill(s, &transcript, &m);
    if (status == FP_OK)
        status = sign_manifest(w, &m, &transcript, &section);
    if (status == FP_OK && section.size > FP__ARTIFACT_MANIFEST_MAX)
        status =
            fp__fail(FP_LIMIT, "session: the conversation's texts are longer than a session file can hold");
    if (status == FP_OK) {
        fp__artifact_info info = {0};
        memcpy(info.subject, m.session, 32);
        memcpy(info.tenant, m.tenant, 32);
        memcpy(info.injection, m.injection, 32);
        status = fp__artifact_write(path, s->context, &info, section.data, section.size);
    }
    fp__transcript_free(&t);
    fp__buf_free(&transcript);
    fp__buf_free(&section);
    return status;
}

/* ---- reading
 * -----------------------------------------------------------------------------------------------------------
 */

static fp_status parse_manifest(const fp__dsse *dsse, manifest *m)
{
    static const char *const required[] = {"tenant", "model",    "kvHead",  "transcript", "injection",
                                           "tokens", "massRows", "created", "expires",    NULL};
    static const char *const optional[] = {"anchors", NULL}, *const anchor_fields[] = {"set", "kvHead", NULL};
    static const char *const where = "session manifest";
    fp__intoto statement;
    *m = (manifest){0};
    FP_TRY(fp__intoto_parse(dsse->payload.data, dsse->payload.size, where, &statement));
    const json_t *p = statement.predicate;
    fp_status status = FP_OK;
    if (strcmp(statement.predicate_type, SESSION_PREDICATE) != 0 ||
        strcmp(statement.algorithm, "fieldprintSessionV1") != 0)
        status = fp__fail(FP_FORMAT, "%s: it is a statement of another kind", where);
    memcpy(m->session, statement.digest, 32);
    if (status == FP_OK)
        status = fp__json_fields(p, where, required, optional);
    const struct {
        const char *key;
        uint8_t *out;
    } digests[] = {{"tenant", m->tenant},
                   {"model", m->model},
                   {"kvHead", m->kv_head},
                   {"transcript", m->transcript},
                   {"injection", m->injection}};
    for (size_t i = 0; i < 5 && status == FP_OK; i++)
        status = fp__json_hex(p, where, digests[i].key, digests[i].out, 32);
    const struct {
        const char *key;
        uint64_t *out;
    } numbers[] = {{"tokens", &m->tokens},
                   {"massRows", &m->mass_rows},
                   {"created", &m->created},
                   {"expires", &m->expires}};
    for (size_t i = 0; i < 4 && status == FP_OK; i++)
        status = fp__json_uint(p, where, numbers[i].key, 0, FP__JSON_INTEGER_MAX, numbers[i].out);
    json_t *anchors;
    m->has_anchors = status == FP_OK && json_object_get(p, "anchors");
    if (m->has_anchors) {
        status = fp__json_object(p, where, "anchors", &anchors);
        if (status == FP_OK)
            status = fp__json_fields(anchors, "session manifest.anchors", anchor_fields, NULL);
        if (status == FP_OK)
            status = fp__json_hex(anchors, "session manifest.anchors", "set", m->set_id, 32);
        if (status == FP_OK)
            status = fp__json_hex(anchors, "session manifest.anchors", "kvHead", m->anchor_kv_head, 32);
    }
    fp__intoto_free(&statement);
    return status;
}

/* Signed by an engine key of the policy in force now. */
static fp_status check_signature(fp_workspace *w, const fp__dsse *dsse)
{
    FP_TRY(fp_workspace_sync(w));
    FP_TRY(fp__registry_begin(w->registry));
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    fp__signers signers = {0};
    bool ok = false;
    if (policy) {
        fp__ledger_head head;
        fp__registry_head(w->registry, &head);
        fp__policy_count(policy, dsse, FP_PURPOSE_ENGINE, FP_LABEL_USER, fp__registry_distrusts(w->registry),
                         head.size, &signers);
        ok = fp__signers_suffice(&signers, fp__policy_role_of(policy, FP_PURPOSE_ENGINE, FP_LABEL_USER));
    }
    fp__registry_end(w->registry);
    return ok ? FP_OK
              : fp__fail(
                    FP_SIGNATURE,
                    "the manifest is not signed by an engine key of this deployment: the file is of another "
                    "one, or was changed");
}

static fp_status check_manifest(const manifest *m, const fp_session *s)
{
    const fp__hparams *hp = &s->engine->model->hp;
    uint8_t tenant[32], injection[32] = {0};
    fp__receipt_tenant(s->tenant, tenant);
    if (memcmp(m->model, s->engine->model->digest, 32) != 0)
        return fp__fail(FP_MISMATCH, "the session was made with another model");
    if (memcmp(m->tenant, tenant, 32) != 0)
        return fp__fail(FP_DENIED, "the session belongs to another tenant");
    if ((uint64_t)time(NULL) >= m->expires)
        return fp__fail(FP_DENIED, "the session file has expired");
    if (m->has_anchors != (s->anchors != NULL) ||
        (s->anchors && (memcmp(m->set_id, s->anchors->gate.set_id, 32) != 0 ||
                        memcmp(m->anchor_kv_head, s->anchors->gate.kv_head, 32) != 0)))
        return fp__fail(FP_MISMATCH, "the session was made with %s; load the same ones",
                        m->has_anchors ? "other anchors" : "no anchors");
    if (s->anchors)
        fp__receipt_injection(s->anchors->gate.injection.mode, s->anchors->g, hp->layers * hp->heads,
                              injection);
    return memcmp(m->injection, injection, 32) == 0
               ? FP_OK
               : fp__fail(FP_MISMATCH, "the session was made with another injection (mode or γ)");
}

/* Turns, tokens and masses from the transcript; it must agree with the committed tokens of the artifact. */
static fp_status restore(fp_session *s, const manifest *m, const fp__transcript *t, const uint32_t *committed)
{
    size_t n = s->engine->model->hp.layers * s->engine->model->hp.heads;
    for (size_t i = 0; i + 2 < t->n; i++) {
        const fp__transcript_leaf *leaf = &t->leaves[i];
        fp__turn *turn;
        FP_TRY(fp__session_add_turn(s, leaf->kind, leaf->role, (const char *)leaf->bytes.data,
                                    leaf->bytes.size, &turn));
        turn->label = leaf->label;
        FP_TRY(fp__session_replay_turn(s, turn, &leaf->ids, i + 3 == t->n, &s->ids));
    }
    const fp__buf *masses = &t->leaves[t->n - 1].bytes;
    if (t->raw != s->raw)
        return fp__fail(FP_MISMATCH, "the session was %s",
                        t->raw ? "of raw text (--raw)" : "a chat, not raw text");
    if (s->ids.size < m->tokens ||
        memcmp(s->ids.data, committed, (size_t)m->tokens * sizeof *committed) != 0 ||
        masses->size != (s->anchors ? 8 * (n + 1) : 0))
        return fp__fail(FP_MISMATCH, "the session's transcript does not belong to its pages");
    s->mass_rows = m->mass_rows;
    for (size_t i = 0; s->anchors && i < n; i++)
        s->mass[i] = fp__load_le64(masses->data + 8 * (i + 1));
    s->answer.turn = fp__transcript_answer(t);
    s->answer.finish = FP_FINISH_STOP;
    return FP_OK;
}

static fp_status load_pages(fp_session *s, fp__artifact *artifact, const manifest *m)
{
    uint8_t head[32];
    fp__artifact_expect expect = {.kind = FP__ARTIFACT_SESSION,
                                  .kv_head = m->kv_head,
                                  .subject = m->session,
                                  .tenant = m->tenant,
                                  .injection = m->injection,
                                  .max_tokens = fp__kvseq_max_tokens(s->context),
                                  .label = s->anchors ? fp__kvseq_label(s->anchors->seq) : FP_LABEL_CORE};
    if (s->anchors) {
        FP_TRY(fp__kvseq_head(s->anchors->seq, head));
        expect.anchor_kv_head = head;
    }
    fp__kvseq *context;
    FP_TRY(fp__artifact_load(artifact, &expect, s->engine->pool, s->engine->hasher, &context));
    fp__kvseq_destroy(s->context);
    s->context = context;
    if (fp__kvseq_tokens(context) != m->tokens)
        return fp__fail(FP_MISMATCH, "the session's manifest names another number of tokens");
    return FP_OK;
}

static fp_status load(fp_session *s, fp_workspace *w, fp__artifact *artifact)
{
    size_t size;
    const uint8_t *section = fp__artifact_manifest(artifact, &size);
    fp__reader reader = {section, size, 0, "session manifest"};
    uint32_t envelope_bytes;
    const uint8_t *envelope, *text;
    FP_TRY(fp__read_u32(&reader, &envelope_bytes, "size of the envelope"));
    FP_TRY(fp__read_bytes(&reader, envelope_bytes, &envelope, "envelope"));
    size_t text_bytes = fp__reader_left(&reader);
    FP_TRY(fp__read_bytes(&reader, text_bytes, &text, "transcript"));
    fp__dsse dsse = {0};
    fp__transcript t = {0};
    manifest m;
    uint8_t digest[32];
    fp_status status = fp__dsse_parse(envelope, envelope_bytes, &dsse);
    if (status == FP_OK)
        status = check_signature(w, &dsse);
    if (status == FP_OK)
        status = parse_manifest(&dsse, &m);
    if (status == FP_OK)
        status = check_manifest(&m, s);
    fp__sha256(text, text_bytes, digest);
    if (status == FP_OK && memcmp(digest, m.transcript, 32) != 0)
        status = fp__fail(FP_MISMATCH, "the session's transcript is not the one that its manifest names");
    if (status == FP_OK)
        status = fp__transcript_parse(text, text_bytes, &t);
    if (status == FP_OK)
        status = load_pages(s, artifact, &m);
    if (status == FP_OK)
        status = restore(s, &m, &t, fp__kvseq_ids(s->context));
    fp__transcript_free(&t);
    fp__dsse_free(&dsse);
    return status;
}

fp_status fp_session_load(fp_engine *engine, fp_workspace *workspace, const char *path,
                          const fp_session_options *options, fp_session **out)
{
    fp_session *s;
    fp__artifact *artifact;
    FP_TRY(fp__artifact_open(path, &artifact));
    fp_status status = fp_session_create(engine, options, &s);
    if (status == FP_OK) {
        status = load(s, workspace, artifact);
        if (status != FP_OK)
            fp_session_destroy(s);
    }
    fp__artifact_close(artifact);
    if (status != FP_OK)
        return fp__fail_context(status, "%s", path);
    *out = s;
    return FP_OK;
}
