/* Weights in a GPU's memory: every item has the checksum that it had on the host; any flipped bit is found,
 * in the item where it is; uploading again mends it. Exits 77 where there is no GPU. */
#include "gguf_writer.h"
#include "kernel/cuda/byte_sum.h"
#include "model/cuda/forward_cuda.h"
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            printf("%s:%d: ", __FILE__, __LINE__);                                                           \
            printf(__VA_ARGS__);                                                                             \
            printf(" (%s)\n", fp_error_detail());                                                            \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static void *scratch;

static size_t count_bad(const fp__cuda_model *m, size_t *which)
{
    size_t bad = 0;
    for (size_t i = 0; i < m->n_items; i++) {
        bool same = false;
        CHECK(fp__cuda_model_check(m, i, scratch, NULL, &same) == FP_OK, "check of item %zu", i);
        if (!same) {
            *which = i;
            bad++;
        }
    }
    return bad;
}

/* The kernel against the host, at sizes around its pieces. */
static void test_sums(void)
{
    static const size_t sizes[] = {1, 3, 4, 15, 16, 17, 31, 4095, 4096, 1000003, 5000000};
    gw_random r = {7};
    uint8_t *host = malloc(sizes[10]), *device = NULL;
    CHECK(host && cudaMalloc((void **)&device, sizes[10]) == cudaSuccess, "memory");
    for (size_t i = 0; i < sizes[10]; i++)
        host[i] = (uint8_t)gw_next(&r);
    CHECK(cudaMemcpy(device, host, sizes[10], cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t expected[2], got[2];
        fp__byte_sum(host, sizes[i], expected);
        CHECK(fp__cuda_byte_sum(device, sizes[i], scratch, NULL) == cudaSuccess, "launch");
        CHECK(cudaMemcpy(got, scratch, 16, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
        CHECK(memcmp(got, expected, 16) == 0, "the sums of %zu bytes differ", sizes[i]);
    }
    (void)cudaFree(device);
    free(host);
}

int main(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    CHECK(cudaMalloc(&scratch, 16) == cudaSuccess, "memory");
    test_sums();
    char path[] = "/tmp/cuda_weights.XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0, "a file");
    close(fd);
    gw_model shape = gw_model_default();
    shape.d = 64;
    shape.arch = "qwen2";
    gw_write_model(&shape, path);
    fp_model *model;
    fp__team *team;
    fp__cuda_model *m;
    CHECK(fp_model_open(path, NULL, &model) == FP_OK, "model");
    CHECK(fp__team_create(2, &team) == FP_OK, "team");
    CHECK(fp__cuda_model_create(model, team, 1024, &m) == FP_OK, "upload");
    size_t which = SIZE_MAX, flips = 0;
    CHECK(m->n_items > 10 && count_bad(m, &which) == 0, "item %zu of %zu is not what was uploaded", which,
          m->n_items);
    gw_random r = {99};
    for (size_t i = 0; i < m->n_items; i++, flips++) {
        uint8_t *at = (uint8_t *)(uintptr_t)m->items[i].data + gw_next(&r) % m->items[i].bytes, byte;
        CHECK(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost) == cudaSuccess, "copy");
        byte ^= (uint8_t)(1 << gw_next(&r) % 8);
        CHECK(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
        CHECK(count_bad(m, &which) == 1 && which == i, "a flipped bit of item %zu was not found there", i);
        CHECK(fp__cuda_model_reload(m, model, team) == FP_OK, "upload again");
        CHECK(count_bad(m, &which) == 0, "item %zu is bad after uploading again", which);
    }
    fp__cuda_model_destroy(m);
    fp__team_destroy(team);
    fp_model_close(model);
    unlink(path);
    printf("%zu items, %zu flipped bits found and mended\n", flips, flips);
    return 0;
}
