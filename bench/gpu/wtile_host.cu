/* The kernels' unpacking, run on the host: lets the layout be checked where there is no GPU. */
#include "kernel/cuda/wtile.cuh"

template <int TYPE>
static void unpack(const uint8_t *unit, int p, int lane, uint32_t a[2][4], float dw[2][2][2], float mw[2][2],
                   int *shift)
{
    using W = fp::wtile<TYPE>;
    typename W::pair w;
    fp::load_pair<TYPE>(unit, p, lane, w);
    for (int b = 0; b < 2; b++) {
        for (int i = 0; i < 4; i++)
            a[b][i] = w.a[b][i];
        for (int r = 0; r < 2; r++) {
            for (int h = 0; h < 2; h++)
                dw[b][r][h] = w.dw[b][r][W::HALVES ? h : 0];
            mw[b][r] = W::MINIMUM ? w.mw[b][r] : 0.0f;
        }
    }
    *shift = W::SHIFT;
}

extern "C" int wtile_unpack_host(int type, const uint8_t *unit, int p, int lane, uint32_t a[2][4],
                                 float dw[2][2][2], float mw[2][2], int *shift)
{
    switch (type) {
#define CASE(name, number, low, high, scale)                                                                 \
    case number:                                                                                             \
        unpack<number>(unit, p, lane, a, dw, mw, shift);                                                     \
        return 1;
        FP__DEVICE_TYPES(CASE)
#undef CASE
    default:
        return 0;
    }
}
