#!/bin/sh
# Builds the program with CUDA so that it can be carried to a machine with a GPU: all of its libraries are in it but libc
# and the driver (and libcurl, which only remote logs need: no_curl.c).
#   bench/gpu/build_program.sh BUILD_DIRECTORY [OUT_DIRECTORY]     writes OUT_DIRECTORY/fieldprint and make_model
# BUILD_DIRECTORY is a CMake build with FIELDPRINT_CUDA=ON (build-cuda); it is made or brought up to date.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:?usage: build_program.sh BUILD_DIRECTORY [OUT_DIRECTORY]}
out=${2:-$build/carry}
mkdir -p "$out"
cd "$root"
cmake -S . -B "$build" -G Ninja -DFIELDPRINT_CUDA=ON -DFIELDPRINT_BENCH=OFF >/dev/null
ninja -C "$build" fieldprint make_model >/dev/null
libdir=$(pkg-config --variable=libdir libcrypto)
archives="$libdir/libcrypto.a $libdir/libjansson.a $libdir/libpcre2-8.a $libdir/libsqlite3.a"
cc -O2 -c bench/gpu/no_curl.c -o "$out/no_curl.o"
# shellcheck disable=SC2086
nvcc -cudart static -Xcompiler -static-libstdc++,-static-libgcc -o "$out/fieldprint" "$build"/CMakeFiles/fieldprint.dir/cli/*.o \
    "$build/libfieldprint.a" "$out/no_curl.o" $archives -lpthread -ldl -lm
# shellcheck disable=SC2086
nvcc -cudart static -Xcompiler -static-libstdc++,-static-libgcc -o "$out/make_model" "$build"/tests/CMakeFiles/make_model.dir/make_model.c.o \
    "$build/libfieldprint.a" "$out/no_curl.o" $archives -lpthread -ldl -lm
rm "$out/no_curl.o"
strip "$out/fieldprint" "$out/make_model"
echo "$out/fieldprint"
