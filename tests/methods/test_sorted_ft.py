"""Exits: a depth is the model of so many layers, its loss that of the shared norm and head, its gradient exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused, sample, write_jsonl, write_tiny
from tiny import a_batch, a_run, randomise
from transformers import AutoConfig

from rankbench import methods
from rankbench.errors import RequestError
from rankbench.methods import objective
from rankbench.methods.sorted_ft import Sorted, exits
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, drawn
from rankbench.runs.life import execute
from rankbench.scoring.evaluation import evaluate
from rankbench.scoring.generation import generate
from rankbench.scoring.responses import Responses
from rankbench.settings.generation import Generation
from rankbench.tables import curve
from rankbench.tasks.encoding import IGNORED
from rankbench.training.samplers import draw

LAYERS = {"bert": "num_hidden_layers", "gpt2": "n_layer", "llama": "num_hidden_layers", "falcon": "num_hidden_layers"}
CASES = [
    (kind, task) for kind in LAYERS for task in ("tweets", "instruction") if (kind, task) != ("bert", "instruction")
]
EXITS = (2, 3, 4)


def words(kind: str, task: str, *overrides: str) -> list[str]:
    without = {"adapter=full", "adapter=lora", "adapter=dylora"} & set(overrides)
    exits = [] if without else ["adapter.exits=[2,3]"]
    return [f"model=tiny_{kind}", f"model.random.{LAYERS[kind]}=4", f"task={task}", *exits, *overrides]


def attached(kind: str, task: str, *overrides: str) -> methods.FineTuning:
    run = a_run(*words(kind, task, *(overrides or ("adapter=sorted_ft",))))
    model = backbone.load(run.model, None if task == "instruction" else 2, False, 0).model
    tuning = methods.attach(run, model)
    randomise(tuning.model)
    for parameter in tuning.model.parameters():
        if parameter.dim() == 2 and parameter.requires_grad:
            parameter.data *= 2  # random tiny models tell layers apart by little
    tuning.model.eval()
    return tuning


def batch_of(task: str) -> dict[str, torch.Tensor]:
    batch = a_batch()
    if task == "instruction":
        batch["labels"] = batch["input_ids"][:, 5:].clone()
        batch["labels"][batch["attention_mask"][:, 5:] == 0] = IGNORED
    return batch


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def physically_cut(tuning: methods.FineTuning, depth: int) -> torch.nn.Module:
    """A fresh model of `depth` layers that holds the first layers' weights, the norm's and the head's."""
    tuning.activate(tuning.family[-1])
    model = tuning.model
    settings = model.config.to_dict()
    kind = settings.pop("model_type")
    settings[LAYERS[kind]] = depth
    settings.pop("layer_types", None)
    made = type(model)(AutoConfig.for_model(kind, **settings))
    lacking, _ = made.load_state_dict(model.state_dict(), strict=False)
    assert not lacking
    return made.eval()


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_an_exit_is_the_model_that_has_so_many_layers(kind: str, task: str) -> None:
    tuning, batch = attached(kind, task), batch_of(task)
    seen = []
    for depth in EXITS:
        expected = physically_cut(tuning, depth)
        tuning.activate(Submodel(depth=depth))
        with torch.no_grad():
            found = tuning.model(**inputs(batch)).logits
            assert torch.allclose(found, expected(**inputs(batch)).logits, atol=1e-5)
        seen.append(found)
    assert (seen[0] - seen[1]).abs().max() > 1e-3 and (seen[1] - seen[2]).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_only_the_layers_of_an_exit_run(kind: str, task: str) -> None:
    tuning = attached(kind, task)
    ran: list[int] = []
    for place, layer in enumerate(tuning.stack.layers):
        layer.register_forward_hook(lambda *_, place=place: ran.append(place))
    tuning.activate(Submodel(depth=3))
    tuning.model(**inputs(batch_of(task)))
    assert ran == [0, 1, 2]


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_the_whole_depth_without_training_is_the_backbone(kind: str, task: str) -> None:
    run = a_run(*words(kind, task, "adapter=sorted_ft"))
    labels = None if task == "instruction" else 2
    plain = backbone.load(run.model, labels, False, 0).model.eval()
    tuning = methods.attach(run, backbone.load(run.model, labels, False, 0).model)
    tuning.activate(Submodel(depth=2))
    tuning.activate(Submodel(depth=4))
    batch = batch_of(task)
    with torch.no_grad():
        assert torch.equal(tuning.model.eval()(**inputs(batch)).logits, plain(**inputs(batch)).logits)


