#include "model/gguf.h"
#include "core/file.h"
#include <float.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_KEY_BYTES 65535u
#define MAX_ALIGNMENT (1u << 20)
#define DEFAULT_ALIGNMENT 32u
/* The fewest bytes that a key or a tensor takes: bounds the counts before anything is allocated for them. */
#define MIN_KEY_BYTES (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)

typedef struct key_entry {
    fp__gguf_string key;
    fp__gguf_type type, element; /* element: of an array */
    uint64_t count;              /* of an array */
    const uint8_t *value;        /* scalar bytes, string bytes or array data */
    size_t size;
} key_entry;

struct fp__gguf {
    fp__map map;
    bool mapped; /* map is ours to close */
    char *path;
    uint32_t version;
    uint32_t alignment;
    size_t n_keys, n_tensors;
    key_entry *keys;              // [n_keys] in file order
    const key_entry **sorted_key; // [n_keys] by name
    fp__gguf_tensor *tensors;     // [n_tensors] in file order
    const fp__gguf_tensor **sorted_tensor;
};

typedef struct type_info {
    uint32_t type;
    const char *name;
    uint32_t elements, bytes; /* 0: known by name only */
} type_info;

/* Block shapes from ggml's type list; quantised K types have 256 elements a block. */
static const type_info type_table[] = {
    {FP__GGML_F32, "F32", 1, 4},
    {FP__GGML_F16, "F16", 1, 2},
    {FP__GGML_Q4_0, "Q4_0", 32, 18},
    {FP__GGML_Q4_1, "Q4_1", 32, 20},
    {FP__GGML_Q5_0, "Q5_0", 32, 22},
    {FP__GGML_Q5_1, "Q5_1", 32, 24},
    {FP__GGML_Q8_0, "Q8_0", 32, 34},
    {FP__GGML_Q4_K, "Q4_K", 256, 144},
    {FP__GGML_Q5_K, "Q5_K", 256, 176},
    {FP__GGML_Q6_K, "Q6_K", 256, 210},
    {FP__GGML_BF16, "BF16", 1, 2},
    {4, "Q4_2", 0, 0},
    {5, "Q4_3", 0, 0},
    {9, "Q8_1", 0, 0},
    {10, "Q2_K", 0, 0},
    {11, "Q3_K", 0, 0},
    {15, "Q8_K", 0, 0},
    {16, "IQ2_XXS", 0, 0},
    {17, "IQ2_XS", 0, 0},
    {18, "IQ3_XXS", 0, 0},
    {19, "IQ1_S", 0, 0},
    {20, "IQ4_NL", 0, 0},
    {21, "IQ3_S", 0, 0},
    {22, "IQ2_S", 0, 0},
    {23, "IQ4_XS", 0, 0},
    {24, "I8", 0, 0},
    {25, "I16", 0, 0},
    {26, "I32", 0, 0},
    {27, "I64", 0, 0},
    {28, "F64", 0, 0},
    {29, "IQ1_M", 0, 0},
    {34, "TQ1_0", 0, 0},
    {35, "TQ2_0", 0, 0},
    {39, "MXFP4", 0, 0},
};

static const type_info *find_type(uint32_t type)
{
    for (size_t i = 0; i < sizeof type_table / sizeof type_table[0]; i++)
        if (type_table[i].type == type)
            return &type_table[i];
    return NULL;
}

bool fp__gguf_type_block(uint32_t type, uint32_t *elements, uint32_t *bytes)
{
    const type_info *info = find_type(type);
    if (!info || !info->elements)
        return false;
    *elements = info->elements;
    *bytes = info->bytes;
    return true;
}

const char *fp__gguf_type_name(uint32_t type)
{
    const type_info *info = find_type(type);
    return info ? info->name : "unknown type";
}

