#include "anchor/log_public.h"
#include "anchor/keys.h"
#include "core/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct fp_log {
    fp__ledger_reader *reader;
    fp__tlog_policy *policy; /* or NULL */
    fp_log_info info;
    char origin[FP__NOTE_MAX_NAME + 1];
};

/* ---- keys and policies ---- */

fp_status fp__log_policy_load(const char *path, fp__tlog_policy **out)
{
    fp__buf text = {0};
    fp__tlog_policy *policy = malloc(sizeof *policy);
    if (policy == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a trust policy");
    fp_status status = fp__file_read(path, FP__TLOG_POLICY_MAX_BYTES, &text);
    if (status == FP_OK)
        status = fp__tlog_policy_parse(text.data, text.size, policy);
    fp__buf_free(&text);
    if (status != FP_OK) {
        free(policy);
        return fp__fail_context(status, "%s", path);
    }
    *out = policy;
    return FP_OK;
}

/* Policy (NULL if none is asked for) and key of the options. */
static fp_status read_options(const fp_log_options *o, fp__tlog_policy **policy, fp__note_key *key)
{
    *policy = NULL;
    if (o->policy_path != NULL)
        FP_TRY(fp__log_policy_load(o->policy_path, policy));
    fp_status status = FP_OK;
    if (o->vkey != NULL)
        status = fp__note_key_parse(o->vkey, strlen(o->vkey), key);
    else if (*policy == NULL || (*policy)->logs_count != 1)
        status = fp__fail(FP_USAGE, "say which log it is: its verifier key, or a policy that names one log");
    else
        *key = (*policy)->logs[0].key;
    if (status == FP_OK && key->type != FP__NOTE_ED25519)
        status = fp__fail(FP_USAGE, "the verifier key is not one that logs sign with (type 0x01)");
    bool listed = *policy == NULL || (*policy)->logs_count == 0;
    for (size_t i = 0; status == FP_OK && !listed && i < (*policy)->logs_count; i++)
        listed = (*policy)->logs[i].key.id == key->id &&
                 memcmp((*policy)->logs[i].key.public_key, key->public_key, 32) == 0;
    if (status == FP_OK && !listed)
        status = fp__fail(FP_SIGNATURE, "the policy does not name the log %s", key->name);
    if (status != FP_OK) {
        free(*policy);
        *policy = NULL;
    }
    return status;
}

/* ---- reading ---- */

static void count_witnesses(const fp__tlog_policy *policy, const fp__note_verdict *verdicts,
                            fp_log_info *info)
{
    info->has_policy = policy != NULL;
    if (policy == NULL)
        return;
    info->witnesses = (uint32_t)policy->witnesses_count;
    info->cosignatures = 0;
    for (size_t i = 0; i < policy->witnesses_count; i++)
        info->cosignatures += verdicts[i].valid;
    info->quorum = fp__tlog_policy_time(policy, verdicts, &info->quorum_time);
}

static fp_status take_head(fp_log *log)
{
    fp__ledger_head head;
    fp__note_verdict verdicts[FP__TLOG_WITNESSES_MAX];
    const fp__buf *note = fp__ledger_reader_note(log->reader);
    fp__ledger_reader_head(log->reader, &head);
    log->info.size = head.size;
    memcpy(log->info.root, head.root, 32);
    if (log->policy != NULL)
        FP_TRY(fp__witness_verdicts(note->data, note->size, fp__ledger_reader_key(log->reader), log->policy,
                                    verdicts));
    count_witnesses(log->policy, verdicts, &log->info);
    return FP_OK;
}

fp_status fp__log_open(const char *place, const fp__note_key *key, const char *state_path,
                       fp__tlog_policy *policy, fp_log **out)
{
    fp_log *log = calloc(1, sizeof *log);
    if (log == NULL) {
        free(policy);
        return fp__fail(FP_NO_MEMORY, "no memory for a log");
    }
    log->policy = policy;
    memcpy(log->origin, key->name, sizeof log->origin);
    log->info.origin = log->origin;
    fp_status status = fp__ledger_reader_open(place, key->name, key, 1, state_path, &log->reader);
    if (status == FP_OK)
        status = take_head(log);
    if (status != FP_OK) {
        fp_log_close(log);
        return status;
    }
    *out = log;
    return FP_OK;
}

fp_status fp_log_open(const fp_log_options *options, fp_log **out)
{
    fp__tlog_policy *policy;
    fp__note_key key;
    char place[FP__TLOG_URL_MAX + 1] = "";
    FP_TRY(read_options(options, &policy, &key));
    for (size_t i = 0; policy != NULL && i < policy->logs_count; i++)
        if (policy->logs[i].key.id == key.id)
            memcpy(place, policy->logs[i].url, sizeof place);
    if (options->place == NULL && place[0] == 0) {
        free(policy);
        return fp__fail(FP_USAGE, "say where the log is: a folder or a URL");
    }
    return fp__log_open(options->place != NULL ? options->place : place, &key, options->state_path, policy,
                        out);
}

void fp_log_close(fp_log *log)
{
    if (log == NULL)
        return;
    fp__ledger_reader_close(log->reader);
    free(log->policy);
    free(log);
}

void fp_log_get_info(const fp_log *log, fp_log_info *out)
{
    *out = log->info;
}

fp_status fp_log_refresh(fp_log *log, bool *advanced)
{
    FP_TRY(fp__ledger_reader_refresh(log->reader, advanced));
    return take_head(log);
}

static fp_status give(fp_status status, fp__buf *bytes, uint8_t **data, size_t *size)
{
    if (status != FP_OK) {
        fp__buf_free(bytes);
        return status;
    }
    *data = bytes->data != NULL ? bytes->data : calloc(1, 1); /* an empty entry is an entry */
    *size = bytes->size;
    return *data != NULL ? FP_OK : fp__fail(FP_NO_MEMORY, "no memory for an entry");
}

fp_status fp_log_entry(fp_log *log, uint64_t index, uint8_t **data, size_t *size)
{
    fp__buf entry = {0};
    return give(fp__ledger_reader_entry(log->reader, index, &entry), &entry, data, size);
}

fp_status fp_log_proof(fp_log *log, uint64_t index, char **text, size_t *size)
{
    fp__buf proof = {0};
    uint8_t *data = NULL;
    if (index >= log->info.size)
        return fp__fail(FP_USAGE, "the log has %llu entries; there is no entry %llu",
                        (unsigned long long)log->info.size, (unsigned long long)index);
    FP_TRY(give(fp__ledger_reader_tlog_proof(log->reader, index, NULL, 0, &proof), &proof, &data, size));
    *text = (char *)data;
    return FP_OK;
}

static fp_status look(void *arg, uint64_t index, const uint8_t *entry, size_t size)
{
    (void)arg, (void)index, (void)entry, (void)size;
    return FP_OK;
}

fp_status fp_log_check_entries(fp_log *log)
{
    return fp__ledger_reader_scan(log->reader, 0, log->info.size, look, NULL);
}

fp_status fp_log_fsck(const fp_log_options *options, fp_ledger_report *report)
{
    fp__tlog_policy *policy;
    fp__note_key key;
    fp__ledger_report found;
    if (options->place == NULL)
        return fp__fail(FP_USAGE, "say where the log is: a folder or a URL");
    FP_TRY(read_options(options, &policy, &key));
    free(policy);
    FP_TRY(fp__ledger_fsck(options->place, key.name, &key, 1, &found));
    if (report != NULL) {
        *report = (fp_ledger_report){.size = found.head.size,
                                     .tiles = found.tiles,
                                     .bundles = found.bundles,
                                     .entry_bytes = found.entry_bytes};
        memcpy(report->root, found.head.root, 32);
    }
    return FP_OK;
}

fp_status fp_log_proof_check(const fp_log_options *options, const void *proof, size_t proof_size,
                             const void *entry, size_t entry_size, uint64_t *index, fp_log_info *info)
{
    fp__tlog_policy *policy;
    fp__note_key key;
    fp__tlog_proof parsed;
    fp__checkpoint checkpoint;
    fp__note_verdict verdicts[FP__TLOG_WITNESSES_MAX];
    uint8_t leaf[32];
    fp_log_info seen = {0};
    FP_TRY(read_options(options, &policy, &key));
    fp_status status = fp__tlog_proof_parse(proof, proof_size, &parsed);
    if (status == FP_OK) {
        fp__merkle_leaf(entry, entry_size, leaf);
        status = fp__tlog_proof_verify(&parsed, leaf, key.name, &key, 1, NULL, &checkpoint);
        if (status == FP_OK && policy != NULL)
            status = fp__witness_verdicts(parsed.note, parsed.note_size, &key, policy, verdicts);
        if (status == FP_OK) {
            count_witnesses(policy, verdicts, &seen);
            seen.size = checkpoint.size;
            memcpy(seen.root, checkpoint.root, 32);
        }
        if (status == FP_OK && policy != NULL && !seen.quorum)
            status =
                fp__fail(FP_SIGNATURE,
                         "the proof's checkpoint has the cosignatures of %u of %u witnesses, which is no "
                         "quorum of the policy",
                         seen.cosignatures, seen.witnesses);
        if (status == FP_OK && index != NULL)
            *index = parsed.index;
        fp__tlog_proof_free(&parsed);
    }
    free(policy);
    if (status == FP_OK && info != NULL)
        *info = seen;
    return status;
}

/* ---- export ---- */

struct export
{
    const char *dir;
    fp__tile_edge *edge;
    fp__buf bundle, path;
};

static fp_status write_tile(struct export *e, int level, uint64_t index, unsigned width, const void *data,
                            size_t size)
{
    char name[FP__TILE_PATH_MAX];
    fp__tile_path(level, index, width, name);
    if (fp__path_join(&e->path, e->dir, name) == NULL)
        return FP_NO_MEMORY;
    char *path = (char *)e->path.data;
    FILE *f = fopen(path, "wbx");
    if (f == NULL && errno == ENOENT) {
        for (char *slash = strchr(path + strlen(e->dir) + 1, '/'); slash != NULL;
             slash = strchr(slash + 1, '/')) {
            *slash = 0;
            (void)mkdir(path, 0755); /* opening the file tells */
            *slash = '/';
        }
        f = fopen(path, "wbx");
    }
    bool bad = f == NULL || (size != 0 && fwrite(data, 1, size, f) != size);
    bad = (f != NULL && fclose(f) != 0) || bad;
    return bad ? fp__fail(FP_IO, "cannot write %s: %s", path, strerror(errno)) : FP_OK;
}

static fp_status export_full(void *arg, int level, uint64_t index, const uint8_t *hashes)
{
    return write_tile(arg, level, index, FP__TILE_WIDTH, hashes, FP__TILE_BYTES);
}

static fp_status export_entry(void *arg, uint64_t index, const uint8_t *entry, size_t size)
{
    struct export *e = arg;
    uint8_t leaf[32];
    fp__merkle_leaf(entry, size, leaf);
    FP_TRY(fp__bundle_append(entry, size, &e->bundle));
    FP_TRY(fp__tile_edge_append(e->edge, leaf, export_full, e));
    if (index % FP__TILE_WIDTH != FP__TILE_WIDTH - 1)
        return FP_OK;
    FP_TRY(write_tile(e, FP__TILE_ENTRIES, index / FP__TILE_WIDTH, FP__TILE_WIDTH, e->bundle.data,
                      e->bundle.size));
    e->bundle.size = 0;
    return FP_OK;
}

static fp_status export_partials(struct export *e)
{
    uint64_t size = e->edge->size;
    if (size % FP__TILE_WIDTH != 0)
        FP_TRY(write_tile(e, FP__TILE_ENTRIES, size / FP__TILE_WIDTH, (unsigned)(size % FP__TILE_WIDTH),
                          e->bundle.data, e->bundle.size));
    for (int level = 0; level < FP__TILE_LEVELS; level++) {
        uint64_t hashes = size >> 8 * level;
        if ((hashes & 255) != 0)
            FP_TRY(write_tile(e, level, hashes >> 8, (unsigned)(hashes & 255), e->edge->tiles[level][0],
                              (size_t)(hashes & 255) * 32));
    }
    return FP_OK;
}

static fp_status check_empty(const char *dir)
{
    DIR *folder = opendir(dir);
    bool empty = true;
    if (folder == NULL)
        return fp__fail(FP_IO, "cannot look into %s: %s", dir, strerror(errno));
    for (struct dirent *item = readdir(folder); item != NULL; item = readdir(folder))
        empty = empty && (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0);
    closedir(folder);
    return empty ? FP_OK : fp__fail(FP_EXISTS, "%s is not empty; export into a new folder", dir);
}

/* The checkpoint comes last, when all that it speaks of is durable. */
static fp_status finish_export(struct export *e, const fp__buf *note)
{
    int fd = open(e->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 ? -1 : syncfs(fd);
    if (fd >= 0)
        close(fd);
    if (result != 0)
        return fp__fail(FP_IO, "cannot make %s durable: %s", e->dir, strerror(errno));
    if (fp__path_join(&e->path, e->dir, "checkpoint") == NULL)
        return FP_NO_MEMORY;
    return fp__file_write((const char *)e->path.data, note->data, note->size, 0644);
}

fp_status fp_log_export(fp_log *log, const char *dir)
{
    struct export e = {.dir = dir, .edge = calloc(1, sizeof *e.edge)};
    if (e.edge == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory to export a log");
    fp_status status = fp__dir_make(dir);
    if (status == FP_OK)
        status = check_empty(dir);
    if (status == FP_OK)
        status = fp__ledger_reader_scan(log->reader, 0, log->info.size, export_entry, &e);
    if (status == FP_OK)
        status = export_partials(&e);
    if (status == FP_OK)
        status = finish_export(&e, fp__ledger_reader_note(log->reader));
    fp__buf_free(&e.bundle);
    fp__buf_free(&e.path);
    free(e.edge);
    return status;
}

/* ---- writing ---- */

fp_status fp_log_create(const char *dir, const char *origin, const fp_key *key, char **vkey)
{
    fp__note_key note_key;
    fp__buf text = {0};
    FP_TRY(fp__note_key_make(origin, FP__NOTE_ED25519, fp__ed25519_public(fp__key_ed25519(key)), &note_key));
    FP_TRY(fp__ledger_create(dir, origin, fp__key_ed25519(key)));
    fp_status status = fp__note_key_format(&note_key, &text);
    if (status != FP_OK) {
        fp__buf_free(&text);
        return status;
    }
    *vkey = (char *)text.data;
    return FP_OK;
}

fp_status fp_log_append(const char *dir, const char *origin, const fp_key *key,
                        const fp_log_entry_bytes *entries, size_t n, uint64_t *first_index, fp_log_info *info)
{
    fp__ledger_writer *writer = NULL;
    fp__ledger_head head;
    fp__ledger_entry *list = calloc(n + 1, sizeof *list);
    if (list == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for %zu entries", n);
    for (size_t i = 0; i < n; i++)
        list[i] = (fp__ledger_entry){entries[i].data, entries[i].size};
    fp_status status = fp__ledger_writer_open(dir, origin, fp__key_ed25519(key), &writer);
    if (status == FP_OK)
        status = fp__ledger_append(writer, list, n, first_index, &head);
    fp__ledger_writer_close(writer);
    free(list);
    if (status == FP_OK && info != NULL) {
        *info = (fp_log_info){.size = head.size};
        memcpy(info->root, head.root, 32);
    }
    return status;
}

/* ---- witnesses ---- */

fp_status fp__log_witness_round(const char *dir, const fp_key *key, fp__ledger_reader *reader,
                                const fp__tlog_policy *policy, fp_log_witness *rows, size_t *n, bool *met)
{
    fp__witness_result results[FP__TLOG_WITNESSES_MAX];
    FP_TRY(fp__witness_round(dir, fp__key_ed25519(key), reader, policy, results, met));
    *n = policy->witnesses_count;
    for (size_t i = 0; i < policy->witnesses_count; i++) {
        rows[i] = (fp_log_witness){.status = results[i].status, .timestamp = results[i].timestamp};
        memcpy(rows[i].name, policy->witnesses[i].key.name, sizeof rows[i].name);
        memcpy(rows[i].detail, results[i].detail, sizeof rows[i].detail);
    }
    return FP_OK;
}

fp_status fp_log_witness_round(const char *dir, const char *origin, const fp_key *key,
                               const char *policy_path, fp_log_witness *rows, size_t *n, bool *met)
{
    fp__tlog_policy *policy = NULL;
    fp__note_key note_key;
    fp__ledger_reader *reader = NULL;
    FP_TRY(fp__note_key_make(origin, FP__NOTE_ED25519, fp__ed25519_public(fp__key_ed25519(key)), &note_key));
    FP_TRY(fp__log_policy_load(policy_path, &policy));
    fp_status status = fp__ledger_reader_open(dir, origin, &note_key, 1, NULL, &reader);
    if (status == FP_OK)
        status = fp__log_witness_round(dir, key, reader, policy, rows, n, met);
    fp__ledger_reader_close(reader);
    free(policy);
    return status;
}
