#!/usr/bin/env bash
# The order of the layers, read from the #include lines: a folder of src/ includes only itself and folders before it;
# cli/ includes only the public headers; file names are unique; no file grows past 1,000 lines. Then the check is shown
# trees that break each rule, and must refuse them.
set -euo pipefail
cd "$(dirname "$0")/.."

layers=(core exact merkle kernel cache model ledger anchor memory engine server)
longest_lines=1000

rank() {
    local i
    for i in "${!layers[@]}"; do
        if [ "${layers[$i]}" = "$1" ]; then
            echo "$i"
            return
        fi
    done
    echo unknown
}

# includes FOLDER: "file<TAB>header" for each #include "header" and #include <fieldprint/…> in it.
includes() {
    grep -rHE --include='*.[ch]' --include='*.cu' --include='*.cuh' '^[[:space:]]*#[[:space:]]*include' "$1" |
        sed -nE 's/^([^:]*):[[:space:]]*#[[:space:]]*include[[:space:]]*("([^"]*)"|<(fieldprint\/[^>]*)>).*/\1\t\3\4/p'
}

check_sources() {
    local bad=0 file header from to
    while IFS=$'\t' read -r file header; do
        [[ $header != fieldprint/* ]] || continue
        [ ! -e "$(dirname "$file")/$header" ] || continue # a header beside the file
        from=$(cut -d/ -f2 <<<"$file") to=${header%%/*}
        if [ "$(rank "$from")" = unknown ]; then
            echo "$file: the folder $from is not in the list of layers"
            bad=1
        elif [ "$(rank "$to")" = unknown ]; then
            echo "$file: includes $header, which is in no layer"
            bad=1
        elif [ "$(rank "$to")" -gt "$(rank "$from")" ]; then
            echo "$file: $from may not include $header: $to is a later layer"
            bad=1
        fi
    done < <(includes src)
    return $bad
}

check_cli() {
    local bad=0 file header
    [ -d cli ] || return 0
    while IFS=$'\t' read -r file header; do
        if [[ $header == fieldprint/* ]]; then
            [ -e "include/$header" ] && continue
        elif [ -e "cli/$header" ]; then
            continue
        fi
        echo "$file: cli may include only include/fieldprint, not $header"
        bad=1
    done < <(includes cli)
    return $bad
}

check_files() {
    local bad=0 name file lines
    while read -r name; do
        echo "more than one file in src is called $name: $(find src -name "$name" | sort | tr '\n' ' ')"
        bad=1
    done < <(find src -type f -printf '%f\n' | sort | uniq -d)
    while read -r file; do
        lines=$(wc -l <"$file")
        if [ "$lines" -gt "$longest_lines" ]; then
            echo "$file has $lines lines; $longest_lines are the most"
            bad=1
        fi
    done < <(find src -type f)
    return $bad
}

check_tree() {
    local bad=0
    check_sources || bad=1
    check_cli || bad=1
    check_files || bad=1
    return $bad
}

# must_refuse RULE FILE LINE: a copy of a small good tree, with LINE added to FILE, must fail.
must_refuse() {
    local tree=$scratch/tree
    rm -rf "$tree"
    mkdir -p "$tree"/{src/core,src/kernel/avx2,src/cache,cli,include/fieldprint}
    echo '#include "fieldprint/status.h"' >"$tree/src/core/error.h"
    echo '#include "core/error.h"' >"$tree/src/kernel/avx2/linear_avx2.c"
    echo '#include "kernel/linear.h"' >"$tree/src/cache/page.c"
    touch "$tree/include/fieldprint/status.h" "$tree/cli/cli.h"
    printf '#include "cli.h"\n#include <fieldprint/status.h>\n' >"$tree/cli/main.c"
    if ! (cd "$tree" && check_tree >"$scratch/said"); then
        echo "the check refuses a good tree: $(cat "$scratch/said")"
        return 1
    fi
    mkdir -p "$(dirname "$tree/$2")"
    printf '%s\n' "$3" >>"$tree/$2"
    if (cd "$tree" && check_tree >"$scratch/said"); then
        echo "the check does not see: $1"
        return 1
    fi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
check_tree || failed=1
must_refuse "a later layer" src/core/error.h '#include "cache/page.h"' || failed=1
must_refuse "a later layer, from a sub-folder" src/kernel/avx2/linear_avx2.c '  #  include "engine/x.h"' || failed=1
must_refuse "an unknown folder" src/core/error.h '#include "elsewhere/x.h"' || failed=1
must_refuse "a file outside the layers" src/new/x.c '#include "core/error.h"' || failed=1
must_refuse "cli reaching into src" cli/main.c '#include "core/error.h"' || failed=1
must_refuse "cli with a public header that is not there" cli/main.c '#include "fieldprint/none.h"' || failed=1
must_refuse "two files of one name" src/cache/error.h '' || failed=1
must_refuse "a long file" src/core/long.c "$(seq $((longest_lines + 1)))" || failed=1
[ "$failed" -eq 0 ] && echo "layers: in order"
exit "$failed"
