"""The model of a finished run, built again: over its backbone, at a rank and a depth."""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, exit_of, finished
from rankbench.settings.identity import start_folder
from rankbench.settings.model import Model
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, fingerprint, locate
from rankbench.shipping.base import same_backbone
from rankbench.shipping.finished_adapter import cut, head_width
from rankbench.shipping.shipped import Shipped, mended, opened, refuse_lacking
from rankbench.system import onednn
from rankbench.system.files import expanded
from rankbench.system.progress import quiet_libraries

if TYPE_CHECKING:
    import torch

    from rankbench.methods.layer_stack import Stack
    from rankbench.methods.lora import DyLora
    from rankbench.models.backbone import Backbone
    from rankbench.shipping.adapter_files import Adapter
    from rankbench.shipping.predictor import Predicts


def load(
    run: str | os.PathLike[str],
    rank: int | None = None,
    depth: int | None = None,
    *,
    trust_remote_code: bool = False,
) -> Predicts:
    """The model of a finished run at a trained rank and depth (default: the largest), in eval mode; or an export's.

    It is an ordinary PEFT model, or where every weight was trained an ordinary transformers model, pruned weights as
    factors; at a depth it has so many layers. Its backbone is stored as the run stored it, quantization included, on
    the GPU if there is one, and it computes in the run's precision, by autocast. `model.predict(texts)` answers texts
    in the data's words. Code that came with an export's model runs only where `trust_remote_code` allows it. Raises
    RequestError as `export` does, and when the backbone has other weights now than the run trained on.
    """
    return loaded(opened(expanded(run), trust_remote_code), rank, depth)


def loaded(found: Finished, rank: int | None, depth: int | None) -> Predicts:
    """As `load`, of what was opened."""
    refuse_lacking(found, rank, depth)
    quiet_libraries()
    onednn.keep_few()
    from rankbench.shipping.predictor import answering

    if isinstance(found, Shipped):
        try:
            model = _of_export(found)
        except RequestError as error:
            raise mended(error) from error
    else:
        model = _loaded(found, rank, exit_of(found, depth))
    return answering(in_the_runs_precision(found, model), found)


def _of_export(found: Shipped) -> Any:
    from rankbench.shipping import adapter_files

    if found.whole:
        return whole(found, None)
    adapter = adapter_files.read(found.adapter)
    return with_adapter(found, adapter, head_width(found, adapter), as_stored=True, layers=found.layers).eval()


def _loaded(found: Finished, rank: int | None, layers: int | None) -> Any:
    if found.whole:
        return whole(found, layers)
    adapter = cut(found, rank, svd=False, layers=layers)
    return with_adapter(found, adapter, head_width(found, adapter), as_stored=True, layers=layers).eval()


def in_the_runs_precision(found: Finished, model: Any) -> Any:
    """Have a model's forward compute under the autocast that the run trained and was scored under; give it back.

    A card without bf16 computes a bf16 run in float32.
    """
    import torch
    from peft import PeftModel

    from rankbench.models.quantization import DTYPES

    dtype = DTYPES[found.record["environment"]["precision"]]
    device = next(model.parameters()).device.type
    lacking = dtype is torch.bfloat16 and device == "cuda" and not torch.cuda.is_bf16_supported(False)
    if dtype is not torch.float32 and not lacking:
        inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model  # what `generate` calls
        inner.forward = torch.autocast(device, dtype)(inner.forward)
    return model


def with_exits(run: str | os.PathLike[str]) -> tuple[Any, Stack, list[int]]:
    """The model of a finished run over exits, the stack that cuts it, and the exits, for `scoring.exit_decoding`.

    Raises RequestError as `load` does, and for a run without exits.
    """
    from peft import PeftModel

    from rankbench.methods.layer_stack import Stack

    found = finished(expanded(run))
    if "exits" not in found.note:
        raise RequestError(f"{found.folder} has no exits ({found.note['method']}); give a run of adapter=sorted_ft")
    if found.early:
        model, stack = _with_heads(found)
        return in_the_runs_precision(found, model), stack, found.note["exits"]
    model = load(run)
    return model, Stack(model.get_base_model() if isinstance(model, PeftModel) else model), found.note["exits"]


def whole(found: Finished, layers: int | None) -> Any:
    """The model of which every weight was trained, or the heads of early exits over theirs, at an exit."""
    import torch
    import transformers
    from safetensors import SafetensorError

    from rankbench.models import backbone, integer

    if found.early:
        model, stack = _with_heads(found)
        if layers is not None:
            stack.cut(layers)
            model.config.tie_word_embeddings = False  # the exit has a head of its own
        return model.eval()
    quiet_libraries()
    kind = getattr(transformers, found.run.task.stock.auto_class)
    options = {} if layers is None else {"num_hidden_layers": layers}
    trust = found.run.model.trust_remote_code
    try:
        if found.factorised:
            model = _with_factors(found, kind, trust)
        else:
            model, told = kind.from_pretrained(
                found.adapter, trust_remote_code=trust, output_loading_info=True, **options
            )
            if told["missing_keys"]:
                raise ValueError(f"it lacks {sorted(told['missing_keys'])[0]}")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        cause = str(error).splitlines()[0]
        raise RequestError(f"{found.adapter} is damaged ({cause}); run it again with fresh=true") from error
    backbone.name_classes(model, found.label_names)
    integer.put(model, found.run.arithmetic, found.run.seed)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _with_factors(found: Finished, kind: Any, trust: bool) -> Any:
    """The model of adapter=flop as it was measured: the kept components as factors."""
    import torch
    from transformers import AutoConfig, GenerationConfig

    from rankbench.methods.factors import read_factors

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

    from rankbench.methods.early_exit import heads_over
    from rankbench.methods.layer_stack import Stack
    from rankbench.models import backbone, integer

    try:
        tensors = load_file(found.adapter / "heads.safetensors")
        width = int(next(t for name, t in tensors.items() if name.endswith("weight")).shape[0])
        depths = [int(name.split(".")[1]) for name in tensors]
    except (OSError, ValueError, IndexError, StopIteration, SafetensorError) as error:
        raise RequestError(f"{found.adapter} is damaged ({error}); run it again with fresh=true") from error
    labels = None if found.run.task.kind == "causal_lm" else width
    if found.run.adapter.begins_with is None:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            task = found.run.task
            base = _drawn_here(found)
            body = backbone.load(base, labels, task.regression, found.run.seed, extracts=task.extracts)
        model: Any = body.model
    else:
        model = start_of(dataclasses.replace(found.run, runs_dir=str(found.folder.parent)), found.note)
    backbone.name_classes(model, found.label_names)
    integer.put(model, found.run.arithmetic, found.run.seed)
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

    from rankbench.methods.factors import multiply_out

    folder = start_folder(run)
    now = fingerprint(Source("path", folder / "adapter"))
    if note is not None and note["start_fingerprint"] != now:
        raise RequestError(f"{folder} holds other weights than the heads were trained over; train them again")
    earlier = _loaded(finished(folder), None, None)
    return earlier.merge_and_unload() if isinstance(earlier, PeftModel) else multiply_out(earlier)