def gradients(tuning: methods.FineTuning) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in tuning.trained().items() if p.grad is not None}
    for parameter in tuning.trained().values():
        parameter.grad = None
    return found


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize(("kind", "task"), CASES)
def test_the_shared_forward_gives_the_gradient_of_the_mean_over_exits(kind: str, task: str, trainable: str) -> None:
    """Conformance test 10: accumulating per exit equals the one-shot mean loss."""
    tuning = attached(kind, task, "adapter=sorted_ft", f"adapter.trainable={trainable}")
    tuning.model.double()
    batch = batch_of(task)
    total = 0.0
    for depth in EXITS:
        tuning.activate(Submodel(depth=depth))
        loss = objective.loss(tuning.model, batch) / 3
        loss.backward()
        total += loss.item()
    expected = gradients(tuning)
    drawn = [(Submodel(depth=depth), 1 / 3) for depth in EXITS]
    found_total = tuning.accumulate(tuning.model, batch, drawn, lambda loss: loss.backward())
    found = gradients(tuning)
    assert found_total.item() == pytest.approx(total, rel=1e-6)
    assert found.keys() == expected.keys() and len(found) > 4
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6, rtol=1e-5), name
    assert tuning.active() == Submodel(depth=4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_layer_runs_once_for_all_exits_together(kind: str) -> None:
    tuning, ran = attached(kind, "instruction"), []
    for layer in tuning.stack.layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    tuning.accumulate(
        tuning.model, batch_of("instruction"), [(Submodel(depth=d), 1 / 3) for d in EXITS], torch.Tensor.backward
    )
    assert len(ran) == 4


def test_the_last_hidden_state_of_transformers_is_normed_and_ours_is_not() -> None:
    """The trap: a second norm on hidden_states[-1] gives other logits than the model's own."""
    tuning = attached("llama", "instruction")
    base = tuning.model.model
    base.norm.weight.data.uniform_(0.5, 2)
    ids = inputs(batch_of("instruction"))
    with torch.no_grad(), tuning.stack.tapped([3, 4]) as streams:
        out = tuning.model(**ids, output_hidden_states=True)
    assert torch.equal(streams[3], out.hidden_states[3])
    assert not torch.allclose(streams[4], out.hidden_states[4], atol=1e-3)
    assert torch.allclose(base.norm(streams[4]), out.hidden_states[4], atol=1e-6)


@pytest.mark.parametrize("how", [Generation(), Generation("beam", num_beams=3)], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "falcon"])
def test_an_exit_says_what_the_physically_cut_model_generates(kind: str, how: Generation) -> None:
    tuning = attached(kind, "instruction")
    prompt = torch.randint(3, 250, (1, 9), generator=torch.Generator().manual_seed(0))
    for depth in EXITS:
        cut = physically_cut(tuning, depth)
        given = cut.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=8,
            do_sample=False,
            num_beams=how.num_beams,
            eos_token_id=2,
            pad_token_id=0,
        )[0, 9:].tolist()
        answers = Responses(8, frozenset({2}), str, how)
        ours = generate(tuning.model, tuning, [prompt[0].tolist()], [Submodel(depth=depth)], answers, pad_id=0)
        assert ours == [[[token for token in given if token not in (0, 2)]]]


