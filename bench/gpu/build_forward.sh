#!/bin/sh
# Builds tests/cuda_forward.c into one program that needs only a driver and libc:
#   bench/gpu/build_forward.sh BUILD_DIRECTORY; BUILD_DIRECTORY/cuda_forward check
# BUILD_DIRECTORY/host is a CMake build of fp_objects; objects of CUDA sources are kept beside it.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: build_forward.sh BUILD_DIRECTORY}
arch=${FIELDPRINT_CUDA_ARCH:--gencode arch=compute_90a,code=sm_90a}
mkdir -p "$out"
cd "$root"
cuda=$(dirname "$(dirname "$(command -v nvcc)")")
if [ ! -d "$out/host" ]; then
    cmake -S . -B "$out/host" -G Ninja -DFIELDPRINT_CUDA=OFF -DFIELDPRINT_TESTS=OFF -DFIELDPRINT_BENCH=OFF >/dev/null
fi
ninja -C "$out/host" fp_objects >/dev/null
for source in src/*/cuda/*.cu; do
    object=$out/$(basename "$source" .cu).o
    if [ ! -e "$object" ] || [ -n "$(find src/kernel include/fieldprint/cuda_attention.h -newer "$object" -type f | head -1)" ]; then
        # shellcheck disable=SC2086
        nvcc -std=c++17 -O3 -lineinfo -fmad=false -prec-div=true -prec-sqrt=true -ftz=false -Isrc -Iinclude $arch ${FIELDPRINT_CUDA_FLAGS:-} -c "$source" -o "$object"
    fi
done
for source in $(find src/core src/kernel src/cache src/model -path "*/cuda/*.c") tests/cuda_forward.c; do
    cc -std=c11 -O2 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -ffp-contract=off -fno-math-errno -fno-trapping-math \
        -Isrc -Iinclude -I"$cuda/include" -c "$source" -o "$out/$(basename "$source" .c).c.o"
done
static=$(pkg-config --variable=libdir libcrypto)
objects=$(find "$out/host/CMakeFiles/fp_objects.dir/src/core" "$out/host/CMakeFiles/fp_objects.dir/src/exact" \
    "$out/host/CMakeFiles/fp_objects.dir/src/merkle" "$out/host/CMakeFiles/fp_objects.dir/src/kernel" \
    "$out/host/CMakeFiles/fp_objects.dir/src/cache" "$out/host/CMakeFiles/fp_objects.dir/src/model" -name '*.o' ! -name 'no_cuda*')
# shellcheck disable=SC2086
nvcc -cudart static -o "$out/cuda_forward" "$out"/*.o $objects "$static/libcrypto.a" "$static/libjansson.a" "$static/libpcre2-8.a" -lpthread -ldl -lm
echo "$out/cuda_forward"
