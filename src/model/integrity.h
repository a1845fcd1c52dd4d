/* Is what a model computes with still what was loaded? Checksums of the packed matrices, vectors, rotary plan
 * and tables of a model, taken once, and the way back from its file.
 *
 * They are for accidents: any one or two flipped bits of an item are found, and all but about one in 2^60 of
 * others. Who can write to this memory can write to the checksums too: that is the matter of re-execution and
 * of the audit.
 *
 * Items: pieces of at most 1 MiB of the packed matrices; the last item is everything else. Of a GPU: pieces
 * of at most 16 MiB of all that was uploaded, with the checksums that it had before. */
#ifndef FP_MODEL_INTEGRITY_H
#define FP_MODEL_INTEGRITY_H
#include "model/device.h"

typedef struct fp__integrity fp__integrity;
/* The model must outlive it. Reads all of it once, by the team. */
fp_status fp__integrity_create(const fp_model *model, fp__team *team, fp__integrity **out) FP_WARN_UNUSED;
/* The same over what a GPU computes with. The GPU and the team must outlive it; repairing uploads all of it
 * again. */
fp_status fp__integrity_create_gpu(fp__gpu *gpu, fp__team *team, fp__integrity **out) FP_WARN_UNUSED;
void fp__integrity_destroy(fp__integrity *integrity); /* NULL is fine */
size_t fp__integrity_items(const fp__integrity *integrity);
size_t fp__integrity_item_bytes(const fp__integrity *integrity, size_t item);
size_t fp__integrity_bytes(const fp__integrity *integrity);
/* True if the item is as it was. Thread-safe. */
bool fp__integrity_check(const fp__integrity *integrity, size_t item);
/* Changes bits of one byte of an item (of the host's: of the packed matrices), behind everybody's back: for
 * fault injection and tests. */
fp_status fp__integrity_flip(fp__integrity *integrity, size_t item, size_t byte, uint8_t bits) FP_WARN_UNUSED;
/* Makes it so again, and checks it: FP_MISMATCH if the model's file does not give it any more. Nobody may
 * compute with the model meanwhile. */
fp_status fp__integrity_repair(fp__integrity *integrity, size_t item) FP_WARN_UNUSED;
#endif