@pytest.mark.parametrize(("kind", "task"), [("bert", "tweets"), ("llama", "instruction")])
def test_pairs_of_rank_and_depth_are_the_slice_of_the_cut(kind: str, task: str) -> None:
    tuning = attached(kind, task, "adapter=sorted_lora", "adapter.r=4")
    assert tuning.family == tuple(Submodel(rank, depth) for depth in EXITS for rank in (1, 2, 3, 4))
    batch, seen = batch_of(task), {}
    for member in tuning.family:
        tuning.activate(member)
        assert tuning.active() == member
        with torch.no_grad():
            seen[member] = tuning.model(**inputs(batch)).logits
    for depth in EXITS:
        tuning.activate_rows([Submodel(rank, depth) for rank in (1, 2, 3, 4)])
        with torch.no_grad():
            rows = tuning.model(**inputs(batch)).logits
        for row, rank in enumerate((1, 2, 3, 4)):
            assert torch.allclose(rows[row], seen[Submodel(rank, depth)][row], atol=1e-5)
    with pytest.raises(ValueError, match="one forward has one depth"):
        tuning.activate_rows([Submodel(1, 2), Submodel(1, 3)])


def test_evaluation_of_pairs_does_not_depend_on_stacking() -> None:
    from tiny import encoded

    tuning, split = attached("bert", "tweets", "adapter=sorted_lora", "adapter.r=4"), encoded(20)

    def scored(budget: int) -> list[Any]:
        members = list(reversed(tuning.family))
        found = evaluate(
            tuning.model, tuning, [split], members, ["accuracy"], batch_size=8, pad_id=0, stack_tokens=budget
        )
        return [(score.submodel, score.predictions["train"]["prediction"].tolist()) for score in found]

    assert scored(0) == scored(10**9)


def test_parameters_are_those_of_the_layers_that_run() -> None:
    tuning = attached("llama", "instruction")
    counts = {depth: tuning.count(Submodel(depth=depth)) for depth in EXITS}
    for depth in EXITS:
        assert counts[depth].total == sum(p.numel() for p in physically_cut(tuning, depth).parameters())
    pairs = attached("llama", "instruction", "adapter=sorted_lora", "adapter.r=4")
    assert pairs.count(Submodel(4, 4)).adapter == 2 * pairs.count(Submodel(4, 2)).adapter
    assert pairs.count(Submodel(4, 2)).adapter == 4 * pairs.count(Submodel(1, 2)).adapter


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.exits=[2,9]"], r"adapter.exits has \[9\], outside 1..4"),
        (["adapter.exits=[]"], "must name depths from 1"),
        (["adapter.exits=[2,2]"], "each once"),
        (["adapter.exit_stride=2"], "leave one out"),
        (["adapter=sft", "sampler=all"], "trains one size"),
        (["sampler=geometric"], "sampler=geometric draws ranks, and adapter=sorted_ft has none"),
        (["sampler.exit_weights=[1,2]"], "has 2 weights for the 3 exits"),
        (["sampler.exit_weights=[1,2,0]"], "must be above 0"),
        (["adapter=sorted_lora", "sampler=exits", "adapter.update=frozen_grad"], "trains one rank a step"),
    ],
)
def test_a_wrong_request_is_refused_with_the_mend(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run = a_run(*words("llama", "instruction", "adapter=sorted_ft", *overrides))
        methods.attach(run, backbone.load(run.model, None, False, 0).model)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=early_exit", "adapter.trainable=lora"], "adapter=early_exit has no setting trainable"),
        (
            ["adapter=sorted_ft", "adapter.update=frozen_grad"],
            "adapter=sorted_ft has no setting update",
        ),
        (["adapter=sorted_lora", "adapter.reorder_at=[0.5]"], "adapter=sorted_lora has no setting reorder_at"),
        (["adapter=dylora", "adapter.exits=[2]"], "adapter=dylora has no setting exits"),
        (["adapter=dylora", "sampler=exits"], "adapter=dylora has no exits"),
        (["adapter=dylora", "sampler.exit_weights=[1,2,3]"], "weigh exits"),
    ],
)
def test_what_belongs_to_another_method_is_refused(overrides: list[str], message: str) -> None:
    assert message in refused("model=tiny_llama", *overrides)


