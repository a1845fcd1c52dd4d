/* Anchors of a workspace: the content store (statements and documents) and what the log says about them. */
#include "anchor/keys.h"
#include "anchor/workspace_inside.h"
#include "core/file.h"
#include "merkle/sha256.h"
#include <dirent.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- Content store ---- */

static fp_status read_envelope(const fp_workspace *w, const uint8_t id[32], fp__buf *text)
{
    fp__buf path = {0};
    fp_status status = fp__workspace_id_path(w, "anchors", id, ".dsse.json", &path);
    if (status == FP_OK)
        status = fp__file_read((const char *)path.data, FP__DSSE_ENVELOPE_MAX_BYTES, text);
    fp__buf_free(&path);
    return status;
}

fp_status fp__workspace_load_statement(const fp_workspace *w, const uint8_t id[32], fp__dsse *dsse,
                                       fp_statement *statement)
{
    fp__buf text = {0};
    fp__dsse parsed = {0};
    fp_status status = read_envelope(w, id, &text);
    if (status == FP_OK)
        status = fp__dsse_parse(text.data, text.size, &parsed);
    fp__buf_free(&text);
    if (status == FP_OK && memcmp(parsed.id, id, 32) != 0)
        status = fp__fail(FP_MISMATCH, "the file in anchors/ holds another statement than its name says");
    if (status == FP_OK)
        status = fp__statement_parse_payload(parsed.payload.data, parsed.payload.size, statement);
    if (status != FP_OK || dsse == NULL) {
        fp__dsse_free(&parsed);
        return status;
    }
    *dsse = parsed;
    return FP_OK;
}

static fp_status store_document(const fp_workspace *w, const void *document, size_t size,
                                const uint8_t sha256[32])
{
    fp__buf path = {0};
    fp_status status = fp__workspace_id_path(w, "documents", sha256, "", &path);
    if (status == FP_OK)
        status = fp__file_write((const char *)path.data, document, size, 0644);
    fp__buf_free(&path);
    return status;
}

static fp_status check_document(const void *document, size_t size)
{
    size_t bad = 0;
    if (size == 0 || size > FP_ANCHOR_DOCUMENT_MAX_BYTES)
        return fp__fail(FP_LIMIT, "a document of %zu bytes; 1 to %u are allowed", size,
                        FP_ANCHOR_DOCUMENT_MAX_BYTES);
    if (!fp__utf8_valid(document, size, &bad))
        return fp__fail(FP_TEXT, "the document is not UTF-8 at byte %zu", bad);
    return FP_OK;
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

struct id_list {
    uint8_t (*ids)[32];
    size_t n;
};

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, 32);
}

/* Ids of the statements in the folder, in order. */
static fp_status scan_folder(const fp_workspace *w, struct id_list *out)
{
    fp__buf path = {0};
    *out = (struct id_list){0};
    FP_TRY(fp__workspace_path(w, "anchors", NULL, &path));
    DIR *dir = opendir((const char *)path.data);
    fp__buf_free(&path);
    if (dir == NULL)
        return FP_OK;
    fp_status status = FP_OK;
    for (struct dirent *item; status == FP_OK && (item = readdir(dir)) != NULL;) {
        uint8_t id[32];
        if (strlen(item->d_name) != 64 + strlen(".dsse.json") ||
            strcmp(item->d_name + 64, ".dsse.json") != 0 || fp__hex_decode(item->d_name, 64, id, 32) != FP_OK)
            continue;
        uint8_t(*grown)[32] = realloc(out->ids, (out->n + 1) * 32);
        if (grown == NULL) {
            status = fp__fail(FP_NO_MEMORY, "no memory for %zu anchors", out->n + 1);
            break;
        }
        out->ids = grown;
        memcpy(out->ids[out->n++], id, 32);
    }
    closedir(dir);
    if (status == FP_OK && out->n > 0)
        qsort(out->ids, out->n, 32, compare_ids);
    return status;
}

/* A document that came from outside or from an answer stays what it is: an external statement or a memory (a
 * statement with a lineage) of it is held here, and only a logged endorsement gives it a higher type. */
