#!/usr/bin/env bash
# The bench commands of the program: one JSON object of a fixed shape, a table for people, bad arguments.
set -uo pipefail
build=$(realpath "${FIELDPRINT_BUILD:?the build folder}")
program=$build/fieldprint
if [ ! -x "$program" ] || ! command -v python3 >/dev/null; then
    echo "skipped: $program is not built, or there is no python3"
    exit 77
fi
unset FIELDPRINT_DEVICE FIELDPRINT_MODEL
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

fail() {
    failures=$((failures + 1))
    echo "FAILED: $*"
    head -5 "$folder/output" "$folder/error"
}

# shape 'KEY KEY.KEY …' ARGUMENT...: one JSON object with these numbers > 0, and nothing else on standard output.
shape() {
    local keys=$1
    shift
    "$program" bench "$@" --json >"$folder/output" 2>"$folder/error" || fail "exit code $?: bench $*"
    python3 - "$folder/output" "$keys" <<'END' || fail "JSON of bench $*"
import json, sys
lines = open(sys.argv[1]).read().splitlines()
assert len(lines) == 1, "one line"
top = json.loads(lines[0])
for key in sys.argv[2].split():
    value = top
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    assert isinstance(value, (int, float)) and value > 0, key
END
}

# table WORD ARGUMENT...: success, and this word.
table() {
    local word=$1
    shift
    "$program" bench "$@" >"$folder/output" 2>"$folder/error" || fail "exit code $?: bench $*"
    grep -q -e "$word" "$folder/output" || fail "does not say \"$word\": bench $*"
}

# refused CODE WORD ARGUMENT...
refused() {
    local code=0 wanted=$1 word=$2
    shift 2
    "$program" bench "$@" >"$folder/output" 2>"$folder/error" || code=$?
    [ "$code" = "$wanted" ] || fail "exit code $code, not $wanted: bench $*"
    grep -q -e "$word" "$folder/error" || fail "does not say \"$word\": bench $*"
    [ ! -s "$folder/output" ] || fail "it answered all the same: bench $*"
}

common='machine.copy_gb_s machine.units runs median_us least_us'
small='--heads 4 --kv-heads 2 --head-dim 64 --runs 2 --threads 1'
# shellcheck disable=SC2086
{
    shape "$common words_checked layers kv_bytes kv_gb_s of_copy tera_ops shape.batch shape.context" \
        attention $small --batch 2 --context 300 --anchor 65 --shared --mode floor --gamma 0.2
    shape "$common hashes_checked bytes gb_s shape.pages" hash --pages 3 --layers 2 --kv-heads 2 --head-dim 64 --runs 2
    tiny='--shape tiny --layers 2 --steps 3 --runs 1 --threads 1'
    shape 'machine.copy_gb_s model.layers model.vocabulary words_checked points.0.batch points.0.context points.0.steps
           points.0.step.median_us points.0.tokens_per_s points.0.weight_bytes points.0.kv_step_bytes points.0.of_copy
           points.3.batch points.3.kv_bytes points.4.prefill points.4.chunk points.4.prompt.runs
           points.4.tokens_per_s' model $tiny --context 70,200 --batch 1,2 --prefill 5 --type q8_0
    table 'tokens/s' model $tiny --anchor 5 --validation sync-token
    refused 2 'random weights' model -m x.gguf --layers 2
    refused 3 'tiny' model --shape huge
    refused 2 'q4_0' model --shape tiny --type q9
    refused 2 'sync-page' model --shape tiny --validation often
    refused 2 'sync-page' model --shape tiny --validation none,
    refused 2 'commas' model --shape tiny --context 5,x
    refused 2 'commas' model --shape tiny --batch 1,
    refused 2 'BATCHxCONTEXT' model --shape tiny --points 1x5,2
    refused 2 'BATCHxCONTEXT' model --shape tiny --points 1x5:never
    refused 2 'BATCHxCONTEXT' model --shape tiny --points 0x5@3
    shape 'points.0.batch points.1.anchor points.1.steps points.2.tokens_per_s' model $tiny --points \
        2x70,1x100+70:none@2,1x60:sync-page
    refused 2 'measurements' model --shape tiny --steps 0
    table 'none differs' attention $small --context 100
    table 'GB/s' hash --pages 2 --layers 2 --kv-heads 1 --head-dim 64 --runs 2
    refused 2 'query tokens' attention $small --context 3 --tokens 4
    refused 2 'multiple' attention --heads 5 --kv-heads 2
    refused 2 'compete, floor or reserve' attention --mode always
    refused 2 'whole number' attention --runs 0
    refused 2 'no device' attention $small --device gpu
    refused 2 'no device' hash --device cuda:x
}
for command in attention hash model; do
    shape=
    [ $command != model ] || shape="--shape tiny"
    "$program" bench $command --help >"$folder/output" 2>"$folder/error" || fail "bench $command --help"
    grep -q -e '--device' "$folder/output" || fail "bench $command --help does not tell --device"
    # shellcheck disable=SC2086
    if ! "$program" bench $command --device cuda --runs 1 $shape >"$folder/output" 2>"$folder/error"; then
        grep -q -e CUDA -e GPU "$folder/error" || fail "bench $command --device cuda does not say what is missing"
    fi
done
echo "$failures failed"
exit $((failures > 0))