def test_a_family_that_is_not_known_is_refused() -> None:
    run = a_run("model=tiny_bert", "model.random.model_type=distilbert", "adapter=sorted_ft")
    with pytest.raises(RequestError, match="distilbert model cannot be cut at a depth"):
        methods.attach(run, backbone.load(run.model, 2, False, 0).model)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [(["adapter.exits=null"], (1, 2, 3, 4)), (["adapter.exits=null", "adapter.exit_stride=3"], (1, 4))],
)
def test_exits_by_stride_count_from_the_last_layer(overrides: list[str], expected: tuple[int, ...]) -> None:
    tuning = attached("llama", "instruction", "adapter=sorted_ft", *overrides)
    assert tuning.exits == list(expected)


def test_the_papers_exits_are_the_default_of_its_model() -> None:
    run = a_run("model=llama2_13b", "task=alpaca", "adapter=sorted_ft")
    assert exits(run, 40) == list(range(12, 41, 4))
    assert exits(a_run("model=llama2_13b", "task=alpaca", "adapter=sorted_ft", "adapter.exit_stride=20"), 40) == [
        20,
        40,
    ]
    assert exits(a_run("model=llama2_13b", "task=alpaca", "adapter=sft", "adapter.exits=[10]"), 40) == [10, 40]


WAYS = [
    ["adapter=sft"],
    *([f"adapter={a}", *s] for a in ("sorted_ft", "sorted_lora", "early_exit") for s in ([], ["sampler=uniform"])),
    ["adapter=sorted_lora", "sampler=exits"],
    ["adapter=sorted_ft", "sampler.exit_weights=[1,1,2]"],
]


@pytest.mark.parametrize("way", sample(WAYS, *WAYS[:4], WAYS[6]), ids=" ".join)
@pytest.mark.full
def test_a_run_scores_every_exit(way: list[str], tmp_path: Path) -> None:
    adapter, sampler = way[0].split("=")[1], way[1:]
    rows = [{"instruction": f"Count to {i}", "input": "", "output": "la " * (i % 4 + 1)} for i in range(16)]
    for name in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    settings = [f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}", "train.max_steps=3"]
    settings += ["train.batch_size=4", "adapter.r=2", "task.metrics=[exact_match,loss]", "task.max_new_tokens=4"]
    run = a_run(*words("llama", "instruction", f"adapter={adapter}", *settings, *sampler))
    found = execute(run)
    places = [(sub["rank"], sub["depth"]) for sub in found["submodels"]]
    ranks = (1, 2) if adapter == "sorted_lora" else (None,)
    assert places == [(rank, depth) for depth in EXITS for rank in ranks]
    assert len({sub["metrics"]["loss"] for sub in found["submodels"]}) == len(places)
    for sub in found["submodels"]:
        assert 0 < sub["generated"]["tokens"] <= 16 * 4 and 0 < sub["generated"]["seconds"] < sub["eval_seconds"]
        assert sub["tokens_per_second"] > 0
    note = json.loads((run.folder / "adapter" / "rankbench.json").read_text())
    assert note["exits"] == list(EXITS) and note["trained_exits"] == ([4] if adapter == "sft" else list(EXITS))
    assert execute(run) == found


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_sets_the_mode_of_every_layer_whatever_depth_was_active(training: bool) -> None:
    from tiny import encoded

    tuning = attached("bert", "tweets")
    layers, modes = tuning.stack.layers, []
    tuning.model.train(training)
    tuning.activate(Submodel(depth=2))
    layers[3].register_forward_hook(lambda module, *_: modes.append(module.training))
    evaluate(tuning.model, tuning, [encoded(8)], tuning.family, ["accuracy"], batch_size=8, pad_id=0)
    assert modes == [False]
    assert tuning.active() == Submodel(depth=2)
    assert all(module.training is training for layer in layers for module in layer.modules())


def test_an_exit_that_is_none_is_refused(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "model.random.num_hidden_layers=4", "task=classification", f"task.data_dir={data}"]
    run = a_run(*common, "adapter=sorted_ft", "adapter.exits=[2]", "evaluate.submodels=[3]", f"runs_dir={tmp_path}")
    with pytest.raises(RequestError, match=r"evaluate.submodels has \[3\], which are no exits; choose from 2, 4"):
        execute(run)


