"""Any rank of a finished run as a stock PEFT adapter or as a merged model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbench.errors import RequestError
from rankbench.records.finished import Finished, exit_of, finished, refuse_rank
from rankbench.settings.run import Run
from rankbench.settings.sources import locate
from rankbench.shipping import hub
from rankbench.shipping.base import Base, base_of, kept_backbone
from rankbench.shipping.beside import OF_MODEL, copied, write_generation, write_tokenizer
from rankbench.shipping.card import card, title
from rankbench.shipping.card_code import NAMED, Made, one_line, stock
from rankbench.shipping.finished_adapter import cut, global_cut, head_width
from rankbench.shipping.loading import whole, with_adapter
from rankbench.shipping.new_folder import new_folder, vacant
from rankbench.shipping.shipped import write_note
from rankbench.system.files import expanded
from rankbench.system.progress import quiet_libraries, speak

if TYPE_CHECKING:
    from rankbench.shipping.adapter_files import Adapter

log = logging.getLogger("rankbench")


def main(words: list[str]) -> None:
    """`rankbench export RUN --to DIR`: a rank of a finished run for stock PEFT, or a merged model."""
    parser = argparse.ArgumentParser(
        prog="rankbench export", description="Write one rank or depth of a finished run for stock libraries."
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder that is new or empty")
    parser.add_argument("--rank", type=int, help="a rank that the run trained (default: the largest, r)")
    parser.add_argument("--depth", type=int, help="an exit that the run trained (default: all layers)")
    parser.add_argument("--merge", action="store_true", help="write the whole model, the adapter added to its weights")
    parser.add_argument("--svd", action="store_true", help="cut rank r down by SVD: any rank, trained or not")
    parser.add_argument(
        "--svd-global",
        action="store_true",
        help="keep the largest singular values of all layers together: each layer gets a rank of its own, and all "
        "together have the parameters of --rank",
    )
    hub.add_options(parser)
    asked = parser.parse_args(words)
    hub.check_options(asked)
    speak()
    ways = {name: getattr(asked, name) for name in ("merge", "svd", "svd_global", "base", "push", "public")}
    print("\n".join(export(asked.run, asked.to, asked.rank, asked.depth, **ways)))


def export(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    rank: int | None = None,
    depth: int | None = None,
    *,
    merge: bool = False,
    svd: bool = False,
    svd_global: bool = False,
    base: str | None = None,
    push: str | None = None,
    public: bool = False,
) -> list[str]:
    """Write a sub-model of the finished run in the folder `run` into the new folder `to`; returns what to say of it.

    By default the stock PEFT adapter of the run's largest rank, made without loading the backbone; `merge` writes the
    whole model in float32 instead. `svd` cuts the largest rank down rather than take a trained prefix, and `svd_global`
    does so over all layers together, each of which gets a rank of its own. At a depth the model has so many layers;
    where every weight was trained it is whole in any case, factors multiplied out. Raises RequestError, and leaves
    nothing behind, when the run or the rank cannot be exported or `to` cannot be written.

    `base` is the hub's id of the backbone, OWNER/NAME or OWNER/NAME@REVISION, where rankbench does not know it. `push`
    uploads the folder to that model repository of the hub, a new one private unless `public`; then the folder names no
    place on this machine. Raises RequestError where the hub does not take it, and the folder stays.
    """
    if push is not None:
        hub.check_name(push, "--push")
    if svd and svd_global:
        raise RequestError("--svd and --svd-global are two ways to cut a rank down; leave one out")
    found = finished(expanded(run))
    place = vacant(to)
    layers = exit_of(found, depth)
    under = hub.as_named(base_of(found, layers), base, push is not None, found.whole or merge)
    refuse_rank(found, rank, "--svd" if svd else "--svd-global" if svd_global else "")
    rank = None if rank is None else int(rank)  # numpy's has no JSON
    if found.whole:
        said = _whole(found, Made("full", under, depth=layers), place)
    elif svd_global:
        adapter, ranks = global_cut(found, rank, layers)
        made = Made("adapter", under, rank or max(found.note["trained_ranks"]), 1.0, True, depth=layers, ranks=ranks)
        said = ship(found, adapter, made, place, merge)
    else:
        adapter = cut(found, rank, svd, layers)
        made = Made("adapter", under, adapter.rank, adapter.scale, svd, depth=layers)
        said = ship(found, adapter, made, place, merge)
    return said if push is None else [*said, hub.push(place, push, public)]


def _whole(found: Finished, made: Made, place: Path) -> list[str]:
    """A model of which every weight was trained."""
    if made.depth is None and not found.early and not found.factorised:
        _whole_files(found)  # they are looked at before a folder is made
        return _write(found, made, place, functools.partial(_copied, found))
    return _write(found, made, place, _model(_plain(whole(found, made.depth))))


def ship(found: Finished, adapter: Adapter, made: Made, place: Path, merge: bool = False) -> list[str]:
    """Write an adapter of the run, which `made` describes, into the new folder `place`; returns what to say of it.

    Raises RequestError as `export` does.
    """
    labels = head_width(found, adapter)
    _check_backbone_brings_all(found, adapter, made.base, labels, merge)
    form, skipped = "merged" if merge else "adapter", tuple(sorted({name.split(".")[0] for name in adapter.head}))
    renamed = found.run.task.extracts and any(".transformer.layers." in name for name in adapter.tensors)
    made = dataclasses.replace(made, form=form, num_labels=labels, skipped=skipped, renamed=renamed)
    write = _merged(found, adapter, labels, made.depth) if merge else _adapter(adapter, made.base)
    return _write(found, made, place, write)


def _write(found: Finished, made: Made, place: Path, write: Callable[[Path], None]) -> list[str]:
    """The folder, with the run's tokenizer, the note and the card."""
    with new_folder(place) as folder:
        write(folder)
        write_tokenizer(found, folder)
        if made.form != "adapter" and found.run.task.kind == "causal_lm":
            write_generation(found, folder)
        write_note(found, made, folder)
        _write_card(card(found, made, place.resolve().name), folder)
    return _said(found, made, place)


