/* Status codes: what every call of the library returns.
 *
 * A call that fails returns a status other than FP_OK and leaves a sentence for people, with what to do next,
 * in fp_error_detail(). Out-parameters are untouched on failure unless a function says otherwise. */
#ifndef FIELDPRINT_STATUS_H
#define FIELDPRINT_STATUS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FP_API __attribute__((visibility("default")))
#define FP_WARN_UNUSED __attribute__((warn_unused_result))
#define FP_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define FP_API
#define FP_WARN_UNUSED
#define FP_PRINTF(f, a)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, exit code of the program, text). Exit codes: 0 done, 1 verification failed, 2 usage, 3 environment.
 */
#define FP_STATUS_TABLE(X)                                                                                   \
    X(OK, 0, "done")                                                                                         \
    X(USAGE, 2, "wrong argument")                                                                            \
    X(LIMIT, 2, "a limit was exceeded")                                                                      \
    X(TEXT, 2, "text is not valid UTF-8")                                                                    \
    X(IO, 3, "input or output failed")                                                                       \
    X(NOT_FOUND, 3, "not found")                                                                             \
    X(EXISTS, 3, "already exists")                                                                           \
    X(NO_MEMORY, 3, "out of memory")                                                                         \
    X(BUSY, 3, "in use by another process")                                                                  \
    X(UNSUPPORTED, 3, "not supported")                                                                       \
    X(FORMAT, 3, "malformed input")                                                                          \
    X(MISMATCH, 1, "bytes differ from what was committed")                                                   \
    X(SIGNATURE, 1, "signature is not valid")                                                                \
    X(DENIED, 1, "denied by the gate")                                                                       \
    X(INVALID, 1, "verification failed")                                                                     \
    X(NUMERIC, 3, "a number left the range of canonical arithmetic")                                         \
    X(CANCELLED, 3, "interrupted")                                                                           \
    X(INTERNAL, 3, "internal error")

typedef enum fp_status {
#define FP_STATUS_ENUM(name, exit_code, text) FP_##name,
    FP_STATUS_TABLE(FP_STATUS_ENUM)
#undef FP_STATUS_ENUM
        FP_STATUS_COUNT
} fp_status;

FP_API const char *fp_status_name(fp_status status); /* "MISMATCH" */
FP_API const char *fp_status_text(fp_status status); /* "bytes differ from …" */
FP_API int fp_status_exit_code(fp_status status);
/* Detail of the last failure on this thread; never NULL; valid until the next failing call on this thread. */
FP_API const char *fp_error_detail(void);
/* Version of the library, "0.1.0". */
FP_API const char *fp_version(void);

#ifdef __cplusplus
}
#endif
#endif
