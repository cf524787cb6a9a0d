"""A finished run read back: its settings, its adapter at a rank, and the model that it trained."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rankbench import record as records
from rankbench.config import Model, Run, start_folder
from rankbench.progress import quiet_libraries
from rankbench.sources import RequestError, Source, fingerprint, locate

if TYPE_CHECKING:
    import torch

    from rankbench.adapters.stack import Stack
    from rankbench.slices import Adapter

log = logging.getLogger("rankbench")


@dataclass(frozen=True)
class Finished:
    """A done run: its folder, its record, its settings, and what adapter/rankbench.json says of its ranks."""

    folder: Path
    record: dict[str, Any]
    run: Run
    note: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder of the trained weights."""
        return self.folder / "adapter"

    @property
    def whole(self) -> bool:
        """Whether adapter/ is a whole model or early exits' heads, which have no ranks."""
        return "r" not in self.note

    @property
    def sized(self) -> bool:
        """Whether there is one size and so no rank to choose: a whole model, or a LoRA cut to a rank for each layer."""
        return self.whole or "ranks" in self.note

    @property
    def factorised(self) -> bool:
        """Whether adapter/ is a whole model with factors for some of its weights."""
        return self.note["method"] == "flop"

    @property
    def early(self) -> bool:
        """Whether adapter/ holds a head for each exit, over a body that is elsewhere."""
        return self.note["method"] == "early_exit"

    @property
    def model(self) -> Model:
        """The backbone's settings, held to the kind of source that it trained on."""
        kind = (self.record.get("backbone") or {}).get("source")
        if kind in ("hub", "random"):
            return dataclasses.replace(self.run.model, package=None)
        return dataclasses.replace(self.run.model, hub=None) if kind == "package" else self.run.model


@dataclass(frozen=True)
class Base:
    """What transformers loads the backbone by: a folder or hub id, None for random weights that lie nowhere.

    Of its layers the first `layers`, where that is given.
    """

    name: str | None
    revision: str | None = None
    gguf_file: str | None = None
    layers: int | None = None


