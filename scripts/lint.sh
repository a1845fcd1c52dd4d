#!/usr/bin/env bash
# Formatting, the warnings of a second compiler, and static analysis.
#
#   scripts/lint.sh [FOLDER]...       (default: the whole project)
set -uo pipefail # no -e: a failure is counted, and the rest still runs
cd "$(dirname "$0")/.." || exit 3

folders=("$@")
[ ${#folders[@]} -gt 0 ] || folders=(include src cli tests fuzz examples bench)
mapfile -t sources < <(git ls-files -- "${folders[@]}" | grep '\.[ch]$')
mapfile -t cuda < <(git ls-files -- "${folders[@]}" | grep '\.cuh\?$')
mapfile -t units < <(printf '%s\n' "${sources[@]}" | grep '^\(src\|cli\)/.*\.c$')
bad=()

step() { # step NAME COMMAND...
    local name=$1
    shift
    echo "== $name"
    "$@" || bad+=("$name")
}

clang_build() {
    cmake -S . -B build-lint -G Ninja --log-level=WARNING -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release >/dev/null &&
        cmake --build build-lint -- --quiet
}

# The kernels of other instruction sets are not in the compile commands of this machine.
tidy() {
    local known=()
    for unit in "${units[@]}"; do
        if grep -q "\"file\": \".*/$unit\"" build-lint/compile_commands.json; then
            known+=("$unit")
        fi
    done
    [ ${#known[@]} -eq 0 ] || printf '%s\0' "${known[@]}" |
        xargs -0 -n 4 -P "$(nproc)" clang-tidy -p build-lint --quiet --warnings-as-errors='*'
}

step "clang-format" clang-format --dry-run -Werror "${sources[@]}" "${cuda[@]}"
step "shellcheck" shellcheck scripts/*.sh tests/*.sh bench/*.sh bench/gpu/*.sh .ci/run
step "clang" clang_build
if [ ${#units[@]} -gt 0 ]; then
    step "cppcheck" cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr -j "$(nproc)" \
        --enable=warning,performance,portability --suppress=missingIncludeSystem --suppress=unmatchedSuppression \
        -D__x86_64__ -D_GNU_SOURCE -DFIELDPRINT_VERSION='"0"' -I include -I src "${units[@]}"
    step "clang-tidy" tidy
fi

if [ ${#bad[@]} -gt 0 ]; then
    echo "lint found something: ${bad[*]}" >&2
    exit 1
fi
echo "lint: clean"