/* Bytes of a scalar value, 0 for strings, arrays and unknown types. */
static size_t scalar_size(uint32_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static int compare_strings(fp__gguf_string a, fp__gguf_string b)
{
    size_t n = a.size < b.size ? a.size : b.size;
    int order = memcmp(a.data, b.data, n);
    if (order)
        return order;
    return a.size < b.size ? -1 : a.size > b.size;
}

static int compare_keys(const void *a, const void *b)
{
    const key_entry *x = *(const key_entry *const *)a, *y = *(const key_entry *const *)b;
    return compare_strings(x->key, y->key);
}

static int compare_tensors(const void *a, const void *b)
{
    const fp__gguf_tensor *x = *(const fp__gguf_tensor *const *)a, *y = *(const fp__gguf_tensor *const *)b;
    return compare_strings(x->name, y->name);
}

static int compare_data(const void *a, const void *b)
{
    const fp__gguf_tensor *x = *(const fp__gguf_tensor *const *)a, *y = *(const fp__gguf_tensor *const *)b;
    return x->data < y->data ? -1 : x->data > y->data;
}

/* Length-prefixed bytes; max 0: any length that fits. */
static fp_status read_string(fp__reader *r, size_t max, fp__gguf_string *out, const char *what)
{
    uint64_t size = 0;
    const uint8_t *data = NULL;
    FP_TRY(fp__read_u64(r, &size, what));
    if (size > fp__reader_left(r))
        return fp__fail(FP_FORMAT,
                        "GGUF: %s says %llu bytes where %zu remain; the file is cut off or damaged", what,
                        (unsigned long long)size, fp__reader_left(r));
    if (max && size > max)
        return fp__fail(FP_LIMIT, "GGUF: %s has %llu bytes; at most %zu are accepted", what,
                        (unsigned long long)size, max);
    FP_TRY(fp__read_bytes(r, (size_t)size, &data, what));
    *out = (fp__gguf_string){(const char *)data, (size_t)size};
    return FP_OK;
}

static fp_status read_name(fp__reader *r, size_t max, fp__gguf_string *out, const char *what)
{
    FP_TRY(read_string(r, max, out, what));
    if (!out->size || memchr(out->data, 0, out->size) || !fp__utf8_valid(out->data, out->size, NULL))
        return fp__fail(FP_FORMAT,
                        "GGUF: %s at byte %zu is empty, has a NUL or is not UTF-8; the file is damaged", what,
                        r->offset - out->size);
    return FP_OK;
}

static fp_status check_bools(const uint8_t *p, size_t n, fp__gguf_string key)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] > 1)
            return fp__fail(FP_FORMAT, "GGUF: key '%.*s' has a boolean that is %u", (int)key.size, key.data,
                            p[i]);
    return FP_OK;
}

static fp_status read_array(fp__reader *r, key_entry *e)
{
    uint32_t element = 0;
    FP_TRY(fp__read_u32(r, &element, "type of array elements"));
    FP_TRY(fp__read_u64(r, &e->count, "length of an array"));
    if (element == FP__GGUF_ARRAY)
        return fp__fail(FP_UNSUPPORTED, "GGUF: key '%.*s' is an array of arrays, which is not supported",
                        (int)e->key.size, e->key.data);
    if (element > FP__GGUF_F64)
        return fp__fail(FP_FORMAT, "GGUF: key '%.*s' is an array of the unknown type %u", (int)e->key.size,
                        e->key.data, element);
    e->element = (fp__gguf_type)element;
    size_t unit = scalar_size(element) ? scalar_size(element) : 8;
    if (e->count > fp__reader_left(r) / unit)
        return fp__fail(FP_FORMAT, "GGUF: the array '%.*s' says %llu elements where %zu bytes remain",
                        (int)e->key.size, e->key.data, (unsigned long long)e->count, fp__reader_left(r));
    e->value = r->data + r->offset;
    if (scalar_size(element)) {
        const uint8_t *data = NULL;
        FP_TRY(fp__read_bytes(r, (size_t)e->count * unit, &data, "array"));
        if (element == FP__GGUF_BOOL)
            FP_TRY(check_bools(data, (size_t)e->count, e->key));
    } else {
        fp__gguf_string ignored;
        for (uint64_t i = 0; i < e->count; i++)
            FP_TRY(read_string(r, 0, &ignored, "a string of an array"));
    }
    e->size = (size_t)(r->data + r->offset - e->value);
    return FP_OK;
}