def finished(folder: Path) -> Finished:
    """The done run in a folder. Raises RequestError when it is not there, not done or not whole."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder; give the folder of a finished run, such as runs/<run_id>")
    record = records.read(folder)
    if record is None:
        if (folder / "record.json").exists():
            raise RequestError(f"{folder / 'record.json'} is not a record; run that run again")
        inside = sorted(file.parent.name for file in folder.glob("*/record.json"))[:3]
        hint = f"give one of the runs in it, such as {inside[0]}" if inside else "the run is not finished; run it again"
        raise RequestError(f"{folder} holds no record.json; {hint}")
    if record["status"] != "done":
        raise RequestError(f"{folder} is not done (status {record['status']}); run the same command again")
    try:
        if record["schema"] > records.SCHEMA:
            raise RequestError(f"{folder} was written by a newer rankbench (schema {record['schema']}); update")
        run = _settings(folder, record)
        note = json.loads((folder / "adapter" / "rankbench.json").read_text())
        parts: list[tuple[Any, tuple[str, ...]]]
        parts = [(record, ("run_id", "environment")), (record["environment"], ("precision", "device"))]
        parts += [(sub, ("rank", "metrics", "n", "parameters")) for sub in record["submodels"]]
        parts += [(note, ("method",)), (note, ("trained_ranks", "scale") if "r" in note else ())]
        parts += [(note, ("trained_exits",) if "exits" in note else ())]
        lacking = [key for part, keys in parts for key in keys if key not in part]
        if lacking:
            raise KeyError(lacking[0])
    except FileNotFoundError as error:
        raise RequestError(
            f"{folder} lacks adapter/ or the rankbench.json in it; run it again with fresh=true"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder} is not a whole run ({error!r}); run it again with fresh=true") from error
    return Finished(folder, record, run, note)


def _settings(folder: Path, record: dict[str, Any]) -> Run:
    """The run of a record; settings that came after it take their defaults."""
    try:
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Run), record["config"]))
    except OmegaConfBaseException as error:
        version = (record.get("environment") or {}).get("rankbench")
        key = getattr(error, "full_key", None) or "its config"
        raise RequestError(
            f"{folder}: this rankbench does not know the setting {key}; use the one that made the run ({version})"
        ) from error
    assert isinstance(run, Run)
    return run


def load(run: str | os.PathLike[str], rank: int | None = None, depth: int | None = None) -> torch.nn.Module:
    """The model of a finished run at a trained rank and depth (default: the largest), in eval mode.

    It is an ordinary PEFT model, or where every weight was trained an ordinary transformers model, pruned weights as
    factors; at a depth it has so many layers. Its backbone is stored as the run stored it, quantization included, on
    the GPU if there is one; under bf16 or fp16 the run computed with autocast, which is left to the caller. Raises
    RequestError as `export` does, and when the backbone has other weights now than the run trained on.
    """
    found = finished(Path(run))
    layers = exit_of(found, depth)
    refuse_rank(found, rank, svd=False)
    if found.whole:
        return whole(found, layers)
    adapter = cut(found, rank, svd=False, layers=layers)
    return with_adapter(found, adapter, head_width(found, adapter), as_stored=True, layers=layers).eval()


def with_exits(run: str | os.PathLike[str]) -> tuple[Any, Stack, list[int]]:
    """The model of a finished run over exits, the stack that cuts it, and the exits: what `elastic` decodes with.

    Raises RequestError as `load` does, and for a run without exits.
    """
    from peft import PeftModel

    from rankbench.adapters.stack import Stack

    found = finished(Path(run))
    if "exits" not in found.note:
        raise RequestError(f"{found.folder} has no exits ({found.note['method']}); give a run of adapter=sorted_ft")
    if found.early:
        return *_with_heads(found), found.note["exits"]
    model: Any = load(run)
    return model, Stack(model.get_base_model() if isinstance(model, PeftModel) else model), found.note["exits"]


def exit_of(found: Finished, depth: int | None) -> int | None:
    """The asked depth, None for the whole. Raises RequestError where the run did not train that exit."""
    if depth is None:
        return None
    if "exits" not in found.note:
        raise RequestError(f"{found.folder} has no exits ({found.note['method']}); leave out --depth")
    if depth not in found.note["trained_exits"]:
        raise RequestError(
            f"depth {depth} is none that this run trained ({', '.join(map(str, found.note['trained_exits']))}); "
            "choose one of them"
        )
    return None if depth == found.note["exits"][-1] else depth


def whole(found: Finished, layers: int | None) -> Any:
    """The model of which every weight was trained, or the heads of early exits over theirs, at an exit."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if found.early:
        model, stack = _with_heads(found)
        if layers is not None:
            stack.cut(layers)
            model.config.tie_word_embeddings = False  # the exit has a head of its own
        return model.eval()
    quiet_libraries()
    kind = AutoModelForCausalLM if found.run.task.kind == "causal_lm" else AutoModelForSequenceClassification
    options = {} if layers is None else {"num_hidden_layers": layers}
    trust = found.run.model.trust_remote_code
    try:
        if found.factorised:
            model = _with_factors(found, kind, trust)
        else:
            model = kind.from_pretrained(found.adapter, trust_remote_code=trust, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        cause = str(error).splitlines()[0]
        raise RequestError(f"{found.adapter} is damaged ({cause}); run it again with fresh=true") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _with_factors(found: Finished, kind: Any, trust: bool) -> Any:
    """The model of adapter=flop as it was measured: the kept components as factors."""
    import torch
    from transformers import AutoConfig, GenerationConfig

    from rankbench.adapters.factors import read_factors

    config = AutoConfig.from_pretrained(found.adapter, trust_remote_code=trust)
    with torch.random.fork_rng(devices=[]):  # the caller's draws go on as they were
        model = kind.from_config(config, trust_remote_code=trust)
    read_factors(model, found.note["ranks"], found.adapter)
    if (found.adapter / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(found.adapter)
    return model


def _with_heads(found: Finished) -> tuple[Any, Stack]:
    """The body that early exits were trained over, and its stack with their heads."""
    quiet_libraries()
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rankbench import backbone
    from rankbench.adapters.depth import heads_over
    from rankbench.adapters.stack import Stack

    try:
        tensors = load_file(found.adapter / "heads.safetensors")
        width = int(next(t for name, t in tensors.items() if name.endswith("weight")).shape[0])
        depths = [int(name.split(".")[1]) for name in tensors]
    except (OSError, ValueError, IndexError, StopIteration, SafetensorError) as error:
        raise RequestError(f"{found.adapter} is damaged ({error}); run it again with fresh=true") from error
    labels = None if found.run.task.kind == "causal_lm" else width
    if found.run.adapter.start_from is None:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            body = backbone.load(same_backbone(found), labels, found.run.task.regression, found.run.seed)
        model: Any = body.model
    else:
        model = start_of(dataclasses.replace(found.run, runs_dir=str(found.folder.parent)), found.note)
    stack = Stack(model.to("cuda" if torch.cuda.is_available() else "cpu"))  # the heads are made where it is
    stack.heads = heads_over(stack, depths)
    for depth, head in stack.heads.items():
        head.load_state_dict(
            {name.split(".", 2)[2]: tensor for name, tensor in tensors.items() if int(name.split(".")[1]) == depth}
        )
    return model.eval(), stack


def start_of(run: Run, note: dict[str, Any] | None = None) -> Any:
    """The model that an earlier run ended with, for early exits to begin from, its adapter merged.

    Raises RequestError where it is gone, or no longer what `note` says the heads were trained over.
    """
    from peft import PeftModel

    from rankbench.adapters.factors import multiply_out

    folder = start_folder(run)
    now = fingerprint(Source("path", folder / "adapter"))
    if note is not None and note["start_fingerprint"] != now:
        raise RequestError(f"{folder} holds other weights than the heads were trained over; train them again")
    earlier: Any = load(folder)
    return earlier.merge_and_unload() if isinstance(earlier, PeftModel) else multiply_out(earlier)


def refuse_rank(found: Finished, rank: int | None, svd: bool) -> None:
    """Refuse a rank of a run that has none to choose. Raises RequestError."""
    if found.sized and (rank is not None or svd):
        why = "has no low-rank factors" if "ranks" not in found.note else "gave each layer a rank of its own"
        raise RequestError(
            f"{found.folder} {why} (adapter={found.note['method']}), so no ranks; leave out "
            f"{'--rank' if rank is not None else '--svd'}"
        )


def cut(found: Finished, rank: int | None, svd: bool, layers: int | None = None) -> Adapter:
    """The adapter at the asked rank: a trained prefix, or the SVD cut of the largest trained one; of the first layers.

    Raises RequestError where the run did not train the rank and no SVD is asked for.
    """
    from rankbench import slices

    largest, trained = int(found.note["r"]), sorted(found.note["trained_ranks"])
    rank = largest if rank is None else rank
    if svd and not 1 <= rank <= trained[-1]:
        raise RequestError(f"--rank {rank} is outside 1 to {trained[-1]}, the trained rank that --svd cuts down")
    if not svd and rank not in trained:
        raise RequestError(
            f"rank {rank} is none that this run trained ({ranks_in_words(trained)}); choose one, or cut rank "
            f"{trained[-1]} down: rankbench export --svd"
        )
    whole = slices.read(found.adapter)
    if whole.rank != largest:
        raise RequestError(f"{found.adapter} is damaged (rank {whole.rank}, not {largest}); {slices.AGAIN}")
    if layers is not None:
        whole = slices.first_layers(whole, layers)
    prefix = slices.prefix(whole, trained[-1] if svd else rank, found.note["scale"])
    return slices.svd_cut(prefix, rank) if svd else prefix


def ranks_in_words(ranks: list[int]) -> str:
    """`1 to 8` where none is missing, else all of them."""
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))


