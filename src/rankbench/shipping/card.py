"""The model card of an exported rank, and the code in it that loads the export with stock libraries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankbench.records import tested
from rankbench.records.finished import Finished, ranks_in_words
from rankbench.settings.metrics import times, unit
from rankbench.settings.references import FORMS
from rankbench.settings.run import Run
from rankbench.shipping.beside import cut_at, tokenizer_of
from rankbench.shipping.card_code import Made, loading, stock, storage, windows
from rankbench.shipping.hub import without_places
from rankbench.system.markup import block, code, markdown
from rankbench.tasks import chat_template


def card(found: Finished, made: Made, name: str) -> str:
    """The model card of an export in a folder called `name`, as Markdown under YAML."""
    sections = [
        f"# {markdown(found.record['run_id'])}, {markdown(title(found, made))}",
        _what(found, made),
        *("## Measured", _measured(found, made)),
        *("## Load it", loading(found, made, name)),
        *("## How it was made", _history(found, made.base.portable)),
        *("## Licence", "The licence of the base model applies; rankbench adds none of its own."),
    ]
    return f"---\n{_front(found, made)}---\n\n" + "\n\n".join(sections) + "\n"


def _front(found: Finished, made: Made) -> str:
    import yaml

    kind = found.run.task.stock.pipeline
    library = "peft" if made.form == "adapter" else "transformers"
    base = {"base_model": made.base.name} if made.base.revision else {}  # the hub takes no other name than its own
    tags = list(dict.fromkeys([found.run.adapter.name, "lora", "rankbench"] if made.rank else ["rankbench"]))
    return yaml.safe_dump(base | {"library_name": library, "pipeline_tag": kind, "tags": tags}, sort_keys=False)


def title(found: Finished, made: Made) -> str:
    """What the export is, in a few words."""
    exits = found.note.get("exits")
    depth = [f"depth {made.depth or exits[-1]} of {exits[-1]}"] if exits else []
    names = {"full": "full fine-tuning", "head": "its head alone trained", "flop": "flop, its factors multiplied out"}
    if made.rank is None:
        return ", ".join([names.get(found.note["method"], found.note["method"]), *depth])
    cut = (
        f"ranks {_ranks(made.ranks)} of {found.note['r']}, the parameters of rank {made.rank}"
        if made.ranks
        else f"ranks {_ranks(found.note['ranks'])} of {found.note['r']}"
        if "ranks" in found.note
        else f"SVD cut of rank {max(found.note['trained_ranks'])} to rank {made.rank}"
        if made.svd
        else f"rank {made.rank} of {found.note['r']}"
    )
    return ", ".join([cut, *depth, *(["merged"] if made.form == "merged" else [])])


def _what(found: Finished, made: Made) -> str:
    """What it is, in a few sentences."""
    run, said = found.run, []
    if made.rank is not None:
        said.append(_adapter_sentence(found, made))
        said.append(
            "It is a whole model in float32: the adapter is added to the base's weights."
            if made.form == "merged"
            else "It is a stock PEFT adapter; rankbench is not needed to load it."
            if stock(found, made)
            else "It is in PEFT's format; its base as the run had it needs rankbench, as below."
        )
    elif found.early:
        said.append("A model whose body was frozen while a head was trained for each exit but the last.")
    elif found.factorised:
        said.append(
            f"A model of which every weight was trained, those of {len(found.note['ranks'])} layers as products of two "
            f"factors pruned to ranks {_ranks(found.note['ranks'])} (FLOP). Here the factors are multiplied out, since "
            "no other library can load them: it is as large as its base. rankbench.load gives the small one."
        )
    elif found.note["method"] == "head":
        what = "model that extracts answers" if run.task.extracts else "classifier"
        said.append(f"A {what} over a frozen backbone: its head alone was trained.")
    else:
        said.append("A model of which every weight was trained.")
    if made.depth is not None:
        own = "a head of its own" if found.early else "the head that all exits share"
        said.append(
            f"It has the first {made.depth} of {found.note['exits'][-1]} layers, then the final norm and {own}."
        )
        if made.form == "adapter":
            said.append("Load it over a base that is cut alike, as below; over the whole base it says something else.")
    if made.rank is not None and run.task.kind != "causal_lm":
        shared = "" if found.sized else ", shared by all ranks"
        said.append(f"Its head is the one that the run trained{shared}.")
    if run.task.extracts:
        said.append(windows(found))
    elif (limit := cut_at(found)) is not None:
        said.append(f"It read texts cut at {limit} tokens: tokenize with {code('truncation=True')}.")
    if run.task.kind == "regression":
        said.append("It has one output, the predicted value.")
    if run.task.kind == "classification" and (names := found.label_names):
        said.append(f"Its outputs: {', '.join(f'{i} {markdown(str(label))}' for i, label in enumerate(names))}.")
    if run.task.kind == "causal_lm":
        said.append(_decoding(found, made))
    return "\n\n".join([" ".join(said), _base_sentence(found, made), *_prompts(run)])


def _decoding(found: Finished, made: Made) -> str:
    """How responses were generated, and what makes stock code do the same."""
    run, how = found.run, found.run.generation
    if run.task.choices:
        listed = ", ".join(code(choice) for choice in run.task.choices)
        return (
            f"Its answer is the likeliest of {listed}, by the first token that tells them apart; nothing else was "
            "asked of it, and what it would generate freely may be none of them."
        )
    named = "greedily" if how.bare else f"by {code(str(how))}"
    lacks = f" ({' and '.join(how.own)} are not transformers': `rankbench.load` has them)" if how.own else ""
    if made.form != "adapter":
        return f"It generates as it was scored: {named}, at most {run.task.max_new_tokens} tokens{lacks}."
    settings = how.of_transformers | {"repetition_penalty": 1.0, "max_new_tokens": run.task.max_new_tokens}
    if run.task.chats:
        tokenizer = tokenizer_of(found)
        settings["eos_token_id"] = sorted({tokenizer.eos_token_id, *chat_template.ends(run.task, tokenizer)})
    call = code(", ".join(f"{key}={value!r}" for key, value in settings.items()))
    return f"Responses are scored {named}{lacks}; the base may be set otherwise, so generate with {call}."


def _prompts(run: Run) -> list[str]:
    """The templates that the texts were made by, which a prompt has to follow."""
    said = []
    if run.task.chats:
        call = "tokenizer.apply_chat_template(messages, add_generation_prompt=True)"
        said = [f"It learnt conversations, as the tokenizer's chat template writes them: give it {code(call)}."]
        if run.task.system is not None:
            said += ["A conversation without a system prompt began with this one:", block(run.task.system, "text")]
    if run.task.prompts:
        what = "The user's turn" if run.task.chats else "A prompt"
        said.append(f"{what} is made by the first of these templates whose columns are all filled:")
        said += [block(prompt, "text") for prompt in run.task.prompts]
        if run.task.header:
            said += ["Before it stands this header, where its columns are filled:", block(run.task.header, "text")]
        if run.task.shots:
            of = f" whose {code(run.task.shots_column)} is the row's" if run.task.shots_column else ""
            said.append(
                f"Between header and prompt stand the first {run.task.shots} rows of {code(run.task.shots_split)}{of}, "
                "each as its prompt and response, with an empty line behind; the last ones go where room lacks."
            )
        if run.task.separator.value != "none":
            said.append("Behind the prompt comes the tokenizer's end-of-text token, then the response.")
        used = [form for form in FORMS if any(f":{form}}}" in prompt for prompt in run.task.prompts)]
        said += [f"In a column written as {code(form)} {markdown(FORMS[form])}." for form in used]
    return said


def _adapter_sentence(found: Finished, made: Made) -> str:
    method = {"lora": "LoRA", "dylora": "DyLoRA", "qdylora": "QDyLoRA", "dylora_late": "DyLoRA"}.get(
        found.run.adapter.name, found.run.adapter.name
    )
    settings: Any = found.run.adapter  # of a LoRA, whatever its method
    targets, largest = settings.target_modules, found.note["r"]
    where = targets if isinstance(targets, str) else ", ".join(targets)
    adds = f"it adds s B A x to the output of {markdown(where)}"
    if made.ranks:
        return _layers_sentence(found, made, method, adds)
    if made.svd:
        largest = max(found.note["trained_ranks"])
        return (
            f"SVD cut of rank {largest}, not trained at rank {made.rank}: in every layer the closest product of rank "
            f"{made.rank} to the whole update of a {method} adapter of rank {largest}; {adds}, with s = {made.scale:g}."
        )
    part = f"The {method} adapter of rank {largest}"
    if "ranks" in found.note:
        return (
            f"A LoRA that gates pruned from rank {largest} to ranks {_ranks(found.note['ranks'])}, one for each layer; "
            f"{adds}, with s = {made.scale:g} in every layer."
        )
    if found.note.get("nested"):
        rows = "A's first row and B's first column"
        if made.rank != 1:
            rows = f"the first {made.rank} rows of A and columns of B"
        part = f"Rank {made.rank} of one {method} adapter of rank {largest}, {rows}"
    return f"{part}; {adds}, with s = {made.scale:g}, the scale that this rank was trained with."


def _layers_sentence(found: Finished, made: Made, method: str, adds: str) -> str:
    """What an adapter with a rank for each layer is, and by what the ranks were chosen."""
    assert made.ranks is not None
    largest, ranks = max(found.note["trained_ranks"]), _ranks(made.ranks)
    size = f"with no more parameters than rank {made.rank} in every layer has"
    if not made.choice:
        return (
            f"SVD cut of a {method} adapter of rank {largest}, not trained at these ranks: of its whole update the "
            f"largest singular values of all layers together, {size}. So the layers have ranks {ranks}; {adds}, with "
            "s = 1."
        )
    settings: Any = found.run.adapter
    alpha = settings.lora_alpha
    scale = {"alpha_over_b": f"{alpha:g} / b", "alpha_over_sqrt_b": f"{alpha:g} / sqrt(b)"}
    trained = scale.get(found.note["scale"], f"{alpha / found.note['r']:g}")
    part = "the closest product of rank b to its whole update (SVD)" if made.svd else "its first b rows and columns"
    return (
        f"A {method} adapter of rank {largest} with a rank of its own in each layer, {ranks}, chosen by the loss on "
        f"half of the validation rows, {size}. A layer of rank b holds {part}, one of rank 0 is the base's own; "
        f"{adds}, with s = {'1' if made.svd else trained}."
    )


def _ranks(ranks: Mapping[str, int]) -> str:
    """The least and the largest rank of a layer."""
    return f"{min(ranks.values())} to {max(ranks.values())}"


def _base_sentence(found: Finished, made: Made) -> str:
    model, stored = found.run.model, found.run.quantization.name
    kind = (found.record.get("backbone") or {}).get("source")
    if made.base.name is None:
        said = f"Base: random weights drawn by seed {found.run.seed}, which cannot be downloaded; this is for tests."
    elif made.base.revision:
        said = f"Base: {code(made.base.name)} at revision {code(made.base.revision)}."
        if kind == "package":
            package = (model.package or "").split("/")[0]
            said += f" The pip package `{package}` carries the same weights; the run took them from there."
    else:
        place = f"the pip package `{(model.package or '').split('/')[0]}`" if kind == "package" else "a folder"
        said = (
            f"Base: {markdown(model.name)}, from {place} of the machine that trained it: {code(made.base.name)}. "
            "Whether a hub has the same weights is not known; elsewhere, give your own copy's place instead."
        )
    if made.base.gguf_file:
        said += f" Its file is {code(made.base.gguf_file)}, its weights those of the GGUF file made float32."
    if stored != "none" and made.form == "merged":
        said += f" Trained over {stored}, merged into the float base, so its outputs differ slightly from the run's."
    elif stored != "none":
        said += f" Trained over the base stored in {stored}; over other storage its outputs differ slightly."
    if found.run.arithmetic.integer:
        said += (
            f" The run computed in {found.run.arithmetic.words}, as did what the table measured; stock libraries "
            "compute in floats, whose outputs differ by what so few bits round."
        )
    if (precision := found.record["environment"]["precision"]) != "fp32":
        said += f" The run computed in {precision} under autocast; float32 rounds differently."
    return said


def _measured(found: Finished, made: Made) -> str:
    """The metrics of every measured sub-model, this one marked."""
    rows, exits = found.record["submodels"], found.note.get("exits")
    depth = made.depth or (exits[-1] if exits else None)
    names = list(rows[0]["metrics"]) if rows else []
    heads = [markdown(f"{name} x {times(name)}" if times(name) != 1 else name) for name in names]
    keys = [key for key in ("rank", "depth") if any(row.get(key) is not None for row in rows)] or ["rank"]
    lines = [[*keys, *heads, "trained parameters"]]
    for row in rows:
        own = row["rank"] in (None, made.rank) and row.get("depth") == depth and not made.svd and not made.ranks
        places = ["whole" if row[key] is None else str(row[key]) for key in keys]
        if own and len(rows) > 1:
            places = [f"**{place}**" for place in places]
            places[-1] += " (this one)"
        values = [f"{times(name) * row['metrics'][name]:.{2 if times(name) > 1 else 3}f}" for name in names]
        lines.append([*places, *values, f"{row['parameters']['trainable']:,}"])
    lines.insert(1, ["---:"] * len(lines[0]))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    splits = markdown(", ".join(found.run.task.validation_splits))
    count = f"On the {rows[0]['n']:,} examples of {splits}." if rows else ""
    note = ""
    if made.choice:
        note = " These are the metrics of one rank in every layer."
    elif made.ranks and (cuts := _cut_row(found, made)):
        scores = ", ".join(f"{head} {times(name) * cuts[name]:.2f}" for head, name in zip(heads, names, strict=True))
        note = f" This cut was measured there too: {scores}. The table has the prefixes."
    elif made.svd:
        note = " These are the metrics of the prefixes, not of this cut, which was not measured."
    elif not any(row["rank"] in (None, made.rank) and row.get("depth") == depth for row in rows):
        this = f"Rank {made.rank}" if made.rank else f"Depth {depth}"
        note = f" {this}{f' at depth {depth}' if made.rank and exits else ''} was trained, but not measured."
    elif "nested" in found.note and not found.note.get("nested") and len(rows) > 1:
        note = f" Only rank {found.note['r']} was trained; the others are its first rows and columns."
    its = [row for row in rows if (row["rank"], row.get("depth")) == (made.rank, depth)]
    test = [] if made.svd or made.ranks or not its else _tested(found, its[0])
    return "\n\n".join([*([made.choice] if made.choice else []), f"{count}{note}", table, *test])


def _tested(found: Finished, row: dict[str, Any]) -> list[str]:
    """What test splits say of this sub-model, by which nothing was chosen."""
    if not row.get("test"):
        return []
    said = ", ".join(f"{unit(name)} {times(name) * value:.2f}" for name, value in row["test"].items())
    where = ", ".join(tested.splits(found.record))
    return [markdown(f"On the {row['test_n']:,} examples of {where}, by which nothing was chosen: {said}.")]


def _cut_row(found: Finished, made: Made) -> dict[str, float] | None:
    """The metrics of this svd_global cut where the run measured it."""
    rows = found.record.get("cuts") or []
    wanted = [row["metrics"] for row in rows if row["cut"] == "svd_global" and row["rank"] == made.rank]
    return wanted[0] if wanted and made.depth is None else None


def _history(found: Finished, portable: bool) -> str:
    """The command, the settings that matter, the data and the versions."""
    run, environment = found.run, found.record["environment"]
    adapter: Any = run.adapter
    train, data = run.train, found.record.get("data") or {}
    update = f", update {adapter.update.value}" if hasattr(adapter, "update") else ""
    length = f"{train.max_steps} steps" if train.max_steps else f"{train.epochs} epochs"
    batch = f"batches of {train.batch_size}"
    if train.gradient_accumulation_steps > 1:
        batch += f" x {train.gradient_accumulation_steps}"
    rows = [
        ("task", run.task.name),
        ("method", f"{adapter.name}{update}, sampler {run.sampler.name}"),
        ("training", f"{length}, {batch}, learning rate {train.learning_rate:g}, {train.schedule.value} schedule"),
        ("seed", run.seed),
        ("precision", f"{environment['precision']} ({environment.get('precision_reason', 'not said')})"),
        ("quantization", storage(run)),
        *([("arithmetic", run.arithmetic.words)] if run.arithmetic.integer else []),
        ("device", environment.get("device", "not said")),
    ]
    if "r" in found.note:
        size = f"r {adapter.r}, lora_alpha {adapter.lora_alpha:g}, lora_dropout {adapter.lora_dropout:g}"
        rows.insert(
            2,
            (
                "size",
                f"{size}, scale {adapter.scale.value}, trained ranks {ranks_in_words(found.note['trained_ranks'])}",
            ),
        )
    place, command = str(data.get("location")), str(environment.get("command", "not said"))
    if portable:
        place, command = place if data.get("source") == "hub" else Path(place).name, without_places(command)
    rows.append(("data", f"{data.get('source', 'not said')}: {place}"))
    for name, split in (data.get("splits") or {}).items():
        rows.append((name, f"{split['rows']:,} rows of {split['file']}, sha256 {split['sha256']}"))
    versions = {"rankbench": environment.get("rankbench"), **(environment.get("versions") or {})}
    wanted = ("rankbench", "torch", "transformers", "peft")
    rows.append(("versions", ", ".join(f"{name} {versions[name]}" for name in wanted if versions.get(name))))
    table = "\n".join(["| | |", "|---|---|", *(f"| {markdown(key)} | {markdown(str(value))} |" for key, value in rows)])
    return f"{block(command)}\n\n{table}"
