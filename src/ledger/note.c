#include "ledger/note.h"
#include "merkle/sha256.h"

static const char dash[] = "\xe2\x80\x94 "; /* em dash, space: how a signature line begins */
#define DASH_SIZE 4

fp_status fp__note_check_text(const void *data, size_t size, const char *what)
{
    const uint8_t *bytes = data;
    size_t bad = 0;
    if (size == 0 || bytes[size - 1] != '\n')
        return fp__fail(FP_FORMAT, "%s does not end with a newline", what);
    if (!fp__utf8_valid(data, size, &bad))
        return fp__fail(FP_FORMAT, "%s is not UTF-8 at byte %zu", what, bad);
    for (size_t i = 0; i < size; i++)
        if (bytes[i] < 0x20 && bytes[i] != '\n')
            return fp__fail(FP_FORMAT, "%s has a control character (0x%02x) at byte %zu", what, bytes[i], i);
    return FP_OK;
}

fp_status fp__note_parse_decimal(const void *text, size_t size, uint64_t *out, const char *what)
{
    const uint8_t *digits = text;
    uint64_t value = 0;
    if (size == 0 || (size > 1 && digits[0] == '0'))
        return fp__fail(FP_FORMAT, "%s is %s", what, size == 0 ? "empty" : "a number with a leading zero");
    for (size_t i = 0; i < size; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return fp__fail(FP_FORMAT, "%s is not a decimal number", what);
        unsigned digit = (unsigned)(digits[i] - '0');
        if (value > ((UINT64_MAX >> 1) - digit) / 10)
            return fp__fail(FP_FORMAT, "%s is larger than 2^63 - 1", what);
        value = value * 10 + digit;
    }
    *out = value;
    return FP_OK;
}

/* Unicode White_Space, as Go's unicode.IsSpace and the other implementations have it. p points into valid
 * UTF-8. */