def _check_backbone_brings_all(
    found: Finished, adapter: Adapter, base: Base, num_labels: int | None, merge: bool
) -> None:
    """Refuse where frozen weights drawn at the start of the run are neither in the backbone nor in the adapter.

    A classifier over a checkpoint of another kind may have them (BERT's pooler): stock code would draw others.
    """
    run, quantized = found.run, found.run.quantization.name != "none"
    if base.name is None and quantized and merge:
        raise RequestError(
            "--merge: this run drew random weights straight into 4 or 8 bits; there are none to merge into"
        )
    if num_labels is None or base.name is None or (merge and not quantized):
        return
    folder = _on_disk(found)
    if folder is None:
        log.warning("the backbone is not on this machine: not checked that it brings every weight of the classifier")
        return
    if folder.suffix == ".gguf":  # only language models come in GGUF, and their one new weight is the head
        return
    drawn = _drawn(folder, run, num_labels) - set(adapter.head)
    if drawn:
        ways = "rankbench.load" if quantized else "--merge or rankbench.load"
        raise RequestError(
            f"{', '.join(sorted(drawn)[:3])}: neither in the backbone's files nor in the adapter, so stock PEFT "
            f"would draw others; use {ways}"
        )


def _drawn(folder: Path, run: Run, num_labels: int) -> set[str]:
    """The weights of a model under a head that the files in `folder` lack; only their names are read."""
    import transformers
    from safetensors import SafetensorError

    from rankbench.models import heads

    quiet_libraries()
    kind, trust = getattr(transformers, run.task.stock.auto_class), run.model.trust_remote_code
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        _, told = kind.from_pretrained(
            folder,
            **heads.renamed(kind, config),
            num_labels=num_labels,
            trust_remote_code=trust,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            device_map="meta",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RequestError(f"{folder} cannot be read as {kind.__name__}: {str(error).splitlines()[0]}") from error
    return {*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])}


def _on_disk(found: Finished) -> Path | None:
    """The backbone's folder or GGUF file where its weights are at hand without a network."""
    with contextlib.suppress(RequestError, OSError, ValueError):
        model = kept_backbone(found)
        if model is None:
            return None
        source = locate("model", model)
        path = source.path
        if source.kind == "hub":
            from huggingface_hub import snapshot_download

            path = Path(snapshot_download(source.hub or "", revision=source.revision, local_files_only=True))
        if path is not None and (path.is_file() or any(path.glob("*.safetensors"))):
            return path
    return None


