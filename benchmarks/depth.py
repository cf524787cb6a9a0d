"""Time greedy decoding at an exit against the whole depth, and hold it to the ideal that counts weights."""

from __future__ import annotations

from collections.abc import Callable

import subject
import timing
import torch
from generation import QUESTIONS

from rankbench.methods.sorted_ft import Sorted
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone
from rankbench.models.precision import choose_precision
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses


def main() -> None:
    parser = timing.arguments(__doc__, repeats=5)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--exits", type=int, nargs="+", default=[10, 15, 20, 25], help="depths beside the whole")
    parser.add_argument("--prompts", type=int, default=1, choices=range(1, 5), help="prompts in a batch")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens that each answer has")
    asked = parser.parse_args()

    exits = ",".join(map(str, asked.exits))
    run = subject.run(f"model={asked.model}", "task=instruction", "adapter=sorted_ft", f"adapter.exits=[{exits}]")
    precision = choose_precision(run.train.precision, run.hardware)
    body = backbone.load(run.model, None, False, run.seed)
    adapter = Sorted(run, body.model)
    adapter.model.to(subject.device()).eval()
    prompts = body.tokenizer(QUESTIONS[: asked.prompts], add_special_tokens=False)["input_ids"]

    def answer(member: Submodel) -> list[list[list[int]]]:
        endless, pad_id = Responses(asked.new_tokens, frozenset(), str), body.tokenizer.pad_token_id
        with torch.autocast(subject.device().type, torch.bfloat16, enabled=precision[0] == "bf16"):
            return generate(adapter.model, adapter, prompts, [member], endless, pad_id=pad_id, rows=len(prompts))

    sides: dict[str, Callable[[int], Callable[[], object]]] = {
        str(member.depth): lambda _, member=member: lambda: answer(member) for member in adapter.family
    }
    seconds = timing.alternate(sides, asked.repeats, 1)
    whole = adapter.family[-1]
    layer = sum(p.numel() for p in adapter.stack.layers[0].parameters())
    head = sum(p.numel() for p in adapter.stack.head(whole.depth or 0).parameters())
    tokens = asked.new_tokens * len(prompts)
    rows, figures = [], {}
    for member in adapter.family:
        depth = member.depth or 0
        own, longest = seconds[str(depth)], seconds[str(whole.depth)]
        faster = timing.ratio(longest, own)
        ideal = ((whole.depth or 0) * layer + head) / (depth * layer + head)
        figures[depth] = {"times_faster": faster, "ideal": ideal, "of_ideal": faster / ideal}
        rate = f"{tokens / timing.middle(own):.1f}"
        rows.append([str(depth), rate, f"{faster:.2f}", f"{ideal:.2f}", f"{faster / ideal:.2f}"])
    text = (
        f"{asked.model}, {len(prompts)} prompts, {asked.new_tokens} new tokens; weights: a layer {layer:,}, the head "
    )
    text += f"{head:,}\n\n{timing.table(['depth', 'tokens/s', 'times faster', 'ideal', 'of the ideal'], rows)}"
    timing.report(asked, text, {"seconds": seconds, "depths": figures}, precision)


if __name__ == "__main__":
    main()
