#!/usr/bin/env bash
# Checks the GPU's attention against its definition, measures it and its peers, and holds the figures against their
# bars, all on this machine in one call.
#   bench/gpu.sh PROGRAM [FOLDER]   PROGRAM: build/tests/cuda_attention; results go to FOLDER (default: .)
# Prints JSON, one object a line; fails if one output word differs.
set -euo pipefail
program=${1:?usage: bench/gpu.sh PROGRAM [FOLDER]}
folder=${2:-.}
here=$(cd "$(dirname "$0")" && pwd)

"$program" --check 40 | tee "$folder/attention_check.jsonl"
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
        verdict=clean
        timeout 100 compute-sanitizer --tool $tool --error-exitcode 9 "$program" --brief >"$folder/attention_$tool.log" 2>&1 || verdict="not clean ($?)"
        echo "{\"tool\": \"$tool\", \"verdict\": \"$verdict\"}" | tee "$folder/attention_$tool.jsonl"
    fi
done
"$program" --bench | tee "$folder/attention_bench.jsonl"
if python3 -c 'import torch' 2>/dev/null; then
    python3 "$here/torch_sdpa.py" | tee "$folder/attention_peers.jsonl"
else
    echo '{"peers": "no PyTorch here"}'
fi
python3 "$here/attention_bars.py" "$folder" | tee "$folder/attention_bars.jsonl"
