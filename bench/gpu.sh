#!/usr/bin/env bash
# Checks everything that runs on the GPU against the CPU or the definition, then measures it beside its peers: all of it on
# this machine, in one call.
#   bench/gpu.sh PROGRAMS [FOLDER]
# PROGRAMS: the folder that bench/gpu/build_all.sh made. FOLDER: where the results go (default: bench/results): gpu_all.json
# with everything, machine and commit in it, and the JSON and plots of the experiments. A program that is not there is left
# out, one that fails or takes too long loses nothing of the others; the exit code tells whether a check failed.
#   FIELDPRINT_GPU_SECONDS  time for all of it (default 900); what is not begun by then is skipped
#   FIELDPRINT_BRIEF        1: the most telling ones only, four to five minutes
#   FIELDPRINT_PEERS        a folder with Python packages of peers (FlashInfer), put on PYTHONPATH
#   FIELDPRINT_STEPS        only these steps, by name (default: all); the results of the others in FOLDER stay
set -uo pipefail
programs=$(realpath "${1:?usage: bench/gpu.sh PROGRAMS [FOLDER]}")
here=$(cd "$(dirname "$0")" && pwd)
folder=${2:-$here/results}
mkdir -p "$folder"
folder=$(realpath "$folder")
raw=$folder/raw
[ -n "${FIELDPRINT_STEPS:-}" ] || rm -rf "$raw"
mkdir -p "$raw"
total=${FIELDPRINT_GPU_SECONDS:-900}
FIELDPRINT_COMMIT=${FIELDPRINT_COMMIT:-$(cat "$programs/COMMIT" 2>/dev/null || git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)}
export FIELDPRINT_COMMIT PYTHONUNBUFFERED=1 PYTHONPATH=${FIELDPRINT_PEERS:-}${PYTHONPATH:+:$PYTHONPATH}
# the first look at a GPU can take a minute where no driver was running: not part of the time
timeout 120 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit --format=csv >"$raw/nvidia-smi.txt" 2>&1 || true
start=$SECONDS
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# step NAME LIMIT COMMAND...: standard output to raw/NAME.jsonl, the rest to raw/NAME.log.
step() {
    local name=$1 limit=$2 left=$((total - (SECONDS - start))) begin=$SECONDS code=0
    shift 2
    case " ${FIELDPRINT_STEPS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
    if [ "$left" -lt 10 ]; then
        code=skipped
    elif [[ $1 == "$programs"/* && ! -x $1 ]]; then
        code=absent
    else
        [ "$limit" -le "$left" ] || limit=$left
        timeout -k 5 "$limit" env FIELDPRINT_BENCH_SECONDS=$((limit * 3 / 4)) "$@" >"$raw/$name.jsonl" 2>"$raw/$name.log" || code=$?
    fi
    printf '{"step": "%s", "code": "%s", "seconds": %d}\n' "$name" "$code" $((SECONDS - begin)) | tee -a "$raw/steps.jsonl"
    case $code:$name in
    0:* | 77:* | skipped:* | absent:*) ;;
    *:check_*)
        failed=1
        tail -n 5 "$raw/$name.jsonl" "$raw/$name.log"
        ;;
    *) tail -n 3 "$raw/$name.log" ;;
    esac
}

fieldprint=$programs/fieldprint
experiment() { # NAME LIMIT SCRIPT ARGUMENT...
    local name=$1 limit=$2 script=$3
    shift 3
    [ -x "$fieldprint" ] || return 0
    step "$name" "$limit" python3 "$here/experiments/$script" --program "$fieldprint" --device cuda --out "$raw" --seconds $((limit - 3)) "$@"
}
# Decoding of the 8B shape, all from one upload of the weights: the bars' points, E1's, then E3's.
points=1x4096@32,1x32000@24,1x102400@24,$(python3 "$here/experiments/e1_hashing.py" --device cuda --list-points)
points+=,8x32000@24,32x4096@24,32x4096+2048@24,128x4096@16,32x32000@16,1x1048000@16
points_q8_0=1x4096@32,1x32000@24,1x102400@24,32x4096@24
model() { # TYPE LIMIT ARGUMENT...
    local type=$1 limit=$2
    shift 2
    step "model_$type" "$limit" "$fieldprint" bench model --device cuda --type "$type" --runs 2 --seconds $((limit - 14)) --json "$@"
}

if [ "${FIELDPRINT_BRIEF:-0}" = 1 ]; then # four to five minutes
    step check_attention 20 "$programs/cuda_attention" --check 8
    step check_engine 10 "$fieldprint" bench model --device cuda --shape tiny --context 300 --batch 1,3 --anchor 70 --steps 70 --runs 1 --validation async --json
    step check_store 15 "$programs/cuda_store" check "$scratch"
    step torch_peers 24 python3 "$here/torch_sdpa.py"
    step bench_attention 25 "$programs/cuda_attention" --bench
    model q4_0 60 --points "$points" --prefill 512,2048,8192
    model q8_0 32 --points "$points_q8_0" --prefill 512,2048
    step flashinfer_peers 40 python3 "$here/flashinfer_peers.py"
    step hash_gpu 6 "$fieldprint" bench hash --device cuda --pages 4 --json
    step hash_gpu_32 6 "$fieldprint" bench hash --device cuda --pages 32 --json
    experiment e1 5 e1_hashing.py --model-json "$raw/model_q4_0.jsonl"
    experiment e2 25 e2_bandwidth.py --brief --torch-lines "$raw/torch_peers.jsonl" --flashinfer-lines "$raw/flashinfer_peers.jsonl"
    experiment e3 20 e3_scaling.py --brief --model-json "$raw/model_q4_0.jsonl"
    step check_forward 30 "$programs/cuda_forward" check
    SANITIZE_ONLY='attention|forward|page|Q4_0|Q8_0|Q6_K|elementwise|hash|fieldprint' SANITIZE_SECONDS=80 step check_sanitize 90 "$here/gpu/sanitize.sh" "$programs" "$raw/sanitize"
else
    step check_attention 60 "$programs/cuda_attention" --check 40
    step check_ops 60 "$programs/ops_gpu" check
    step check_forward 60 "$programs/cuda_forward" check
    step check_engine 30 "$fieldprint" bench model --device cuda --shape tiny --context 300 --batch 1,3 --anchor 70 --steps 70 --runs 1 --validation none,async,async-cpu,sync-page,sync-token --json
    step check_store 30 "$programs/cuda_store" check "$scratch"
    step check_sanitize 300 "$here/gpu/sanitize.sh" "$programs" "$raw/sanitize"
    [ ! -e "$programs/libfieldprint_attention.so" ] || step check_triton 45 python3 "$here/triton_reference.py" --library "$programs/libfieldprint_attention.so"
    step torch_peers 60 python3 "$here/torch_sdpa.py"
    step flashinfer_peers 70 python3 "$here/flashinfer_peers.py"
    step bench_attention 45 "$programs/cuda_attention" --bench
    experiment e2 45 e2_bandwidth.py --torch-lines "$raw/torch_peers.jsonl" --flashinfer-lines "$raw/flashinfer_peers.jsonl"
    step hash_gpu 10 "$fieldprint" bench hash --device cuda --pages 4 --json
    step hash_gpu_32 10 "$fieldprint" bench hash --device cuda --pages 32 --json
    step hash_cpu 10 "$fieldprint" bench hash --json
    model q4_0 110 --points "$points" --prefill 512,2048,8192,32768
    model q8_0 60 --points "$points_q8_0" --prefill 512,2048,8192
    experiment e1 5 e1_hashing.py --model-json "$raw/model_q4_0.jsonl"
    experiment e3 40 e3_scaling.py --model-json "$raw/model_q4_0.jsonl"
    step forward_q4_0 45 "$programs/cuda_forward" bench Q4_0
    step forward_q8_0 45 "$programs/cuda_forward" bench Q8_0
    step bench_ops 40 "$programs/ops_gpu" bench "$raw/ops.json"
fi
python3 "$here/gpu/collect.py" "$raw" "$folder"
cp "$raw"/e?_cuda.json "$raw"/e?_cuda.svg "$folder" 2>/dev/null
exit $failed
