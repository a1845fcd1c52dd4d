#include "anchor/json_strict.h"
#include <stdio.h>

#define MAX_DEPTH 16

/* Numbers and nesting; jansson has refused the rest. */
static fp_status check_values(const json_t *json, const char *name, int depth)
{
    if (depth > MAX_DEPTH)
        return fp__fail(FP_FORMAT, "%s: nested deeper than %d", name, MAX_DEPTH);
    if (json_is_real(json))
        return fp__fail(FP_FORMAT, "%s: a real number; only integers are allowed", name);
    if (json_is_integer(json)) {
        json_int_t v = json_integer_value(json);
        if (v > (json_int_t)FP__JSON_INTEGER_MAX || v < -(json_int_t)FP__JSON_INTEGER_MAX)
            return fp__fail(FP_FORMAT, "%s: an integer beyond 2^53-1", name);
    }
    if (json_is_array(json)) {
        for (size_t i = 0; i < json_array_size(json); i++)
            FP_TRY(check_values(json_array_get(json, i), name, depth + 1));
    }
    if (json_is_object(json)) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)json, key, value) FP_TRY(check_values(value, name, depth + 1));
    }
    return FP_OK;
}

fp_status fp__json_parse(const void *data, size_t size, size_t max_bytes, const char *name, json_t **out)
{
    if (size > max_bytes)
        return fp__fail(FP_LIMIT, "%s: %zu bytes; at most %zu are allowed", name, size, max_bytes);
    if (size > 0 && memchr(data, 0, size) != NULL)
        return fp__fail(FP_FORMAT, "%s: a NUL byte", name);
    json_error_t error;
    json_t *json = json_loadb(data, size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        return fp__fail(FP_FORMAT, "%s: not strict JSON at byte %d: %s", name, error.position, error.text);
    fp_status status = FP_OK;
    if (!json_is_object(json))
        status = fp__fail(FP_FORMAT, "%s: not a JSON object", name);
    if (status == FP_OK)
        status = check_values(json, name, 0);
    if (status != FP_OK) {
        json_decref(json);
        return status;
    }
    *out = json;
    return FP_OK;
}

static int append_chunk(const char *text, size_t size, void *out)
{
    return fp__buf_append(out, text, size) == FP_OK ? 0 : -1;
}

fp_status fp__json_dump(json_t *json, int pretty, fp__buf *out)
{
    if (json == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a JSON object (or text that is not UTF-8)");
    size_t flags = JSON_PRESERVE_ORDER | (pretty ? JSON_INDENT(2) : JSON_COMPACT);
    int failed = json_dump_callback(json, append_chunk, out, flags);
    json_decref(json);
    if (failed)
        return fp__fail(FP_NO_MEMORY, "no memory to write JSON");
    return pretty ? fp__buf_append_text(out, "\n") : FP_OK;
}

json_t *fp__json_hex_value(const void *data, size_t n)
{
    char text[2 * 64 + 1];
    FP_CHECK(n <= 64);
    fp__hex_encode(data, n, text);
    return json_string(text);
}

static bool listed(const char *const *names, const char *name)
{
    for (; names != NULL && *names != NULL; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

fp_status fp__json_fields(const json_t *object, const char *where, const char *const *required,
                          const char *const *optional)
{
    if (!json_is_object(object))
        return fp__fail(FP_FORMAT, "%s: not a JSON object", where);
    const char *key;
    json_t *value = NULL;
    json_object_foreach((json_t *)object, key, value)
    {
        if (!listed(required, key) && !listed(optional, key))
            return fp__fail(FP_FORMAT, "%s: unknown field \"%.64s\"", where, key);
    }
    for (; *required != NULL; required++)
        if (json_object_get(object, *required) == NULL)
            return fp__fail(FP_FORMAT, "%s: missing field \"%s\"", where, *required);
    return FP_OK;
}

static fp_status get(const json_t *object, const char *where, const char *key, json_t **out)
{
    *out = json_object_get(object, key);
    if (*out == NULL)
        return fp__fail(FP_FORMAT, "%s: missing field \"%s\"", where, key);
    return FP_OK;
}

fp_status fp__json_object(const json_t *object, const char *where, const char *key, json_t **out)
{
    json_t *value = NULL;
    FP_TRY(get(object, where, key, &value));
    if (!json_is_object(value))
        return fp__fail(FP_FORMAT, "%s.%s: not an object", where, key);
    *out = value;
    return FP_OK;
}

fp_status fp__json_array(const json_t *object, const char *where, const char *key, size_t min, size_t max,
                         json_t **out)
{
    json_t *value = NULL;
    FP_TRY(get(object, where, key, &value));
    if (!json_is_array(value))
        return fp__fail(FP_FORMAT, "%s.%s: not a list", where, key);
    size_t n = json_array_size(value);
    if (n < min || n > max)
        return fp__fail(FP_FORMAT, "%s.%s: a list of %zu; %zu to %zu are allowed", where, key, n, min, max);
    *out = value;
    return FP_OK;
}

fp_status fp__json_text(const json_t *object, const char *where, const char *key, size_t min, size_t max,
                        const char **out)
{
    json_t *value = NULL;
    FP_TRY(get(object, where, key, &value));
    if (!json_is_string(value))
        return fp__fail(FP_FORMAT, "%s.%s: not text", where, key);
    size_t n = json_string_length(value);
    if (n < min || n > max)
        return fp__fail(FP_FORMAT, "%s.%s: text of %zu bytes; %zu to %zu are allowed", where, key, n, min,
                        max);
    const char *text = json_string_value(value);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return fp__fail(FP_FORMAT, "%s.%s: a control character in the text", where, key);
    *out = text;
    return FP_OK;
}

fp_status fp__json_uint(const json_t *object, const char *where, const char *key, uint64_t min, uint64_t max,
                        uint64_t *out)
{
    json_t *value = NULL;
    FP_TRY(get(object, where, key, &value));
    if (!json_is_integer(value))
        return fp__fail(FP_FORMAT, "%s.%s: not an integer", where, key);
    json_int_t v = json_integer_value(value);
    if (v < 0 || (uint64_t)v < min || (uint64_t)v > max)
        return fp__fail(FP_FORMAT, "%s.%s: %lld is out of range (%llu to %llu)", where, key, (long long)v,
                        (unsigned long long)min, (unsigned long long)max);
    *out = (uint64_t)v;
    return FP_OK;
}

fp_status fp__json_hex_text(const char *text, const char *where, void *out, size_t n)
{
    size_t size = text == NULL ? 0 : strlen(text);
    if (text == NULL || size != 2 * n || strspn(text, "0123456789abcdef") != size)
        return fp__fail(FP_FORMAT, "%s: not %zu lower-case hexadecimal digits", where, 2 * n);
    return fp__hex_decode(text, size, out, n);
}

fp_status fp__json_hex(const json_t *object, const char *where, const char *key, void *out, size_t n)
{
    const char *text = NULL;
    FP_TRY(fp__json_text(object, where, key, 0, 4096, &text));
    char full[160];
    snprintf(full, sizeof full, "%s.%s", where, key);
    return fp__json_hex_text(text, full, out, n);
}

fp_status fp__json_constant(const json_t *object, const char *where, const char *key, const char *value)
{
    const char *text = NULL;
    FP_TRY(fp__json_text(object, where, key, 0, 4096, &text));
    if (strcmp(text, value) != 0)
        return fp__fail(FP_FORMAT, "%s.%s: \"%.80s\" where \"%s\" is needed", where, key, text, value);
    return FP_OK;
}
