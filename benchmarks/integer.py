"""Time fine-tuning and evaluation in integers against float32, and bf16 where the CPU has it; say where a step goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import subject
import timing
import torch
from torch import nn

from rankbench.methods.lora import DyLora
from rankbench.models import float32, integer
from rankbench.models.integer import kernels, layers
from rankbench.models.integer.fixed_point import mapped
from rankbench.models.integer.products import has_int8
from rankbench.settings.run import Run
from rankbench.tasks.data import load
from rankbench.tasks.encoding import collate, sorted_batches
from rankbench.training.loop import make_optimizer
from rankbench.training.samplers import draw

Batch = dict[str, torch.Tensor]
FULL, FULL8, FULL16 = "full, float32", "full, {}", "full, bf16"
LORA, LORA8, DYLORA8, LORA16 = "PEFT LoRA, float32", "PEFT LoRA over {}", "DyLoRA over {}", "PEFT LoRA, bf16"
EVAL, EVAL8, EVAL16 = "evaluation, float32", "evaluation, {}", "evaluation, bf16"
OWN, DYLORA_OWN, EVAL_OWN = "full, float32 by oneDNN", "DyLoRA, float32 by oneDNN", "evaluation, float32 by oneDNN"
AGAINST = {
    FULL: (FULL8, FULL16, OWN),
    LORA: (LORA8, DYLORA8, LORA16, DYLORA_OWN),
    EVAL: (EVAL8, EVAL16, EVAL_OWN),
    FULL16: (FULL8,),
    LORA16: (LORA8, DYLORA8),
    EVAL16: (EVAL8,),
    OWN: (FULL8,),
    DYLORA_OWN: (DYLORA8,),
    EVAL_OWN: (EVAL8,),
}
FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
MAPS = ("by row", "whole", "whole, stochastic", "by row, step by step")


def main() -> None:
    parser = timing.arguments(__doc__, repeats=9)
    parser.add_argument("--data-dir", default="glue/sst2", help="a folder with train.jsonl: sentence, label")
    parser.add_argument("--rows", type=int, default=1600, help="sentences, from which batches of like lengths are made")
    parser.add_argument("--batch", type=int, default=32, help="sentences in a batch")
    parser.add_argument("--arithmetic", default="int8", help="int8, int10, int12 or int16")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--profile", action="store_true", help="say where a step in integers goes, too")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)

    timing.keep_freed()
    chosen, source = subject.task(asked.data_dir, asked.rows)
    run = subject.run("adapter=dylora", "adapter.r=8", "adapter.lora_alpha=16", *chosen)
    batches = _batches(run, asked.batch)
    sides = _sides(run, asked.arithmetic)
    seconds = timing.alternate(
        {name: partial(_next, act, batches) for name, act in sides.items()}, asked.repeats, warmup=2
    )
    ratios = {
        base: {
            name.format(asked.arithmetic): timing.ratio(seconds[name.format(asked.arithmetic)], seconds[base])
            for name in others
            if base in seconds and name.format(asked.arithmetic) in seconds
        }
        for base, others in AGAINST.items()
    }
    rows = [
        [name, *timing.spread(values, 1e-3), *(f"{of[name]:.3f}" if name in of else "" for of in _by_kind(ratios))]
        for name, values in seconds.items()
    ]
    kept = {name: _kept(sides[name].model, batches[-1]) for name in seconds if not name.startswith("evaluation")}
    maps = _maps(asked.repeats)
    cpu = _flags()
    parts = [
        f"{source}; batches of {asked.batch}, {batches[0]['input_ids'].shape[1]} to "
        f"{batches[-1]['input_ids'].shape[1]} tokens; bytes multiplied as bytes: {'yes' if _bytes() else 'no'}, "
        f"maps built by the C compiler: {'yes' if kernels.library() else 'no'}; "
        f"of {', '.join(FLAGS)} the CPU has {', '.join(cpu) or 'none'}",
        timing.table(["ms a step", "min", "median", "max", "of float32's", "of bf16's", "of oneDNN's"], rows),
        timing.table(["kept for the backward", "MiB"], [[name, f"{size / 2**20:.1f}"] for name, size in kept.items()]),
        timing.table(
            ["8-bit map on the CPU, ns a number", "min", "median", "max"],
            [[k, *timing.spread(v)] for k, v in maps.items()],
        ),
    ]
    outlier = _outlier()
    rows = [[name, *(f"{100 * error:.3g} %" for error in of.values())] for name, of in outlier.items()]
    parts.append(timing.table(["error beside an outlier", "one scale", "a scale a row"], rows))
    shares = {}
    if asked.profile:
        shares = {name: _shares(sides[name], batches) for name in sides if asked.arithmetic in name}
        columns = list(next(iter(shares.values())))
        rows = [[name, *(f"{of[column]:.3f}" for column in columns)] for name, of in shares.items()]
        parts.append(timing.table(["share of a step", *columns], rows))
    figures = {
        "source": source,
        "flags": cpu,
        "int8_products": _bytes(),
        "built": kernels.library() is not None,
        "seconds": seconds,
        "ratio": ratios,
    }
    figures |= {"kept_bytes": kept, "map_ns": maps, "shares": shares, "outlier_error": outlier}
    timing.report(asked, "\n\n".join(parts), figures, ("fp32", "as the sides say"))


def _by_kind(ratios: dict[str, dict[str, float]]) -> list[dict[str, float]]:
    """Each side's ratio to torch's float32, to bf16 and to float32 by oneDNN."""
    merged: list[dict[str, float]] = [{}, {}, {}]
    for base, of in ratios.items():
        merged[1 if "bf16" in base else 2 if "oneDNN" in base else 0] |= of
    return merged


class Side:
    """One way of training or evaluating, and its model."""

    def __init__(self, model: nn.Module, act: Callable[[Batch], object], shared: Any = None) -> None:
        self.model, self.act, self.shared = model, act, shared


def _sides(run: Run, arithmetic: str) -> dict[str, Side]:
    asked = subject.run(f"arithmetic={arithmetic}").arithmetic
    found: dict[str, Side] = {}

    def put(model: nn.Module) -> Any:
        return integer.put(model, asked, run.seed)

    def add(name: str, model: nn.Module, shared: Any = None, bf16: bool = False, before: Any = None) -> None:
        optimizer = None if name.startswith("evaluation") else make_optimizer(run.train, subject.trained(model))
        model.train(optimizer is not None)
        found[name.format(arithmetic)] = Side(model, partial(_act, model, optimizer, bf16, before), shared)

    def whole() -> nn.Module:
        return subject.model(run, 2).requires_grad_(True)

    def integers(model: nn.Module) -> tuple[nn.Module, Any]:
        return model, put(model)

    add(FULL, whole())
    add(FULL8, *integers(whole()))
    add(LORA, subject.stock_lora(run, 2))
    body, shared = integers(subject.model(run, 2))
    add(LORA8, subject.stock_lora(run, 2, body), shared)

    def nested(name: str, body: nn.Module, shared: Any) -> None:
        tuning, ranks = DyLora(run, body), iter(range(10**9))

        def choose() -> None:
            tuning.activate(draw(run.sampler, tuning.family, run.seed, next(ranks))[0][0])

        add(name, tuning.model, shared, before=choose)

    nested(DYLORA8, *integers(subject.model(run, 2)))
    add(EVAL, subject.model(run, 2))
    add(EVAL8, *integers(subject.model(run, 2)))
    if _multiplies_bf16():
        add(FULL16, whole(), bf16=True)
        add(LORA16, subject.stock_lora(run, 2), bf16=True)
        add(EVAL16, subject.model(run, 2), bf16=True)
    if float32.library() == "oneDNN":  # elsewhere a run's own float32 is the stock one
        add(OWN, subject.model_as_run(run, 2).requires_grad_(True))
        nested(DYLORA_OWN, subject.model_as_run(run, 2), None)
        add(EVAL_OWN, subject.model_as_run(run, 2))
    return found


def _act(model: nn.Module, optimizer: Any, bf16: bool, before: Any, batch: Batch) -> None:
    if before is not None:
        before()
    with (
        torch.autocast(subject.device().type, torch.bfloat16, enabled=bf16),
        torch.set_grad_enabled(optimizer is not None),
    ):
        loss = model(**batch).loss
    if optimizer is not None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _next(side: Side, batches: list[Batch], i: int) -> Callable[[], object]:
    if side.shared is not None:
        side.shared.noise.at(i, None)
    return partial(side.act, batches[(i * 7) % len(batches)])


def _batches(run: Run, size: int) -> list[Batch]:
    """Batches of like lengths, from the shortest to the longest."""
    read = load(run.task)
    data, tokenizer = subject.encode(run, read.train)
    padded = (collate(data, rows, tokenizer.pad_token_id) for rows in sorted_batches(data.lengths, size))
    found = [{name: tensor.to(subject.device()) for name, tensor in batch.items()} for batch in padded]
    return sorted((b for b in found if len(b["input_ids"]) == size), key=lambda b: b["input_ids"].shape[1])


def _kept(model: nn.Module, batch: Batch) -> int:
    """Bytes of the tensors, other than parameters, that a forward keeps for its backward: their peak."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, tuple[Any, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch)
    return sum(size for _, size in sizes.values())