def head_width(found: Finished, adapter: Adapter) -> int | None:
    """Outputs of the head, as its last matrix has them; None for a language model."""
    task = found.run.task
    if task.kind == "causal_lm":
        return None
    matrices = {name: tensor for name, tensor in adapter.head.items() if tensor.dim() == 2}
    last = [name for name in matrices if name.endswith("out_proj.weight")] or list(matrices)
    if not last:
        raise RequestError(f"{found.adapter} holds no classification head; run it again with fresh=true")
    return int(matrices[last[-1]].shape[0])


def base_of(found: Finished, layers: int | None = None) -> Base:
    """How stock code finds the backbone that the run trained on, or its first layers."""
    return dataclasses.replace(_base_of(found), layers=layers or found.model.layers)


def _base_of(found: Finished) -> Base:
    origin = found.record.get("backbone") or {}
    model, kind = found.model, origin.get("source")
    if kind == "random":
        return Base(None)
    if kind == "hub":
        return Base(model.hub, model.revision)
    with contextlib.suppress(RequestError):
        path = locate("model", model).path
        assert path is not None
        path = path.absolute()
        return Base(str(path.parent), gguf_file=path.name) if path.suffix == ".gguf" else Base(str(path))
    log.warning("the backbone is not here any more; the export names the place where the run found it")
    return Base(str(model.path or model.package))


