#!/usr/bin/env bash
# Every kernel under compute-sanitizer: memcheck and racecheck (the page store also under initcheck), and the whole program.
#   bench/gpu/sanitize.sh PROGRAMS [FOLDER]
# PROGRAMS: the folder that bench/gpu/build_all.sh made. FOLDER: where the tools' reports go (default: a temporary one).
# One JSON line a run; exits 1 if a tool found anything or a program failed, 77 where there is no compute-sanitizer.
#   SANITIZE_SECONDS  limit for each run (default 240); a run that takes longer has no verdict and counts as failed
#   SANITIZE_JOBS     runs at a time (default: one for every core, at most 12)
#   SANITIZE_ONLY     only runs whose name has this in it (a pattern of bash's [[ =~ ]])
set -uo pipefail
programs=$(realpath "${1:?usage: bench/gpu/sanitize.sh PROGRAMS [FOLDER]}")
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(realpath "$folder")
limit=${SANITIZE_SECONDS:-240}
cores=$(nproc)
jobs=${SANITIZE_JOBS:-$((cores < 12 ? cores : 12))}
tool_path=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer)
if [ -z "$tool_path" ]; then
    echo '{"sanitize": "skipped: there is no compute-sanitizer"}'
    exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# check TOOL NAME COMMAND...
check() {
    local tool=$1 name=$2 begin=$SECONDS code=0 verdict
    shift 2
    [[ "$tool $name" =~ ${SANITIZE_ONLY:-.} ]] || return 0
    [ -x "$1" ] || return 0
    local log="$folder/$tool-${name//[^a-zA-Z0-9_]/-}.log"
    timeout -s KILL "$limit" "$tool_path" --tool "$tool" --print-limit 20 --error-exitcode 9 "$@" >"$log" 2>&1 || code=$?
    verdict=$(grep -aoE '(ERROR|RACECHECK) SUMMARY: .*' "$log" | tail -n 1)
    if [ "$code" = 0 ] && [[ $verdict == *" 0 errors"* || $verdict == *" 0 hazards"* || $verdict == *"(0 errors, 0 warnings)"* ]]; then
        code=clean
    else
        touch "$scratch/failed"
    fi
    printf '{"tool": "%s", "of": "%s", "verdict": "%s", "says": "%s", "seconds": %d}\n' "$tool" "$name" "$code" "${verdict:-nothing}" $((SECONDS - begin))
}
# run ...: check in the background, at most $jobs at a time.
run() {
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    check "$@" &
}

tiny=$scratch/tiny.gguf
[ ! -x "$programs/make_model" ] || "$programs/make_model" "$tiny" 5 8192 >/dev/null
for tool in racecheck memcheck; do
    run $tool "forward pass, small models" "$programs/cuda_forward" check few
    run $tool "attention" "$programs/cuda_attention" --brief
    mkdir "$scratch/$tool"
    run $tool "page store" "$programs/cuda_store" small "$scratch/$tool"
    for part in Q4_0 Q8_0 Q4_K Q6_K F16 Q4_1 Q5_0 Q5_1 Q5_K BF16 F32 elementwise hash; do
        run $tool "ops, $part" "$programs/ops_gpu" quick $part
    done
done
mkdir "$scratch/initcheck"
run initcheck "page store" "$programs/cuda_store" small "$scratch/initcheck"
run memcheck "fieldprint run" "$programs/fieldprint" run -m "$tiny" -p "hello there" -n 70 --ignore-eog --no-receipt --device cuda --validate scrub -t 2
run memcheck "fieldprint run, replay" "$programs/fieldprint" run -m "$tiny" -p "hello there" -n 70 --ignore-eog --no-receipt --device cuda --validate replay --release gated -t 2
wait
[ ! -e "$scratch/failed" ]
