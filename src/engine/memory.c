/* Memory made of answers: an anchor candidate that inherits label, readers and lineage. */
#include "engine/engine.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>

/* Who may read the answer: the readers of all that it attended to, and of a tenant's session that tenant. */
static fp_status inherit_readers(const fp_session *s, fp_statement *out)
{
    const fp_gate_result *gate = s->anchors ? &s->anchors->gate : NULL;
    bool everybody = !gate || (gate->readers_count == 1 && strcmp(gate->readers[0], "*") == 0);
    bool allowed = everybody;
    out->readers_count = gate ? gate->readers_count : 1;
    if (gate)
        memcpy(out->readers, gate->readers, sizeof out->readers);
    for (size_t i = 0; gate && i < gate->readers_count; i++)
        allowed = allowed || strcmp(gate->readers[i], s->tenant) == 0;
    if (s->has_tenant) {
        out->readers_count = allowed ? 1 : 0;
        snprintf(out->readers[0], sizeof out->readers[0], "%s", s->tenant);
    }
    return out->readers_count > 0 ? FP_OK
                                  : fp__fail(FP_DENIED, "memory: no reader may see all that the answer was "
                                                        "made from; use anchors with a reader in common");
}

static void inherit_lineage(const fp_session *s, fp_statement *out)
{
    for (size_t i = 0; s->anchors && i < s->anchors->n && i + 1 < FP_ANCHOR_LINEAGE_MAX; i++) {
        fp_lineage *source = &out->lineage[out->lineage_count++];
        source->kind = FP_LINEAGE_ANCHOR;
        memcpy(source->id, s->anchors->ids[i], 32);
    }
    if (s->has_receipt) {
        fp_lineage *source = &out->lineage[out->lineage_count++];
        source->kind = FP_LINEAGE_RECEIPT;
        memcpy(source->id, s->receipt_id, 32);
    }
    if (out->lineage_count == 0) { /* of no anchor, with no receipt: a memory all the same */
        const fp__buf *text = &s->turns[s->answer.turn].text;
        out->lineage[0].kind = FP_LINEAGE_DOCUMENT;
        fp__sha256(text->data, text->size, out->lineage[0].id);
        out->lineage_count = 1;
    }
}

fp_status fp_session_remember(fp_session *s, fp_workspace *w, const char *name, const char *version,
                              uint8_t id[32])
{
    if (s->answer.start_ns == 0 || fp__session_active(s) || s->answer.finish == FP_FINISH_ERROR ||
        s->turns[s->answer.turn].text.size == 0)
        return fp__fail(FP_USAGE, "memory: there is no finished answer to remember");
    if (strlen(name) > FP_ANCHOR_NAME_MAX || strlen(version) > FP_ANCHOR_VERSION_MAX)
        return fp__fail(FP_LIMIT, "memory: name or version is too long");
    if (s->answer.finish == FP_FINISH_ANCHOR_REVOKED)
        return fp__fail(FP_DENIED, "memory: the answer was made from an anchor that was withdrawn");
    if (s->anchors && s->anchors->n >= FP_ANCHOR_LINEAGE_MAX)
        return fp__fail(FP_LIMIT, "memory: made from %zu anchors; at most %d can be named", s->anchors->n,
                        FP_ANCHOR_LINEAGE_MAX - 1);
    const fp__turn *turn = &s->turns[s->answer.turn];
    fp_statement *statement = malloc(sizeof *statement);
    if (!statement)
        return fp__fail(FP_NO_MEMORY, "memory: no memory for a statement");
    fp_statement_default(statement);
    snprintf(statement->name, sizeof statement->name, "%s", name);
    snprintf(statement->version, sizeof statement->version, "%s", version);
    statement->type = turn->label;
    fp_status status = inherit_readers(s, statement);
    if (status == FP_OK) {
        inherit_lineage(s, statement);
        status = fp_anchor_create(w, turn->text.data, turn->text.size, statement, id);
    }
    free(statement);
    return status;
}
