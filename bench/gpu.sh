#!/usr/bin/env bash
# Checks the GPU's attention against its definition, then measures it and its peers, all on this machine in one call.
#   bench/gpu.sh PROGRAM [FOLDER]   PROGRAM: build/tests/cuda_attention; results go to FOLDER (default: .)
# Prints JSON, one object a line; fails if one output word differs.
set -euo pipefail
program=${1:?usage: bench/gpu.sh PROGRAM [FOLDER]}
folder=${2:-.}
here=$(cd "$(dirname "$0")" && pwd)

"$program" --check 40 | tee "$folder/attention_check.jsonl"
"$program" --bench | tee "$folder/attention_bench.jsonl"
if python3 -c 'import torch' 2>/dev/null; then
    python3 "$here/torch_sdpa.py" | tee "$folder/attention_peers.jsonl"
else
    echo '{"peers": "no PyTorch here"}'
fi
