#!/bin/sh
# Builds everything that bench/gpu.sh runs, to be carried to a machine with a GPU: the program, the checks of attention and
# of whole forward passes, and the checks and timings of linear layers. They need only libc and a driver there.
#   bench/gpu/build_all.sh BUILD_DIRECTORY OUT_DIRECTORY
# BUILD_DIRECTORY is a CMake build with FIELDPRINT_CUDA=ON (build-cuda); it is made or brought up to date.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:?usage: build_all.sh BUILD_DIRECTORY OUT_DIRECTORY}
out=${2:?usage: build_all.sh BUILD_DIRECTORY OUT_DIRECTORY}
cd "$root"
bench/gpu/build_program.sh "$build" "$out" >/dev/null
objects=$build/gpu-objects
mkdir -p "$objects"
cuda=$(dirname "$(dirname "$(command -v nvcc)")")
libdir=$(pkg-config --variable=libdir libcrypto)
compile() { # SOURCE
    cc -std=c11 -O2 -D_GNU_SOURCE -DFIELDPRINT_VERSION=\"gpu\" -ffp-contract=off -fno-math-errno -fno-trapping-math \
        -Isrc -Iinclude -Itests -Ibench/gpu -I"$cuda/include" -c "$1" -o "$objects/$(basename "$1").o"
}
link() { # NAME OBJECT...
    name=$1
    shift
    nvcc -cudart static -Xcompiler -static-libstdc++,-static-libgcc -o "$out/$name" "$@" "$build/libfieldprint.a" \
        "$objects/no_curl.c.o" "$libdir/libcrypto.a" "$libdir/libjansson.a" "$libdir/libpcre2-8.a" "$libdir/libsqlite3.a" \
        -lpthread -ldl -lm
    strip "$out/$name"
}
compile bench/gpu/no_curl.c
for name in cuda_attention attention_bench cuda_forward cuda_store; do
    compile "tests/$name.c"
done
link cuda_attention "$objects/cuda_attention.c.o" "$objects/attention_bench.c.o"
link cuda_forward "$objects/cuda_forward.c.o"
link cuda_store "$objects/cuda_store.c.o"
compile bench/gpu/check_ops_gpu.c
compile bench/gpu/bench_ops_gpu.c
nvcc -std=c++17 -O3 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false -Isrc -Iinclude -gencode arch=compute_90a,code=sm_90a \
    -c bench/gpu/wtile_host.cu -o "$objects/wtile_host.cu.o"
link ops_gpu "$objects/check_ops_gpu.c.o" "$objects/bench_ops_gpu.c.o" "$objects/wtile_host.cu.o"
# attention alone as a shared library, for bench/triton_reference.py
folder=$build/CMakeFiles/fp_objects.dir/src
nvcc -cudart static -shared -Xcompiler -static-libstdc++,-static-libgcc -o "$out/libfieldprint_attention.so" \
    "$build"/CMakeFiles/fp_cuda.dir/src/kernel/cuda/attention*.o "$folder"/core/*.o "$folder"/exact/*.o -lpthread -ldl -lm
strip --strip-unneeded "$out/libfieldprint_attention.so"
git rev-parse HEAD >"$out/COMMIT"
ls -l "$out"