static bool is_space(const uint8_t *p, size_t left)
{
    if (p[0] == ' ' || (p[0] >= 0x09 && p[0] <= 0x0d))
        return true;
    if (left >= 2 && p[0] == 0xc2)
        return p[1] == 0x85 || p[1] == 0xa0;
    if (left < 3)
        return false;
    unsigned code = (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    return (p[0] & 0xf0) == 0xe0 && (code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
                                     code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000);
}

static fp_status check_name(const void *name, size_t size)
{
    const uint8_t *bytes = name;
    if (size == 0)
        return fp__fail(FP_FORMAT, "the key name is empty");
    if (!fp__utf8_valid(name, size, NULL))
        return fp__fail(FP_FORMAT, "the key name is not UTF-8");
    for (size_t i = 0; i < size; i++)
        if (bytes[i] < 0x20 || bytes[i] == '+' || is_space(bytes + i, size - i))
            return fp__fail(FP_FORMAT, "the key name has a space, a plus or a control character");
    return FP_OK;
}

fp_status fp__note_key_make(const char *name, uint8_t type, const uint8_t public_key[32], fp__note_key *out)
{
    size_t size = strlen(name);
    FP_TRY(check_name(name, size));
    if (size > FP__NOTE_MAX_NAME)
        return fp__fail(FP_FORMAT, "the key name has %zu bytes; at most %d are allowed", size,
                        FP__NOTE_MAX_NAME);
    if (type != FP__NOTE_ED25519 && type != FP__NOTE_COSIGNATURE)
        return fp__fail(FP_UNSUPPORTED, "a note key of type 0x%02x; 0x01 and 0x04 (Ed25519) are supported",
                        type);
    FP_TRY(fp__ed25519_check_public(public_key));
    uint8_t tag[2] = {'\n', type}, hash[32];
    fp__part parts[] = {{name, size}, {tag, 2}, {public_key, 32}};
    fp__sha256_parts(parts, 3, hash);
    memset(out, 0, sizeof *out);
    memcpy(out->name, name, size);
    memcpy(out->public_key, public_key, 32);
    out->type = type;
    out->id = (uint32_t)hash[0] << 24 | (uint32_t)hash[1] << 16 | (uint32_t)hash[2] << 8 | hash[3];
    return FP_OK;
}

static fp_status parse_key(const char *text, size_t size, const char *plus, fp__note_key *out)
{
    char name[FP__NOTE_MAX_NAME + 1] = {0};
    size_t name_size = (size_t)(plus - text), rest = size - name_size - 1;
    uint8_t id[4];
    if (name_size > FP__NOTE_MAX_NAME)
        return fp__fail(FP_FORMAT, "the key name is longer than %d bytes", FP__NOTE_MAX_NAME);
    if (memchr(text, 0, name_size) != NULL)
        return fp__fail(FP_FORMAT, "the key name has a control character");
    memcpy(name, text, name_size);
    if (rest < 9 || plus[9] != '+')
        return fp__fail(FP_FORMAT, "the key id is not 8 hexadecimal digits between two plus signs");
    FP_TRY(fp__hex_decode(plus + 1, 8, id, 4));
    fp__buf key = {0};
    fp_status status = fp__base64_decode(plus + 10, rest - 9, &key);
    if (status == FP_OK && key.size > 0 && key.data[0] != FP__NOTE_ED25519 &&
        key.data[0] != FP__NOTE_COSIGNATURE)
        status = fp__fail(FP_UNSUPPORTED, "a note key of type 0x%02x; 0x01 and 0x04 (Ed25519) are supported",
                          key.data[0]);
    else if (status == FP_OK && key.size != 33)
        status = fp__fail(FP_FORMAT, "the key has %zu bytes; a type and an Ed25519 key are 33", key.size);
    fp__note_key made = {0};
    if (status == FP_OK)
        status = fp__note_key_make(name, key.data[0], key.data + 1, &made);
    fp__buf_free(&key);
    FP_TRY(status);
    uint32_t stated = (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 | (uint32_t)id[2] << 8 | id[3];
    if (stated != made.id)
        return fp__fail(FP_FORMAT, "the key id is %08x, but name and key give %08x: it was mistyped", stated,
                        made.id);
    *out = made;
    return FP_OK;
}

fp_status fp__note_key_parse(const char *text, size_t size, fp__note_key *out)
{
    const char *plus = size == 0 ? NULL : memchr(text, '+', size);
    fp_status status = plus == NULL ? fp__fail(FP_FORMAT, "it has no plus sign; expected name+id+key")
                                    : parse_key(text, size, plus, out);
    return status == FP_OK ? FP_OK : fp__fail_context(status, "verifier key");
}

fp_status fp__note_key_format(const fp__note_key *key, fp__buf *out)
{
    uint8_t typed[33];
    typed[0] = key->type;
    memcpy(typed + 1, key->public_key, 32);
    FP_TRY(fp__buf_printf(out, "%s+%08x+", key->name, key->id));
    return fp__base64_encode(typed, sizeof typed, out);
}

/* One signature line, without its newline. */
static fp_status parse_line(const char *line, size_t size, fp__note *out)
{
    if (size < DASH_SIZE || memcmp(line, dash, DASH_SIZE) != 0)
        return fp__fail(FP_FORMAT, "it does not begin with an em dash and a space");
    const char *name = line + DASH_SIZE;
    size -= DASH_SIZE;
    const char *space = size == 0 ? NULL : memchr(name, ' ', size);
    if (space == NULL)
        return fp__fail(FP_FORMAT, "it has no space between name and signature");
    size_t name_size = (size_t)(space - name);
    FP_TRY(check_name(name, name_size));
    size_t offset = out->decoded.size;
    FP_TRY(fp__base64_decode(space + 1, size - name_size - 1, &out->decoded));
    size_t decoded = out->decoded.size - offset;
    if (decoded < 5)
        return fp__fail(FP_FORMAT, "a signature of %zu bytes is too short for a key id and a signature",
                        decoded);
    const uint8_t *id = out->decoded.data + offset;
    out->signatures[out->signature_count++] = (fp__note_signature){
        .name = name,
        .name_size = name_size,
        .key_id = (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 | (uint32_t)id[2] << 8 | id[3],
        .offset = offset + 4,
        .size = decoded - 4,
    };
    return FP_OK;
}

static fp_status parse_note(const uint8_t *data, size_t size, fp__note *out)
{
    if (size > FP__NOTE_MAX_BYTES)
        return fp__fail(FP_LIMIT, "it has %zu bytes; at most %d are read", size, FP__NOTE_MAX_BYTES);
    FP_TRY(fp__note_check_text(data, size, "it"));
    size_t blank = size - 1; /* of the last empty line's newline */
    while (blank > 0 && !(data[blank] == '\n' && data[blank - 1] == '\n'))
        blank--;
    if (blank == 0)
        return fp__fail(FP_FORMAT, "it has no empty line between text and signatures");
    if (blank == size - 1)
        return fp__fail(FP_FORMAT, "it has no signature");
    out->text = data;
    out->text_size = blank;
    size_t begin = blank + 1;
    while (begin < size) {
        const uint8_t *end = memchr(data + begin, '\n', size - begin); /* the last byte is one */
        size_t line = (size_t)(end - data) - begin;
        if (out->signature_count == FP__NOTE_MAX_SIGNATURES)
            return fp__fail(FP_LIMIT, "it has more than %d signatures", FP__NOTE_MAX_SIGNATURES);
        fp_status status = parse_line((const char *)data + begin, line, out);
        if (status != FP_OK)
            return fp__fail_context(status, "signature line %zu", out->signature_count + 1);
        begin += line + 1;
    }
    return FP_OK;
}

fp_status fp__note_parse(const void *data, size_t size, fp__note *out)
{
    memset(out, 0, sizeof *out);
    fp_status status = parse_note(data, size, out);
    if (status == FP_OK)
        return FP_OK;
    fp__note_free(out);
    return fp__fail_context(status, "signed note");
}

void fp__note_free(fp__note *note)
{
    fp__buf_free(&note->decoded);
    memset(note, 0, sizeof *note);
}

static fp_status cosigned_text(const void *text, size_t size, uint64_t timestamp, fp__buf *out)
{
    FP_TRY(fp__buf_printf(out, "cosignature/v1\ntime %llu\n", (unsigned long long)timestamp));
    return fp__buf_append(out, text, size);
}

static fp_status verify_one(const fp__note *note, const fp__note_signature *signature,
                            const fp__note_key *key, uint64_t *timestamp)
{
    const uint8_t *bytes = note->decoded.data + signature->offset;
    *timestamp = 0;
    size_t expected = key->type == FP__NOTE_COSIGNATURE ? 72 : 64;
    if (signature->size != expected)
        return fp__fail(FP_SIGNATURE, "the signature has %zu bytes; this type has %zu", signature->size,
                        expected);
    if (key->type == FP__NOTE_ED25519)
        return fp__ed25519_verify(key->public_key, note->text, note->text_size, bytes);
    for (int i = 0; i < 8; i++)
        *timestamp = *timestamp << 8 | bytes[i];
    if (*timestamp > UINT64_MAX >> 1)
        return fp__fail(FP_SIGNATURE, "the cosignature's time is beyond 2^63 - 1");
    fp__buf message = {0};
    fp_status status = cosigned_text(note->text, note->text_size, *timestamp, &message);
    if (status == FP_OK)
        status = fp__ed25519_verify(key->public_key, message.data, message.size, bytes + 8);
    fp__buf_free(&message);
    return status;
}

fp_status fp__note_verify(const fp__note *note, const fp__note_key *keys, size_t count,
                          fp__note_verdict *verdicts)
{
    size_t valid = 0;
    for (size_t k = 0; k < count; k++) {
        fp__note_verdict verdict = {0};
        for (size_t s = 0; s < note->signature_count; s++) {
            const fp__note_signature *signature = &note->signatures[s];
            if (signature->key_id != keys[k].id || signature->name_size != strlen(keys[k].name) ||
                memcmp(signature->name, keys[k].name, signature->name_size) != 0)
                continue;
            uint64_t timestamp;
            fp_status status = verify_one(note, signature, &keys[k], &timestamp);
            if (status != FP_OK)
                return fp__fail_context(status, "signature of %s (key %08x)", keys[k].name, keys[k].id);
            verdict.valid = true;
            if (timestamp > verdict.timestamp)
                verdict.timestamp = timestamp;
        }
        valid += verdict.valid;
        if (verdicts != NULL)
            verdicts[k] = verdict;
    }
    if (valid == 0)
        return fp__fail(FP_SIGNATURE, "the note has no signature of a key that is trusted here%s%s",
                        count != 0 ? ", such as " : "", count != 0 ? keys[0].name : "");
    return FP_OK;
}

static fp_status append_line(const fp__note_key *key, const uint8_t *signature, size_t size, fp__buf *out)
{
    uint8_t bytes[4 + 72];
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(key->id >> (24 - 8 * i));
    memcpy(bytes + 4, signature, size);
    FP_TRY(fp__buf_printf(out, "%s%s ", dash, key->name));
    FP_TRY(fp__base64_encode(bytes, 4 + size, out));
    return fp__buf_append_text(out, "\n");
}

fp_status fp__note_sign(const void *text, size_t size, const char *name, const fp__ed25519_key *key,
                        fp__buf *out)
{
    fp__note_key id;
    uint8_t signature[64];
    FP_TRY(fp__note_check_text(text, size, "the text to sign"));
    FP_TRY(fp__note_key_make(name, FP__NOTE_ED25519, fp__ed25519_public(key), &id));
    FP_TRY(fp__ed25519_sign(key, text, size, signature));
    FP_TRY(fp__buf_append(out, text, size));
    FP_TRY(fp__buf_append_text(out, "\n"));
    return append_line(&id, signature, sizeof signature, out);
}

fp_status fp__note_cosign(const void *text, size_t size, const char *name, const fp__ed25519_key *key,
                          uint64_t timestamp, fp__buf *out)
{
    fp__note_key id;
    uint8_t signature[72];
    FP_TRY(fp__note_check_text(text, size, "the text to cosign"));
    FP_TRY(fp__note_key_make(name, FP__NOTE_COSIGNATURE, fp__ed25519_public(key), &id));
    if (timestamp > UINT64_MAX >> 1)
        return fp__fail(FP_USAGE, "a cosignature's time must be below 2^63");
    for (int i = 0; i < 8; i++)
        signature[i] = (uint8_t)(timestamp >> (56 - 8 * i));
    fp__buf message = {0};
    fp_status status = cosigned_text(text, size, timestamp, &message);
    if (status == FP_OK)
        status = fp__ed25519_sign(key, message.data, message.size, signature + 8);
    fp__buf_free(&message);
    FP_TRY(status);
    return append_line(&id, signature, sizeof signature, out);
}
