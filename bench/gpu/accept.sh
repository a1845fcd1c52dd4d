#!/usr/bin/env bash
# Acceptance of `--device cuda`, on a machine with a GPU: the whole main job on the GPU and on the CPU, compared bit for bit.
#   bench/gpu/accept.sh PROGRAM MODEL [FOLDER]
# PROGRAM: a fieldprint built with CUDA (build_program.sh makes one to carry); MODEL: a GGUF file; FOLDER: where the results
# go (default: a temporary one). Prints one line a check and a summary; exits 1 if anything differs. Needs bash and python3.
# ACCEPT_OTHER=cpu compares the CPU with itself: for trying the script where there is no GPU. ACCEPT_PARTS="receipts validate"
# leaves out all but these parts (and the anchor and the answers, which the others need).
set -uo pipefail
program=$(realpath "${1:?usage: accept.sh PROGRAM MODEL [FOLDER]}")
model=$(realpath "${2:?usage: accept.sh PROGRAM MODEL [FOLDER]}")
source=$(cd "$(dirname "$0")/../.." && pwd)
folder=${3:-$(mktemp -d)}
mkdir -p "$folder" && cd "$folder" || exit 3
gpu=${ACCEPT_OTHER:-cuda}
unset FIELDPRINT_DEVICE
export FIELDPRINT_MODEL=$model FIELDPRINT_WORKSPACE=$folder/workspace
rm -rf workspace ./*.json ./*.fps ./*.fpkv ./*.f64
parts=" ${ACCEPT_PARTS:-variants forms validate receipts scores sessions damage speed} "
part() { [[ $parts == *" $1 "* ]]; }
checks=0 failures=0
start=$(date +%s.%N)

pass() {
    checks=$((checks + 1))
    if [ "$1" = 0 ]; then
        printf '%6.1f s  ok      %s\n' "$(echo "$(date +%s.%N) $start" | awk '{print $1 - $2}')" "$2"
    else
        failures=$((failures + 1))
        echo "FAILED: $2"
        tail -n 5 error 2>/dev/null
    fi
}
# run NAME ARGUMENT...: the program's JSON goes to NAME.json.
run() {
    local name=$1
    shift
    "$program" "$@" --json >"$name.json" 2>error || {
        pass 1 "fieldprint $*"
        return 1
    }
}
get() { python3 -c 'import json,sys; v=json.load(open(sys.argv[1]+".json"))
for k in sys.argv[2].split("."): v=v[k]
print(v if isinstance(v,str) else json.dumps(v))' "$1" "$2"; }
# same WHAT A B: K/V root, tokens, text and anchor masses of two answers; the masses' 64-bit sums are in the transcripts.
same() {
    python3 - "$2" "$3" <<'P' >error 2>&1
import json, sys
a, b = (json.load(open(n + ".json")) for n in sys.argv[1:3])
for k in ("kv_root", "ids", "text", "finish", "anchor_mass"):
    if a.get(k) != b.get(k):
        sys.exit(f"{k} differs: {str(a.get(k))[:200]} / {str(b.get(k))[:200]}")
if "transcript" in a and "transcript" in b:
    la, lb = (json.load(open(x["transcript"]))["leaves"] for x in (a, b))
    strip = lambda l: [{k: v for k, v in x.items() if k != "salt"} for x in l]
    if strip(la) != strip(lb):
        sys.exit("the leaves of the transcripts differ")
P
    pass $? "$1"
}

"$program" doctor
if [ "$gpu" = cuda ] && "$program" doctor | grep -q '^GPU  *none'; then
    echo "no GPU: nothing to accept"
    exit 77
fi

# new_anchor FILE NAME: its id goes to $anchor.
new_anchor() {
    "$program" anchor create "$1" --name "$2" --mode floor --gamma 0.1 --json >created.json 2>error || pass 1 "anchor create $2"
    anchor=$(get created id)
    for step in sign register promote; do
        "$program" anchor "$step" "$anchor" >/dev/null 2>error || pass 1 "anchor $step $2"
    done
}
tokens_of() { "$program" tokenize -f "$1" --json | python3 -c 'import json,sys; print(len(json.load(sys.stdin)["ids"]))'; }

# ---- an anchor, compiled on both ----
"$program" init >/dev/null 2>error || pass 1 init
new_anchor "$source/examples/harbour-library.txt" library
run compile-gpu anchor compile "$anchor" --device "$gpu" && cp workspace/artifacts/*.fpkv gpu.fpkv
run compile-cpu anchor compile "$anchor" --device cpu && cp workspace/artifacts/*.fpkv cpu.fpkv
cmp gpu.fpkv cpu.fpkv >error 2>&1
pass $? "artifact compiled on the GPU = on the CPU ($(get compile-gpu tokens) tokens, $(get compile-gpu pages) pages)"

# ---- 512 tokens of prompt, 256 tokens of answer ----
bytes=400
while head -c "$bytes" "$source/docs/concepts.md" | LC_ALL=C tr -cd '\12\40-\176' >prompt.txt &&
    n=$(tokens_of prompt.txt) && [ "$n" -lt 500 ]; do
    bytes=$((bytes + (500 - n) + 16))
done
nonce=$(printf '%064d' 7)
answer=(run -f prompt.txt -n 256 --ignore-eog --nonce "$nonce")
run a-gpu "${answer[@]}" --device "$gpu" --save gpu.fps
run a-cpu "${answer[@]}" --device cpu --save cpu.fps
same "plain: GPU = CPU ($(get a-gpu tokens.prompt) + $(get a-gpu tokens.output) tokens; decode $(get a-gpu timings.decode_tokens_per_s) t/s)" a-gpu a-cpu
run b-gpu "${answer[@]}" -a library --device "$gpu" --artifact cpu.fpkv --save anchored-gpu.fps
run b-cpu "${answer[@]}" -a library --device cpu --artifact gpu.fpkv --save anchored-cpu.fps
same "with the anchor (each with the other's artifact): GPU = CPU" b-gpu b-cpu
if part variants; then
    sampled=(--temperature 0.8 --top-k 40 --top-p 0.95 --repeat-penalty 1.1)
    run c-gpu "${answer[@]}" -a library "${sampled[@]}" --device "$gpu"
    run c-cpu "${answer[@]}" -a library "${sampled[@]}" --device cpu
    same "sampled, with penalties: GPU = CPU" c-gpu c-cpu
    run d-gpu "${answer[@]}" -a library --device "$gpu" --chunk 64 --hash-threads 0
    same "other chunks, hashing in the loop: GPU = GPU" d-gpu b-gpu
    run e-gpu "${answer[@]}" -a library --device "$gpu" --batch 5
    same "in a batch with 4 others: GPU = GPU alone" e-gpu b-gpu
fi

# ---- steps of other forms within one answer ----
# One sequence alone, a few, and many that share a long anchor are attended by different kernels (fp_cuda_attention_form).
# Here others join while the answer is decoded: one, which ends long before it does (with the default model), then so many
# that their rows over the anchor become large stacks. The anchor is as long as a first policy allows, nearly.
if part forms; then
    bytes=7200
    while head -c "$bytes" "$source/docs/concepts.md" | LC_ALL=C tr -cd '\12\40-\176' >manual.txt &&
        n=$(tokens_of manual.txt) && [ "$n" -gt 1900 ]; do
        bytes=$((bytes * 1880 / n))
    done
    new_anchor manual.txt manual
    run manual-cpu anchor compile "$anchor" --device cpu
    run manual-gpu anchor compile "$anchor" --device "$gpu" && [ "$(get manual-gpu kv_head)" = "$(get manual-cpu kv_head)" ]
    pass $? "K/V of a long anchor: GPU = CPU ($(get manual-gpu tokens) tokens)"
    story=(run -p "Write a long story about a lighthouse keeper and the sea." -a manual -n 128 --ctx 4096 --nonce "$nonce")
    run f-cpu "${story[@]}" --device cpu
    run f-gpu "${story[@]}" --device "$gpu"
    same "an answer over it: GPU = CPU ($(get f-gpu tokens.output) tokens)" f-gpu f-cpu
    run f-2 "${story[@]}" --device "$gpu" --batch 2 --chunk 16
    same "another joins and leaves while it is decoded: the same" f-2 f-cpu
    run f-96 "${story[@]}" --device "$gpu" --batch 96 --chunk 64
    same "95 others over the same anchor join while it is decoded: the same" f-96 f-cpu
fi

# ---- checks of what the GPU computed, while it computes ----
if part validate; then
    for level in scrub replay; do
        for release in optimistic gated final; do
            run "v-$level" "${answer[@]}" -a library --device "$gpu" --validate "$level" --release "$release"
            same "--validate $level --release $release ($(get "v-$level" validation.pages_replayed) pages computed again by the CPU, $(get "v-$level" validation.weight_bytes_checked) bytes of weights looked at)" "v-$level" b-gpu
            [ "$(get "v-$level" validation.status)" = final ] && [ "$(get "v-$level" validation.failures)" = 0 ]
            pass $? "  it is final, and no check failed"
        done
    done
fi

# ---- receipts across devices ----
if part receipts; then
    for pair in "a-gpu cpu" "b-gpu cpu" "c-gpu cpu" "e-gpu cpu" "a-cpu $gpu" "b-cpu $gpu" "c-cpu $gpu" "b-gpu $gpu"; do
        read -r name device <<<"$pair"
        [ -e "$name.json" ] || continue
        run audit audit "$(get "$name" receipt)" -m "$model" --device "$device" && [ "$(get audit verdict)" = VALID-FULL ]
        pass $? "receipt of $name audits VALID-FULL on $device ($(get audit full_s) s)"
    done
fi

# ---- log-probabilities ----
if part scores; then
    head -c 6000 "$source/docs/concepts.md" >text.txt
    run p-gpu perplexity -f text.txt --ctx 256 --batch 3 --out gpu.f64 --device "$gpu"
    run p-cpu perplexity -f text.txt --ctx 256 --out cpu.f64 --device cpu
    cmp gpu.f64 cpu.f64 >error 2>&1 && [ "$(get p-gpu kv_roots)" = "$(get p-cpu kv_roots)" ]
    pass $? "log-probabilities of $(get p-gpu tokens) tokens and K/V roots: GPU = CPU"
fi

# ---- sessions saved on one and resumed on the other ----
if part sessions; then
    next=(run -p "And what was the first word of all this?" -n 32 --ignore-eog)
    run s-cpu-cpu "${next[@]}" --load cpu.fps --device cpu
    for pair in "gpu cpu" "cpu $gpu" "gpu $gpu"; do
        read -r saved device <<<"$pair"
        run "s-$saved-$device" "${next[@]}" --load "$saved.fps" --device "$device"
        same "session saved on $saved, resumed on $device" "s-$saved-$device" s-cpu-cpu
    done
    run t-gpu "${next[@]}" -a library --load anchored-cpu.fps --device "$gpu"
    run t-cpu "${next[@]}" -a library --load anchored-gpu.fps --device cpu
    same "with the anchor, each resumes the other's" t-gpu t-cpu
fi

# ---- damage is refused where it is loaded ----
if part damage; then
    python3 - <<'P'
import struct
data = bytearray(open("gpu.fpkv", "rb").read())
at = (struct.unpack_from("<Q", data, 16)[0] + 4095) // 4096 * 4096 + 12345
data[at] ^= 1
open("flipped.fpkv", "wb").write(data)
data = bytearray(open("gpu.fps", "rb").read())
at = (struct.unpack_from("<Q", data, 16)[0] + 4095) // 4096 * 4096 + 4321
data[at] ^= 16
open("flipped.fps", "wb").write(data)
P
    "$program" run -p x -n 4 -a library --artifact flipped.fpkv --device "$gpu" >output 2>error
    code=$?
    [ "$code" = 1 ] && [ ! -s output ] && grep -q 'page [0-9]*, layer [0-9]*, head [0-9]*' error
    pass $? "one flipped bit of the artifact is refused on the GPU: $(head -c 160 error)"
    "$program" run -p x -n 4 --load flipped.fps --device "$gpu" >output 2>error
    code=$?
    [ "$code" = 1 ] && [ ! -s output ] && grep -q 'page [0-9]*, layer [0-9]*, head [0-9]*' error
    pass $? "one flipped bit of a saved session is refused on the GPU: $(head -c 160 error)"
    if [ "$gpu" = cuda ]; then
        "$program" run -p x -n 4 --ctx 4000000 --batch 250 --device "$gpu" --no-receipt >output 2>error
        [ $? = 3 ] && grep -q tokens error
        pass $? "a context that does not fit is an error: $(head -c 300 error)"
    fi
    for what in "run -p x -n 4 --no-receipt" "bench attention --context 64" "bench hash" "bench model --shape tiny"; do
        # shellcheck disable=SC2086
        "$program" $what --device cuda:99 >output 2>error
        [ $? = 3 ] && { [ "$gpu" != cuda ] || grep -q 'there is no cuda:99' error; }
        pass $? "${what%% -*}: a GPU that is not there is an error: $(head -c 120 error)"
    done
fi

# ---- how fast ----
if part speed; then
    run speed-gpu bench speed --prefill 512 --decode 128 --repeat 2 --device "$gpu" && cat speed-gpu.json
    run speed-cpu bench speed --prefill 512 --decode 128 --repeat 1 --device cpu && cat speed-cpu.json
fi

echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
