"""Time beam search by four ranks in one call against a call for each, and compare its texts with LoRA's own search."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lora_beams
import subject
import timing
import torch

from rankbench.methods.submodel import Submodel
from rankbench.records.finished import finished
from rankbench.runs.life import execute
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import of_run
from rankbench.settings.compose import composed
from rankbench.shipping.finished_adapter import cut
from rankbench.shipping.loading import of_all_ranks
from rankbench.tasks.metrics import score

RECIPE = [
    "generation=beam",
    "generation.length_penalty=0.8",
    "generation.no_repeat_ngram_size=4",
    "generation.no_repeat_ngram_of=generated",
    r"generation.stop_texts=['\n\n']",
]
NAMES = ("Blue Heron", "Old Mill", "Green Door", "Lantern House", "Red Kettle", "Harbour Light", "Stone Oven", "Corner")
FOODS, AREAS, PRICES = ("Thai", "Greek", "Polish", "Persian"), ("riverside", "city centre"), ("cheap", "moderate")


def made_up() -> list[dict[str, Any]]:
    """Rows in the form of E2E."""
    rows = []
    for name, food, area, price in itertools.product(NAMES, FOODS, AREAS, PRICES):
        said = f"{name} serves {food} food in the {area}; its prices are {price}."
        other = f"In the {area} there is a {price} place for {food} food, {name}."
        meaning = f"name[{name}], food[{food}], priceRange[{price}], area[{area}]"
        rows.append({"meaning_representation": meaning, "references": [said, other]})
    return rows


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    """E2E's rows, or made-up ones, of which every other is to train on."""
    if (folder / f"{split}.jsonl").is_file():
        return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return made_up()[0 if split == "train" else 1 :: 2]


def trained(asked: Any, train: Sequence[dict[str, Any]]) -> Any:
    """A short DyLoRA run over pairs of a meaning and one of its texts."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"meaning": row["meaning_representation"], "text": row["references"][0]} for row in train]
        for split in ("train", "validation"):
            file = Path(folder) / f"{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in (rows if split == "train" else rows[:8])))
        words = [f"model={asked.model}", "task=instruction", f"task.data_dir={folder}", "adapter=dylora"]
        words += ["task.prompts=['{meaning}\n']", "task.response='{text}'", f"task.max_new_tokens={asked.new_tokens}"]
        words += ["adapter.r=4", "adapter.lora_alpha=32", "train.batch_size=8", "train.learning_rate=2e-3"]
        words += ["train.schedule=constant", f"train.max_steps={asked.steps}", "task.max_length=256"]
        words += ["task.metrics=[loss]", "evaluate.submodels=[4]", "evaluate.baselines=false"]
        run = composed([*words, f"generation.num_beams={asked.beams}", *RECIPE, f"runs_dir={asked.runs}"])
        execute(run)
        return finished(run.folder)


def main() -> None:
    parser = timing.arguments(__doc__, repeats=1)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("../shared/data/nlg/e2e"), help="E2E, or rows are made up"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the short training is kept")
    parser.add_argument("--steps", type=int, default=60, help="steps of that training")
    parser.add_argument("--beams", type=int, default=10, help="beams of a search")
    parser.add_argument("--prompts", type=int, default=30, help="prompts, one at a time")
    parser.add_argument("--new-tokens", type=int, default=64, help="longest answer")
    asked = parser.parse_args()

    found = trained(asked, rows_of(asked.data_dir, "train")[:400])
    adapter, body = of_all_ranks(found, cut(found, 4, False))
    adapter.model.to(subject.device()).eval()
    members = [Submodel(rank=b) for b in (1, 2, 3, 4)]
    responses, pad_id = of_run(found.run, body), body.tokenizer.pad_token_id
    rows = {row["meaning_representation"]: row["references"] for row in rows_of(asked.data_dir, "validation")}
    rows = dict(list(rows.items())[:: max(1, len(rows) // asked.prompts)][: asked.prompts])  # short inputs come first
    prompts = body.tokenizer([f"{meaning}\n" for meaning in rows], add_special_tokens=False)["input_ids"]

    def ask(prompt: list[int], chosen: Sequence[Submodel], how: Any = responses) -> list[list[int]]:
        return [own[0] for own in generate(adapter.model, adapter, [prompt], chosen, how, pad_id=pad_id)]

    answers: dict[str, dict[int, list[list[int]]]] = {"one call": {}, "four calls": {}}
    sides: dict[str, Callable[[int], list[list[int]]]] = {
        "one call": lambda i: ask(prompts[i], members),
        "four calls": lambda i: [ask(prompts[i], [member])[0] for member in members],
    }

    def side(name: str) -> timing.Prepare:
        def prepare(turn: int) -> Callable[[], object]:
            place = turn % len(prompts)
            return lambda: answers[name].__setitem__(place, sides[name](place))

        return prepare

    with torch.no_grad():
        seconds = timing.alternate({name: side(name) for name in sides}, asked.repeats * len(prompts), 0)
        alike = [a == b for i in answers["one call"] for a, b in zip(*(answers[s][i] for s in sides), strict=True)]
        adapter.activate(members[-1])
        model: Any = adapter.model
        theirs = [lora_beams.search(model, prompt, responses, subject.device()) for prompt in prompts]
        never = dataclasses.replace(responses, how=dataclasses.replace(responses.how, early_stopping="never"))
        longer = [ask(prompt, members[-1:], never)[0] for prompt in prompts]
        greedy = dataclasses.replace(responses, how=type(responses.how)())
        plain = [ask(prompt, members[-1:], greedy)[0] for prompt in prompts]

    texts = {
        "transformers' search": [answers["one call"][i][-1] for i in range(len(prompts))],
        "the same, early_stopping=never": longer,
        "LoRA's search": theirs,
        "greedy": plain,
    }
    said = {name: [responses.text(answer) for answer in own] for name, own in texts.items()}
    equal = {
        n: sum(a == b for a, b in zip(own, said["LoRA's search"], strict=True)) / len(own) for n, own in said.items()
    }
    bleu = {n: score(["bleu_sacre"], {"prediction": own}, list(rows.values()))["bleu_sacre"] for n, own in said.items()}
    words = {name: sum(len(text.split()) for text in own) / len(own) for name, own in said.items()}
    faster = timing.ratio(seconds["four calls"], seconds["one call"])
    first = timing.table(
        ["ranks 1 to 4", "min s", "median s", "max s"], [[n, *timing.spread(s)] for n, s in seconds.items()]
    )
    second = timing.table(
        ["rank 4", "equal to LoRA's search", "BLEU", "words"],
        [[n, f"{equal[n]:.0%}", f"{100 * bleu[n]:.2f}", f"{words[n]:.1f}"] for n in said],
    )
    text = f"{asked.model}, {asked.beams} beams, {len(prompts)} prompts, one at a time\n\n{first}\n\n"
    text += f"times faster: {faster:.2f}; equal answers: {sum(alike) / len(alike):.0%}\n\n{second}"
    figures = {"seconds": seconds, "times_faster": faster, "equal_answers": sum(alike) / len(alike)}
    figures |= {"equal_to_lora": equal, "bleu": bleu, "words": words}
    timing.report(asked, text, figures, ("fp32", "as the run"))


if __name__ == "__main__":
    main()