static fp_status read_key(fp__reader *r, key_entry *e)
{
    uint32_t type = 0;
    FP_TRY(read_name(r, MAX_KEY_BYTES, &e->key, "the name of a key"));
    FP_TRY(fp__read_u32(r, &type, "type of a value"));
    if (type > FP__GGUF_F64)
        return fp__fail(FP_FORMAT, "GGUF: key '%.*s' has the unknown value type %u", (int)e->key.size,
                        e->key.data, type);
    e->type = (fp__gguf_type)type;
    if (type == FP__GGUF_ARRAY)
        return read_array(r, e);
    if (type == FP__GGUF_STRING) {
        fp__gguf_string s = {0};
        FP_TRY(read_string(r, 0, &s, "a string value"));
        e->value = (const uint8_t *)s.data;
        e->size = s.size;
        return FP_OK;
    }
    e->size = scalar_size(type);
    FP_TRY(fp__read_bytes(r, e->size, &e->value, "a value"));
    return type == FP__GGUF_BOOL ? check_bools(e->value, 1, e->key) : FP_OK;
}

/* Shape and size; the place of the data is checked when the data section is known. */
static fp_status read_tensor(fp__reader *r, fp__gguf_tensor *t, uint64_t *offset)
{
    FP_TRY(read_name(r, FP__GGUF_MAX_NAME, &t->name, "the name of a tensor"));
    FP_TRY(fp__read_u32(r, &t->n_dims, "number of dimensions"));
    if (t->n_dims < 1 || t->n_dims > FP__GGUF_MAX_DIMS)
        return fp__fail(FP_FORMAT, "GGUF: tensor '%.*s' has %u dimensions; 1 to 4 are possible",
                        (int)t->name.size, t->name.data, t->n_dims);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < FP__GGUF_MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims)
            FP_TRY(fp__read_u64(r, &t->dims[i], "a dimension"));
        if (!t->dims[i] || __builtin_mul_overflow(elements, t->dims[i], &elements) || elements > INT64_MAX)
            return fp__fail(FP_FORMAT, "GGUF: tensor '%.*s' has a dimension of %llu, zero or too large",
                            (int)t->name.size, t->name.data, (unsigned long long)t->dims[i]);
    }
    FP_TRY(fp__read_u32(r, &t->type, "type of a tensor"));
    FP_TRY(fp__read_u64(r, offset, "offset of a tensor"));
    uint32_t block_elements, block_bytes;
    if (!fp__gguf_type_block(t->type, &block_elements, &block_bytes))
        return FP_OK;
    if (t->dims[0] % block_elements)
        return fp__fail(FP_FORMAT,
                        "GGUF: rows of tensor '%.*s' have %llu elements, no multiple of the %u of a %s block",
                        (int)t->name.size, t->name.data, (unsigned long long)t->dims[0], block_elements,
                        fp__gguf_type_name(t->type));
    if (__builtin_mul_overflow(elements / block_elements, block_bytes, &t->size_bytes))
        return fp__fail(FP_FORMAT, "GGUF: tensor '%.*s' is larger than any file", (int)t->name.size,
                        t->name.data);
    return FP_OK;
}

static fp_status place_tensor(const fp__gguf *g, fp__gguf_tensor *t, size_t data_start, uint64_t offset)
{
    size_t available = g->map.size > data_start ? g->map.size - data_start : 0;
    if (offset % g->alignment)
        return fp__fail(FP_FORMAT, "GGUF: tensor '%.*s' starts at offset %llu, which is not aligned to %u",
                        (int)t->name.size, t->name.data, (unsigned long long)offset, g->alignment);
    if (offset > available || t->size_bytes > available - offset)
        return fp__fail(FP_FORMAT,
                        "GGUF: tensor '%.*s' (%llu bytes at offset %llu) reaches beyond the %zu bytes of "
                        "tensor data; the "
                        "file is cut off: fetch it again",
                        (int)t->name.size, t->name.data, (unsigned long long)t->size_bytes,
                        (unsigned long long)offset, available);
    if (t->size_bytes)
        t->data = g->map.data + data_start + offset;
    return FP_OK;
}

