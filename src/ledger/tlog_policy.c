#include "ledger/tlog_policy.h"
#include <stdio.h>
#include <stdlib.h>

#define WORDS_MAX (FP__TLOG_WITNESSES_MAX + FP__TLOG_GROUPS_MAX + 3)

typedef struct word {
    const char *text;
    size_t size;
} word;

struct parse {
    fp__tlog_policy *out;
    uint32_t used_witnesses, used_groups; /* members of a group already */
    bool have_quorum;
};

static bool is(const word *w, const char *text)
{
    return w->size == strlen(text) && memcmp(w->text, text, w->size) == 0;
}

static fp_status copy(const word *w, char *out, size_t max, const char *what)
{
    if (w->size > max)
        return fp__fail(FP_LIMIT, "the %s has %zu bytes; at most %zu are taken", what, w->size, max);
    memcpy(out, w->text, w->size);
    out[w->size] = 0;
    return FP_OK;
}

/* ---- names ---- */

/* Index of the witness or group of that name; false if there is none. */
static bool find(const fp__tlog_policy *p, const word *name, bool *group, unsigned *index)
{
    for (unsigned i = 0; i < p->witnesses_count; i++)
        if (is(name, p->witnesses[i].name)) {
            *group = false;
            *index = i;
            return true;
        }
    for (unsigned i = 0; i < p->groups_count; i++)
        if (is(name, p->groups[i].name)) {
            *group = true;
            *index = i;
            return true;
        }
    return false;
}

static fp_status new_name(const fp__tlog_policy *p, const word *name, char *out)
{
    bool group;
    unsigned index;
    if (is(name, "none"))
        return fp__fail(FP_FORMAT, "'none' cannot be a name");
    if (find(p, name, &group, &index))
        return fp__fail(FP_FORMAT, "the name '%.*s' is there already", (int)name->size, name->text);
    return copy(name, out, FP__TLOG_NAME_MAX, "name");
}

static fp_status add_member(fp__tlog_group *group, const fp__tlog_policy *p, const word *name, bool *is_group,
                            unsigned *index)
{
    if (!find(p, name, is_group, index))
        return fp__fail(FP_FORMAT, "'%.*s' is not the name of a witness or group on a line before",
                        (int)name->size, name->text);
    *(*is_group ? &group->groups : &group->witnesses) |= (uint32_t)1 << *index;
    return FP_OK;
}

/* ---- lines ---- */

/* words: key and, perhaps, URL. */
static fp_status parse_party(const word *words, size_t n, uint8_t type, fp__tlog_party *all, size_t *count,
                             size_t max, fp__tlog_party *party)
{
    if (n < 1 || n > 2)
        return fp__fail(FP_FORMAT, "it has %zu words too %s", n < 1 ? 1 - n : n - 2, n < 1 ? "few" : "many");
    if (*count == max)
        return fp__fail(FP_LIMIT, "there are more than %zu of these lines", max);
    FP_TRY(fp__note_key_parse(words[0].text, words[0].size, &party->key));
    if (party->key.type != type)
        return fp__fail(FP_FORMAT, "the key is of type 0x%02x; a %s has one of type 0x%02x", party->key.type,
                        type == FP__NOTE_ED25519 ? "log" : "witness", type);
    for (size_t i = 0; i < *count; i++)
        if (memcmp(all[i].key.public_key, party->key.public_key, 32) == 0)
            return fp__fail(FP_FORMAT, "the key is there already");
    if (n == 2)
        FP_TRY(copy(&words[1], party->url, FP__TLOG_URL_MAX, "URL"));
    all[(*count)++] = *party;
    return FP_OK;
}

static fp_status parse_group(struct parse *parse, const word *words, size_t n)
{
    fp__tlog_policy *p = parse->out;
    fp__tlog_group group = {.threshold = 0};
    uint64_t k = 0;
    if (n < 3)
        return fp__fail(FP_FORMAT, "a group has a name, a threshold and at least one member");
    if (p->groups_count == FP__TLOG_GROUPS_MAX)
        return fp__fail(FP_LIMIT, "there are more than %d groups", FP__TLOG_GROUPS_MAX);
    FP_TRY(new_name(p, &words[0], group.name));
    if (is(&words[1], "all"))
        k = n - 2;
    else if (is(&words[1], "any"))
        k = 1;
    else
        FP_TRY(fp__note_parse_decimal(words[1].text, words[1].size, &k, "the threshold"));
    if (k < 1 || k > n - 2)
        return fp__fail(FP_FORMAT, "the threshold is %llu, but the group has %zu members",
                        (unsigned long long)k, n - 2);
    group.threshold = (unsigned)k;
    for (size_t i = 2; i < n; i++) {
        bool is_group;
        unsigned index;
        FP_TRY(add_member(&group, p, &words[i], &is_group, &index));
        uint32_t *used = is_group ? &parse->used_groups : &parse->used_witnesses;
        if (*used >> index & 1)
            return fp__fail(FP_FORMAT, "'%.*s' is a member of a group already", (int)words[i].size,
                            words[i].text);
        *used |= (uint32_t)1 << index;
    }
    p->groups[p->groups_count++] = group;
    return FP_OK;
}