# A head for each exit


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_early_exit_trains_heads_and_leaves_the_body_bit_equal(kind: str, task: str) -> None:
    """Conformance test 11: the body before and after, one new head for each exit but the last."""
    tuning, batch = attached(kind, task, "adapter=early_exit"), batch_of(task)
    before = {name: value.clone() for name, value in tuning.model.state_dict().items()}
    assert list(tuning.heads) == [2, 3] and {name.split(".")[1] for name in tuning.trained()} == {"2", "3"}
    first = {name: p.detach().clone() for name, p in tuning.trained().items()}
    optimizer = torch.optim.AdamW(tuning.optimized(), lr=1e-2)
    for _ in range(2):
        tuning.accumulate(tuning.model, batch, [(Submodel(depth=d), 1 / 3) for d in EXITS], torch.Tensor.backward)
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(first[name], p) for name, p in tuning.trained().items() if "weight" in name)
    tuning.activate(Submodel(depth=4))
    after = tuning.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_an_early_exit_uses_its_own_head(kind: str, task: str) -> None:
    tuning, batch = attached(kind, task, "adapter=early_exit"), batch_of(task)

    def logits(depth: int) -> torch.Tensor:
        tuning.activate(Submodel(depth=depth))
        with torch.no_grad():
            return tuning.model(**inputs(batch)).logits

    shared = [logits(depth) for depth in EXITS]
    with torch.no_grad():
        for name, parameter in tuning.trained().items():
            if name.startswith("heads.3"):
                parameter.add_(0.5 * torch.randn_like(parameter))
    found = [logits(depth) for depth in EXITS]
    assert torch.equal(found[0], shared[0]) and torch.equal(found[2], shared[2])
    assert not torch.allclose(found[1], shared[1], atol=1e-3)


@pytest.mark.parametrize("trainable", sample(["all", "lora"], "lora"))
@pytest.mark.full
def test_early_exit_starts_from_a_finished_run(trainable: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"Count to {i}", "input": "", "output": "la " * (i % 4 + 1)} for i in range(16)]
    for name in ("train", "validation"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    settings = [f"task.data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}", "train.max_steps=6"]
    settings += ["train.batch_size=4", "task.metrics=[loss]", "train.learning_rate=1e-2"]
    sft = execute(a_run(*words("llama", "instruction", "adapter=sft", f"adapter.trainable={trainable}", *settings)))
    run = a_run(*words("llama", "instruction", "adapter=early_exit", f"adapter.start_from={sft['run_id']}", *settings))
    found = execute(run)
    assert found["submodels"][-1]["metrics"]["loss"] == pytest.approx(sft["submodels"][-1]["metrics"]["loss"], rel=1e-5)
    for before, after in zip(sft["submodels"][:-1], found["submodels"][:-1], strict=True):
        assert after["metrics"]["loss"] != before["metrics"]["loss"]
    assert found["submodels"][-1]["parameters"]["trainable"] == 0
    other = a_run(*words("llama", "instruction", "adapter=early_exit", *settings))
    assert other.run_id != run.run_id
    with pytest.raises(RequestError, match="is no finished run"):
        _ = a_run(*words("llama", "instruction", "adapter=early_exit", "adapter.start_from=nothing", *settings)).run_id


@pytest.mark.full
def test_tables_and_pictures_speak_of_exits_and_pairs(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "model.random.num_hidden_layers=4", "task=classification", f"task.data_dir={data}"]
    common += ["adapter.exits=[2]", "adapter.r=2", "train.max_steps=2", "train.batch_size=8"]
    for adapter in ("sorted_ft", "sorted_lora", "lora"):
        run = a_run(*common[: 4 if adapter == "lora" else 5], *common[5:], f"adapter={adapter}", f"runs_dir={tmp_path}")
        execute(run)
        assert (run.folder / "curve.png").stat().st_size > 5000
    table = curve.curve(tmp_path)
    assert table.index.name == "rank x depth"
    assert list(table.index) == ["1 x 2", "2 x 2", "whole x 2", "1 x 4", "2 x 4", "whole x 4", "1 x whole", "2 x whole"]
    alone = curve.curve([run.folder for run in [a_run(*common, "adapter=sorted_ft", f"runs_dir={tmp_path}")]])
    assert alone.index.name == "depth" and list(alone.index) == [2, 4]


def test_a_killed_sorted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "model.random.num_hidden_layers=4", "task=classification", f"task.data_dir={data}"]
    common += ["adapter=sorted_ft", "adapter.exits=[2]", "train.batch_size=8", "train.checkpoint_steps=1"]
    whole = execute(a_run(*common, "train.max_steps=4", f"runs_dir={tmp_path / 'whole'}"))
    assert whole["submodels"][0]["depth"] == 2
    run = a_run(*common, "train.max_steps=4", f"runs_dir={tmp_path / 'parts'}")

    from rankbench.training import checkpoints

    kept, count = checkpoints.save, []

    def stop(*args: Any) -> None:
        kept(*args)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    checkpoints.save = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            execute(run)
    finally:
        checkpoints.save = kept
    again = execute(run)
    assert [s["metrics"] for s in again["submodels"]] == [s["metrics"] for s in whole["submodels"]]
    one, other = (
        (tmp_path / p / run.run_id / "adapter" / "model.safetensors").read_bytes() for p in ("whole", "parts")
    )
    assert one == other


