#!/usr/bin/env bash
# Builds fieldprint in every way that is tested and runs all tests. The last line is "N passed, N failed[, N skipped]".
#
#   scripts/test.sh [release|asan|tsan|aarch64|fuzz|cuda]...      (default: all of them but cuda)
#
# What runs where: all tests in release; all programs, with the replayed fuzz corpora, under AddressSanitizer and
# UndefinedBehaviorSanitizer; the threaded ones under ThreadSanitizer; the kernels for AArch64 under qemu-user; and the
# fuzz targets are built with clang and run over their corpora; cuda builds with the CUDA toolkit and runs what needs a GPU, or
# shows that it builds. FIELDPRINT_NO_MODEL=1 does without the default model
# (tests that need it are then skipped).
set -uo pipefail # no -e: a failure is counted, and the rest still runs
cd "$(dirname "$0")/.." || exit 3

stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(release asan tsan aarch64 fuzz)
jobs=$(nproc)
passed=0 failed=0 skipped=0
failures=()

record_failure() {
    failed=$((failed + 1))
    failures+=("$1")
    echo "FAILED: $1"
}

# attribute FILE NAME: a number from the <testsuite> element of CTest's JUnit file.
attribute() { sed -n '/<testsuite/,/>/p' "$1" | sed -n "s/.*[[:space:]]$2=\"\([0-9]*\)\".*/\1/p" | head -1; }

build() { # build PRESET [cmake argument]...
    local preset=$1
    shift
    cmake --preset "$preset" --log-level=WARNING "$@" >/dev/null && cmake --build --preset "$preset" -- --quiet
}

# run_ctest STAGE FOLDER [ctest argument]...
run_ctest() {
    local stage=$1 folder=$2 junit
    shift 2
    junit=$PWD/$folder/junit.xml
    rm -f "$junit"
    ctest --test-dir "$folder" --output-on-failure --output-junit "$junit" -j "$jobs" "$@"
    local total bad skip off
    total=$(attribute "$junit" tests) bad=$(attribute "$junit" failures)
    skip=$(attribute "$junit" skipped) off=$(attribute "$junit" disabled)
    if [ -z "$total" ] || [ "$total" -eq 0 ]; then
        record_failure "$stage: no test ran"
        return
    fi
    passed=$((passed + total - bad - skip - off))
    failed=$((failed + bad))
    skipped=$((skipped + skip + off))
    if [ "$bad" -gt 0 ]; then
        failures+=("$stage: $bad of $total tests; see above")
    fi
}

run_fuzz() {
    local source parser program
    for source in fuzz/fuzz_*.c; do
        [ -e "$source" ] || continue
        parser=$(basename "$source" .c) && parser=${parser#fuzz_}
        program=build-fuzz/fuzz/fuzz_$parser
        if "$program" -runs=0 "fuzz/corpus/$parser" >"$program.log" 2>&1; then
            passed=$((passed + 1))
            echo "fuzz $parser: the corpus runs"
        else
            cat "$program.log"
            record_failure "fuzz: $parser"
        fi
    done
}

run_stage() {
    echo "== $1"
    case $1 in
    release) build release -DFIELDPRINT_TESTS=ON && run_ctest release build ;;
    asan) build asan && run_ctest asan build-asan --label-exclude script ;;
    tsan) build tsan && run_ctest tsan build-tsan --label-regex threads ;;
    aarch64)
        if [ "$(uname -m)" != x86_64 ]; then
            echo "this machine is no x86-64; the cross build is left out"
            return 0
        fi
        build aarch64 && run_ctest aarch64 build-aarch64
        ;;
    fuzz) build fuzz && run_fuzz ;;
    cuda) build cuda && run_ctest cuda build-cuda --label-regex cuda ;;
    *)
        echo "no such stage: $1 (release, asan, tsan, aarch64, fuzz, cuda)" >&2
        exit 2
        ;;
    esac
}

if [ -z "${FIELDPRINT_NO_MODEL:-}" ]; then
    if model=$(scripts/fetch-model.sh | tail -n 1) && [ -n "$model" ]; then
        export FIELDPRINT_MODEL=$model
    else
        record_failure "the default model could not be fetched (FIELDPRINT_NO_MODEL=1 does without)"
    fi
fi
for stage in "${stages[@]}"; do
    run_stage "$stage" || record_failure "$stage: the build failed"
done

echo
for failure in "${failures[@]+"${failures[@]}"}"; do
    echo "failed: $failure"
done
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ "$failed" -eq 0 ]
