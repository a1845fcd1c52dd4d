#include "ledger/witness.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ANSWER_MAX_BYTES 65536
#define PROOF_LINES_MAX 63 /* of the protocol */
#define LOCK_TRIES 500     /* of 10 ms */
#define ROUND_TRIES 3
#define ASK_TRIES 3 /* others may show it checkpoints of this log too */

/* "old <size>", the consistency proof, an empty line, the checkpoint. */
static fp_status format_request(fp__ledger_reader *reader, uint64_t old_size, fp__buf *out)
{
    fp__ledger_head head;
    fp__merkle_proof proof = {.count = 0};
    fp__ledger_reader_head(reader, &head);
    out->size = 0;
    FP_TRY(fp__buf_printf(out, "old %llu\n", (unsigned long long)old_size));
    if (old_size != 0)
        FP_TRY(fp__ledger_reader_consistency(reader, old_size, head.size, &proof));
    if (proof.count > PROOF_LINES_MAX)
        return fp__fail(FP_LIMIT, "the consistency proof has %zu hashes; witnesses take %d", proof.count,
                        PROOF_LINES_MAX);
    for (size_t i = 0; i < proof.count; i++) {
        FP_TRY(fp__base64_encode(proof.hashes[i], 32, out));
        FP_TRY(fp__buf_append_text(out, "\n"));
    }
    FP_TRY(fp__buf_append_text(out, "\n"));
    const fp__buf *note = fp__ledger_reader_note(reader);
    return fp__buf_append(out, note->data, note->size);
}

/* Appends those signature lines of the note that carry the key's name and id, verbatim. */
static fp_status take_lines(const fp__buf *note, const fp__note_key *key, fp__buf *lines)
{
    fp__note parsed;
    FP_TRY(fp__note_parse(note->data, note->size, &parsed));
    const char *at = (const char *)parsed.text + parsed.text_size + 1;
    fp_status status = FP_OK;
    for (size_t i = 0; i < parsed.signature_count && status == FP_OK; i++) {
        const fp__note_signature *s = &parsed.signatures[i];
        const char *newline = memchr(at, '\n', (size_t)((const char *)note->data + note->size - at));
        if (s->key_id == key->id && s->name_size == strlen(key->name) &&
            memcmp(s->name, key->name, s->name_size) == 0)
            status = fp__buf_append(lines, at, (size_t)(newline + 1 - at));
        at = newline + 1;
    }
    fp__note_free(&parsed);
    return status;
}

/* The answer's lines over the reader's checkpoint must verify; those of other keys are left out. */
static fp_status check_answer(const fp__buf *answer, const fp__note_key *key, fp__ledger_reader *reader,
                              fp__buf *lines)
{
    fp__buf note = {0};
    fp__note parsed = {0};
    size_t text_size = 0;
    const fp__buf *mine = fp__ledger_reader_note(reader);
    fp_status status = fp__note_parse(mine->data, mine->size, &parsed);
    if (status == FP_OK) { /* the text, then its signatures only */
        text_size = parsed.text_size;
        status = fp__buf_append(&note, parsed.text, text_size);
        fp__note_free(&parsed);
    }
    if (status == FP_OK)
        status = fp__buf_append_text(&note, "\n");
    if (status == FP_OK)
        status = fp__buf_append(&note, answer->data, answer->size);
    if (status == FP_OK)
        status = fp__note_parse(note.data, note.size, &parsed);
    if (status == FP_OK) {
        status =
            parsed.text_size == text_size /* an empty line in the answer would make it part of the text */
                ? fp__note_verify(&parsed, key, 1, NULL)
                : fp__fail(FP_FORMAT, "it has an empty line");
        fp__note_free(&parsed);
    }
    if (status == FP_OK)
        status = take_lines(&note, key, lines);
    fp__buf_free(&note);
    return status == FP_OK ? FP_OK : fp__fail_context(status, "the answer of witness %s", key->name);
}