static fp_status read_header(fp__gguf *g, fp__reader *r)
{
    const uint8_t *magic = NULL;
    uint64_t n_tensors = 0, n_keys = 0;
    FP_TRY(fp__read_bytes(r, 4, &magic, "the magic number"));
    if (memcmp(magic, "FUGG", 4) == 0)
        return fp__fail(FP_FORMAT, "GGUF: this is a big-endian file; convert it to little-endian");
    if (memcmp(magic, "GGUF", 4) != 0)
        return fp__fail(
            FP_FORMAT, "GGUF: this is not a GGUF file (it starts with other bytes); give a .gguf model file");
    FP_TRY(fp__read_u32(r, &g->version, "the version"));
    if (g->version && !(g->version & 0xffff))
        return fp__fail(FP_FORMAT, "GGUF: this is a big-endian file; convert it to little-endian");
    if (g->version != 2 && g->version != 3)
        return fp__fail(FP_UNSUPPORTED, "GGUF: version %u is not supported; versions 2 and 3 are",
                        g->version);
    FP_TRY(fp__read_u64(r, &n_tensors, "the number of tensors"));
    FP_TRY(fp__read_u64(r, &n_keys, "the number of keys"));
    if (n_tensors > FP__GGUF_MAX_TENSORS || n_keys > FP__GGUF_MAX_KEYS)
        return fp__fail(FP_LIMIT, "GGUF: %llu tensors and %llu keys; at most %u and %u are accepted",
                        (unsigned long long)n_tensors, (unsigned long long)n_keys, FP__GGUF_MAX_TENSORS,
                        FP__GGUF_MAX_KEYS);
    size_t left = fp__reader_left(r);
    if (n_keys > left / MIN_KEY_BYTES || n_tensors > left / MIN_TENSOR_BYTES)
        return fp__fail(FP_FORMAT, "GGUF: %llu tensors and %llu keys do not fit in the %zu bytes that remain",
                        (unsigned long long)n_tensors, (unsigned long long)n_keys, left);
    g->n_keys = (size_t)n_keys;
    g->n_tensors = (size_t)n_tensors;
    g->keys = calloc(g->n_keys + 1, sizeof *g->keys);
    g->sorted_key = calloc(g->n_keys + 1, sizeof *g->sorted_key);
    g->tensors = calloc(g->n_tensors + 1, sizeof *g->tensors);
    g->sorted_tensor = calloc(g->n_tensors + 1, sizeof *g->sorted_tensor);
    if (!g->keys || !g->sorted_key || !g->tensors || !g->sorted_tensor)
        return fp__fail(FP_NO_MEMORY, "GGUF: no memory for the tables of %zu keys and %zu tensors", g->n_keys,
                        g->n_tensors);
    return FP_OK;
}

static fp_status read_keys(fp__gguf *g, fp__reader *r)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        FP_TRY(read_key(r, &g->keys[i]));
        g->sorted_key[i] = &g->keys[i];
    }
    qsort(g->sorted_key, g->n_keys, sizeof *g->sorted_key, compare_keys);
    for (size_t i = 1; i < g->n_keys; i++)
        if (compare_strings(g->sorted_key[i - 1]->key, g->sorted_key[i]->key) == 0)
            return fp__fail(FP_FORMAT, "GGUF: key '%.*s' occurs twice", (int)g->sorted_key[i]->key.size,
                            g->sorted_key[i]->key.data);
    g->alignment = DEFAULT_ALIGNMENT;
    if (fp__gguf_has_key(g, "general.alignment"))
        FP_TRY(fp__gguf_get_u32(g, "general.alignment", &g->alignment));
    if (g->alignment < 8 || g->alignment > MAX_ALIGNMENT || (g->alignment & (g->alignment - 1)))
        return fp__fail(FP_FORMAT, "GGUF: general.alignment is %u; it must be a power of two from 8 to %u",
                        g->alignment, MAX_ALIGNMENT);
    return FP_OK;
}