def same_backbone(found: Finished) -> Model:
    """The backbone's settings, once its source is seen to hold what the run trained on."""
    import torch

    before = (found.record.get("backbone") or {}).get("fingerprint")
    try:
        source = locate("model", found.model)
        now = fingerprint(source)
    except RequestError as error:
        raise RequestError(f"the backbone of {found.folder} is not where the run found it: {error}") from error
    if before is not None and now != before:
        place = found.model.path or found.model.package or found.model.hub
        raise RequestError(
            f"{place} holds another model than the one that {found.folder} trained on (fingerprint {now}, then "
            f"{before}); put that one back"
        )
    drawn = source.kind == "random" and found.run.quantization.name != "none"
    if drawn and found.record["environment"]["device"].startswith("cpu") == torch.cuda.is_available():
        raise RequestError(f"{found.folder} drew its random weights on another kind of device; load it on that one")
    return found.model


def with_adapter(
    found: Finished, adapter: Adapter, num_labels: int | None, as_stored: bool, layers: int | None = None
) -> Any:
    """The backbone in float32, or stored as the run stored it, carrying the adapter as stock PEFT carries one."""
    quiet_libraries()  # first: bitsandbytes, which PEFT brings, speaks when it is imported
    import torch
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    from rankbench import backbone, quantize

    run, model = found.run, same_backbone(found)
    if layers is not None:
        model = dataclasses.replace(model, layers=layers)
    storage = quantize.PLAIN
    if as_stored:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        storage = quantize.storage(run.quantization, found.record["environment"]["precision"], device)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # the caller's draws go on as they were
        body = backbone.load(model, num_labels, run.task.regression, run.seed, storage)
        config = PeftConfig.from_peft_type(**copy.deepcopy(adapter.config) | {"inference_mode": True})
        carrying = get_peft_model(body.model, config)
    try:
        result: Any = set_peft_model_state_dict(carrying, adapter.tensors)
        lacking = [name for name in result.missing_keys if "lora_" in name or "modules_to_save" in name]
        if lacking or result.unexpected_keys:
            raise RuntimeError([*lacking, *result.unexpected_keys][0])
    except RuntimeError as error:  # torch's own for a tensor of another shape
        cause = str(error).strip().splitlines()[-1].strip()
        raise RequestError(
            f"{found.adapter} does not fit the backbone of its run ({cause}); run it again with fresh=true"
        ) from error
    return carrying.to(storage.device)