def _multiplies_bf16() -> bool:
    """Whether what the sides run on has instructions for it."""
    if subject.device().type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool({"avx512_bf16", "amx_bf16"} & {*_flags()})


def _maps(repeats: int) -> dict[str, list[float]]:
    """Nanoseconds a number of a map to 8 bits, and of one that makes a tensor of each of its steps."""
    x = torch.randn(768, 1536)
    noise = torch.rand(768, 1), torch.rand(1536)

    def steps() -> torch.Tensor:
        scale = torch.ldexp(torch.ones(768, 1), torch.frexp(x.abs().amax(-1, keepdim=True)).exponent - 7)
        return (x / scale).round().clamp(-127, 127).to(torch.int8)

    ways = partial(mapped, x, 8, True), partial(mapped, x, 8), partial(mapped, x, 8, False, noise), steps
    of = dict(zip(MAPS, ways, strict=True))
    assert torch.equal(steps(), mapped(x, 8, True)[0])
    seconds = timing.alternate({name: partial(lambda act, _: act, act) for name, act in of.items()}, 3 * repeats, 3)
    return {name: [1e9 * value / x.numel() for value in values] for name, values in seconds.items()}


def _shares(side: Side, batches: list[Batch], steps: int = 4) -> dict[str, float]:
    """The share of steps in maps, products, layer norms without their maps, the optimizer, and the rest."""
    spent: Counter[str] = Counter()
    stack: list[float] = []

    def timed(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            stack.append(0.0)
            made = act(*args, **kwargs)
            took = time.perf_counter() - start
            spent[name] += took - stack.pop()
            if stack:
                stack[-1] += took
            return made

        return inner

    shared, norm = side.shared, layers._Normalized
    plain = norm.forward, norm.backward
    shared.map, shared.product = timed("maps", shared.map), timed("products", shared.product)
    norm.forward, norm.backward = (staticmethod(timed("layer norms", act)) for act in plain)
    total = 0.0
    try:
        for i in range(steps):
            act = timed("rest", _next(side, batches, i))
            start = time.perf_counter()
            act()
            total += time.perf_counter() - start
    finally:
        norm.forward, norm.backward = map(staticmethod, plain)
        del shared.map, shared.product
    return {name: spent[name] / total for name in ("maps", "products", "layer norms", "rest")}


def _outlier() -> dict[str, dict[str, float]]:
    """The error of a linear layer's other rows where one number is 100 times the rest, by width and scale."""
    x = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 100
    found: dict[str, dict[str, float]] = {}
    for arithmetic in ("int8", "int10", "int12", "int16"):
        for scale in ("tensor", "row"):
            torch.manual_seed(0)
            holder = nn.Sequential(nn.Linear(384, 384).requires_grad_(False))
            exact = holder(x)[1:]
            integer.put(holder, subject.run(f"arithmetic={arithmetic}", f"arithmetic.scale={scale}").arithmetic, 0)
            error = float((holder(x)[1:] - exact).norm() / exact.norm())
            found.setdefault(arithmetic, {})[scale] = error
    return found


def _bytes() -> bool:
    """Whether bytes are multiplied as bytes here."""
    return has_int8(subject.device().type)


def _flags() -> list[str]:
    """Which instructions for integers and bf16 the processor has, of those that matter here."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].splitlines()[0].split())
    except (OSError, IndexError):
        return []
    return [flag for flag in FLAGS if flag in words]


if __name__ == "__main__":
    main()
