/* Bump arena: allocations live until the arena is reset or destroyed. Not thread-safe. */
#ifndef FP_CORE_ARENA_H
#define FP_CORE_ARENA_H
#include "core/error.h"

typedef struct fp__arena fp__arena;
fp_status fp__arena_create(fp__arena **out) FP_WARN_UNUSED;
void fp__arena_destroy(fp__arena *arena); /* NULL is fine */
void fp__arena_reset(fp__arena *arena);
/* NULL (with detail set) when memory is out. Zeroed, aligned to `align` (a power of two ≤ 4096). */
void *fp__arena_alloc(fp__arena *arena, size_t size, size_t align);
char *fp__arena_strdup(fp__arena *arena, const char *text, size_t size); /* NUL-terminated copy */

/* Aligned heap memory for weights, pages and scratch: zeroed, 128-byte aligned at least, advises huge pages
 * from 2 MiB on. */
void *fp__mem_alloc(size_t size); /* NULL (with detail set) when memory is out */
void fp__mem_free(void *p, size_t size);
#endif
