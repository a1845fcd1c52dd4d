#include "core/arena.h"
#include "core/bytes.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- arena ---- */

enum { FIRST_CHUNK_BYTES = 64 * 1024, LARGEST_CHUNK_BYTES = 4 * 1024 * 1024 };

typedef struct chunk {
    struct chunk *next;
    size_t size, used; /* of data */
    uint8_t data[];
} chunk;

struct fp__arena {
    chunk *first, *current; /* chunks after `current` are free, kept from before a reset */
    size_t next_bytes;
};

fp_status fp__arena_create(fp__arena **out)
{
    fp__arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return fp__fail(FP_NO_MEMORY, "no memory for an arena");
    arena->next_bytes = FIRST_CHUNK_BYTES;
    *out = arena;
    return FP_OK;
}

void fp__arena_destroy(fp__arena *arena)
{
    if (!arena)
        return;
    for (chunk *c = arena->first, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(arena);
}

void fp__arena_reset(fp__arena *arena)
{
    arena->current = arena->first;
    if (arena->first)
        arena->first->used = 0;
}

static void *chunk_take(chunk *c, size_t size, size_t align)
{
    size_t skip = (size_t)(-(uintptr_t)(c->data + c->used) & (align - 1));
    if (skip > c->size - c->used || size > c->size - c->used - skip)
        return NULL;
    void *p = c->data + c->used + skip;
    c->used += skip + size;
    return memset(p, 0, size);
}

void *fp__arena_alloc(fp__arena *arena, size_t size, size_t align)
{
    FP_CHECK(align > 0 && align <= 4096 && (align & (align - 1)) == 0);
    void *p = arena->current ? chunk_take(arena->current, size, align) : NULL;
    while (!p && arena->current && arena->current->next) {
        arena->current = arena->current->next;
        arena->current->used = 0;
        p = chunk_take(arena->current, size, align);
    }
    if (p)
        return p;
    size_t bytes, total;
    bool fits = fp__size_add(size, align, &bytes);
    bytes = bytes < arena->next_bytes ? arena->next_bytes : bytes;
    fits = fits && fp__size_add(bytes, sizeof(chunk), &total);
    chunk *c = fits ? malloc(total) : NULL;
    if (!c) {
        (void)fp__fail(FP_NO_MEMORY, "no memory for %zu bytes in an arena", size);
        return NULL;
    }
    *c = (chunk){.size = bytes};
    if (arena->current)
        arena->current->next = c;
    else
        arena->first = c;
    arena->current = c;
    if (arena->next_bytes < LARGEST_CHUNK_BYTES)
        arena->next_bytes *= 2;
    return chunk_take(c, size, align);
}

char *fp__arena_strdup(fp__arena *arena, const char *text, size_t size)
{
    size_t with_nul;
    char *copy = fp__size_add(size, 1, &with_nul) ? fp__arena_alloc(arena, with_nul, 1) : NULL;
    if (copy && size > 0)
        memcpy(copy, text, size);
    return copy;
}

/* ---- large memory ---- */

enum { HEAP_ALIGN = 128, HUGE_PAGE_BYTES = 2 * 1024 * 1024 };

#if defined(__SANITIZE_ADDRESS__)
#define HEAP_ONLY 1 /* so that the sanitizer puts red zones around tensors too */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_ONLY 1
#endif
#endif
#ifndef HEAP_ONLY
#define HEAP_ONLY 0
#endif

/* Rounds up to a multiple of the power of two `unit`; false on overflow. */
static bool round_up(size_t size, size_t unit, size_t *out)
{
    if (!fp__size_add(size, unit - 1, out))
        return false;
    *out &= ~(unit - 1);
    return true;
}

/* A mapping that starts on a huge page boundary: maps one huge page too much and gives both ends back. */
static void *map_huge(size_t bytes)
{
    size_t total;
    if (!fp__size_add(bytes, HUGE_PAGE_BYTES, &total))
        return NULL;
    uint8_t *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    size_t head = (size_t)(-(uintptr_t)base & (HUGE_PAGE_BYTES - 1));
    if (head > 0)
        munmap(base, head);
    if (head < HUGE_PAGE_BYTES)
        munmap(base + head + bytes, HUGE_PAGE_BYTES - head);
    (void)madvise(base + head, bytes,
                  MADV_HUGEPAGE); /* advice only: without it the memory is as good, but slower */
    return base + head;
}

static bool large(size_t size)
{
    return !HEAP_ONLY && size >= HUGE_PAGE_BYTES;
}

void *fp__mem_alloc(size_t size)
{
    size_t bytes;
    void *p = NULL;
    if (large(size)) {
        if (round_up(size, (size_t)sysconf(_SC_PAGESIZE), &bytes))
            p = map_huge(bytes);
    } else if (round_up(size ? size : 1, HEAP_ALIGN, &bytes)) {
        p = aligned_alloc(HEAP_ALIGN, bytes);
        if (p)
            memset(p, 0, bytes);
    }
    if (!p)
        (void)fp__fail(FP_NO_MEMORY,
                       "no memory for %zu bytes; close other programs, or use a smaller context or model",
                       size);
    return p;
}

void fp__mem_free(void *p, size_t size)
{
    if (!p)
        return;
    if (large(size)) {
        size_t bytes;
        FP_CHECK(round_up(size, (size_t)sysconf(_SC_PAGESIZE), &bytes));
        FP_CHECK(munmap(p, bytes) == 0);
    } else {
        free(p);
    }
}
