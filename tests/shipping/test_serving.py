"""What servers read of an export holds: each rule below is a server's own, named with where it was read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_run, sample, tiny_overrides, write_jsonl, write_tiny
from test_export import base_folder

from rankbench.runs.life import execute
from rankbench.settings.run import Run
from rankbench.shipping import adapter_files
from rankbench.shipping.export import export

Made = Callable[[str], Path]
FORMS = {
    "prefix": ({"adapter": "dylora"}, {"rank": 2}),
    "svd": ({"adapter": "lora"}, {"rank": 2, "svd": True}),
    "svd over all layers": ({"adapter": "lora"}, {"rank": 2, "svd_global": True}),
    "rslora": ({"adapter": "lora", "adapter.scale": "alpha_over_sqrt_b"}, {}),
    "gated": ({"adapter": "lora_gated", "adapter.target_sparsity": "0.4"}, {}),
    "classifier": ({"adapter": "dylora", "model": "tiny_bert"}, {"rank": 2}),
}


def trained(root: Path, choice: dict[str, str]) -> Run:
    """A short run of a tiny Llama on instructions, or of the model that is named on labels."""
    model = choice.get("model", "tiny_llama")
    base = base_folder(root / "base", model)
    words = [f"{key}={value}" for key, value in choice.items() if key != "model"]
    words += ["adapter.target_modules=all-linear", "train.learning_rate=0.05", "train.max_steps=12"]
    if "model" in choice:
        own = tiny_overrides(write_tiny(root / "data"), root / "runs")
    else:
        rows = [{"instruction": f"say {i}", "input": "", "output": f"word {i % 3}"} for i in range(24)]
        for name in ("train", "validation"):
            write_jsonl(root / "data" / f"{name}.jsonl", rows)
        own = ["model=tiny_llama", "task=instruction", "task.metrics=[loss]", f"task.data_dir={root / 'data'}"]
        own += [f"runs_dir={root / 'runs'}", "adapter.r=4", "train.batch_size=8"]
    run = compose_run(*own, f"model.path={base}", *words)
    execute(run)
    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """exported("svd"): the folder of such an export."""
    made: dict[str, Path] = {}

    def one(form: str) -> Path:
        if form not in made:
            root = tmp_path_factory.mktemp(form.split()[0])
            choice, ways = FORMS[form]
            export(trained(root, choice).folder, root / "out", **ways)
            made[form] = root / "out"
        return made[form]

    return one


def settings(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


forms = pytest.mark.parametrize("form", sample(FORMS, "svd over all layers", "rslora", "classifier"))


@forms
def test_alpha_over_the_rows_of_a_layer_is_its_scale(exported: Made, form: str) -> None:
    """llama.cpp knows one alpha, and divides it by the rows of each layer's A (src/llama-adapter.h, get_scale)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder = exported(form)
    config, stored = settings(folder), adapter_files.read(folder)
    kind = AutoModelForSequenceClassification if form == "classifier" else AutoModelForCausalLM
    labels = {"num_labels": 2, "ignore_mismatched_sizes": True} if form == "classifier" else {}
    model = PeftModel.from_pretrained(kind.from_pretrained(config["base_model_name_or_path"], **labels), folder)
    assert stored.layers()
    for name, (a, b) in stored.layers().items():
        layer = model.get_submodule(name.removesuffix("."))
        assert torch.allclose(layer.get_delta_weight("default"), config["lora_alpha"] / a.shape[0] * b @ a, atol=1e-6)


def test_layers_do_differ_in_rank_there(exported: Made) -> None:
    ranks = {a.shape[0] for a, _ in adapter_files.read(exported("svd over all layers")).layers().values()}
    assert len(ranks) > 1


@forms
def test_vllm_takes_the_adapters_settings(exported: Made, form: str) -> None:
    """The rules of vLLM 0.32.0: vllm/lora/peft_helper.py, and of names vllm/lora/utils.py."""
    folder = exported(form)
    config, stored = settings(folder), adapter_files.read(folder)
    ranks = [config["r"], *config["rank_pattern"].values()]
    assert all(isinstance(rank, int) and rank > 0 for rank in ranks)
    assert max(ranks) == max(a.shape[0] for a, _ in stored.layers().values()), "max_lora_rank is held against these"
    assert set(config["modules_to_save"] or ()) <= {"classifier", "score"}
    assert config["bias"] == "none" and config["init_lora_weights"] is True
    for refused in (
        "use_dora",
        "lora_bias",
        "alora_invocation_tokens",
        "layer_replication",
        "use_bdlora",
        "use_qalora",
    ):
        assert not config.get(refused)
    for name in stored.tensors:
        head = re.fullmatch(r"base_model\.model\.(classifier|score)\.(weight|bias)", name)
        assert head or re.fullmatch(r"base_model\.model\.[\w.]+\.lora_[AB]\.weight", name), name
    for name, (a, _) in stored.layers().items():
        of_pattern = [r for key, r in config["rank_pattern"].items() if re.match(rf"(.*\.)?({key})$", name[17:-1])]
        assert (of_pattern or [config["r"]])[0] == a.shape[0], "the first pattern that fits is the layer's own"


@forms
def test_llama_cpps_converter_finds_nothing_else_in_a_language_models_adapter(exported: Made, form: str) -> None:
    """llama.cpp's convert_lora_to_gguf.py ends at any tensor that is neither A nor B, as a classifier's head is."""
    names = adapter_files.read(exported(form)).tensors
    others = [name for name in names if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    assert bool(others) == (form == "classifier")
    assert settings(exported(form))["base_model_name_or_path"], "without --base it reads the model's config there"
