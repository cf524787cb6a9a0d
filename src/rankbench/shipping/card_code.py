"""The code on a model card, which loads an export with stock libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from rankbench.records.finished import Finished
from rankbench.settings.run import Run
from rankbench.shipping.base import Base
from rankbench.shipping.beside import cut_at
from rankbench.system import markup


@dataclass(frozen=True)
class Made:
    """What an export is: `form` adapter, merged or full; `rank` and `scale` None for full; `num_labels` of a head.

    Where it is `renamed`, stock code has to be told that the class calls its body otherwise than the base's files do.

    `depth` is an exit before the last, None for the whole depth. Where layers differ in rank, `ranks` has each layer's
    and `rank` is the one in every layer that would have as many parameters; `choice` is what chose them by a loss, and
    what they scored, as Markdown.
    """

    form: str
    base: Base
    rank: int | None = None
    scale: float | None = None
    svd: bool = False
    num_labels: int | None = None
    skipped: tuple[str, ...] = ()  # modules that 4- and 8-bit storage leaves alone: the trained head
    depth: int | None = None
    ranks: Mapping[str, int] | None = None
    choice: str = ""
    renamed: bool = False


def loading(found: Finished, made: Made, name: str) -> str:
    """Python that loads the export from the folder above it with stock libraries."""
    run, base = found.run, made.base
    kind = run.task.stock.auto_class
    trust = [f"trust_remote_code={run.model.trust_remote_code}"] if run.model.trust_remote_code else []
    here = [f"here = {_literal(name)}  # this folder", "tokenizer = AutoTokenizer.from_pretrained(here)"]
    if made.form != "adapter":
        call = ", ".join(["here", *trust])
        return _python(
            f"from transformers import {kind}, AutoTokenizer",
            "",
            *here,
            f"model = {kind}.from_pretrained({call}).eval()",
        )
    arguments = _arguments(found, made)
    if arguments is None:
        why = f"Stock transformers cannot store this base as the run did ({storage(run)}); rankbench can."
        if base.name is None:
            why = "The base is only where rankbench draws it again; `rankbench export --merge` writes the whole model."
        return f"{why}\n\n" + _python("import rankbench", *_by_rankbench(found, made, "here", here[0]))
    quantized = "BitsAndBytesConfig" in " ".join(arguments)
    names = sorted(["AutoTokenizer", kind, *(["BitsAndBytesConfig"] if quantized else [])])
    code = _python(
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {', '.join(names)}",
        "",
        *here,
        f"base = {kind}.from_pretrained(",
        *(f"    {argument}," for argument in arguments),
        ")",
        "base.config.pad_token_id = tokenizer.pad_token_id",
        *_classes(found),
        "model = PeftModel.from_pretrained(base, here).eval()",
    )
    if not found.label_names:
        return code
    return (
        f"{code}\n\nGive `pipeline` this `model`: from an adapter's folder alone transformers reads the classes of the "
        "base, not these. A merged export is read from its folder."
    )


def _classes(found: Finished) -> list[str]:
    """Lines that have the base say the data's own words, where stock code would say those of another task."""
    if not found.label_names:
        return []
    return [
        f"names = {_literal(found.label_names)}",
        "base.config.id2label = dict(enumerate(names))",
        "base.config.label2id = {name: place for place, name in enumerate(names)}",
    ]


def _literal(value: object) -> str:
    """A text or a list of them as Python and JSON both write it; letters stay letters."""
    return json.dumps(value, ensure_ascii=False)


def _python(*lines: str) -> str:
    return markup.block("\n".join(lines), "python")


def _by_rankbench(found: Finished, made: Made, here: str, *before: str) -> list[str]:
    """Python that loads the export over the backbone as rankbench stores it."""
    place = found.folder.name if made.base.portable else str(found.folder.absolute())
    run, ranks = _literal(place), found.note["trained_ranks"]
    depth = f", depth={made.depth}" if made.depth else ""
    if not made.svd and made.ranks is None:
        rank = "" if found.sized else f", rank={made.rank}"
        return ["", f"model = rankbench.load({run}{rank}{depth})"]
    base = f"rankbench.load({run}, rank={ranks[-1]}{depth}).unload()"
    return ["from peft import PeftModel", "", *before, f"model = PeftModel.from_pretrained({base}, {here}).eval()"]


