#!/usr/bin/env bash
# The Supervisor from the outside, with several processes: a revocation that another process logs stops a running
# answer; overrides by two holders, with a damaged registry; pending events; labels from file to memory. Tiny random
# models; no network.
set -uo pipefail
build=$(realpath "${FIELDPRINT_BUILD:?the build folder}")
program=$build/fieldprint
if [ ! -x "$program" ] || [ ! -x "$build/tests/make_model" ]; then
    echo "skipped: $program or make_model is not built"
    exit 77
fi
base=${TMPDIR:-/tmp}
[ ! -w /dev/shm ] || base=/dev/shm
folder=$(mktemp -d "$base/fieldprint-supervisor.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 3
unset FIELDPRINT_KERNELS
export FIELDPRINT_WORKSPACE=$folder/ws FIELDPRINT_MODEL=$folder/model.gguf
failures=0 checks=0

# check CODE WORD ARGUMENT...: the program ends with this code and says WORD.
check() {
    local wanted=$1 word=$2 code=0
    shift 2
    checks=$((checks + 1))
    "$program" "$@" >output 2>error </dev/null || code=$?
    if [ "$code" != "$wanted" ] || ! cat output error | grep -e "$word" >/dev/null; then
        failures=$((failures + 1))
        echo "FAILED: exit code $code (wanted $wanted), word \"$word\": fieldprint $*"
        sed 's/^/    /' output error | head -20
    fi
}
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" output | head -1; }

"$build/tests/make_model" model.gguf 1 32768 || exit 3
printf 'The office opens at nine.\nIt closes at five.\n' >one.txt
printf 'The office opens at ten.\nIt closes at five.\n' >two.txt
printf 'a page from the web' >page.txt

# ---- a deployment with two holders for overrides ----
check 0 ada key generate --holder ada
check 0 override key generate --holder ada --purpose override
check 0 override key generate --holder bea --purpose override
check 0 trust.json policy create
check 0 '' ledger init
check 0 '"id"' anchor add one.txt --name office --type core --json
one=$(field id)
check 0 '"id"' anchor add two.txt --name office --version 2 --type core --json
two=$(field id)
check 0 'office@2  *promoted  *core  *core  *1  *1  always' anchor list
check 0 '"label":"core"' anchor list --json
check 0 'promoted by entry' anchor show "${one:0:10}"
check 0 'compiled for 1 model' anchor show office@2
check 0 '^- The office opens at nine' anchor diff "${one:0:8}" "${two:0:8}"
check 0 '^version: "1" -> "2"' anchor diff "$one" "$two"
check 0 '"lines"' anchor diff "$one" "$two" --json
check 0 'documents are equal' anchor diff "$one" "$one"

# ---- labels from file to memory ----
check 0 '"label":"user"' run -a "$one" -p hello -n 5 --ignore-eog --json
check 0 '"label":"external"' run -a "$one" --retrieved page.txt -p hello -n 5 --ignore-eog --json --remember note
memory=$(field memory)
check 0 '"external"' anchor show "$memory"
check 0 'signing (endorse)' event endorse page.txt --why 'read it'
check 0 '"label":"user"' run -a "$one" --retrieved page.txt -p hello -n 5 --ignore-eog --json
check 0 '"label":"external"' run -a "$one" --tool one.txt -p hello -n 5 --ignore-eog --json
check 0 'VALID-FULL' audit "$(field receipt)" --transcript "$(field transcript)" --trust ws/trust.json -m model.gguf

# ---- overrides: two holders, pending until both have signed ----
mv ws/keys/bea bea.away
check 0 '1 more holders' event override halt "$one" --why 'incident 7'
check 0 'signed by 1 of 2 holders' event list
pending=$(ls ws/pending/*.dsse.json)
check 0 '"halt"' event show "$pending"
check 0 '' run -a "$one" -p hello -n 2 --no-receipt
mkdir empty && check 1 'signed by 1 of 2' override export "$(basename "$pending" .dsse.json)"
mv bea.away ws/keys/bea
check 0 'entry' event sign "$pending"
event=$(basename "$pending" .dsse.json)
check 1 'overridden' run -a "$one" -p hello -n 2 --no-receipt
check 0 '' run -a "$two" -p hello -n 2 --no-receipt
"$program" override export "$event" >halt.override || failures=$((failures + 1))
cp -r ws copy
printf 'garbage' >copy/registry.db
check 1 'overridden' run -w copy -a "$one" -p hello -n 2 --override halt.override --no-receipt
sed 's/incident/accident/; $ s/"payload":"...../"payload":"AAAAA/' halt.override >bad.override
check 3 '' run -w copy -a "$one" -p hello -n 2 --override bad.override --no-receipt
head -n 1 halt.override >short.override
check 3 'override event is expected' run -w copy -a "$one" -p hello -n 2 --override short.override
check 2 '24' event override bypass --hours 25
check 0 'entry' event override bypass "$two" --hours 2
check 0 '"receipt"' run -a "$two" -p hello -n 2 --json
check 0 'override' receipt show "$(field receipt_id)"

# ---- supersede and revoke while an answer is being made ----
# in_flight FILE ARGUMENT...: a run in the background, once it has begun to answer.
in_flight() {
    local file=$1
    shift
    "$program" run -p hello -n 32000 --ignore-eog --ctx 32768 "$@" >"$file" 2>"$file.error" </dev/null &
    runner=$!
    for _ in $(seq 200); do
        [ ! -s "$file" ] || return 0
        sleep 0.02
    done
}
in_flight stopped -a "$two"
check 0 'entry' anchor revoke "$two" --why 'wrong hours'
code=0
wait "$runner" || code=$?
if [ "$code" != 1 ] || ! grep -q 'revoked' stopped.error; then
    failures=$((failures + 1))
    echo "FAILED: the running answer was not stopped (exit code $code)"
    cat stopped.error
fi
receipt=$(sed -n 's/^receipt: *//p' stopped.error)
check 0 'VALID-FULL' audit "$receipt" --transcript "${receipt%.dsse.json}.transcript.json" --trust ws/trust.json -m model.gguf
check 0 'anchor_revoked' receipt show "$receipt"
check 1 'revoked' run -a "$two" -p hello -n 2
check 0 'signing (retraction)' event retract "$receipt" --why 'made from a revoked anchor'
check 0 '' ledger verify
check 0 '' ledger fsck

printf 'The office opens at eleven.\n' >three.txt
check 0 '"id"' anchor add three.txt --name office --version 3 --type core --json
three=$(field id)
in_flight again -a "$three" --on-revoked without
check 0 'entry' anchor revoke "$three"
for _ in $(seq 500); do
    ! grep -q 'answering again without' again.error || break
    sleep 0.02
done
kill -INT "$runner"
wait "$runner"
grep -q 'answering again without' again.error || {
    failures=$((failures + 1))
    echo "FAILED: it did not go on without the anchor"
    cat again.error
}
check 2 'stop or without' run -p x --on-revoked perhaps

# ---- a stolen key: what it promoted is not promoted any more ----
key=$(sha256sum <<<'' | cut -c1-64)
check 0 'signing (distrust)' event distrust "$key" --from 3 --why stolen
check 2 '64 digits' event distrust abc

echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