/* 409: it holds a tree of another size than `asked`. */
static fp_status read_conflict(const fp__buf *answer, const fp__note_key *key, uint64_t asked, uint64_t size,
                               uint64_t *known)
{
    uint64_t held = 0;
    if (answer->size < 2 || answer->data[answer->size - 1] != '\n')
        return fp__fail(FP_FORMAT, "witness %s refuses without saying which size it holds", key->name);
    FP_TRY(fp__note_parse_decimal(answer->data, answer->size - 1, &held, "the size that the witness holds"));
    *known = held;
    if (held > size)
        return fp__fail(FP_BUSY,
                        "witness %s has cosigned this log with %llu entries; here it has %llu: refresh, and "
                        "if it stays so, the log went back",
                        key->name, (unsigned long long)held, (unsigned long long)size);
    if (held == asked)
        return fp__fail(FP_MISMATCH,
                        "witness %s has cosigned another tree of %llu entries: the log was forked; keep both "
                        "checkpoints as evidence",
                        key->name, (unsigned long long)held);
    return FP_OK;
}

static fp_status refused(long http, const fp__note_key *key, uint64_t asked)
{
    switch (http) {
    case 400:
        return fp__fail(FP_FORMAT, "witness %s calls the request malformed (400)", key->name);
    case 403:
        return fp__fail(FP_SIGNATURE,
                        "witness %s does not accept the log's signature (403); give its operator "
                        "the log's verifier key",
                        key->name);
    case 404:
        return fp__fail(FP_NOT_FOUND, "witness %s does not serve this log (404); ask its operator to add it",
                        key->name);
    case 422:
        return fp__fail(FP_MISMATCH,
                        "witness %s says that the log does not continue the tree of %llu entries that it "
                        "cosigned (422): the log was forked; keep both checkpoints as evidence",
                        key->name, (unsigned long long)asked);
    default:
        return fp__fail(FP_IO, "witness %s answered with status %ld; try again later", key->name, http);
    }
}

fp_status fp__witness_ask(fp__remote *witness, const fp__note_key *key, fp__ledger_reader *reader,
                          uint64_t *known, fp__buf *lines)
{
    fp__ledger_head head;
    fp__buf request = {0}, answer = {0};
    fp__ledger_reader_head(reader, &head);
    fp_status status = FP_OK;
    bool done = false;
    for (int i = 0; i < ASK_TRIES && status == FP_OK && !done; i++) {
        uint64_t asked = *known <= head.size ? *known : head.size;
        long http = 0;
        answer.size = 0;
        status = format_request(reader, asked, &request);
        if (status == FP_OK)
            status = fp__remote_post(witness, "add-checkpoint", request.data, request.size, ANSWER_MAX_BYTES,
                                     &http, &answer);
        if (status != FP_OK)
            break;
        done = http == 200;
        if (done)
            status = check_answer(&answer, key, reader, lines);
        else if (http == 409)
            status = read_conflict(&answer, key, asked, head.size, known);
        else
            status = refused(http, key, asked);
    }
    if (status == FP_OK && !done)
        status = fp__fail(FP_BUSY, "witness %s is asked by others at the same time; try again", key->name);
    if (status == FP_OK)
        *known = head.size;
    fp__buf_free(&request);
    fp__buf_free(&answer);
    return status;
}

/* ---- all witnesses of a policy ---- */

fp_status fp__witness_verdicts(const void *data, size_t size, const fp__note_key *log_key,
                               const fp__tlog_policy *policy, fp__note_verdict *verdicts)
{
    fp__note note;
    FP_TRY(fp__note_parse(data, size, &note));
    fp_status status = fp__note_verify(&note, log_key, 1, NULL);
    for (size_t i = 0; i < policy->witnesses_count && status == FP_OK; i++)
        if (fp__note_verify(&note, &policy->witnesses[i].key, 1, &verdicts[i]) != FP_OK)
            verdicts[i] = (fp__note_verdict){0}; /* absent, or not valid: does not count */
    fp__note_free(&note);
    return status;
}

