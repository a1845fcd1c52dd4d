#!/usr/bin/env bash
# Runs the main job, step by step, in a temporary workspace, and says what happens; each step is checked.
#
#   scripts/demo.sh            (make demo builds the program and fetches the model first)
#
# Exit code 0 only if every step did what it should. FIELDPRINT_PROGRAM and FIELDPRINT_MODEL name another program, model.
set -euo pipefail
cd "$(dirname "$0")/.."

program=${FIELDPRINT_PROGRAM:-$PWD/build/fieldprint}
if [ ! -x "$program" ]; then
    echo "$program is not there: build it with make" >&2
    exit 3
fi
MODEL=$(scripts/fetch-model.sh | tail -n 1)
folder=$(mktemp -d "${TMPDIR:-/tmp}/fieldprint-demo.XXXXXX")
trap 'rm -rf "$folder"' EXIT
document=examples/harbour-library.txt
export FIELDPRINT_WORKSPACE=$folder/workspace
unset FIELDPRINT_KERNELS
output=$folder/output
question="What is the name of the library's mascot?"
fact=Quillan

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
die() {
    echo "demo: $*" >&2
    exit 1
}

# run_program CODE ARGUMENT...: shows the command and what it prints, keeps that in $output, demands the exit code.
run_program() {
    local wanted=$1 code=0 line=fieldprint argument
    shift
    for argument in "$@"; do
        case $argument in
        "$MODEL") argument="\$MODEL" ;;
        *[!A-Za-z0-9_.,:/@=-]*) argument="\"$argument\"" ;;
        esac
        line+=" $argument"
    done
    printf '%s$ %s%s\n' "$dim" "${line//$folder\//}" "$plain"
    "$program" "$@" >"$output" 2>&1 || code=$?
    sed "s|$folder/||g" "$output"
    [ "$code" -eq "$wanted" ] || die "that should have ended with exit code $wanted, not $code"
}

# expect TEXT: the last output holds it.
expect() { grep -q -- "$1" "$output" || die "the output above should say: $1"; }

# field NAME FILE: a text value of a one-line JSON object.
field() { sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p" "$2"; }

# flip_bit FILE OFFSET
flip_bit() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

SECONDS=0
say "1. Keys, and a policy that says who may do what. One holder, one key for each purpose."
run_program 0 key generate --holder operator
run_program 0 policy create

say "2. A ledger: an append-only log with signed checkpoints. Its first entry is the policy."
run_program 0 ledger init

say "3. An anchor: a page of facts and rules for an assistant. Its author signs a statement about it."
sed -n '1,7s/^/    | /p' "$document"
run_program 0 anchor create "$document" --type core
id=$(tail -n 1 "$output")
run_program 0 anchor sign "${id:0:12}" --yes

say "4. It is logged as a candidate, approved, and compiled once into K/V pages, whose hash is logged too."
run_program 0 anchor register "${id:0:12}"
run_program 0 anchor promote "${id:0:12}"
run_program 0 anchor compile "${id:0:12}" -m "$MODEL"
run_program 0 ledger show

say "5. A question whose answer is only in the anchor: first without it ..."
run_program 0 run -m "$MODEL" -p "$question" -n 24 --no-receipt
if grep -q "$fact" "$output"; then die "the model knows $fact without the anchor"; fi
say "   ... then with it. Before a byte of it is attended to: signatures, log, policy and K/V hashes are checked."
run_program 0 run -m "$MODEL" --anchor "${id:0:12}" -p "$question"
expect "$fact"

say "6. The answer has a receipt, signed and logged. Anybody can check it, with the model or without."
receipt=$(ls "$FIELDPRINT_WORKSPACE"/receipts/*.dsse.json)
receipt_id=$(basename "$receipt" .dsse.json)
run_program 0 audit "${receipt_id:0:12}"
expect "^VALID-LIGHT"
run_program 0 audit "${receipt_id:0:12}" -m "$MODEL"
expect "VALID-FULL"

say "7. One bit of the K/V pages is flipped (in a copy). They are refused, and the place is named."
artifact=$(ls "$FIELDPRINT_WORKSPACE"/artifacts/*.fpkv)
cp "$artifact" "$folder/flipped.fpkv"
flip_bit "$folder/flipped.fpkv" $(($(stat -c %s "$artifact") * 3 / 8)) # in the middle of a page
run_program 1 run -m "$MODEL" --anchor "${id:0:12}" --artifact "$folder/flipped.fpkv" -p "$question"
expect "page [0-9]"
expect "layer [0-9]"
expect "head [0-9]"

say "8. One token of the transcript is changed (in a copy). The audit finds it."
sed 's/\("kind":"output"[^]]*"ids":\[[0-9]*,[0-9]*,\)[0-9]*/\1260/' "${receipt%.dsse.json}.transcript.json" \
    >"$folder/changed.json"
if cmp -s "$folder/changed.json" "${receipt%.dsse.json}.transcript.json"; then die "no token was changed"; fi
run_program 1 audit "${receipt_id:0:12}" --transcript "$folder/changed.json" -m "$MODEL"
expect "INVALID"
expect "position [0-9]"

say "9. The same bits whatever computes them: the root over all K/V pages, with other kernels and one thread."
roots=$folder/roots
available=$("$program" doctor --json | sed -n 's/.*"kernels_available":"\([^"]*\)".*/\1/p')
for kernels in $available; do
    for threads in 1 2; do
        FIELDPRINT_KERNELS=$kernels "$program" run -m "$MODEL" --anchor "$id" -p "$question" -n 16 -t $threads \
            --no-receipt --json >"$output" 2>&1 || die "$(cat "$output")"
        field kv_root "$output" >>"$roots"
        printf '  %-7s %s thread%s  %s\n' "$kernels" "$threads" "$([ $threads = 1 ] && echo ' ' || echo s)" \
            "$(tail -n 1 "$roots")"
    done
done
if [ "$(sort -u "$roots" | wc -l)" != 1 ] || [ "$(head -c 64 "$roots" | wc -c)" != 64 ]; then
    die "the roots differ"
fi

say "10. The log checks from its entries up."
run_program 0 ledger fsck
expect "^clean"
printf '\n%sEverything did what it should, in %s seconds.%s\n' "$bold" "$SECONDS" "$plain"
