#!/usr/bin/env bash
# Installs the library, compiles examples/main_job.c against it through pkg-config, shared and static, and runs it. Also:
# the shared library exports what the public headers declare, and nothing else.
set -euo pipefail  # no "grep -q" behind a pipe: it would end the writer early
build=${FIELDPRINT_BUILD:?the build folder}
model=${FIELDPRINT_MODEL:-$HOME/.cache/fieldprint/SmolLM2-135M-Instruct.Q4_1.gguf}
folder=$(mktemp -d "${TMPDIR:-/tmp}/fieldprint-example.XXXXXX")
trap 'rm -rf "$folder"' EXIT
die() {
    echo "test_example: $*" >&2
    exit 1
}

for needed in libfieldprint.so libfieldprint.a fieldprint fieldprint.1; do
    if [ ! -e "$build/$needed" ]; then
        echo "skipped: $build/$needed is not built"
        exit 77
    fi
done

# ---- symbols ----
nm -D --defined-only "$build/libfieldprint.so" | awk '{print $3}' | sort >"$folder/exported"
# A build without CUDA neither has nor installs the interface of the GPU kernels.
headers=(include/fieldprint/*.h)
if ! grep -q '^fp_cuda_' "$folder/exported"; then
    mapfile -t headers < <(printf '%s\n' "${headers[@]}" | grep -v '/cuda_')
fi
sed 's|/\*.*\*/||' "${headers[@]}" | tr '\n' ' ' | grep -o 'FP_API [^;(]*(' | grep -o 'fp_[a-z0-9_]*($' |
    tr -d '(' | sort >"$folder/declared"
diff "$folder/declared" "$folder/exported" || die "declared in the headers (<) and exported (>) differ"
[ "$(wc -l <"$folder/declared")" -gt 50 ] || die "too few functions were found in the headers"
readelf -d "$build/libfieldprint.so" | grep 'soname: \[libfieldprint\.so\.[0-9]' >/dev/null || die "no versioned soname"

# ---- install, compile ----
cmake --install "$build" --prefix "$folder/usr" >/dev/null
library=$(dirname "$(find "$folder/usr" -name libfieldprint.a)")
export PKG_CONFIG_PATH=$library/pkgconfig
[ -e "$folder/usr/share/man/man1/fieldprint.1" ] || die "the man page is not installed"
warnings=(-std=c11 -Wall -Wextra -Wconversion -Werror)
read -ra shared <<<"$(pkg-config --cflags --libs fieldprint)"
# The static library with the shared ones of other projects: what it needs is in Requires.private and Libs.private.
mapfile -t needs < <(pkg-config --print-requires-private fieldprint | sed 's/ .*//')
read -ra static <<<"$(pkg-config --cflags --libs fieldprint "${needs[@]}") $(sed -n 's/^Libs.private: *//p' "$PKG_CONFIG_PATH/fieldprint.pc")"
cc "${warnings[@]}" examples/main_job.c -o "$folder/shared" "${shared[@]}"
cc "${warnings[@]}" examples/main_job.c -o "$folder/static" "${static[@]/-lfieldprint/-l:libfieldprint.a}"
export LD_LIBRARY_PATH=$library
ldd "$folder/shared" | grep libfieldprint >/dev/null || die "the shared one does not use the shared library"
if ldd "$folder/static" | grep libfieldprint >/dev/null; then die "the static one uses the shared library"; fi

# A C++ program may include the headers too.
if command -v c++ >/dev/null; then
    printf '#include <fieldprint/fieldprint.h>\nint main() { return fp_version() == nullptr; }\n' >"$folder/plus.cc"
    c++ -Wall -Wextra -Werror "$folder/plus.cc" -o "$folder/plus" "${shared[@]}"
    "$folder/plus"
fi

# ---- run ----
if [ ! -e "$model" ]; then
    echo "skipped: the model is not there ($model): make model"
    exit 77
fi
for how in shared static; do
    "$folder/$how" "$model" examples/harbour-library.txt "What is the name of the library's mascot?" \
        "$folder/$how.workspace" >"$folder/output" || die "$how: $(cat "$folder/output")"
    grep -q Quillan "$folder/output" || die "$how: the answer lacks the fact: $(cat "$folder/output")"
    grep -q VALID-FULL "$folder/output" || die "$how: $(cat "$folder/output")"
done
echo "example: shared and static run the main job"
