/* Parsing and signature verification of log entries ahead of the replay, which is sequential: threads parse
 * entries and verify each signature under the key that its keyid names, and note the result in the envelope
 * (a hint that was wrong costs the replay one verification, nothing else). Entries come out in order, in the
 * thread that puts them in. One thread at a time; the workers are inside. */
#ifndef FP_ANCHOR_AHEAD_H
#define FP_ANCHOR_AHEAD_H
#include "anchor/event.h"

typedef struct fp__ahead_entry {
    uint64_t index;
    fp_status envelope; /* FP_OK: dsse is filled */
    fp_status parsed;   /* FP_OK: event is filled, if is_event */
    bool is_event;
    char why[160]; /* of parsed */
    fp__dsse dsse;
    fp__event event;
} fp__ahead_entry;
/* Takes over nothing. A status other than FP_OK ends the pass and is returned by push or finish. */
typedef fp_status fp__ahead_fn(void *arg, fp__ahead_entry *entry);

typedef struct fp__ahead fp__ahead;
/* threads: workers besides the caller, who helps while it waits; 0: one less than there are usable cores. */
fp_status fp__ahead_create(size_t threads, fp__ahead_fn *fn, void *arg, fp__ahead **out) FP_WARN_UNUSED;
/* Keys to expect in entries pushed from now on: those of this policy. */
fp_status fp__ahead_expect(fp__ahead *ahead, const fp__policy *policy) FP_WARN_UNUSED;
/* Copies the entry. May call fn for earlier ones. */
fp_status fp__ahead_push(fp__ahead *ahead, uint64_t index, const uint8_t *data, size_t size) FP_WARN_UNUSED;
/* fn for all that are left. */
fp_status fp__ahead_finish(fp__ahead *ahead) FP_WARN_UNUSED;
void fp__ahead_destroy(fp__ahead *ahead); /* NULL is fine */
/* One entry by itself, as a worker would do it; release with fp__ahead_entry_free. */
void fp__ahead_read(const uint8_t *data, size_t size, uint64_t index, fp__ahead_entry *out);
void fp__ahead_entry_free(fp__ahead_entry *entry);
#endif
