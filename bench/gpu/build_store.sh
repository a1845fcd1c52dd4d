#!/bin/sh
# Builds tests/cuda_store.c into one program that needs only a driver and libc:
#   bench/gpu/build_store.sh BUILD_DIRECTORY; BUILD_DIRECTORY/cuda_store check
# BUILD_DIRECTORY/host is a CMake build of fp_objects; objects of CUDA sources are kept beside it.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: build_store.sh BUILD_DIRECTORY}
arch=${FIELDPRINT_CUDA_ARCH:--gencode arch=compute_90a,code=sm_90a}
mkdir -p "$out"
cd "$root"
cuda=$(dirname "$(dirname "$(command -v nvcc)")")
if [ ! -d "$out/host" ]; then
    cmake -S . -B "$out/host" -G Ninja -DFIELDPRINT_CUDA=OFF -DFIELDPRINT_TESTS=OFF -DFIELDPRINT_BENCH=OFF >/dev/null
fi
ninja -C "$out/host" fp_objects >/dev/null
objects=
for name in pages sha256 elementwise linear_decode linear_token linear_prefill; do
    source=src/kernel/cuda/$name.cu object=$out/$name.o
    if [ ! -e "$object" ] || [ -n "$(find "$source" src/kernel/*.h src/kernel/cuda/*.h src/kernel/cuda/*.cuh -newer "$object" | head -1)" ]; then
        # shellcheck disable=SC2086
        nvcc -std=c++17 -O3 -lineinfo -fmad=false -prec-div=true -prec-sqrt=true -ftz=false -Isrc -Iinclude $arch -c "$source" -o "$object"
    fi
    objects="$objects $object"
done
for source in src/cache/cuda/store_cuda.c tests/cuda_store.c; do
    object=$out/$(basename "$source" .c).c.o
    cc -std=c11 -O2 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -Isrc -Iinclude -I"$cuda/include" -c "$source" -o "$object"
    objects="$objects $object"
done
for folder in core exact merkle kernel cache; do
    objects="$objects $(find "$out/host/CMakeFiles/fp_objects.dir/src/$folder" -name '*.o')"
done
# shellcheck disable=SC2086
nvcc -cudart static -o "$out/cuda_store" $objects "$(pkg-config --variable=libdir libcrypto)/libcrypto.a" -lpthread -ldl -lm
echo "$out/cuda_store"