static fp_status parse_quorum(struct parse *parse, const word *words, size_t n)
{
    bool group;
    unsigned index;
    if (n != 1)
        return fp__fail(FP_FORMAT, "a quorum line has one name");
    if (parse->have_quorum)
        return fp__fail(FP_FORMAT, "there are two quorum lines");
    parse->have_quorum = true;
    if (is(&words[0], "none"))
        return FP_OK;
    parse->out->quorum.threshold = 1;
    return add_member(&parse->out->quorum, parse->out, &words[0], &group, &index);
}

static fp_status parse_line(struct parse *parse, const word *words, size_t n)
{
    fp__tlog_policy *p = parse->out;
    fp__tlog_party party = {.url = ""};
    if (is(&words[0], "log"))
        return parse_party(words + 1, n - 1, FP__NOTE_ED25519, p->logs, &p->logs_count, FP__TLOG_LOGS_MAX,
                           &party);
    if (is(&words[0], "witness")) {
        if (n < 3)
            return fp__fail(FP_FORMAT, "a witness has a name and a key");
        FP_TRY(new_name(p, &words[1], party.name));
        return parse_party(words + 2, n - 2, FP__NOTE_COSIGNATURE, p->witnesses, &p->witnesses_count,
                           FP__TLOG_WITNESSES_MAX, &party);
    }
    if (is(&words[0], "group"))
        return parse_group(parse, words + 1, n - 1);
    if (is(&words[0], "quorum"))
        return parse_quorum(parse, words + 1, n - 1);
    return fp__fail(FP_FORMAT, "'%.*s' is not log, witness, group or quorum",
                    (int)(words[0].size < 40 ? words[0].size : 40), words[0].text);
}

static fp_status split(const char *line, size_t size, word words[WORDS_MAX], size_t *n)
{
    *n = 0;
    for (size_t at = 0; at < size;) {
        size_t begin = at;
        while (at < size && line[at] != ' ' && line[at] != '\t')
            at++;
        if (at > begin) {
            if (*n == WORDS_MAX)
                return fp__fail(FP_LIMIT, "it has more than %d words", WORDS_MAX);
            words[(*n)++] = (word){line + begin, at - begin};
        }
        at += at < size;
    }
    return FP_OK;
}

static fp_status check_bytes(const uint8_t *bytes, size_t size)
{
    if (size > FP__TLOG_POLICY_MAX_BYTES)
        return fp__fail(FP_LIMIT, "it has %zu bytes; at most %u are read", size, FP__TLOG_POLICY_MAX_BYTES);
    if (size == 0 || bytes[size - 1] != '\n')
        return fp__fail(FP_FORMAT, "it does not end with a newline");
    for (size_t i = 0; i < size; i++)
        if ((bytes[i] < 0x20 && bytes[i] != '\n' && bytes[i] != '\t') || bytes[i] == 0x7f)
            return fp__fail(FP_FORMAT, "it has a control character (0x%02x) at byte %zu", bytes[i], i);
    return FP_OK;
}

fp_status fp__tlog_policy_parse(const void *data, size_t size, fp__tlog_policy *out)
{
    struct parse parse = {.out = out};
    const char *at = data, *end = at + size;
    memset(out, 0, sizeof *out);
    fp_status status = check_bytes(data, size);
    for (size_t number = 1; status == FP_OK && at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        word words[WORDS_MAX];
        size_t n = 0;
        status = split(at, (size_t)(newline - at), words, &n);
        if (status == FP_OK && n != 0 && words[0].text[0] != '#')
            status = parse_line(&parse, words, n);
        if (status != FP_OK)
            status = fp__fail_context(status, "line %zu", number);
        at = newline + 1;
    }
    if (status == FP_OK && !parse.have_quorum)
        status = fp__fail(FP_FORMAT, "it has no quorum line (write 'quorum none' to ask for no witness)");
    return status == FP_OK ? FP_OK : fp__fail_context(status, "trust policy");
}

/* ---- quorums ---- */

bool fp__tlog_policy_met(const fp__tlog_policy *p, uint32_t witnesses)
{
    uint32_t groups = 0; /* members stand before their group, so one pass does */
    for (unsigned i = 0; i < p->groups_count; i++) {
        const fp__tlog_group *g = &p->groups[i];
        int have = __builtin_popcount(g->witnesses & witnesses) + __builtin_popcount(g->groups & groups);
        if ((unsigned)have >= g->threshold)
            groups |= (uint32_t)1 << i;
    }
    int have =
        __builtin_popcount(p->quorum.witnesses & witnesses) + __builtin_popcount(p->quorum.groups & groups);
    return (unsigned)have >= p->quorum.threshold;
}

bool fp__tlog_policy_time(const fp__tlog_policy *p, const fp__note_verdict *verdicts, uint64_t *seconds)
{
    uint64_t best = 0;
    bool met = fp__tlog_policy_met(p, 0); /* no witness is asked for */
    for (size_t i = 0; i < p->witnesses_count && p->quorum.threshold != 0; i++) {
        uint32_t since = 0; /* those who cosigned at this one's time or later */
        if (!verdicts[i].valid || (met && verdicts[i].timestamp <= best))
            continue;
        for (size_t j = 0; j < p->witnesses_count; j++)
            if (verdicts[j].valid && verdicts[j].timestamp >= verdicts[i].timestamp)
                since |= (uint32_t)1 << j;
        if (fp__tlog_policy_met(p, since)) {
            best = verdicts[i].timestamp;
            met = true;
        }
    }
    if (seconds != NULL)
        *seconds = best;
    return met;
}