static fp_status check_overlap(const fp__gguf *g)
{
    const fp__gguf_tensor **by_place = calloc(g->n_tensors + 1, sizeof *by_place);
    size_t n = 0;
    if (!by_place)
        return fp__fail(FP_NO_MEMORY, "GGUF: no memory for %zu tensors", g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].data)
            by_place[n++] = &g->tensors[i];
    qsort(by_place, n, sizeof *by_place, compare_data);
    fp_status status = FP_OK;
    for (size_t i = 1; i < n && status == FP_OK; i++)
        if (by_place[i - 1]->data + by_place[i - 1]->size_bytes > by_place[i]->data)
            status = fp__fail(FP_FORMAT, "GGUF: tensors '%.*s' and '%.*s' overlap",
                              (int)by_place[i - 1]->name.size, by_place[i - 1]->name.data,
                              (int)by_place[i]->name.size, by_place[i]->name.data);
    free(by_place);
    return status;
}

static fp_status read_tensors(fp__gguf *g, fp__reader *r)
{
    uint64_t *offsets = calloc(g->n_tensors + 1, sizeof *offsets);
    if (!offsets)
        return fp__fail(FP_NO_MEMORY, "GGUF: no memory for %zu tensors", g->n_tensors);
    fp_status status = FP_OK;
    for (size_t i = 0; i < g->n_tensors && status == FP_OK; i++) {
        status = read_tensor(r, &g->tensors[i], &offsets[i]);
        g->sorted_tensor[i] = &g->tensors[i];
    }
    size_t data_start = (r->offset + g->alignment - 1) & ~(size_t)(g->alignment - 1);
    for (size_t i = 0; i < g->n_tensors && status == FP_OK; i++)
        status = place_tensor(g, &g->tensors[i], data_start, offsets[i]);
    free(offsets);
    FP_TRY(status);
    qsort(g->sorted_tensor, g->n_tensors, sizeof *g->sorted_tensor, compare_tensors);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (compare_strings(g->sorted_tensor[i - 1]->name, g->sorted_tensor[i]->name) == 0)
            return fp__fail(FP_FORMAT, "GGUF: tensor '%.*s' occurs twice",
                            (int)g->sorted_tensor[i]->name.size, g->sorted_tensor[i]->name.data);
    return check_overlap(g);
}

static fp_status parse(fp__gguf *g)
{
    fp__reader r = {g->map.data, g->map.size, 0, "GGUF"};
    FP_TRY(read_header(g, &r));
    FP_TRY(read_keys(g, &r));
    return read_tensors(g, &r);
}

/* Takes over map (if mapped) in every case. */
static fp_status open_common(fp__map map, bool mapped, const char *name, fp__gguf **out)
{
    fp__gguf *g = calloc(1, sizeof *g);
    if (!g) {
        if (mapped)
            fp__map_close(&map);
        return fp__fail(FP_NO_MEMORY, "GGUF: no memory to open %s", name);
    }
    g->map = map;
    g->mapped = mapped;
    g->path = strdup(name);
    fp_status status = g->path ? parse(g) : fp__fail(FP_NO_MEMORY, "GGUF: no memory to open it");
    if (status != FP_OK) {
        status = fp__fail_context(status, "%s", name);
        fp__gguf_close(g);
        return status;
    }
    *out = g;
    return FP_OK;
}

fp_status fp__gguf_open(const char *path, fp__gguf **out)
{
    fp__map map;
    FP_TRY(fp__map_open(path, &map));
    return open_common(map, true, path, out);
}

fp_status fp__gguf_open_memory(const void *data, size_t size, const char *name, fp__gguf **out)
{
    return open_common((fp__map){data, size}, false, name, out);
}

