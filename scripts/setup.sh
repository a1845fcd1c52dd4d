#!/usr/bin/env bash
# Installs what fieldprint needs and this machine lacks.
#
#   scripts/setup.sh [--check] [build|test|model|lint]...     (default: build test model)
#
# On Debian and its relatives, as root, it installs with apt-get; otherwise, or with --check, it prints what is missing
# and exits 3. When nothing is missing it changes nothing and needs no network.
set -euo pipefail

check_only=false
groups=()
for argument in "$@"; do
    case $argument in
    --check) check_only=true ;;
    build | test | model | lint) groups+=("$argument") ;;
    *)
        echo "usage: scripts/setup.sh [--check] [build|test|model|lint]..." >&2
        exit 2
        ;;
    esac
done
[ ${#groups[@]} -gt 0 ] || groups=(build test model)

missing=() # Debian packages

# need PACKAGE COMMAND...: the package is missing when the command fails.
need() {
    local package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$package")
    fi
}
has() { command -v "$1"; }
has_library() { pkg-config --exists "$1"; }
has_cmake() { [ "$(printf '3.25\n%s\n' "$(cmake --version | sed -n '1s/[^0-9]*//p')" | sort -V | head -1)" = 3.25 ]; }
has_fuzzer() {
    local library
    library=$(clang -print-file-name="lib/linux/libclang_rt.fuzzer-$(uname -m).a") && [ -e "$library" ]
}
has_headers() { [ -e /usr/include/stdio.h ]; }

for group in "${groups[@]}"; do
    case $group in
    build)
        need gcc has cc
        need libc6-dev has_headers
        need cmake has_cmake
        need ninja-build has ninja
        need pkg-config has pkg-config
        need libssl-dev has_library 'libcrypto >= 3.0'
        need libjansson-dev has_library 'jansson >= 2.12'
        need libpcre2-dev has_library 'libpcre2-8 >= 10.30'
        need libsqlite3-dev has_library 'sqlite3 >= 3.35'
        need libcurl4-openssl-dev has_library 'libcurl >= 7.85'
        ;;
    test)
        need libcmocka-dev has_library cmocka
        need clang has clang
        need spin has spin
        need libclang-rt-14-dev has_fuzzer
        if [ "$(uname -m)" = x86_64 ]; then
            need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
            need libc6-dev-arm64-cross test -e /usr/aarch64-linux-gnu/include/stdio.h
            need qemu-user-static has qemu-aarch64-static
        fi
        ;;
    model)
        need python3-pip python3 -m pip --version
        ;;
    lint)
        need clang-format has clang-format
        need clang-tidy has clang-tidy
        need cppcheck has cppcheck
        need shellcheck has shellcheck
        ;;
    esac
done

[ ${#missing[@]} -gt 0 ] || exit 0

list="${missing[*]}"
if $check_only || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    {
        echo "fieldprint needs packages that this machine lacks: $list"
        if command -v apt-get >/dev/null; then
            echo "Install them with:  apt-get install $list        (as root; 'make setup' does it)"
        else
            echo "Those are Debian's names; install what your system calls them, then try again."
        fi
    } >&2
    exit 3
fi

echo "installing (this can take some minutes): $list" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "apt-get could not install: $list. Is the network there, and are the package sources right?" >&2
    exit 3
fi
