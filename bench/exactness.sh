#!/usr/bin/env bash
# The same bits however they are computed: runs one anchored answer and one perplexity under every kernel table of the
# machine, several thread counts, prefill chunks, batches and hash workers, and with the anchor restored from its artifact
# or compiled anew; compares token ids, K/V roots, anchor masses and every log-probability.
#
#   bench/exactness.sh MODEL TEXT [CHUNKS]
set -euo pipefail
model=${1:?which model?}
text=${2:?which text?}
chunks=${3:-2}
here=$(cd "$(dirname "$0")/.." && pwd)
program=${FIELDPRINT:-$here/build/fieldprint}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export FIELDPRINT_WORKSPACE=$work/workspace
"$program" init >/dev/null
"$program" anchor add "$here/examples/harbour-library.txt" -m "$model" --type core >/dev/null
kernels=$("$program" doctor --json | sed 's/.*"kernels_available":"\([^"]*\)".*/\1/')
different=0
runs=0

check() { # check LABEL REFERENCE FILE
    runs=$((runs + 1))
    if [ ! -f "$2" ]; then
        cp "$3" "$2"
        printf '%-58s %s\n' "$1" "reference $(sha256sum <"$3" | cut -c1-16)"
    elif cmp -s "$2" "$3"; then
        printf '%-58s %s\n' "$1" equal
    else
        printf '%-58s %s\n' "$1" DIFFERENT
        different=$((different + 1))
    fi
}

answer() { # answer LABEL [ENV=VALUE]... -- [OPTION]...
    local label=$1 env=()
    shift
    while [ "$1" != -- ]; do
        env+=("$1")
        shift
    done
    shift
    env "${env[@]}" "$program" run -m "$model" -a harbour-library -p "Who is the director, and what is the mascot called?" \
        -n 48 --temperature 0.8 --top-p 0.9 --seed 7 --no-receipt --json "$@" |
        sed 's/"timings":{[^}]*}//' >"$work/answer"
    check "run $label" "$work/answer.reference" "$work/answer"
}

score() { # score LABEL [ENV=VALUE]... -- [OPTION]...
    local label=$1 env=()
    shift
    while [ "$1" != -- ]; do
        env+=("$1")
        shift
    done
    shift
    env "${env[@]}" "$program" perplexity -m "$model" -f "$text" --chunks "$chunks" --json -o "$work/logprobs" "$@" |
        sed 's/"tokens_per_s":[^,]*,//' >"$work/roots"
    cat "$work/roots" "$work/logprobs" >"$work/score"
    check "perplexity $label" "$work/score.reference" "$work/score"
}

for kernel in $kernels; do
    for threads in 1 2; do
        answer "kernels $kernel, threads $threads" FIELDPRINT_KERNELS="$kernel" -- -t "$threads"
    done
done
for chunk in 1 7 64 512; do
    answer "chunk $chunk" -- --chunk "$chunk"
    score "chunk $chunk" -- --chunk "$chunk"
done
for kernel in $kernels; do
    [ "$kernel" = ref ] && [ -z "${SLOW:-}" ] && continue # minutes; SLOW=1 runs it too
    score "kernels $kernel, threads 1" FIELDPRINT_KERNELS="$kernel" -- -t 1
done
score "threads 2" -- -t 2
for batch in 2 5; do
    answer "in a batch of $batch" -- --batch "$batch"
    score "$batch at a time" -- --batch "$batch"
done
for workers in 0 3; do
    answer "hash workers $workers" -- --hash-threads "$workers"
done
rm -f "$work"/workspace/artifacts/*
"$program" anchor compile harbour-library -m "$model" -t 1 --chunk 33 >/dev/null
answer "anchor compiled anew, chunk 33, 1 thread" --
echo "$runs runs, $different different"
[ "$different" -eq 0 ]