# The first layers alone, to be fine-tuned by themselves


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_the_first_layers_of_a_backbone_load_alone(kind: str, task: str, tmp_path: Path) -> None:
    """Sorted LLaMA's extracted fine-tuning begins from the pretrained model cut at a depth."""
    whole = attached(kind, task)
    whole.model.save_pretrained(tmp_path)
    backbone.byte_tokenizer().save_pretrained(tmp_path)
    labels = None if task == "instruction" else 2
    source = [f"model.path={tmp_path}", f"task.data_dir={tmp_path}", "adapter=full"]
    run = a_run(*words(kind, task, "model.layers=3", *source))
    alone = backbone.load(run.model, labels, False, 0).model.eval()
    assert alone.config.num_hidden_layers == backbone.config_of(run.model, labels).num_hidden_layers == 3
    batch = batch_of(task)
    with torch.no_grad():
        assert torch.allclose(
            alone(**inputs(batch)).logits, physically_cut(whole, 3)(**inputs(batch)).logits, atol=1e-5
        )
    assert run.run_id != a_run(*words(kind, task, *source)).run_id


def test_more_layers_than_there_are_are_refused() -> None:
    run = a_run(*words("llama", "instruction", "model.layers=5", "adapter=full"))
    with pytest.raises(RequestError, match=r"model.layers=5: tiny_llama has 4"):
        backbone.load(run.model, None, False, 0)
    with pytest.raises(RequestError, match=r"model.layers=0 must be at least 1"):
        a_run("model.layers=0")


