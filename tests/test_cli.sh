#!/usr/bin/env bash
# The program against bad input and bad luck: damaged files of every kind, another model's or tenant's files, bad prompts,
# a full disk, a folder that cannot be written, Ctrl-C, kill -9. Each gives a clear error and the right exit code, and
# loses nothing: the workspace opens and its log checks afterwards. With tiny random models; no network.
set -uo pipefail
build=$(realpath "${FIELDPRINT_BUILD:?the build folder}")
program=$build/fieldprint
if [ ! -x "$program" ] || [ ! -x "$build/tests/make_model" ]; then
    echo "skipped: $program or make_model is not built"
    exit 77
fi
source_folder=$PWD
base=${TMPDIR:-/tmp}
[ ! -w /dev/shm ] || base=/dev/shm # in memory, where there is such a place: no waiting for disks
folder=$(mktemp -d "$base/fieldprint-cli.XXXXXX")
mounted=''
clean_up() {
    [ -z "$mounted" ] || umount "$mounted"
    chmod -R u+w "$folder"
    rm -rf "$folder"
}
trap clean_up EXIT
cd "$folder" || exit 3
unset FIELDPRINT_WORKSPACE FIELDPRINT_MODEL FIELDPRINT_KERNELS FIELDPRINT_DEVICE
export FIELDPRINT_WORKSPACE=$folder/ws
failures=0 checks=0

fail() {
    failures=$((failures + 1))
    echo "FAILED: $*"
    sed 's/^/    /' output error 2>/dev/null | head -20
}

# sound TEXT: no sanitizer and no assertion spoke.
sound() { ! grep -q -i -e 'sanitizer' -e 'assert' -e 'runtime error' error || fail "broken inside: fieldprint $*"; }

# check CODE WORD ARGUMENT...: the program ends with this code and says WORD (a basic regular expression).
check() {
    local wanted=$1 word=$2 code=0
    shift 2
    checks=$((checks + 1))
    "$program" "$@" >output 2>error </dev/null || code=$?
    [ "$code" = "$wanted" ] || fail "exit code $code, not $wanted: fieldprint $*"
    cat output error | tr -d '\0' | grep -e "$word" >/dev/null || fail "does not say \"$word\": fieldprint $*"
    sound "$*"
}

# refused WORD ARGUMENT...: exit code 1, 2 or 3, a message, and no answer on standard output.
refused() {
    local word=$1 code=0
    shift
    checks=$((checks + 1))
    "$program" "$@" >output 2>error </dev/null || code=$?
    case $code in
    1 | 2 | 3) ;;
    *) fail "exit code $code: fieldprint $*" ;;
    esac
    grep -q -e "$word" error || fail "does not say \"$word\": fieldprint $*"
    [ ! -s output ] || fail "it answered all the same: fieldprint $*"
    sound "$*"
}

# flip FILE OFFSET: the lowest bit of one byte.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
size_of() { stat -c %s "$1"; }

# The workspace is as it should be: it opens, the log checks, and the anchor still answers.
healthy() {
    check 0 "^clean" ledger fsck
    check 0 "continues" ledger verify
    check 0 "" run -m a.gguf -a library -p hello -n 3 --no-receipt
    [ -z "$(find "$FIELDPRINT_WORKSPACE" -name '*.fpkv' -size -4096c)" ] || fail "a half-written artifact is there"
}