void fp__gguf_close(fp__gguf *g)
{
    if (!g)
        return;
    if (g->mapped)
        fp__map_close(&g->map);
    free(g->path);
    free(g->keys);
    free(g->sorted_key);
    free(g->tensors);
    free(g->sorted_tensor);
    free(g);
}

void fp__gguf_bytes(const fp__gguf *g, const uint8_t **data, size_t *size)
{
    *data = g->map.data;
    *size = g->map.size;
}

uint32_t fp__gguf_version(const fp__gguf *g)
{
    return g->version;
}

const char *fp__gguf_path(const fp__gguf *g)
{
    return g->path;
}

static const key_entry *find_key(const fp__gguf *g, const char *key)
{
    key_entry probe = {.key = {key, strlen(key)}};
    const key_entry *p = &probe;
    const key_entry *const *found =
        bsearch(&p, g->sorted_key, g->n_keys, sizeof *g->sorted_key, compare_keys);
    return found ? *found : NULL;
}

bool fp__gguf_has_key(const fp__gguf *g, const char *key)
{
    return find_key(g, key) != NULL;
}

static fp_status need_key(const fp__gguf *g, const char *key, const key_entry **out)
{
    *out = find_key(g, key);
    return *out ? FP_OK : fp__fail(FP_NOT_FOUND, "the model file has no key '%s'", key);
}

static fp_status wrong_type(const char *key, const char *wanted)
{
    return fp__fail(FP_FORMAT, "GGUF: key '%s' is not %s", key, wanted);
}

fp_status fp__gguf_get_u64(const fp__gguf *g, const char *key, uint64_t *out)
{
    const key_entry *e = NULL;
    FP_TRY(need_key(g, key, &e));
    int64_t s = 0;
    switch (e->type) {
    case FP__GGUF_U8:
        *out = e->value[0];
        return FP_OK;
    case FP__GGUF_U16:
        *out = fp__load_le16(e->value);
        return FP_OK;
    case FP__GGUF_U32:
        *out = fp__load_le32(e->value);
        return FP_OK;
    case FP__GGUF_U64:
        *out = fp__load_le64(e->value);
        return FP_OK;
    case FP__GGUF_I8:
        s = (int8_t)e->value[0];
        break;
    case FP__GGUF_I16:
        s = (int16_t)fp__load_le16(e->value);
        break;
    case FP__GGUF_I32:
        s = (int32_t)fp__load_le32(e->value);
        break;
    case FP__GGUF_I64:
        s = (int64_t)fp__load_le64(e->value);
        break;
    default:
        return wrong_type(key, "an integer");
    }
    if (s < 0)
        return fp__fail(FP_FORMAT, "GGUF: key '%s' is negative", key);
    *out = (uint64_t)s;
    return FP_OK;
}

fp_status fp__gguf_get_u32(const fp__gguf *g, const char *key, uint32_t *out)
{
    uint64_t v = 0;
    FP_TRY(fp__gguf_get_u64(g, key, &v));
    if (v > UINT32_MAX)
        return fp__fail(FP_FORMAT, "GGUF: key '%s' is %llu, more than 32 bits", key, (unsigned long long)v);
    *out = (uint32_t)v;
    return FP_OK;
}

fp_status fp__gguf_get_f32(const fp__gguf *g, const char *key, float *out)
{
    const key_entry *e = NULL;
    FP_TRY(need_key(g, key, &e));
    if (e->type == FP__GGUF_F32) {
        uint32_t bits = fp__load_le32(e->value);
        memcpy(out, &bits, 4);
        return FP_OK;
    }
    if (e->type != FP__GGUF_F64)
        return wrong_type(key, "a floating-point number");
    uint64_t bits = fp__load_le64(e->value);
    double v;
    memcpy(&v, &bits, 8);
    /* compared as numbers: a NaN fails too; the range test keeps the conversion defined */
    if (!(v >= -(double)FLT_MAX && v <= (double)FLT_MAX) || (double)(float)v < v || (double)(float)v > v)
        return fp__fail(FP_FORMAT, "GGUF: key '%s' does not fit in 32 bits", key);
    *out = (float)v;
    return FP_OK;
}

