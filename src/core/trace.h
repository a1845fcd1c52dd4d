/* Log lines for operators, on stderr: FIELDPRINT_LOG=error|warn|info|debug (default warn). Thread-safe, a
 * line at a time. */
#ifndef FP_CORE_TRACE_H
#define FP_CORE_TRACE_H
#include "fieldprint/status.h"
typedef enum { FP__TRACE_ERROR, FP__TRACE_WARN, FP__TRACE_INFO, FP__TRACE_DEBUG } fp__trace_level;
void fp__trace(fp__trace_level level, const char *format, ...) FP_PRINTF(2, 3);
int fp__trace_on(fp__trace_level level);
#endif