# ---- a workspace to damage ----
"$build/tests/make_model" a.gguf 1 32768 && "$build/tests/make_model" b.gguf 2 32768 || exit 3
cp "$source_folder/examples/harbour-library.txt" library.txt
check 0 "operator  *log" key generate
check 3 "is there already" key generate
check 0 "operator" key show
check 3 "policy create" ledger init
check 0 "trust.json" policy create
check 3 "is there already" policy create
check 3 "ledger init" ledger verify
check 0 "entry 0 is the policy" ledger init
check 3 "is there already" ledger init
check 3 "already" init
check 0 "compiled" anchor add library.txt --name library -m a.gguf
check 0 "urn:fieldprint:policy:v1" policy show
healthy
check 0 "receipt:" run -m a.gguf -a library -p hello -n 5 --save session.fpkv
receipt=$(basename "$FIELDPRINT_WORKSPACE"/receipts/*.dsse.json .dsse.json)
check 0 "VALID-LIGHT VALID-FULL" audit "${receipt:0:8}" -m a.gguf
check 0 "c2sp.org/tlog-proof" ledger proof "$receipt"
check 0 '"type":"promote"' ledger show --json
check 0 '"event": "register"' ledger show 1
artifact=$(echo "$FIELDPRINT_WORKSPACE"/artifacts/*.fpkv)
cp -r ws ws.good

# ---- usage ----
check 2 "no such option" run --nonsense
check 2 "not a command" nonsense
check 2 "which one" anchor
check 2 "whole number" run -m a.gguf -p x -n many
check 2 "which model" run -p x
check 2 '"status":"USAGE"' run --json -p x
check 3 '"status":"NOT_FOUND"' run --json -m missing.gguf -p x
check 3 '"status":"NOT_FOUND"' anchor add --json -m a.gguf missing.txt
check 2 "either -p" run -m a.gguf
check 2 "no purpose" key generate --purpose king
check 2 "number of an entry" ledger show first
check 2 "" ledger show 999
check 3 "no anchor\|not found\|unknown\|neither" run -m a.gguf -a nobody -p x
check 2 "neither a file nor" audit abcdef
check 3 "" audit missing.dsse.json
for command in run "anchor add" "ledger proof" "key generate" "policy create" "bench speed" audit; do
    # shellcheck disable=SC2086 # two words
    check 0 "options:" $command --help
done
check 0 "decode_tokens_per_s" bench speed -m a.gguf --prefill 64 --decode 8 --repeat 1 --json
check 0 "tokens/s" bench speed -m a.gguf --prefill 64 --decode 8 --depth 100 --repeat 1 --hash-threads 0
check 2 "is no device" run -m a.gguf -p x --device gpu --no-receipt
check 2 "is no device" run -m a.gguf -p x --device cuda:x --no-receipt
check 0 "tokens/s" bench speed -m a.gguf --prefill 64 --decode 8 --repeat 1 --device auto
if "$program" doctor | grep -q '^GPU  *none'; then # why there is none is said where one is asked for
    check 3 "GPU\|CUDA" run -m a.gguf -p x --device cuda --no-receipt
    check 3 "GPU\|CUDA" bench speed -m a.gguf --device cuda:1
fi
"$program" help --markdown | diff - "$source_folder/docs/cli.md" >output ||
    fail "docs/cli.md is not what fieldprint help --markdown says"

# ---- models ----
size=$(size_of a.gguf)
check 3 "no such file" run -m missing.gguf -p x
check 3 "" run -m "$folder" -p x
for n in 0 3 4 8 23 24 100 $((size / 2)) $((size - 1)); do
    head -c "$n" a.gguf >cut.gguf
    refused "cut.gguf\|GGUF" run -m cut.gguf -p x --no-receipt
done
for at in 0 4 8 9 10 11 15 16 17 24 30 31; do
    cp a.gguf flipped.gguf
    flip flipped.gguf "$at"
    code=0
    "$program" run -m flipped.gguf -p x -n 2 --no-receipt >output 2>error || code=$?
    checks=$((checks + 1))
    [ "$code" -le 3 ] || fail "a flipped bit at byte $at of the model: exit code $code"
    sound "run, byte $at of the model flipped"
done
cp a.gguf flipped.gguf # a weight: another model, for which nothing is compiled
flip flipped.gguf $((size - 1000))
refused "wrong-model" run -m flipped.gguf -a library -p x --no-receipt
refused "wrong-model" run -m b.gguf -a library -p x --no-receipt

# ---- artifacts ----
size=$(size_of "$artifact")
for n in 0 4 100 383 384 4095 4096 $((size / 2)) $((size - 4096)) $((size - 1)); do
    head -c "$n" "$artifact" >cut.fpkv
    refused "cut.fpkv" run -m a.gguf -a library --artifact cut.fpkv -p x --no-receipt
done
for at in 0 4 6 8 9 16 24 32 64 96 104 112 120 128 144 176 208 240 272 304 340 390 $((size / 3)) $((size / 2)) $((size - 1)); do
    cp "$artifact" flipped.fpkv
    flip flipped.fpkv "$at"
    refused "flipped.fpkv" run -m a.gguf -a library --artifact flipped.fpkv -p x --no-receipt
done
cp "$artifact" longer.fpkv && printf x >>longer.fpkv
refused "longer.fpkv" run -m a.gguf -a library --artifact longer.fpkv -p x --no-receipt
cp "$artifact" flipped.fpkv && flip flipped.fpkv $((size - 20000)) # in the last page
refused "page [0-9]*, layer [0-9]*, head [0-9]" run -m a.gguf -a library --artifact flipped.fpkv -p x --no-receipt
refused "session.fpkv" run -m a.gguf -a library --artifact session.fpkv -p x --no-receipt

# ---- session files ----
check 0 "" run -m a.gguf -a library --load session.fpkv -p more -n 3 --no-receipt
size=$(size_of session.fpkv)
for n in 0 4 200 4096 $((size / 2)) $((size - 1)); do
    head -c "$n" session.fpkv >cut.session
    refused "cut.session" run -m a.gguf -a library --load cut.session -p x --no-receipt
done
for at in 0 6 8 32 64 112 176 208 240 304 500 1500 3000 $((size / 2)) $((size - 1)); do
    cp session.fpkv flipped.session
    flip flipped.session "$at"
    refused "flipped.session" run -m a.gguf -a library --load flipped.session -p x --no-receipt
done
refused "another model" run -m b.gguf --load session.fpkv -p x --no-receipt
refused "another tenant" run -m a.gguf -a library --load session.fpkv --tenant other -p x --no-receipt
refused "other anchors" run -m a.gguf --load session.fpkv -p x --no-receipt
refused "session.fpkv" run -m a.gguf -a library --load session.fpkv --raw -p x --no-receipt
refused "" run -m a.gguf --load "$artifact" -p x --no-receipt
check 0 "" init -w other.ws
refused "not signed by an engine key" run -w other.ws -m a.gguf --load session.fpkv -p x --no-receipt
healthy

# ---- envelopes ----
statement=$(echo ws/anchors/*.dsse.json)
size=$(size_of "$statement")
for n in 0 1 50 $((size / 2)) $((size - 2)); do
    head -c "$n" "$statement" >cut.json
    refused "" anchor import cut.json
done
cp "$statement" longer.json && printf '{}' >>longer.json
refused "" anchor import longer.json
printf '\xff\xfe{"payload":1}' >binary.json
refused "" anchor import binary.json
printf '{"payloadType":"x","payload":"","signatures":[]}' >other.json
refused "" anchor import other.json
check 0 "" anchor import "$statement" -d library.txt -w other.ws
refused "key-not-in-policy" run -w other.ws -m a.gguf -a library -p x --no-receipt
printf 'changed' >>library.txt
refused "" anchor import "$statement" -d library.txt -w other.ws
cp "$statement" statement.json
flip "$statement" $((size / 2))
refused "" run -m a.gguf -a library -p x --no-receipt
cp "$statement" flipped.json
rm "$statement"
refused "missing-statement\|no anchor" run -m a.gguf -a "$(basename "$statement" .dsse.json)" -p x --no-receipt
cp statement.json "$statement"
healthy

# ---- receipts and transcripts ----
size=$(size_of "ws/receipts/$receipt.dsse.json")
for at in 30 $((size / 3)) $((size / 2)) $((size - 20)); do
    cp "ws/receipts/$receipt.dsse.json" bad.dsse.json
    flip bad.dsse.json "$at"
    code=0
    "$program" audit bad.dsse.json --transcript "ws/receipts/$receipt.transcript.json" >output 2>error || code=$?
    checks=$((checks + 1))
    case $code in
    1 | 3) ;;
    *) fail "a receipt with byte $at changed: exit code $code" ;;
    esac
done
sed 's/"text":"[^"]*"/"text":"something else"/' "ws/receipts/$receipt.transcript.json" >changed.json
check 1 "INVALID" audit "$receipt" --transcript changed.json
check 1 "INVALID: malformed transcript" audit "$receipt" --transcript library.txt
check 3 "UNDECIDED: .*trust" audit "$receipt" --trust missing.json
check 2 "light, full or sample" audit "$receipt" -m a.gguf --level most
check 2 "share between" audit "$receipt" -m a.gguf --level sample:0
check 2 "of --level sample" audit "$receipt" -m a.gguf --beacon today
check 0 "VALID-LIGHT VALID-SAMPLED(0.5)" audit "$receipt" -m a.gguf --level sample:0.5 --beacon today
check 0 "chosen by seed $(printf today | sha256sum | cut -c1-64)" audit "$receipt" -m a.gguf --level sample:0.5 --beacon today
check 0 "VALID-FULL .* [0-9]\|receipts/s" audit ws/receipts -m a.gguf
check 0 '"summary"' audit ws/receipts -m a.gguf --level sample:0.25 --json
check 0 "not proved" receipt show "$receipt"
check 0 "layer 0" receipt show "$receipt" -m a.gguf
check 2 "of one receipt" audit ws/receipts --nonce "$(printf '00%.0s' $(seq 32))"

# ---- policies, trust files ----
"$program" policy show --json | sed 's/.*"policy"://; s/}$//' >policy.json
for change in 's/"number":0/"number":1/' 's/"number":0/"number":0.5/' 's/"origin"/"number":0,"origin"/' 's/{/{"extra":1,/' \
    's/"threshold":1/"threshold":9/' 's/.$//' 's/urn:fieldprint:policy:v1/urn:fieldprint:policy:v9/'; do
    sed "$change" policy.json >changed.json
    refused "" policy propose changed.json
done
head -c 100 ws/trust.json >cut.json
check 3 "trust" ledger verify --trust cut.json
check 3 "no trust file\|no such file" ledger verify --trust missing.json
healthy

# ---- ledgers ----
ledger_damage() { # ledger_damage WORD: refused as it is; then put right again
    refused "$1" run -m a.gguf -a library -p x --no-receipt
    rm -rf ws && cp -r ws.good ws
}
rm -rf ws && cp -r ws.good ws
: >ws/ledger/checkpoint && ledger_damage "ledger"
rm ws/ledger/checkpoint && ledger_damage "ledger"
flip ws/ledger/checkpoint $(($(size_of ws/ledger/checkpoint) - 10)) && ledger_damage "ledger"
flip ws/ledger/checkpoint 3 && ledger_damage "ledger"
sed -i '2s/.*/2/' ws/ledger/checkpoint && ledger_damage "ledger"
rm -rf ws && cp -r other.ws ws && cp ws.good/trust.json ws/ && ledger_damage ""
# an older checkpoint, truly signed: a log does not go back
cp ws/ledger/checkpoint old.checkpoint
check 0 "" run -m a.gguf -p x -n 2
cp old.checkpoint ws/ledger/checkpoint
ledger_damage "back\|smaller\|older\|inconsistent"
entries=$(sed -n 2p ws/ledger/checkpoint)
for file in $(cd ws.good && find ledger/tile -type f -name "$entries"); do # the newest of each
    flip "ws/$file" $(($(size_of "ws/$file") / 2))
    check 1 "ledger/tile" ledger fsck
    rm -rf ws && cp -r ws.good ws
    rm "ws/$file"
    check 3 "${file#ledger/}" ledger fsck
    rm -rf ws && cp -r ws.good ws
done
echo garbage >ws/registry.db # a cache: made anew
healthy
rm ws/registry.db
healthy

# ---- logs by themselves ----
openssl genpkey -algorithm ed25519 -out log.pem 2>/dev/null && chmod 600 log.pem
mine=(--log mylog --key log.pem --origin example.com/mine)
check 2 'needs --log DIR, --key' ledger init --log mylog
check 0 'example.com/mine+' ledger init "${mine[@]}"
vkey=$(cat output)
check 3 'already' ledger init "${mine[@]}"
seq 1 700 >lines
check 0 'the log has 700' ledger append --lines "${mine[@]}" lines
check 2 'at most 65535' ledger append "${mine[@]}" a.gguf
check 0 'log "example.com/mine": 700 entries' ledger verify --log mylog --vkey "$vkey" --state seen
check 0 'clean: 700 entries' ledger fsck --log "file://$PWD/mylog" --vkey "$vkey"
check 0 '"index":77' ledger proof 77 --log mylog --vkey "$vkey" -o proof --json
printf 78 >entry && printf 79 >other
check 0 'number 77' ledger verify --vkey "$vkey" --proof proof --entry entry
check 1 'does not lead to the root' ledger verify --vkey "$vkey" --proof proof --entry other
check 2 'needs --entry' ledger verify --vkey "$vkey" --proof proof
check 0 'copied to' ledger export copied --log mylog --vkey "$vkey"
check 3 'not empty' ledger export copied --log mylog --vkey "$vkey"
check 0 'clean: 700 entries' ledger fsck --log copied --vkey "$vkey"
check 0 'copied to' ledger export copied-ws
flip copied/tile/entries/001 43
check 1 'tile/entries/001' ledger verify --log copied --vkey "$vkey"
check 1 'tile/0/001' ledger fsck --log copied --vkey "$vkey"
check 0 'the log has 701' ledger append "${mine[@]}" other
check 0 '701 entries' ledger verify --log mylog --vkey "$vkey" --state seen
rm -r copied && check 0 'copied' ledger export copied --log mylog --vkey "$vkey"
rm -r mylog && check 0 'mine' ledger init "${mine[@]}"
check 1 'went back' ledger verify --log mylog --vkey "$vkey" --state seen
seq 2 900 >lines
check 0 'the log has 899' ledger append --lines "${mine[@]}" lines
check 1 'forked' ledger verify --log mylog --vkey "$vkey" --state seen
check 3 'cannot get http://127.0.0.1:9/' ledger verify --log http://127.0.0.1:9/ --vkey "$vkey"
check 2 'needs --policy' ledger witness "${mine[@]}"
printf 'log %s\nquorum nobody\n' "$vkey" >bad.policy
check 3 'line 2' ledger verify --log mylog --policy bad.policy
check 3 'witness.policy' ledger witness

# ---- prompts ----
refused "UTF-8" run -m a.gguf -a library -p $'caf\xe9' --no-receipt
printf 'a\0b' >nul.txt
refused "NUL" run -m a.gguf -f nul.txt --no-receipt
printf 'x%.0s' $(seq 3000) >long.txt
refused "context overflow" run -m a.gguf -f long.txt --ctx 1024 --no-receipt
refused "context" run -m a.gguf -a library -p x --ctx 256 --no-receipt
check 0 "" run -m a.gguf -p x --ctx 64 --ignore-eog --no-receipt # the context fills: the answer ends
refused "no such file\|cannot open" run -m a.gguf -f missing.txt --no-receipt
head -c 2000000 /dev/zero | tr '\0' 'x' >huge.txt
refused "" anchor add huge.txt -m a.gguf
head -c 40000 /dev/zero | tr '\0' 'x' >big.txt # more tokens than the policy allows in a set
check 2 "2048" anchor add big.txt -m a.gguf
healthy

# ---- two holders who must agree ----
export FIELDPRINT_WORKSPACE=$folder/two
check 0 "ada" key generate --holder ada
check 3 "must agree" policy create --threshold 2
check 0 "override" key generate --holder bea --purpose override
check 0 "bea" key generate --holder bea --purpose policy --purpose author --purpose register --purpose promote \
    --purpose compiler --purpose revoke --purpose distrust --purpose endorse --purpose engine
check 0 "" policy create --threshold 2 --origin example.org/two
check 0 "" ledger init
check 0 "example.org/two" ledger verify
mv two/keys/bea bea.keys
check 0 "" anchor create library.txt --name library
check 0 "1 signature" anchor sign library --yes
check 1 "signed by 1 of 2 holders" anchor register library
mkdir two/keys/bea && cp bea.keys/author.pem two/keys/bea/ && check 0 "1 signature" anchor sign library -y
check 0 "1 more holders must sign" anchor register library
pending=$(echo two/pending/*.dsse.json)
cp bea.keys/register.pem two/keys/bea/
check 0 "entry 1 of the ledger" event sign "$pending"
check 1 "not-promoted" anchor compile library -m a.gguf
cp bea.keys/* two/keys/bea/
check 0 "entry 2" anchor promote library
check 0 "compiled" anchor compile library -m a.gguf
check 0 "" anchor create library.txt --name library --version 2
second=$(cat output)
check 0 "2 signatures" anchor sign "$second" -y
check 0 "" anchor register library@2
check 1 "not promoted\|not-promoted" anchor supersede library@1 library@2
check 0 "" anchor promote library@2
check 0 "supersede: entry" anchor supersede library@1 library@2 --why "a new version"
check 1 "superseded" run -m a.gguf -a library@1 -p x
check 0 "revoke: entry" anchor revoke library@2 --why "a test"
check 1 "revoked" run -m a.gguf -a library@2 -p x
check 0 '"state":"superseded"' anchor list --json
check 0 "^clean" ledger fsck
export FIELDPRINT_WORKSPACE=$folder/ws

# ---- full disk, read-only folder ----
rm -rf ws && cp -r ws.good ws
before=$(size_of ws/ledger/checkpoint)
failed_before=$failures
(
    ulimit -f 8 # KiB
    check 3 "larger than the limit" anchor compile library -m a.gguf
    exit "$((failures - failed_before))"
) || failures=$((failures + 1))
[ "$(size_of ws/ledger/checkpoint)" = "$before" ] || fail "the log moved although nothing could be written"
healthy
"$program" run -m a.gguf -p x -n 3 --no-receipt >/dev/full 2>error </dev/null
code=$?
checks=$((checks + 1))
{ [ "$code" = 3 ] && grep -q "cannot write" error; } || fail "standard output full: exit code $code"
mkdir small
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=8m tmpfs small 2>/dev/null; then
    mounted=$folder/small
    cp -r ws.good small/ws
    head -c 16000000 /dev/zero >small/fill 2>/dev/null
    FIELDPRINT_WORKSPACE=small/ws check 3 "no space left" run -m a.gguf -a library -p x -n 3
    FIELDPRINT_WORKSPACE=small/ws check 3 "no space left" anchor compile library -m a.gguf
    rm small/fill
    FIELDPRINT_WORKSPACE=small/ws healthy
    umount small && mounted=''
fi
rm -rf readonly.ws && cp -r ws.good readonly.ws
chmod -R a+rX "$folder" && chmod -R a-w readonly.ws
if [ "$(id -u)" = 0 ]; then
    chown -R 65534 readonly.ws
    as_other=(setpriv --reuid=65534 --clear-groups)
else
    as_other=()
fi
if "${as_other[@]}" test -x "$program" 2>/dev/null; then
    checks=$((checks + 2))
    FIELDPRINT_WORKSPACE=readonly.ws "${as_other[@]}" "$program" run -m a.gguf -a library -p x -n 3 --no-receipt \
        >output 2>error </dev/null || fail "a read-only workspace cannot be read"
    code=0
    FIELDPRINT_WORKSPACE=readonly.ws "${as_other[@]}" "$program" run -m a.gguf -a library -p x -n 3 \
        >output 2>error </dev/null || code=$?
    { [ "$code" = 3 ] && grep -q "permission denied\|read-only" error; } || fail "a read-only workspace: exit code $code"
fi
[ "$(id -u)" != 0 ] || chown -R 0 readonly.ws

# ---- Ctrl-C ----
rm -rf ws output && cp -r ws.good ws # output: it is waited for, and a shell not yet replaced by the program would clean up
"$program" run -m a.gguf -a library -p x --ignore-eog --ctx 32768 >output 2>error </dev/null &
pid=$!
for _ in $(seq 3000); do # a slow machine takes its time
    [ ! -s output ] || break
    sleep 0.02
done
kill -INT $pid
wait $pid
code=$?
checks=$((checks + 2))
{ [ "$code" = 3 ] && grep -q "interrupted" error; } || fail "Ctrl-C: exit code $code"
partial=$(sed -n 's/^receipt: *//p' error)
healthy
if [ -n "$partial" ]; then
    check 0 "VALID-FULL" audit "$partial" -m a.gguf
fi

# ---- kill -9 ----
for delay in 0 0.005 0.01 0.015 0.02 0.03 0.04 0.06 0.08 0.12; do
    for what in "anchor add big2.txt --name big$delay" "anchor compile library"; do
        head -c 1800 library.txt >big2.txt
        # shellcheck disable=SC2086 # several words
        "$program" $what -m a.gguf >output 2>error </dev/null &
        pid=$!
        sleep "$delay"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        check 0 "^clean" ledger fsck
        check 0 "library" anchor list
    done
done
healthy
check 0 "compiled" anchor compile library -m a.gguf
check 0 "" run -m a.gguf -a library -p x -n 3

echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
