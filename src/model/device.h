/* GPUs behind one small interface, which is there in every build: model/cuda/gpu.c, or model/no_cuda.c, which
 * says that this build has none.
 *
 * A fp__gpu is a model's weights in the memory of one GPU. On it stand a page store and the forward pass that
 * works on it. Calls are of one thread at a time, unless the store says otherwise. */
#ifndef FP_MODEL_DEVICE_H
#define FP_MODEL_DEVICE_H
#include "cache/store.h"
#include "fieldprint/device.h"
#include "model/forward.h"

enum { FP__DEVICE_CPU = -1 };

/* "cpu" (or NULL), "cuda", "cuda:N", "auto" → FP__DEVICE_CPU or the number of a GPU. auto is the first GPU
 * that can be used, else the CPU. FP_USAGE: none of these; FP_UNSUPPORTED: this build has no CUDA. */
fp_status fp__device_parse(const char *text, int *out) FP_WARN_UNUSED;

/* Adds the GPUs to a list, up to its end, and fills `cuda` and `why`. */
void fp__gpu_list(fp_devices *out);
/* Number of the first GPU that can be used, or FP__DEVICE_CPU. */
int fp__gpu_first(void);
/* FP_UNSUPPORTED, with what to do: there is no such GPU, or it cannot be used. */
fp_status fp__gpu_check(int index) FP_WARN_UNUSED;

typedef struct fp__gpu fp__gpu;
/* Packs and uploads the weights; rotary rows for positions 0..positions - 1. The model and the team (used
 * here only) are the caller's. FP_UNSUPPORTED: no such GPU, no kernels for it, or a shape that they do not
 * take; FP_NO_MEMORY, with what was free; FP_MISMATCH: the model's file was changed since it was opened. */
fp_status fp__gpu_open(int index, const fp_model *model, fp__team *team, size_t positions,
                       fp__gpu **out) FP_WARN_UNUSED;
void fp__gpu_close(fp__gpu *gpu); /* stores and passes first; NULL is fine */
/* What lies in the GPU's memory for the model (weights, norms, rotary rows), in items of at most 16 MiB, each
 * with the checksum that it had before the upload: to look whether it is still that. check is thread-safe and
 * reads beside the steps, in a stream of low priority. */
size_t fp__gpu_items(const fp__gpu *gpu);
size_t fp__gpu_item_bytes(const fp__gpu *gpu, size_t item);
fp_status fp__gpu_item_check(fp__gpu *gpu, size_t item, bool *same) FP_WARN_UNUSED;
/* Changes bits of one byte of an item, behind everybody's back: for fault injection and tests. */
fp_status fp__gpu_item_flip(fp__gpu *gpu, size_t item, size_t byte, uint8_t bits) FP_WARN_UNUSED;
/* Packs and uploads all of it again and checks it. Between steps. FP_MISMATCH: the file was changed, or the
 * memory does not keep it. */
fp_status fp__gpu_reload(fp__gpu *gpu, fp__team *team) FP_WARN_UNUSED;
/* Name of the device for people, "NVIDIA H100 80GB HBM3". */
const char *fp__gpu_name(const fp__gpu *gpu);

/* A store of max_groups page groups in the GPU's memory. FP_NO_MEMORY tells what is free and how many groups
 * would fit. */
fp_status fp__gpu_store_create(fp__gpu *gpu, const fp__page_geometry *g, size_t max_groups,
                               fp__store **out) FP_WARN_UNUSED;
/* A forward pass over the pages of such a store. It must be there until the store is destroyed: the store
 * works in its stream. */
fp_status fp__gpu_forward_create(fp__gpu *gpu, fp__store *store, fp__forward_limits limits,
                                 fp__forward **out) FP_WARN_UNUSED;
#endif
