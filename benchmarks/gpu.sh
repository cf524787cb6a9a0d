#!/usr/bin/env bash
# Everything that wants a GPU, in one go: bash benchmarks/gpu.sh FOLDER. Needs about 45 GiB of its memory and 20 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:-benchmarks/results/gpu}
python=${PYTHON:-python}
mkdir -p "$to"
"$python" benchmarks/step.py --to "$to/step.json"
"$python" benchmarks/qlora_step.py --to "$to/qlora_step.json"
"$python" benchmarks/headline.py --to "$to/headline_fp16.json"
"$python" benchmarks/headline.py --precision fp32 --to "$to/headline_fp32.json"
"$python" benchmarks/depth.py --to "$to/depth.json"
"$python" benchmarks/generation.py --ranks 1 4 8 32 64 --r 64 --to "$to/generation.json"
"$python" benchmarks/generation.py --ranks 1 4 8 32 64 --r 64 --quantization nf4 --to "$to/generation_nf4.json"
