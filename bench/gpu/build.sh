#!/bin/sh
# Builds the checks and timings of the GPU's linear layers, norms and hashes into one program that needs only a driver:
#   bench/gpu/build.sh OUT_DIRECTORY; OUT_DIRECTORY/ops_gpu check; OUT_DIRECTORY/ops_gpu bench ops.json
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: build.sh OUT_DIRECTORY}
arch=${FIELDPRINT_CUDA_ARCH:--gencode arch=compute_90a,code=sm_90a}
mkdir -p "$out/objects"
cd "$root"
include="-Isrc -Iinclude"
pids=
for source in src/kernel/cuda/linear_decode.cu src/kernel/cuda/linear_token.cu src/kernel/cuda/linear_prefill.cu src/kernel/cuda/elementwise.cu \
    src/kernel/cuda/sha256.cu bench/gpu/wtile_host.cu; do
    object=$out/objects/$(basename "$source").o
    if [ ! -e "$object" ] || [ -n "$(find src/kernel "$source" -newer "$object" -name '*.[ch]*' | head -1)" ]; then
        # shellcheck disable=SC2086
        nvcc -std=c++17 -O3 -lineinfo -fmad=false -prec-div=true -prec-sqrt=true -ftz=false $include $arch ${FIELDPRINT_CUDA_FLAGS:-} -c "$source" -o "$object" &
        pids="$pids $!"
    fi
done
for source in src/exact/exact.c src/exact/rope.c src/core/error.c src/core/bytes.c src/merkle/sha256.c src/merkle/tree.c \
    src/cache/leaf.c src/cache/page.c src/kernel/device_weight.c bench/gpu/check_ops_gpu.c bench/gpu/bench_ops_gpu.c; do
    # shellcheck disable=SC2086
    cc -std=c11 -O3 -march=x86-64-v3 -D_GNU_SOURCE -DFIELDPRINT_VERSION=\"gpu\" -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math $include \
        -I"$(dirname "$(dirname "$(command -v nvcc)")")/include" -c "$source" -o "$out/objects/$(basename "$source").o"
done
for pid in $pids; do wait "$pid"; done
nvcc -cudart static -o "$out/ops_gpu" "$out"/objects/*.o "$(pkg-config --variable=libdir libcrypto)/libcrypto.a" -lpthread -ldl -lm
echo "$out/ops_gpu"