static fp_status check_not_raised(fp_workspace *w, const fp_statement *wanted)
{
    struct id_list files = {0};
    fp_label endorsed = FP_LABEL_EXTERNAL;
    if (wanted->type == FP_LABEL_EXTERNAL)
        return FP_OK;
    fp_statement *held = malloc(sizeof *held);
    if (held == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = scan_folder(w, &files);
    bool raised = false;
    for (size_t i = 0; status == FP_OK && i < files.n && !raised; i++)
        raised = fp__workspace_load_statement(w, files.ids[i], NULL, held) == FP_OK &&
                 (held->lineage_count > 0 || held->type == FP_LABEL_EXTERNAL) && held->type < wanted->type &&
                 memcmp(held->document_sha256, wanted->document_sha256, 32) == 0;
    if (status == FP_OK && raised) {
        status = fp__registry_endorsed(w->registry, wanted->document_sha256, (uint64_t)time(NULL), &endorsed);
        if (status == FP_NOT_FOUND || (status == FP_OK && endorsed < wanted->type))
            status =
                fp__fail(FP_DENIED,
                         "label-too-low: this document is held here as %s; to make it %s have it "
                         "endorsed: fieldprint event endorse FILE --label %s",
                         fp_label_name(held->type), fp_label_name(wanted->type), fp_label_name(wanted->type));
    }
    free(files.ids);
    free(held);
    return status;
}

fp_status fp_anchor_create(fp_workspace *w, const void *document, size_t size, const fp_statement *statement,
                           uint8_t id[32])
{
    FP_TRY(check_document(document, size));
    fp_statement *own = malloc(sizeof *own);
    fp__dsse dsse = {0};
    fp_status status = own == NULL ? fp__fail(FP_NO_MEMORY, "no memory for a statement") : FP_OK;
    if (status == FP_OK) {
        *own = *statement;
        fp__sha256(document, size, own->document_sha256);
        if (all_zero(own->salt, 32) && RAND_bytes(own->salt, 32) != 1)
            status = fp__fail(FP_IO, "the system gives no random bytes");
    }
    if (status == FP_OK)
        status = check_not_raised(w, own);
    if (status == FP_OK)
        status = fp__statement_create(own, &dsse);
    if (status == FP_OK)
        status = store_document(w, document, size, own->document_sha256);
    if (status == FP_OK)
        status = fp__workspace_store_envelope(w, "anchors", &dsse);
    if (status == FP_OK)
        memcpy(id, dsse.id, 32);
    fp__dsse_free(&dsse);
    free(own);
    return status;
}

fp_status fp_anchor_import(fp_workspace *w, const void *envelope, size_t envelope_size, const void *document,
                           size_t document_size, uint8_t id[32])
{
    fp__dsse dsse = {0};
    uint8_t digest[32];
    fp_statement *statement = malloc(sizeof *statement);
    fp_status status = statement == NULL ? fp__fail(FP_NO_MEMORY, "no memory for a statement")
                                         : fp__dsse_parse(envelope, envelope_size, &dsse);
    if (status == FP_OK)
        status = fp__statement_parse_payload(dsse.payload.data, dsse.payload.size, statement);
    if (status == FP_OK && document != NULL) {
        status = check_document(document, document_size);
        fp__sha256(document, document_size, digest);
        if (status == FP_OK && memcmp(digest, statement->document_sha256, 32) != 0)
            status = fp__fail(FP_MISMATCH, "the document is not the one that the statement is about");
        if (status == FP_OK)
            status = store_document(w, document, document_size, digest);
    }
    if (status == FP_OK)
        status = fp__workspace_store_envelope(w, "anchors", &dsse);
    if (status == FP_OK)
        memcpy(id, dsse.id, 32);
    fp__dsse_free(&dsse);
    free(statement);
    return status;
}

/* ---- Signing ---- */

static fp_status add_signatures(fp_workspace *w, const char *holder, fp__dsse *dsse, size_t *added)
{
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    size_t held = 0;
    *added = 0;
    if (policy == NULL)
        return fp__fail(FP_INVALID, "no policy is in force in this log: check the trust file");
    for (size_t i = 0; i < policy->keys_count; i++) {
        const fp__policy_key *key = &policy->keys[i];
        fp_key *private_key = NULL;
        if (key->purpose != FP_PURPOSE_AUTHOR ||
            (holder != NULL && strcmp(holder, policy->holders[key->holder]) != 0))
            continue;
        fp_status status = fp__workspace_held_key(w, policy, key, &private_key);
        if (status == FP_NOT_FOUND)
            continue;
        FP_TRY(status);
        held++;
        bool there = fp__dsse_verify(dsse, key->public_key);
        status = there ? FP_OK : fp__dsse_sign(dsse, private_key);
        fp_key_free(private_key);
        FP_TRY(status);
        *added += there ? 0 : 1;
    }
    if (held == 0)
        return fp__fail(FP_NOT_FOUND, "no author key%s%s of the policy is in %s/keys",
                        holder != NULL ? " of " : "", holder != NULL ? holder : "", w->path);
    return FP_OK;
}

fp_status fp_anchor_sign(fp_workspace *w, const uint8_t id[32], const char *holder, size_t *added)
{
    fp__dsse dsse = {0};
    size_t n = 0;
    fp_statement *statement = malloc(sizeof *statement);
    if (statement == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = fp_workspace_sync(w);
    if (status == FP_OK)
        status = fp__workspace_load_statement(w, id, &dsse, statement);
    if (status == FP_OK)
        status = fp__workspace_confirm(w, "statement", &dsse);
    if (status == FP_OK)
        status = add_signatures(w, holder, &dsse, &n);
    if (status == FP_OK && n > 0)
        status = fp__workspace_store_envelope(w, "anchors", &dsse);
    fp__dsse_free(&dsse);
    free(statement);
    if (status == FP_OK && added != NULL)
        *added = n;
    return status;
}

fp_status fp__workspace_author_count(fp_workspace *w, const fp__dsse *dsse, fp_label type,
                                     uint64_t promote_index, fp__signers *signers, uint32_t *needed)
{
    const fp__policy *policy = fp__registry_policy(w->registry, NULL, NULL);
    if (policy == NULL)
        return fp__fail(FP_INVALID, "no policy is in force in this log: check the trust file");
    fp__policy_count(policy, dsse, FP_PURPOSE_AUTHOR, type, fp__registry_distrusts(w->registry),
                     promote_index, signers);
    *needed = policy->author[type].threshold;
    return FP_OK;
}

/* ---- Events about one anchor ---- */

/* Statement and enough signatures: who registers or promotes has looked at them. */
static fp_status load_signed(fp_workspace *w, const uint8_t id[32], fp_statement *statement)
{
    fp__dsse dsse = {0};
    fp__signers signers;
    uint32_t needed = 0;
    FP_TRY(fp_workspace_sync(w));
    FP_TRY(fp__workspace_load_statement(w, id, &dsse, statement));
    fp_status status =
        fp__workspace_author_count(w, &dsse, statement->type, FP_INDEX_NONE, &signers, &needed);
    fp__dsse_free(&dsse);
    FP_TRY(status);
    if (needed == 0)
        return fp__fail(FP_DENIED, "the policy lets nobody sign %s anchors", fp_label_name(statement->type));
    if (signers.count < needed)
        return fp__fail(FP_DENIED, "the statement is signed by %u of %u holders: fieldprint anchor sign ID",
                        signers.count, needed);
    return FP_OK;
}

static fp_status submit_anchor(fp_workspace *w, fp__event_type type, const uint8_t id[32],
                               fp_event_receipt *out)
{
    fp__event event = {0};
    fp_statement *statement = malloc(sizeof *statement);
    if (statement == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = load_signed(w, id, statement);
    if (status == FP_OK)
        status = fp__workspace_event(w, type, id, &event);
    if (status == FP_OK) {
        event.label = statement->type;
        event.valid_from = statement->valid_from;
        event.valid_until = statement->valid_until;
        status = fp__workspace_submit(w, &event, out);
    }
    fp__event_free(&event);
    free(statement);
    return status;
}

fp_status fp_anchor_register(fp_workspace *w, const uint8_t id[32], fp_event_receipt *out)
{
    return submit_anchor(w, FP__EVENT_REGISTER, id, out);
}

fp_status fp_anchor_promote(fp_workspace *w, const uint8_t id[32], fp_event_receipt *out)
{
    return submit_anchor(w, FP__EVENT_PROMOTE, id, out);
}

static fp_status submit_end(fp_workspace *w, fp__event_type type, const uint8_t id[32],
                            const uint8_t *successor, const char *why, fp_event_receipt *out)
{
    fp__event event = {0};
    fp_anchor_row row;
    FP_TRY(fp_anchor_show(w, id, &row, NULL));
    FP_TRY(fp__workspace_event(w, type, id, &event));
    event.label = row.type;
    FP_TRY(fp__event_set_reason(&event, why));
    if (successor != NULL)
        memcpy(event.successor, successor, 32);
    fp_status status = fp__workspace_submit(w, &event, out);
    fp__event_free(&event);
    return status;
}

fp_status fp_anchor_revoke(fp_workspace *w, const uint8_t id[32], const char *why, fp_event_receipt *out)
{
    return submit_end(w, FP__EVENT_REVOKE, id, NULL, why, out);
}

fp_status fp_anchor_supersede(fp_workspace *w, const uint8_t old_id[32], const uint8_t new_id[32],
                              const char *why, fp_event_receipt *out)
{
    return submit_end(w, FP__EVENT_SUPERSEDE, old_id, new_id, why, out);
}

fp_status fp_anchor_add(fp_workspace *w, const void *document, size_t size, const fp_statement *statement,
                        uint8_t id[32])
{
    uint8_t made[32];
    fp_event_receipt receipt;
    FP_TRY(fp_anchor_create(w, document, size, statement, made));
    FP_TRY(fp_anchor_sign(w, made, NULL, NULL));
    FP_TRY(fp_anchor_register(w, made, &receipt));
    if (receipt.appended)
        FP_TRY(fp_anchor_promote(w, made, &receipt));
    if (!receipt.appended)
        return fp__fail(FP_DENIED, "%u more holders must sign: pass on %s", receipt.signatures_missing,
                        receipt.pending_path);
    memcpy(id, made, 32);
    return FP_OK;
}

/* ---- Looking ---- */

static fp_status fill_from_log(fp_workspace *w, const fp__anchor_entry *entry, uint64_t now,
                               fp_anchor_row *row)
{
    uint8_t set_id[32];
    fp__compile_entry *compiles = NULL;
    size_t n = 0;
    row->state =
        entry->state == FP_ANCHOR_PROMOTED && now >= entry->valid_until ? FP_ANCHOR_EXPIRED : entry->state;
    row->type = entry->type;
    row->valid_from = entry->valid_from;
    row->valid_until = entry->valid_until;
    row->register_index = entry->register_index;
    row->promote_index = entry->promote_index;
    row->supersede_index = entry->supersede_index;
    row->revoke_index = entry->revoke_index;
    memcpy(row->successor, entry->successor, 32);
    FP_TRY(fp_set_id((const uint8_t(*)[32])entry->id, 1, set_id));
    FP_TRY(fp__registry_compiles(w->registry, set_id, &compiles, &n));
    for (size_t i = 0; i < n; i++) {
        bool again = false;
        for (size_t j = 0; j < i; j++)
            again = again || memcmp(compiles[i].model, compiles[j].model, 32) == 0;
        row->models += again ? 0 : 1;
        row->pages = compiles[i].pages;
    }
    free(compiles);
    return FP_OK;
}

static fp_status fill_from_statement(fp_workspace *w, bool logged, fp_anchor_row *row,
                                     fp_statement *statement)
{
    fp__dsse dsse = {0};
    fp__signers signers = {0};
    fp__buf path = {0};
    uint32_t needed = 0;
    fp_status status = fp__workspace_load_statement(w, row->id, &dsse, statement);
    if (status != FP_OK) {
        bool missing = status != FP_NO_MEMORY && status != FP_IO;
        return missing ? FP_OK : status;
    }
    row->have_statement = true;
    memcpy(row->name, statement->name, sizeof row->name);
    memcpy(row->version, statement->version, sizeof row->version);
    if (!logged)
        row->type = statement->type;
    if (!logged || statement->valid_from > row->valid_from)
        row->valid_from = statement->valid_from;
    if (!logged || statement->valid_until < row->valid_until)
        row->valid_until = statement->valid_until;
    if (row->state == FP_ANCHOR_PROMOTED && (uint64_t)time(NULL) >= row->valid_until)
        row->state = FP_ANCHOR_EXPIRED;
    status = fp__workspace_author_count(w, &dsse, statement->type, row->promote_index, &signers, &needed);
    if (status == FP_OK)
        row->signatures = signers.count;
    fp__dsse_free(&dsse);
    if (status == FP_OK)
        status = fp__workspace_id_path(w, "documents", statement->document_sha256, "", &path);
    if (status == FP_OK)
        row->have_document = fp__file_exists((const char *)path.data) != 0;
    fp__buf_free(&path);
    return status;
}

/* entry NULL: the log does not name it. statement: room, filled if there is one. */
static fp_status fill_row(fp_workspace *w, const uint8_t id[32], const fp__anchor_entry *entry,
                          fp_anchor_row *row, fp_statement *statement)
{
    *row = (fp_anchor_row){.state = FP_ANCHOR_UNLOGGED,
                           .register_index = FP_INDEX_NONE,
                           .promote_index = FP_INDEX_NONE,
                           .supersede_index = FP_INDEX_NONE,
                           .revoke_index = FP_INDEX_NONE};
    memcpy(row->id, id, 32);
    if (entry != NULL)
        FP_TRY(fill_from_log(w, entry, (uint64_t)time(NULL), row));
    return fill_from_statement(w, entry != NULL, row, statement);
}

static bool is_listed(const fp_anchor_row *rows, size_t n, const uint8_t id[32])
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(rows[i].id, id, 32) == 0)
            return true;
    return false;
}

fp_status fp_anchor_list(fp_workspace *w, fp_anchor_row **rows, size_t *n)
{
    fp__anchor_entry *entries = NULL;
    struct id_list files = {0};
    size_t logged = 0, count = 0;
    fp_anchor_row *list = NULL;
    fp_statement *statement = malloc(sizeof *statement);
    fp_status status = fp_workspace_sync(w);
    if (status == FP_OK)
        status = fp__registry_anchors(w->registry, &entries, &logged);
    if (status == FP_OK)
        status = scan_folder(w, &files);
    if (status == FP_OK) {
        list = calloc(logged + files.n + 1, sizeof *list);
        if (list == NULL || statement == NULL)
            status = fp__fail(FP_NO_MEMORY, "no memory for %zu anchors", logged + files.n);
    }
    for (size_t i = 0; status == FP_OK && i < logged; i++)
        status = fill_row(w, entries[i].id, &entries[i], &list[count++], statement);
    for (size_t i = 0; status == FP_OK && i < files.n; i++)
        if (!is_listed(list, logged, files.ids[i]))
            status = fill_row(w, files.ids[i], NULL, &list[count++], statement);
    free(entries);
    free(files.ids);
    free(statement);
    if (status != FP_OK) {
        free(list);
        return status;
    }
    *rows = list;
    *n = count;
    return FP_OK;
}

void fp_anchor_rows_free(fp_anchor_row *rows)
{
    free(rows);
}

fp_status fp_anchor_show(fp_workspace *w, const uint8_t id[32], fp_anchor_row *row, fp_statement *statement)
{
    fp__anchor_entry entry;
    fp_anchor_row filled;
    fp_statement *read = malloc(sizeof *read);
    if (read == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = fp_workspace_sync(w);
    if (status == FP_OK)
        status = fp__registry_anchor(w->registry, id, &entry);
    bool logged = status == FP_OK;
    if (logged || status == FP_NOT_FOUND)
        status = fill_row(w, id, logged ? &entry : NULL, &filled, read);
    if (status == FP_OK && !filled.have_statement && (!logged || statement != NULL))
        status = fp__fail(FP_NOT_FOUND, "%s: put it into the workspace with `fieldprint anchor import FILE`",
                          logged ? "the statement of this anchor is not here" : "no such anchor");
    if (status == FP_OK && row != NULL)
        *row = filled;
    if (status == FP_OK && statement != NULL)
        *statement = *read;
    free(read);
    return status;
}

/* How well a row fits what was typed: 0 not, 1 by name, 2 by the name of a promoted one, 3 by id. */
static int fits(const fp_anchor_row *row, const char *text)
{
    char hex[65], full[FP_ANCHOR_NAME_MAX + FP_ANCHOR_VERSION_MAX + 2];
    size_t n = strlen(text);
    fp__hex_encode(row->id, 32, hex);
    if (n >= 4 && n <= 64 && strncmp(hex, text, n) == 0)
        return 3;
    snprintf(full, sizeof full, "%s@%s", row->name, row->version);
    if (row->name[0] == 0 || (strcmp(row->name, text) != 0 && strcmp(full, text) != 0))
        return 0;
    return row->state == FP_ANCHOR_PROMOTED ? 2 : 1;
}

fp_status fp_anchor_find(fp_workspace *w, const char *text, uint8_t id[32])
{
    fp_anchor_row *rows = NULL;
    size_t n = 0, matches = 0;
    int best = 0;
    char names[256] = "";
    FP_TRY(fp_anchor_list(w, &rows, &n));
    for (size_t i = 0; i < n; i++)
        best = fits(&rows[i], text) > best ? fits(&rows[i], text) : best;
    const fp_anchor_row *found = NULL;
    for (size_t i = 0; best > 0 && i < n; i++) {
        if (fits(&rows[i], text) != best)
            continue;
        char hex[17];
        size_t used = strlen(names);
        fp__hex_encode(rows[i].id, 8, hex);
        snprintf(names + used, sizeof names - used, " %s(%s@%s)", hex, rows[i].name, rows[i].version);
        found = &rows[i];
        matches++;
    }
    fp_status status = FP_OK;
    if (matches == 1)
        memcpy(id, found->id, 32);
    else if (matches == 0)
        status = fp__fail(FP_NOT_FOUND, "no anchor \"%.80s\": see `fieldprint anchor list`", text);
    else
        status = fp__fail(FP_USAGE, "\"%.80s\" could be any of%s: say more of the id", text, names);
    fp_anchor_rows_free(rows);
    return status;
}

static fp_status give(fp_status status, fp__buf *from, uint8_t **data, size_t *size)
{
    if (status != FP_OK) {
        fp__buf_free(from);
        return status;
    }
    *data = from->data; /* the buffer's memory comes from malloc: the caller frees it */
    *size = from->size;
    return FP_OK;
}

fp_status fp_anchor_document(fp_workspace *w, const uint8_t id[32], uint8_t **data, size_t *size)
{
    fp__buf path = {0}, text = {0};
    uint8_t digest[32];
    fp_statement *statement = malloc(sizeof *statement);
    if (statement == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = fp__workspace_load_statement(w, id, NULL, statement);
    if (status == FP_OK)
        status = fp__workspace_id_path(w, "documents", statement->document_sha256, "", &path);
    if (status == FP_OK)
        status = fp__file_read((const char *)path.data, FP_ANCHOR_DOCUMENT_MAX_BYTES, &text);
    if (status == FP_OK) {
        fp__sha256(text.data, text.size, digest);
        if (memcmp(digest, statement->document_sha256, 32) != 0)
            status = fp__fail(FP_MISMATCH, "%s is not the document that was signed", (const char *)path.data);
    }
    if (status == FP_OK)
        status = check_document(text.data, text.size);
    free(statement);
    fp__buf_free(&path);
    return give(status, &text, data, size);
}

fp_status fp_anchor_envelope(fp_workspace *w, const uint8_t id[32], uint8_t **data, size_t *size)
{
    fp__buf text = {0};
    return give(read_envelope(w, id, &text), &text, data, size);
}

fp_status fp_anchor_payload(fp_workspace *w, const uint8_t id[32], uint8_t **data, size_t *size)
{
    fp__dsse dsse = {0};
    fp__buf payload = {0};
    fp_statement *statement = malloc(sizeof *statement);
    if (statement == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a statement");
    fp_status status = fp__workspace_load_statement(w, id, &dsse, statement);
    free(statement);
    if (status == FP_OK)
        status = fp__buf_append(&payload, dsse.payload.data, dsse.payload.size);
    fp__dsse_free(&dsse);
    return give(status, &payload, data, size);
}