def test_a_step_of_sortednet_takes_each_micro_batch_through_its_own_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "model.random.num_hidden_layers=4", "task=classification", f"task.data_dir={data}"]
    common += ["adapter=sorted_ft", "adapter.exits=[2,3]", "sampler=uniform", "sampler.per_micro_batch=true"]
    common += ["train.batch_size=4", "train.gradient_accumulation_steps=8", "train.max_steps=2"]
    seen: list[tuple[int | None, float]] = []
    kept = Sorted.accumulate

    def watched(self: Any, model: Any, batch: Any, drawn: Any, backward: Any) -> torch.Tensor:
        seen.extend((submodel.depth, weight) for submodel, weight in drawn)
        return kept(self, model, batch, drawn, backward)

    monkeypatch.setattr(Sorted, "accumulate", watched)
    execute(a_run(*common, f"runs_dir={tmp_path}"))
    first = seen[:8]
    assert len({depth for depth, _ in first}) > 1 and sum(weight for _, weight in first) == pytest.approx(1)
    with pytest.raises(RequestError, match="trains one rank a step"):
        a_run("adapter.update=frozen_grad", "sampler.per_micro_batch=true")


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
def test_decoders_built_like_llama_have_exits(kind: str, tmp_path: Path) -> None:
    run = a_run(*words("llama", "instruction", "adapter=sorted_ft", f"model.random.model_type={kind}"))
    tuning = methods.attach(run, backbone.load(run.model, None, False, 0).model)
    randomise(tuning.model)
    tuning.model.eval()
    assert tuning.model.config.model_type == kind
    tuning.model.save_pretrained(tmp_path)
    batch = batch_of("instruction")
    prompt = torch.randint(3, 250, (1, 9), generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}
    for depth in EXITS:
        cut = type(tuning.model).from_pretrained(tmp_path, num_hidden_layers=depth).eval()
        given = cut.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, 9:].tolist()
        tuning.activate(Submodel(depth=depth))
        with torch.no_grad():
            assert torch.allclose(tuning.model(**inputs(batch)).logits, cut(**inputs(batch)).logits, atol=1e-5)
        answers = Responses(6, frozenset(), str)
        ours = generate(tuning.model, tuning, [prompt[0].tolist()], [Submodel(depth=depth)], answers, pad_id=0)
        assert ours == [[given]]


@pytest.mark.parametrize("sampler", ["uniform", "all"])
def test_every_step_of_early_exits_trains_a_head(sampler: str, tmp_path: Path) -> None:
    """The last exit's head is the model's own and frozen, so no step may draw it alone."""
    data = write_tiny(tmp_path / "data")
    common = ["model=tiny_bert", "model.random.num_hidden_layers=4", "task=classification", f"task.data_dir={data}"]
    common += ["adapter=early_exit", "adapter.exits=[1,2,3,4]", f"sampler={sampler}", f"runs_dir={tmp_path / 'runs'}"]
    run = a_run(*common, "train.max_steps=9", "train.log_steps=1")
    tuning = methods.attach(run, backbone.load(run.model, 2, False, 0).model)
    assert [m.depth for m in tuning.learners] == [1, 2, 3] and len(tuning.family) == 4
    for step in range(60):
        drawn = draw(run.sampler, tuning.learners, 0, step)
        assert {m.depth for m, _ in drawn} <= {1, 2, 3} and sum(w for _, w in drawn) == pytest.approx(1)
    assert all(entry["loss"] > 0.1 for entry in execute(run)["training"]["loss_curve"])


def test_weights_of_exits_hold_for_those_that_train() -> None:
    settings = ["adapter=early_exit", "adapter.exits=[1,2,3,4]", "sampler=exits", "sampler.exit_weights=[1,2,5,8]"]
    run = a_run(*words("bert", "tweets", *settings))
    tuning = methods.attach(run, backbone.load(run.model, 2, False, 0).model)
    drawn = draw(run.sampler, tuning.learners, 0, 0)
    assert [(m.depth, w) for m, w in drawn] == [(1, 1 / 8), (2, 2 / 8), (3, 5 / 8)]


def test_every_head_is_in_the_models_mode() -> None:
    """Only the active head is a part of the model."""
    tuning: Any = attached("bert", "tweets", "adapter=early_exit")
    for training in (True, False, True):
        tuning.model.train(training)
        for member in (*tuning.family, *reversed(tuning.family)):
            tuning.activate(member)
            assert tuning.model.classifier.training == training
            assert tuning.stack.head(member.depth).training == training


@pytest.mark.parametrize(("kind", "random"), [("bert", ("classifier",)), ("bert", ()), ("llama", ())])
def test_a_last_exit_without_a_trained_head_is_told_of(
    kind: str, random: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Its files lack the head, and early_exit trains the heads before it alone."""
    task = "sst2" if kind == "bert" else "instruction"
    run = a_run(*words(kind, task, "adapter=early_exit"))
    model = backbone.load(run.model, None if task == "instruction" else 2, False, 0).model
    drawn.note(model, random)
    methods.attach(run, model)
    assert ("depth 4, keeps the random head (classifier)" in caplog.text) == bool(random)
