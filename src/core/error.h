/* Failing with a sentence. `return fp__fail(FP_FORMAT, "page %zu …", page)` sets the thread's detail. */
#ifndef FP_CORE_ERROR_H
#define FP_CORE_ERROR_H
#include "fieldprint/status.h"

#ifdef __cplusplus /* CUDA sources */
extern "C" {
#endif

/* Sets the detail (at most 1,023 bytes kept) and returns status. Never call with FP_OK. */
fp_status fp__fail(fp_status status, const char *format, ...) FP_PRINTF(2, 3);
/* Puts "prefix: " in front of the current detail and returns status; for adding context while unwinding. */
fp_status fp__fail_context(fp_status status, const char *format, ...) FP_PRINTF(2, 3);

/* The two return what they are given, which is never FP_OK: said to compilers and analysers, which would
 * otherwise follow "it failed with FP_OK, and the out-parameter is not set" through every caller. */
static inline fp_status fp__not_ok(fp_status status)
{
    if (status == FP_OK)
        __builtin_unreachable();
    return status;
}
#define fp__fail(...) fp__not_ok(fp__fail(__VA_ARGS__))
#define fp__fail_context(...) fp__not_ok(fp__fail_context(__VA_ARGS__))

#define FP_TRY(expr)                                                                                         \
    do {                                                                                                     \
        fp_status fp_try_status = (expr);                                                                    \
        if (fp_try_status != FP_OK)                                                                          \
            return fp_try_status;                                                                            \
    } while (0)

/* Kept in release builds: guards what verification relies on. Aborts with place and condition. */
#define FP_CHECK(cond)                                                                                       \
    do {                                                                                                     \
        if (!(cond))                                                                                         \
            fp__check_failed(__FILE__, __LINE__, #cond);                                                     \
    } while (0)
#ifdef __cplusplus
[[noreturn]] void fp__check_failed(const char *file, int line, const char *condition);
}
#else
_Noreturn void fp__check_failed(const char *file, int line, const char *condition);
#endif
#endif
