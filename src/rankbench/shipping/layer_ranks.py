"""A rank for each layer of a finished run, chosen on half of its validation rows and scored on the other half."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, finished, ranks_in_words
from rankbench.settings.methods import METHODS
from rankbench.shipping import hub
from rankbench.shipping.base import base_of
from rankbench.shipping.finished_adapter import cut
from rankbench.shipping.layer_choice import Choice, text
from rankbench.system.progress import Progress, quiet_libraries, speak

if TYPE_CHECKING:
    from rankbench.methods.lora import DyLora
    from rankbench.models.backbone import Backbone
    from rankbench.shipping.heldout import Way
    from rankbench.tasks.encoding import Encoded

log = logging.getLogger("rankbench")

CUTTABLE = tuple(name for name, kind in METHODS.items() if kind.cuttable)
LEAST = 4  # rows: two to choose by, and two to tell a difference from noise


def main(words: list[str]) -> None:
    """`rankbench layers RUN --budget 4`: a rank for each layer of a finished run, and what that is worth."""
    parser = argparse.ArgumentParser(
        prog="rankbench layers",
        description="Choose a rank for each layer of a finished run, greedily by the loss on half of its validation "
        "rows, and score the choice on the other half beside one rank everywhere.",
    )
    of = "adapter=lora, dylora, dylora_late or qdylora"
    parser.add_argument("run", type=Path, help=f"the folder of a finished run of {of}")
    parser.add_argument("--budget", type=int, required=True, metavar="B", help="as many parameters as rank B has")
    parser.add_argument("--to", type=Path, metavar="DIR", help="write the adapter to this folder, new or empty")
    parser.add_argument("--merge", action="store_true", help="--to: write the whole model, the adapter added to it")
    parser.add_argument(
        "--svd",
        action="store_true",
        help="order each layer's components by SVD before choosing; a run of one trained rank, as adapter=lora is, has "
        "them so in any case",
    )
    parser.add_argument("--seed", type=int, default=0, help="which rows choose and which score (default: 0)")
    parser.add_argument("--examples", type=int, help="validation rows to draw, half of which choose (default: all)")
    parser.add_argument("--data-dir", help="where the task's data lie, if not where the run found them")
    hub.add_options(parser)
    asked = parser.parse_args(words)
    hub.check_options(asked)
    if asked.examples is not None and asked.examples < LEAST:
        raise RequestError(f"--examples {asked.examples} must be at least {LEAST}: half choose and half score")
    speak()
    found = finished(asked.run).with_data(asked.data_dir)
    from rankbench.shipping import export
    from rankbench.shipping.card_code import Made
    from rankbench.shipping.new_folder import vacant

    if asked.to is None:
        print(text(choose(found, asked.budget, asked.svd, asked.seed, asked.examples)), end="")
        print("Write it as a stock PEFT adapter: the same command with --to DIR.")
        return
    place = vacant(asked.to)
    under = hub.as_named(base_of(found), asked.base, asked.push is not None, asked.merge)
    choice = choose(found, asked.budget, asked.svd, asked.seed, asked.examples)
    print(text(choice), end="")
    made = Made("adapter", under, choice.rank, svd=choice.svd, ranks=choice.ranks, choice=text(choice).strip())
    said = export.ship(found, choice.adapter, made, place, asked.merge)
    print("\n" + "\n".join(said), flush=True)
    if asked.push is not None:
        print(hub.push(place, asked.push, asked.public))


def choose(found: Finished, rank: int, svd: bool = False, seed: int = 0, examples: int | None = None) -> Choice:
    """A rank for each layer, together no more parameters than `rank` everywhere, by the loss on half the rows.

    `examples` rows of the run's first validation split (default: all) are halved at random by `seed`; backbone and
    arithmetic are those of `rankbench.load`. With `svd`, and where one rank alone was trained, each layer's components
    are put in the order of their singular values first. Where nothing found is better than `rank` everywhere, that is
    chosen. Raises RequestError for a run without ranks, a budget that it cannot have, or too few rows.
    """
    svd = _order(found, rank, svd)
    trained = sorted(found.note["trained_ranks"])
    quiet_libraries()
    from rankbench.shipping import adapter_files, heldout, rank_search
    from rankbench.shipping.loading import of_all_ranks

    whole = cut(found, trained[-1], svd)
    tuning, body = of_all_ranks(found, whole)
    if svd:
        tuning.scale_of = lambda _: 1.0  # the turned factors carry it
    split = _validation(found, body)
    heldout.check_room(found.run, body, split)
    halves = _halves(split, seed, examples)
    costs = [layer.in_features + layer.out_features for layer in tuning.layers]
    grid = rank_search.steps(trained[-1], rank, None if svd else trained)
    ask = _Asked(tuning, rank, halves[0], found, body.tokenizer.pad_token_id, rank * sum(costs), costs)
    alone = ask([rank] * len(costs))
    chosen = rank_search.choose(costs, grid, rank * sum(costs), ask)
    ask.close()
    if not chosen.loss < alone:
        log.info("no ranks by layer are better than rank %d in every layer on the rows that choose", rank)
        chosen = rank_search.Chosen([rank] * len(costs), alone, rank * sum(costs), chosen.evaluations)
    names = {id(module): f"{name}." for name, module in tuning.model.named_modules()}
    ranks = dict(zip([names[id(layer)] for layer in tuning.layers], chosen.ranks, strict=True))
    ways = _ways(tuning, rank, svd, chosen.ranks, costs)
    scores = heldout.scores(found.run, tuning, body, halves[1], found.run.train.eval_batch_size, ways)
    return Choice(
        rank,
        svd,
        ranks,
        adapter_files.by_layer(whole, ranks, tuning.scale_of),
        chosen.cost,
        rank * sum(costs),
        chosen.evaluations + 1,
        halves,
        (chosen.loss, alone),
        scores,
        _said(found, svd, seed),
    )


def _order(found: Finished, rank: int, svd: bool) -> bool:
    """Whether components are ordered by SVD. Raises RequestError where the run has no rank `rank` to compare with."""
    method = found.note["method"]
    if method not in CUTTABLE:
        raise RequestError(
            f"{found.folder} is of adapter={method}, which has no ranks to choose by layer; give a run of "
            f"adapter={', '.join(CUTTABLE[:-1])} or {CUTTABLE[-1]}"
        )
    trained = sorted(found.note["trained_ranks"])
    if not 1 <= rank <= trained[-1]:
        raise RequestError(f"--budget {rank} is outside 1 to {trained[-1]}, the largest rank that this run trained")
    if not svd and len(trained) > 1 and rank not in trained:
        raise RequestError(
            f"--budget {rank}: rank {rank} is none that this run trained ({ranks_in_words(trained)}); choose one of "
            "them, or add --svd"
        )
    return svd or len(trained) == 1


def _validation(found: Finished, body: Backbone) -> Encoded:
    """The run's first validation split, read again and tokenised as the run did."""
    from rankbench.models import backbone
    from rankbench.tasks import data
    from rankbench.tasks.encoders import encoded

    task, kept = found.run.task, found.record.get("data") or {}
    try:
        loaded = data.load(task, None if task.label_names else kept.get("label_names"))
    except RequestError as error:
        raise RequestError(f"the data of {found.folder} cannot be read: {error}; or say where: --data-dir") from error
    split = loaded.validation[0]
    before, now = (origin.get("splits", {}).get(split.name) or {} for origin in (kept, loaded.origin))
    if before and any(before[key] != now[key] for key in ("sha256", "rows")):
        log.warning("%s is not what the run was scored on", split.name)
    return encoded(split, task, body.tokenizer, min(task.max_length, backbone.longest(body)))


