/* Reading model files: GGUF versions 2 and 3, little-endian (ggml-org/ggml, docs/gguf.md).
 *
 * A model file is untrusted input. fp__gguf_open checks everything the later calls rely on: counts against
 * the bytes that remain before anything is allocated, name lengths, value types, array sizes, alignment,
 * tensor shapes, and that the bytes of every tensor of a supported type lie inside the file and overlap no
 * other tensor's. After a successful open no accessor can read outside the file. Tensor *contents* are not
 * looked at here.
 *
 * The file stays mapped until fp__gguf_close; all names, strings, arrays and tensor data point into the
 * mapping. Const calls are thread-safe. Messages name the key or tensor at fault. */
#ifndef FP_MODEL_GGUF_H
#define FP_MODEL_GGUF_H
#include "core/bytes.h"

/* Types of tensors, numbered as in the GGUF specification. Only the ones listed here can be computed with. */
typedef enum fp__ggml_type {
    FP__GGML_F32 = 0,
    FP__GGML_F16 = 1,
    FP__GGML_Q4_0 = 2,
    FP__GGML_Q4_1 = 3,
    FP__GGML_Q5_0 = 6,
    FP__GGML_Q5_1 = 7,
    FP__GGML_Q8_0 = 8,
    FP__GGML_Q4_K = 12,
    FP__GGML_Q5_K = 13,
    FP__GGML_Q6_K = 14,
    FP__GGML_BF16 = 30
} fp__ggml_type;

/* Types of metadata values. */
typedef enum fp__gguf_type {
    FP__GGUF_U8 = 0,
    FP__GGUF_I8 = 1,
    FP__GGUF_U16 = 2,
    FP__GGUF_I16 = 3,
    FP__GGUF_U32 = 4,
    FP__GGUF_I32 = 5,
    FP__GGUF_F32 = 6,
    FP__GGUF_BOOL = 7,
    FP__GGUF_STRING = 8,
    FP__GGUF_ARRAY = 9,
    FP__GGUF_U64 = 10,
    FP__GGUF_I64 = 11,
    FP__GGUF_F64 = 12
} fp__gguf_type;

/* Limits; beyond them a file is refused with FP_LIMIT. */
#define FP__GGUF_MAX_KEYS 65536u
#define FP__GGUF_MAX_TENSORS 65536u
#define FP__GGUF_MAX_NAME 256u /* bytes of a tensor's name (keys: 65,535) */
#define FP__GGUF_MAX_DIMS 4u

typedef struct fp__gguf fp__gguf;

/* Bytes that are not NUL-terminated. */
typedef struct fp__gguf_string {
    const char *data;
    size_t size;
} fp__gguf_string;

typedef struct fp__gguf_tensor {
    fp__gguf_string name;
    uint32_t type;                    /* fp__ggml_type, or another number (then unsupported) */
    uint32_t n_dims;                  /* 1..4 */
    uint64_t dims[FP__GGUF_MAX_DIMS]; /* dims[0] is the fast axis (the row length); unused ones are 1 */
    uint64_t size_bytes;              /* 0 if the type is unsupported */
    const uint8_t *data;              /* NULL if the type is unsupported; use fp__gguf_tensor_data */
} fp__gguf_tensor;

typedef struct fp__gguf_array {
    fp__gguf_type type; /* of the elements; never FP__GGUF_ARRAY */
    uint64_t count;
    const uint8_t
        *data; /* little-endian, unaligned: read with fp__load_le*; strings with fp__gguf_string_next */
    size_t size_bytes;
} fp__gguf_array;

/* FP_FORMAT (malformed; a big-endian file is named as such), FP_UNSUPPORTED (version 1 or later than 3,
 * nested arrays), FP_LIMIT, FP_NOT_FOUND, FP_IO, FP_NO_MEMORY. */
fp_status fp__gguf_open(const char *path, fp__gguf **out) FP_WARN_UNUSED;
/* The same for bytes in memory, which stay the caller's and must outlive *out; `name` is used in messages.
 * Tensor data is aligned as the file says relative to data[0]. */
fp_status fp__gguf_open_memory(const void *data, size_t size, const char *name,
                               fp__gguf **out) FP_WARN_UNUSED;
void fp__gguf_close(fp__gguf *g); /* NULL is fine */

/* The whole file (for hashing), its version and its path. */
void fp__gguf_bytes(const fp__gguf *g, const uint8_t **data, size_t *size);
uint32_t fp__gguf_version(const fp__gguf *g);
const char *fp__gguf_path(const fp__gguf *g);

/* Typed look-ups. FP_NOT_FOUND when the key is absent; FP_FORMAT when the value has another type or does not
 * fit. The integer look-ups accept every integer type that holds the value; f32 accepts F32 and F64 that is
 * exact in F32. */
fp_status fp__gguf_get_u32(const fp__gguf *g, const char *key, uint32_t *out) FP_WARN_UNUSED;
fp_status fp__gguf_get_u64(const fp__gguf *g, const char *key, uint64_t *out) FP_WARN_UNUSED;
fp_status fp__gguf_get_f32(const fp__gguf *g, const char *key, float *out) FP_WARN_UNUSED;
fp_status fp__gguf_get_bool(const fp__gguf *g, const char *key, bool *out) FP_WARN_UNUSED;
fp_status fp__gguf_get_string(const fp__gguf *g, const char *key, fp__gguf_string *out) FP_WARN_UNUSED;
/* An array whose elements have exactly the type `type`. */
fp_status fp__gguf_get_array(const fp__gguf *g, const char *key, fp__gguf_type type,
                             fp__gguf_array *out) FP_WARN_UNUSED;
bool fp__gguf_has_key(const fp__gguf *g, const char *key);
/* Walks a string array: *cursor starts at 0; call it exactly `count` times at most. */
fp__gguf_string fp__gguf_string_next(const fp__gguf_array *array, size_t *cursor);

/* Metadata by index, for `model info`: 0 ≤ i < fp__gguf_key_count. For an array *type is FP__GGUF_ARRAY. */
size_t fp__gguf_key_count(const fp__gguf *g);
void fp__gguf_key_at(const fp__gguf *g, size_t i, fp__gguf_string *key, fp__gguf_type *type);

/* Tensors: by index, or by name (NULL when absent). */
size_t fp__gguf_tensor_count(const fp__gguf *g);
const fp__gguf_tensor *fp__gguf_tensor_at(const fp__gguf *g, size_t i);
const fp__gguf_tensor *fp__gguf_tensor_find(const fp__gguf *g, const char *name);
/* Finds a tensor whose data can be used: FP_NOT_FOUND, or FP_UNSUPPORTED with the names of the tensor and its
 * type. */
fp_status fp__gguf_tensor_get(const fp__gguf *g, const char *name,
                              const fp__gguf_tensor **out) FP_WARN_UNUSED;
/* Tells the kernel that these tensor bytes are not needed soon (after repacking); they can still be read. */
void fp__gguf_release(const fp__gguf *g, const fp__gguf_tensor *tensor);

/* Elements and bytes of one block of a type; false for types that are not supported. */
bool fp__gguf_type_block(uint32_t type, uint32_t *elements, uint32_t *bytes);
const char *fp__gguf_type_name(uint32_t type); /* "Q4_1"; "unknown type" for numbers without a name */
#endif