def _arguments(found: Finished, made: Made, here: bool = False) -> list[str] | None:
    """What stock from_pretrained is given to load the base as the run had it; None where it cannot."""
    run, base, labels = found.run, made.base, made.num_labels
    stored = _quantization(found, made)
    if base.name is None or stored is None:
        return None
    dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(found.record["environment"]["precision"], "float32")
    place, revision = (base.here, None) if here and base.here else (base.name, base.revision)
    return [
        _literal(place),
        *([f"revision={_literal(revision)}"] if revision else []),
        *([f"gguf_file={_literal(base.gguf_file)}"] if base.gguf_file else []),
        *([f"num_hidden_layers={base.layers}"] if base.layers else []),
        *([f"num_labels={labels}", "ignore_mismatched_sizes=True"] if labels is not None else []),
        *(['key_mapping={r"^model\\.": "transformer."}'] if made.renamed else []),
        *stored,
        f"dtype=torch.{dtype if stored else 'float32'}",
        *([f"trust_remote_code={run.model.trust_remote_code}"] if run.model.trust_remote_code else []),
    ]


def _quantization(found: Finished, made: Made) -> list[str] | None:
    """The argument that has transformers store the base as the run did: nothing for floats, None where it cannot."""
    import torch

    from rankbench.models.quantization import STREAMED_BLOCK, storage

    settings = found.run.quantization
    if settings.name == "none":
        return []
    if made.base.gguf_file or (settings.name != "int8" and settings.block_size != STREAMED_BLOCK):
        return None
    skip = f", llm_int8_skip_modules={_literal(list(made.skipped))}" if made.skipped else ""
    if settings.name == "int8":
        return [f"quantization_config=BitsAndBytesConfig(load_in_8bit=True{skip})"]
    compute = storage(settings, found.record["environment"]["precision"], torch.device("cpu")).compute
    return [
        f"quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type={_literal(settings.name)}, "
        f"bnb_4bit_use_double_quant={settings.double_quant}, bnb_4bit_compute_dtype={compute}{skip})"
    ]


def windows(found: Finished) -> str:
    """How a question is read with its context, and answered."""
    task, limit = found.run.task, cut_at(found)
    call = (
        f'tokenizer(question, context, truncation="only_second", max_length={limit}, stride={task.doc_stride}, '
        "return_overflowing_tokens=True, return_offsets_mapping=True)"
    )
    said = [
        f"It read a question of at most {task.max_query_length} tokens, then its context, in windows of {limit} tokens "
        f"that share {task.doc_stride}: {markup.code(call)}.",
        "This tokenizer gives no token types, which PEFT's model of this kind would not pass on.",
        "An answer is the slice of the context from the token of the best start logit to that of the best end logit, "
        f"by their sum over all windows, of at most {task.max_answer_length} tokens.",
    ]
    if task.version_2_with_negative:
        more = f" by more than {task.null_score_diff_threshold:g}" if task.null_score_diff_threshold else ""
        said.append(
            "The answer is empty where the sum of the first token's two logits, the least of all windows, is above "
            f"that{more}."
        )
    return " ".join([*said, "`rankbench.load(...).predict([(question, context)])` does all of it."])


def stock(found: Finished, made: Made) -> bool:
    """Whether stock libraries load the export over its base as the run had it."""
    return made.form != "adapter" or _arguments(found, made) is not None


NAMED = 20  # classes in a line


def one_line(found: Finished, made: Made, here: str) -> str:
    """An expression that loads the export from `here`, a quoted path, on this machine, and answers in the data's words.

    Of more classes than a line takes the card has the names.
    """
    kind = found.run.task.stock.auto_class
    if made.form != "adapter":
        return f"{kind}.from_pretrained({here})"
    arguments = _arguments(found, made, here=True)
    if arguments is None:
        return _by_rankbench(found, made, here)[-1].removeprefix("model = ")
    names = found.label_names or []
    if 0 < len(names) <= NAMED:
        numbered = ", ".join(f"{place}: {_literal(name)}" for place, name in enumerate(names))
        back = ", ".join(f"{_literal(name)}: {place}" for place, name in enumerate(names))
        words = f"id2label={{{numbered}}}, label2id={{{back}}}"
        arguments = [words if argument == f"num_labels={made.num_labels}" else argument for argument in arguments]
    return f"PeftModel.from_pretrained({kind}.from_pretrained({', '.join(arguments)}), {here})"


def storage(run: Run) -> str:
    """How the run stored its backbone, in words."""
    stored = run.quantization
    if stored.name in ("none", "int8"):
        return stored.name
    return f"{stored.name}, blocks of {stored.block_size}{', double quantization' if stored.double_quant else ''}"