/* The witness's lines go to `lines`: new ones, or else those that the checkpoint carries and that are valid.
 */
static void ask_one(const fp__tlog_party *witness, fp__ledger_reader *reader, bool carried, fp__buf *lines,
                    fp__witness_result *result)
{
    uint64_t known = 0; /* the first answer tells, at the cost of one more request */
    fp__remote *remote = NULL;
    size_t before = lines->size;
    fp_status status = witness->url[0] != 0
                           ? fp__remote_open(witness->url, &remote)
                           : fp__fail(FP_USAGE, "the policy has no URL for witness %s", witness->key.name);
    if (status == FP_OK)
        status = fp__witness_ask(remote, &witness->key, reader, &known, lines);
    fp__remote_close(remote);
    *result = (fp__witness_result){.status = status};
    if (status == FP_OK)
        return;
    snprintf(result->detail, sizeof result->detail, "%s", fp_error_detail());
    lines->size = before;
    if (carried && take_lines(fp__ledger_reader_note(reader), &witness->key, lines) != FP_OK)
        lines->size = before;
}

fp_status fp__witness_collect(fp__ledger_reader *reader, const fp__tlog_policy *policy,
                              fp__witness_result *results, bool *any, fp__buf *lines)
{
    fp__note_verdict verdicts[FP__TLOG_WITNESSES_MAX];
    FP_TRY(fp__ledger_reader_refresh(reader, NULL));
    const fp__buf *note = fp__ledger_reader_note(reader);
    FP_TRY(fp__witness_verdicts(note->data, note->size, fp__ledger_reader_key(reader), policy, verdicts));
    *any = false;
    for (size_t i = 0; i < policy->witnesses_count; i++) {
        ask_one(&policy->witnesses[i], reader, verdicts[i].valid, lines, &results[i]);
        *any |= results[i].status == FP_OK;
    }
    return FP_OK;
}

/* FP_BUSY when the log is not at `head` any more. */
static fp_status publish(const char *dir, const fp__ed25519_key *log_key, fp__ledger_reader *reader,
                         const fp__buf *lines)
{
    fp__ledger_head head;
    fp__ledger_writer *writer = NULL;
    fp__ledger_reader_head(reader, &head);
    fp_status status = fp__ledger_writer_open(dir, fp__ledger_reader_key(reader)->name, log_key, &writer);
    for (int i = 0; i < LOCK_TRIES && status == FP_BUSY; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
        status = fp__ledger_writer_open(dir, fp__ledger_reader_key(reader)->name, log_key, &writer);
    }
    if (status == FP_OK)
        status = fp__ledger_writer_cosign(writer, &head, lines->data, lines->size);
    fp__ledger_writer_close(writer);
    return status;
}

fp_status fp__witness_round(const char *dir, const fp__ed25519_key *log_key, fp__ledger_reader *reader,
                            const fp__tlog_policy *policy, fp__witness_result *results, bool *met)
{
    fp__note_verdict verdicts[FP__TLOG_WITNESSES_MAX];
    fp_status status = FP_BUSY;
    for (int i = 0; i < ROUND_TRIES && status == FP_BUSY; i++) {
        fp__buf lines = {0};
        bool any = false;
        status = fp__witness_collect(reader, policy, results, &any, &lines);
        if (status == FP_OK && any)
            status = publish(dir, log_key, reader, &lines);
        fp__buf_free(&lines);
    }
    FP_TRY(status);
    FP_TRY(fp__ledger_reader_refresh(reader, NULL));
    const fp__buf *note = fp__ledger_reader_note(reader);
    FP_TRY(fp__witness_verdicts(note->data, note->size, fp__ledger_reader_key(reader), policy, verdicts));
    for (size_t i = 0; i < policy->witnesses_count; i++)
        results[i].timestamp = verdicts[i].timestamp;
    *met = fp__tlog_policy_time(policy, verdicts, NULL);
    return FP_OK;
}