def begin_from(run: Run, model: torch.nn.Module) -> None:
    """Give the model the weights that an earlier run ended with, the one that `adapter.start_from` names.

    Raises RequestError where they do not fit.
    """
    try:
        model.load_state_dict(start_of(run).to(next(model.parameters()).device).state_dict())
    except RuntimeError as error:
        raise RequestError(
            f"adapter.start_from={run.adapter.begins_with} does not fit model={run.model.name} and "
            f"task={run.task.name} ({str(error).splitlines()[-1].strip()}); start from a run of the same two"
        ) from error


def _drawn_here(found: Finished) -> Model:
    """`same_backbone`, once random weights are seen to be drawn on the kind of device that drew them first."""
    import torch

    model = same_backbone(found)
    drawn = locate("model", model).kind == "random" and found.run.quantization.name != "none"
    if drawn and found.record["environment"]["device"].startswith("cpu") == torch.cuda.is_available():
        raise RequestError(f"{found.folder} drew its random weights on another kind of device; load it on that one")
    return model


def with_adapter(
    found: Finished, adapter: Adapter, num_labels: int | None, as_stored: bool, layers: int | None = None
) -> Any:
    """The backbone in float32, or stored as the run stored it, carrying the adapter as stock PEFT carries one."""
    quiet_libraries()  # first: bitsandbytes, which PEFT brings, speaks when it is imported
    import torch
    from peft import PeftConfig, get_peft_model

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # the caller's draws go on as they were
        body, device = _body(found, num_labels, as_stored, layers)
        config = PeftConfig.from_peft_type(**copy.deepcopy(adapter.config) | {"inference_mode": True})
        carrying = get_peft_model(body.model, config)
    _fill(found, carrying, adapter)
    return carrying.to(device)


def of_all_ranks(found: Finished, adapter: Adapter) -> tuple[DyLora, Backbone]:
    """The run's own method over its backbone as stored, holding `adapter` at its largest rank; and that backbone.

    So every rank up to that can be made active, of each layer by itself.
    """
    quiet_libraries()
    import torch

    from rankbench import methods
    from rankbench.methods.lora import DyLora
    from rankbench.models import drawn

    alpha = float(adapter.config["lora_alpha"])  # a prefix of a plain LoRA has another
    method: Any = found.run.adapter
    sized = dataclasses.replace(method, r=adapter.rank, lora_alpha=alpha)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        body, device = _body(found, head_width(found, adapter), as_stored=True, layers=None)
        drawn.note(body.model, adapter.config.get("modules_to_save") or [])  # an earlier run froze what was drawn
        tuning = methods.attach(dataclasses.replace(found.run, adapter=sized), body.model)
    if not isinstance(tuning, DyLora):
        raise RequestError(
            f"adapter={method.name} cannot hold a rank for each layer; give a run of adapter=dylora or lora"
        )
    _fill(found, tuning.model, adapter)
    in_the_runs_precision(found, tuning.model.to(device).eval())
    return tuning, body


def _body(
    found: Finished, num_labels: int | None, as_stored: bool, layers: int | None
) -> tuple[Backbone, torch.device]:
    """The backbone under a fresh head, in float32 on the CPU or as the run stored it, and where it lies then."""
    import torch

    from rankbench.methods.layer_stack import Stack
    from rankbench.models import backbone, integer, quantization

    run, model = found.run, _drawn_here(found)
    drawn = locate("model", model).kind == "random"  # of fewer layers others would be drawn, so those are cut
    if layers is not None and not drawn:
        model = dataclasses.replace(model, layers=layers)
    storage = quantization.PLAIN
    if as_stored:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        storage = quantization.storage(run.quantization, found.record["environment"]["precision"], device)
    body = backbone.load(model, num_labels, run.task.regression, run.seed, storage, run.task.extracts)
    if layers is not None and drawn:
        Stack(body.model).cut(layers)
    backbone.name_classes(body.model, found.label_names)
    if as_stored:
        integer.put(body.model, run.arithmetic, run.seed)
    return body, storage.device


def _fill(found: Finished, carrying: Any, adapter: Adapter) -> None:
    """Put the adapter's tensors into a PEFT model. Raises RequestError where they do not fit."""
    from peft import set_peft_model_state_dict

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