def _adapter(adapter: Adapter, base: Base) -> Callable[[Path], None]:
    from rankbench.shipping import adapter_files

    adapter = adapter_files.one_alpha(adapter)
    config = adapter.config | {"base_model_name_or_path": base.name, "revision": base.revision}
    return functools.partial(adapter_files.write, dataclasses.replace(adapter, config=config))


def _merged(found: Finished, adapter: Adapter, num_labels: int | None, layers: int | None) -> Callable[[Path], None]:
    carrying = with_adapter(found, adapter, num_labels, as_stored=False, layers=layers)
    _refuse_shared(carrying)
    return _model(carrying.merge_and_unload())


def _model(model: Any) -> Callable[[Path], None]:
    from rankbench.models import backbone

    backbone.greedy(model)  # a run of an earlier rankbench kept what its base says
    return model.save_pretrained


def _plain(model: Any) -> Any:
    """The model with whole weights for factors, which no other library can load."""
    from rankbench.methods.factors import multiply_out

    return multiply_out(model)


def _refuse_shared(model: Any) -> None:
    """Merging into a matrix that another layer shares would change that layer too."""
    from peft.tuners.lora.layer import LoraLayer

    adapted = {id(m.get_base_layer().weight): m for m in model.modules() if isinstance(m, LoraLayer)}
    inner = {id(m.get_base_layer()) for m in adapted.values()}
    for name, module in model.named_modules():
        if id(module) in inner or isinstance(module, LoraLayer):
            continue
        if id(getattr(module, "weight", None)) in adapted:
            raise RequestError(
                f"--merge would change {name}, which shares its weights with an adapted layer; export without --merge"
            )


def _whole_files(found: Finished) -> list[Path]:
    """The files of the whole model of adapter=full, once its weights are seen to be whole."""
    from safetensors import SafetensorError, safe_open

    weights = sorted(found.adapter.glob("*.safetensors"))
    for file in weights:
        try:
            with safe_open(file, "pt") as stored:
                stored.keys()
        except (OSError, SafetensorError) as error:
            raise RequestError(f"{file} is damaged ({error}); run it again with fresh=true") from error
    if not weights or not (found.adapter / "config.json").is_file():
        raise RequestError(f"{found.adapter} lacks its weights or config.json; run it again with fresh=true")
    others = [found.adapter / name for name in OF_MODEL if (found.adapter / name).is_file()]
    return [*weights, *found.adapter.glob("*.safetensors.index.json"), *others]


def _copied(found: Finished, folder: Path) -> None:
    """The whole model of adapter=full as the run left it, its classes named."""
    copied(_whole_files(found), folder)
    if names := found.label_names:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        file.write_text(json.dumps(config, indent=2) + "\n")


def _write_card(text: str, folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(text, encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod(readme.stat().st_mode)  # safetensors makes its files private


def _said(found: Finished, made: Made, place: Path) -> list[str]:
    """What was written, how large it is, and the line that loads it."""
    from safetensors import safe_open

    count = 0
    for file in place.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            count += sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    size = sum(file.stat().st_size for file in place.iterdir()) / 1e6
    kind = "a stock PEFT adapter" if stock(found, made) else "an adapter in PEFT's format, over a base of rankbench's"
    what = kind if made.form == "adapter" else "a whole model"
    server = ""
    if made.form == "adapter" and (made.depth or made.ranks or "ranks" in found.note):
        why = "runs all layers of a base" if made.depth else "may know one rank for all layers"
        server = f"a server {why}: give it --merge (docs/serving.md)"
    named = " (README.md names its classes)" if len(found.label_names or ()) > NAMED and made.form == "adapter" else ""
    return [
        f"{place}: {what}, {title(found, made)}",
        f"{count:,} parameters, {size:.1f} MB",
        *([server] if server else []),
        f"load it{named}: {one_line(found, made, json.dumps(str(place), ensure_ascii=False))}",
    ]