def _halves(split: Encoded, seed: int, examples: int | None) -> tuple[Encoded, Encoded]:
    """The rows that choose and those that score, drawn by `seed`; of an odd number one more scores."""
    import numpy as np

    from rankbench.system.seeds import generator

    if len(split) < LEAST:
        raise RequestError(
            f"{split.name} has too few rows ({len(split)}) to choose and to score by halves; give {LEAST} (--data-dir)"
        )
    order = generator(seed, "layer ranks").permutation(len(split))[:examples]
    middle = len(order) // 2
    return split.take(np.sort(order[:middle])), split.take(np.sort(order[middle:]))


class _Asked:
    """The mean loss on the rows that choose, by the ranks of all layers; it shows how the search goes."""

    def __init__(
        self, tuning: DyLora, rank: int, split: Encoded, found: Finished, pad_id: int, budget: int, costs: list[int]
    ) -> None:
        self.tuning, self.rank, self.budget, self.costs = tuning, rank, budget, costs
        from rankbench.shipping import heldout

        self.batches = heldout.batches(tuning, split, found.run.train.eval_batch_size, pad_id)
        self.count = 0
        self.progress = Progress(0)
        log.info("choose the ranks of %d layers by the loss of %d rows", len(costs), len(split))

    def __call__(self, ranks: Sequence[int]) -> float:
        """The loss (see `objective.row_losses`), infinite where it is no number."""
        from rankbench.shipping import heldout

        heldout.hold(self.tuning, self.rank, ranks)
        loss, targets = heldout.losses(self.tuning, self.batches)
        self.count += 1
        mean = float(loss.sum() / targets.sum())
        cost = sum(cost * rank for cost, rank in zip(self.costs, ranks, strict=True))
        self.progress.tell(f"evaluation {self.count}  loss {mean:.4f}  {cost:,} parameters, budget {self.budget:,}")
        return mean if math.isfinite(mean) else math.inf

    def close(self) -> None:
        """Say how many evaluations it took."""
        self.progress.close()
        log.info("chosen in %d evaluations", self.count)


def _ways(tuning: DyLora, rank: int, svd: bool, chosen: list[int], costs: list[int]) -> dict[str, Way]:
    """What is scored, by the column's name: a rank, and each layer's where they differ. The first two are compared."""
    ways: dict[str, Way] = {"chosen": (rank, chosen), f"rank {rank}": (rank, None)}
    if svd:
        from rankbench.methods.cuts import spread
        from rankbench.methods.peft_model import ADAPTER

        factors = [(m.lora_A[ADAPTER].weight.detach(), m.lora_B[ADAPTER].weight.detach()) for m in tuning.layers]
        ways["global"] = rank, spread([a.norm(dim=1) * b.norm(dim=0) for a, b in factors], costs, rank)
    if rank < tuning.r:
        ways[f"rank {tuning.r}"] = tuning.r, None
    return ways


def _said(found: Finished, svd: bool, seed: int) -> str:
    """What was chosen from, and on what it was measured."""
    from rankbench.models import device

    run, largest = found.run, max(found.note["trained_ranks"])
    alone = len(found.note["trained_ranks"]) == 1 and largest > 1
    order = f", whose rank {largest} was trained alone" if alone else ""
    order += ", each layer's components in the order of their singular values" if svd else ", by its trained prefixes"
    return (
        f"{run.task.name}, {run.model.name}: adapter={run.adapter.name} of rank {largest}{order}; seed {seed}, "
        f"{run.arithmetic.words if run.arithmetic.integer else 'fp32'} on {device.device_name()}"
    )