fp_status fp__gguf_get_bool(const fp__gguf *g, const char *key, bool *out)
{
    const key_entry *e = NULL;
    FP_TRY(need_key(g, key, &e));
    if (e->type != FP__GGUF_BOOL)
        return wrong_type(key, "a boolean");
    *out = e->value[0] != 0;
    return FP_OK;
}

fp_status fp__gguf_get_string(const fp__gguf *g, const char *key, fp__gguf_string *out)
{
    const key_entry *e = NULL;
    FP_TRY(need_key(g, key, &e));
    if (e->type != FP__GGUF_STRING)
        return wrong_type(key, "a string");
    *out = (fp__gguf_string){(const char *)e->value, e->size};
    return FP_OK;
}

fp_status fp__gguf_get_array(const fp__gguf *g, const char *key, fp__gguf_type type, fp__gguf_array *out)
{
    const key_entry *e = NULL;
    FP_TRY(need_key(g, key, &e));
    if (e->type != FP__GGUF_ARRAY || e->element != type)
        return wrong_type(key, "an array of the expected type");
    *out = (fp__gguf_array){e->element, e->count, e->value, e->size};
    return FP_OK;
}

fp__gguf_string fp__gguf_string_next(const fp__gguf_array *array, size_t *cursor)
{
    FP_CHECK(array->type == FP__GGUF_STRING && *cursor + 8 <= array->size_bytes);
    size_t size = (size_t)fp__load_le64(array->data + *cursor); /* checked at open */
    fp__gguf_string s = {(const char *)array->data + *cursor + 8, size};
    *cursor += 8 + size;
    return s;
}

size_t fp__gguf_key_count(const fp__gguf *g)
{
    return g->n_keys;
}

void fp__gguf_key_at(const fp__gguf *g, size_t i, fp__gguf_string *key, fp__gguf_type *type)
{
    FP_CHECK(i < g->n_keys);
    *key = g->keys[i].key;
    *type = g->keys[i].type;
}

size_t fp__gguf_tensor_count(const fp__gguf *g)
{
    return g->n_tensors;
}

const fp__gguf_tensor *fp__gguf_tensor_at(const fp__gguf *g, size_t i)
{
    FP_CHECK(i < g->n_tensors);
    return &g->tensors[i];
}

const fp__gguf_tensor *fp__gguf_tensor_find(const fp__gguf *g, const char *name)
{
    fp__gguf_tensor probe = {.name = {name, strlen(name)}};
    const fp__gguf_tensor *p = &probe;
    const fp__gguf_tensor *const *found =
        bsearch(&p, g->sorted_tensor, g->n_tensors, sizeof *g->sorted_tensor, compare_tensors);
    return found ? *found : NULL;
}

fp_status fp__gguf_tensor_get(const fp__gguf *g, const char *name, const fp__gguf_tensor **out)
{
    const fp__gguf_tensor *t = fp__gguf_tensor_find(g, name);
    if (!t)
        return fp__fail(FP_NOT_FOUND, "%s has no tensor '%s'", g->path, name);
    if (!t->data)
        return fp__fail(
            FP_UNSUPPORTED,
            "tensor '%s' has the type %s (%u); supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
            "Q4_K, Q5_K and Q6_K: use another quantisation of the model",
            name, fp__gguf_type_name(t->type), t->type);
    *out = t;
    return FP_OK;
}

void fp__gguf_release(const fp__gguf *g, const fp__gguf_tensor *tensor)
{
    long page = sysconf(_SC_PAGESIZE);
    if (!g->mapped || !tensor->data || page <= 0)
        return;
    size_t mask = (size_t)page - 1;
    size_t begin = (size_t)(tensor->data - g->map.data), end = begin + (size_t)tensor->size_bytes;
    begin = (begin + mask) & ~mask; /* whole pages inside the tensor: neighbours keep theirs */
    end &= ~mask;
    if (begin < end)
        (void)madvise((void *)(uintptr_t)(g->map.data + begin), end - begin, MADV_DONTNEED);
}
