"""The doctor: every trouble of the machine is named before a run meets it, with the way to mend it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Answer, compose_run, sentences

import rankbench
from rankbench.errors import RequestError
from rankbench.forecast import doctor
from rankbench.forecast.doctor import GIB, Finding, Gpu, bitsandbytes_line, covers, gpu_line, torch_line
from rankbench.models.precision import choose_precision
from rankbench.settings.hardware import Hardware
from rankbench.settings.quantization import Compute
from rankbench.settings.run import Run
from rankbench.settings.train import Precision

V100 = Gpu("Tesla V100-SXM2-32GB", (7, 0), 32 * GIB, 31 * GIB)
A100 = Gpu("NVIDIA A100", (8, 0), 40 * GIB, 39 * GIB)
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def one(findings: list[Finding], name: str) -> Finding:
    """The only finding of that name."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """pretend(gpu, ..., architectures=...): torch sees these GPUs and is built for these architectures."""
    import bitsandbytes  # noqa: F401 (the real one, before it could take the pretence for a GPU and stay that way)

    def see(*gpus: Gpu, architectures: list[str], cuda: str = "12.6") -> None:
        cards = [
            SimpleNamespace(name=g.name, major=g.capability[0], minor=g.capability[1], total_memory=g.total)
            for g in gpus
        ]
        monkeypatch.setattr(torch.version, "cuda", cuda)
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: len(gpus),
            "get_device_properties": lambda index: cards[index],
            "mem_get_info": lambda index: (gpus[index].free, gpus[index].total),
            "get_arch_list": lambda: architectures,
            "get_device_capability": lambda: gpus[0].capability,
            "get_device_name": lambda: gpus[0].name,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    return see


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """installed("libbitsandbytes_cuda126.so"): a bitsandbytes that loaded this library, or failed with `error`."""

    def put(library: str, error: str = "") -> None:
        package, extension = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.cextension")
        loaded = SimpleNamespace(_name=f"/site-packages/bitsandbytes/{library}")
        vars(package).update(__version__="0.50.2", cextension=extension)
        vars(extension)["lib"] = SimpleNamespace(error_msg=error) if error else SimpleNamespace(_lib=loaded)
        monkeypatch.setitem(sys.modules, "bitsandbytes", package)
        monkeypatch.setitem(sys.modules, "bitsandbytes.cextension", extension)

    return put


# GPUs and the PyTorch that is to use them


def test_a_v100_under_a_cuda_13_torch_is_an_error_that_names_the_cu126_wheel() -> None:
    found = gpu_line(0, V100, CU130)
    assert found.level == "error"
    assert "Tesla V100-SXM2-32GB (capability 7.0)" in found.text and "sm_75" in found.text
    assert "pip install torch --index-url <PyTorch's cu126 wheel index>" in found.mend
    assert "2.14 is the last" in found.mend and "://" not in found.mend


def test_a_v100_under_a_cuda_12_6_torch_is_fine_and_says_its_memory() -> None:
    found = gpu_line(0, V100, CU126)
    assert found == Finding("gpu 0", "ok", "Tesla V100-SXM2-32GB (capability 7.0), 32.0 GiB, 31.0 GiB free")


def test_a_gpu_too_new_for_torch_is_not_sent_to_the_old_wheel() -> None:
    found = gpu_line(0, Gpu("NVIDIA B200", (10, 0), 180 * GIB), CU126)
    assert found.level == "error" and "cu130" in found.mend and "cu126" not in found.mend


def test_a_second_gpu_that_torch_cannot_use_does_not_stop_a_run_on_the_first(
    pretend: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    pretend(A100, V100, architectures=CU130)
    run = make_run()
    doctor.refuse(run)
    found = doctor.examine(run)
    assert (one(found, "gpu 0").level, one(found, "gpu 1").level) == ("ok", "warning")


@pytest.mark.parametrize(
    ("architectures", "capability", "covered"),
    [
        (["sm_70"], (7, 0), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_75"], (8, 0), False),
        (["sm_50", "compute_60"], (7, 0), True),
        (["compute_75"], (7, 0), False),
        (["sm_120"], (12, 0), True),
        (["sm_120"], (12, 1), True),
        (["sm_90a"], (9, 0), True),
        (["compute_90a"], (10, 0), False),
        (["gfx90a"], (9, 0), True),
        ([], (8, 0), False),
    ],
)
def test_a_gpu_is_covered_by_its_own_code_by_an_older_of_its_kind_or_by_older_ptx(
    architectures: list[str], capability: tuple[int, int], covered: bool
) -> None:
    assert covers(architectures, capability) is covered


def test_torch_without_cuda_is_fine_where_there_is_no_driver_and_a_warning_where_there_is() -> None:
    assert torch_line("2.13.0+cpu", None, 0, driver=False) == Finding("torch", "ok", "2.13.0+cpu, built without CUDA")
    blind = torch_line("2.13.0+cpu", None, 0, driver=True)
    assert blind.level == "warning" and "cu126 wheel index" in blind.mend


def test_a_cuda_torch_that_sees_no_gpu_beside_a_driver_is_told_where_to_look() -> None:
    assert "CUDA_VISIBLE_DEVICES" in torch_line("2.13.0", "13.0", 0, driver=True).mend
    assert torch_line("2.13.0", "13.0", 1, driver=True) == Finding("torch", "ok", "2.13.0, CUDA 13.0")


# bitsandbytes


@pytest.mark.parametrize(("quantization", "level"), [("nf4", "error"), ("none", "warning")])
def test_bitsandbytes_for_cuda_13_on_a_v100_stops_only_a_run_that_quantizes(quantization: str, level: str) -> None:
    found = bitsandbytes_line("0.50.2", "libbitsandbytes_cuda130.so", [V100], quantization)
    assert found.level == level
    assert "libbitsandbytes_cuda130.so" in found.text and "V100" in found.text
    assert "cu126" in found.mend


@pytest.mark.parametrize("build", ["118", "121", "126", "128", "129"])
def test_bitsandbytes_for_cuda_11_8_to_12_9_quantizes_to_4_bits_on_a_v100(build: str) -> None:
    assert bitsandbytes_line("0.50.2", f"libbitsandbytes_cuda{build}.so", [V100], "nf4").level == "ok"


@pytest.mark.parametrize(("build", "level"), [("126", "ok"), ("128", "error")])
def test_bitsandbytes_quantizes_on_pascal_up_to_its_cuda_12_6_build(build: str, level: str) -> None:
    pascal = Gpu("Tesla P100", (6, 0), 16 * GIB)
    assert bitsandbytes_line("0.50.2", f"libbitsandbytes_cuda{build}.so", [pascal], "fp4").level == level


def test_int8_on_a_v100_is_an_error_that_says_nf4_and_on_an_a100_it_is_fine() -> None:
    found = bitsandbytes_line("0.50.2", "libbitsandbytes_cuda126.so", [V100], "int8")
    assert found.level == "error" and "7.5" in found.text and "quantization=nf4" in found.mend
    assert bitsandbytes_line("0.50.2", "libbitsandbytes_cuda126.so", [A100], "int8").level == "ok"


def test_a_bitsandbytes_without_code_for_any_gpu_is_found() -> None:
    found = bitsandbytes_line("0.50.2", "libbitsandbytes_cpu.so", [A100], "nf4")
    assert found.level == "error" and "libbitsandbytes_cpu.so" in found.text
    assert bitsandbytes_line("0.50.2", "libbitsandbytes_cpu.so", [], "nf4").level == "ok"


@pytest.mark.parametrize(("quantization", "level"), [("nf4", "error"), ("none", "warning")])
def test_a_missing_bitsandbytes_stops_only_a_run_that_quantizes(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], quantization: str, level: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    run = make_run()
    run.quantization.name = quantization
    found = one(doctor.examine(run), "bitsandbytes")
    assert (found.level, found.mend) == (level, "pip install --upgrade bitsandbytes")
    if quantization == "none":
        doctor.refuse(run)
    else:
        with pytest.raises(RequestError, match=r"bitsandbytes cannot be used.*; pip install --upgrade bitsandbytes"):
            doctor.refuse(run)


def test_paging_moments_out_of_a_card_needs_bitsandbytes(
    monkeypatch: pytest.MonkeyPatch, pretend: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    run = make_run("train.optimizer=paged_adamw")
    doctor.refuse(run)  # a CPU pages nothing
    pretend(A100, architectures=CU130)
    doctor.refuse(make_run())
    with pytest.raises(RequestError, match=r"bitsandbytes cannot be used.*; pip install --upgrade bitsandbytes"):
        doctor.refuse(run)


def test_the_installed_bitsandbytes_is_looked_at_for_real(make_run: Callable[..., Run]) -> None:
    import bitsandbytes

    found = one(doctor.examine(make_run()), "bitsandbytes")
    assert found.level == "ok" and found.text.startswith(bitsandbytes.__version__) and "libbitsandbytes_" in found.text


def test_a_library_that_bitsandbytes_could_not_load_is_told_by_its_own_cause(
    pretend: Callable[..., None], installed: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    pretend(A100, architectures=CU130)
    installed("", error="libcudart.so.13: cannot open shared object file\nmore")
    run = make_run()
    assert one(doctor.examine(run), "bitsandbytes").level == "warning"
    run.quantization.name = "nf4"
    found = one(doctor.examine(run), "bitsandbytes")
    assert found.level == "error" and found.text.endswith("libcudart.so.13: cannot open shared object file")


# Precision and hardware=v100


@pytest.mark.parametrize("hardware", list(Hardware))
@pytest.mark.parametrize("asked", [Precision.auto, Precision.fp32, Precision.fp16, Precision.bf16])
@pytest.mark.parametrize("gpu", [None, V100, A100], ids=["cpu", "v100", "a100"])
def test_the_doctor_and_the_run_agree_on_the_precision(
    pretend: Callable[..., None], make_run: Callable[..., Run], gpu: Gpu | None, asked: Precision, hardware: Hardware
) -> None:
    if gpu is not None:
        pretend(gpu, architectures=CU126)
    run = make_run()
    run.train.precision, run.hardware = asked, hardware
    found = one(doctor.examine(run), "precision")
    try:
        picked, _ = choose_precision(run.train.precision, run.hardware)
    except RequestError:
        assert found.level == "error"
    else:
        said = f"auto picks {picked}: " if asked is Precision.auto else f"{picked}, as asked"
        assert found.level == "ok" and found.text.startswith(said)


def test_bf16_is_refused_on_a_v100_and_picked_on_an_a100(
    pretend: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    run = make_run()
    pretend(A100, architectures=CU126)
    assert one(doctor.examine(run), "precision").text.startswith("auto picks bf16: NVIDIA A100")
    run.train.precision = Precision.bf16
    doctor.refuse(run)
    pretend(V100, architectures=CU126)
    with pytest.raises(RequestError, match=r"train\.precision=bf16: Tesla V100.* use train\.precision=fp32 or fp16"):
        doctor.refuse(run)


def test_quantized_products_in_bf16_are_refused_on_a_v100(
    pretend: Callable[..., None], installed: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    installed("libbitsandbytes_cuda126.so")
    run = make_run()
    run.quantization.name = "nf4"
    pretend(V100, architectures=CU126)
    doctor.refuse(run)
    run.quantization.compute_dtype = Compute.bf16
    with pytest.raises(RequestError, match=r"quantization\.compute_dtype=bf16.*use quantization\.compute_dtype=fp32"):
        doctor.refuse(run)
    pretend(A100, architectures=CU126)
    doctor.refuse(run)


@pytest.mark.parametrize("gpu", [None, A100], ids=["cpu", "a100"])
@pytest.mark.parametrize(
    ("group", "key", "value", "mend"),
    [
        ("train", "precision", Precision.bf16, "use train.precision=fp32 or fp16"),
        ("quantization", "name", "int8", "use quantization=nf4"),
        ("quantization", "compute_dtype", Compute.bf16, "use quantization.compute_dtype=fp32 or fp16"),
    ],
    ids=["bf16", "int8", "compute_bf16"],
)
def test_what_a_v100_cannot_do_is_refused_on_any_machine(
    pretend: Callable[..., None],
    installed: Callable[..., None],
    make_run: Callable[..., Run],
    gpu: Gpu | None,
    group: str,
    key: str,
    value: Any,
    mend: str,
) -> None:
    installed("libbitsandbytes_cuda126.so" if gpu else "libbitsandbytes_cpu.so")
    if gpu:
        pretend(gpu, architectures=CU126)
    run = make_run()
    setattr(getattr(run, group), key, value)
    doctor.refuse(run)
    run.hardware = Hardware.v100
    assert one(doctor.examine(run), "v100") == Finding("v100", "error", one(doctor.examine(run), "v100").text, mend)
    with pytest.raises(RequestError) as refusal:
        doctor.refuse(run)
    assert "hardware=v100" in str(refusal.value) and str(refusal.value).endswith(f"; {mend}")


def test_hardware_v100_says_its_rules_where_the_run_keeps_them(make_run: Callable[..., Run]) -> None:
    found = one(doctor.examine(make_run("hardware=v100")), "v100")
    assert found.level == "ok" and "32 GiB" in found.text and "no flash attention" in found.text
    assert not [f for f in doctor.examine(make_run()) if f.name == "v100"]


# Disk and memory


@pytest.mark.parametrize(("free", "level"), [(0.4, "error"), (4.9, "warning"), (5.1, "ok")])
def test_a_disk_that_is_almost_full_is_found(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], tmp_path: Path, free: float, level: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * GIB)))
    found = one(doctor.examine(make_run(f"runs_dir={tmp_path / 'not' / 'yet' / 'there'}")), "runs_dir")
    assert (found.level, found.text) == (level, f"{free} GiB free at {tmp_path}")


def test_a_runs_dir_that_cannot_be_written_is_an_error(make_run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = one(doctor.examine(make_run(f"runs_dir={tmp_path / 'file' / 'runs'}")), "runs_dir")
    assert found.level == "error" and "Not a directory" in found.text and found.mend == "choose another runs_dir"


def test_the_doctor_leaves_no_file(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run()
    before = sorted(tmp_path.rglob("*"))
    doctor.report(run)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("listing", "file"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("4:memory:/slurm/job_7\n1:cpu:/", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_the_memory_limit_of_a_job_counts(tmp_path: Path, listing: str, file: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(listing + "\n")
    limit = tmp_path / "cgroups" / file
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    (unlimited,) = doctor.memory_lines(tmp_path, tmp_path / "cgroups")
    assert unlimited.level == "ok" and "cgroup" not in unlimited.text
    limit.write_text(f"{GIB // 2}\n")
    (limited,) = doctor.memory_lines(tmp_path, tmp_path / "cgroups")
    assert limited.level == "warning" and limited.text.endswith("0.5 GiB in this cgroup")


# Model, task and hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """hub("offline" | "reachable" | "unreachable") sets the hub so and returns its empty cache."""
    from huggingface_hub import constants

    def become(state: str) -> Path:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", state == "offline")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(doctor, "reachable", lambda url: state == "reachable")
        return tmp_path / "cache"

    return become


def fill(cache: Path, kind: str, repository: str, *names: str) -> None:
    """Put empty files into the hub's cache, as a snapshot of REVISION."""
    for name in names:
        file = cache / f"{kind}s--{repository.replace('/', '--')}" / "snapshots" / REVISION / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


FROM_HUB = ("model=roberta_base", "model.hub=org/m", f"model.revision={REVISION}")


@pytest.mark.parametrize(
    ("state", "hub_level", "model_level"),
    [("offline", "ok", "error"), ("unreachable", "error", "error"), ("reachable", "ok", "ok")],
)
def test_a_run_that_needs_the_hub_is_told_whether_it_can_have_it(
    hub: Callable[[str], Path], make_run: Callable[..., Run], state: str, hub_level: str, model_level: str
) -> None:
    hub(state)
    found = doctor.examine(make_run(*FROM_HUB))
    model = one(found, "model")
    assert (one(found, "hub").level, model.level) == (hub_level, model_level)
    assert "needs the network" in model.text and "org/m" in model.text
    assert "model.path=<folder>" in model.mend and ("HF_HUB_OFFLINE" in model.mend) == (state == "offline")
    assert one(found, "hub cache").level == "ok"


@pytest.mark.parametrize(("state", "level"), [("offline", "ok"), ("unreachable", "warning"), ("reachable", "ok")])
def test_a_run_that_has_everything_on_disk_needs_no_hub(
    hub: Callable[[str], Path], make_run: Callable[..., Run], state: str, level: str
) -> None:
    hub(state)
    found = doctor.examine(make_run())
    assert one(found, "hub").level == level
    assert one(found, "model").text == "random weights" and one(found, "task").text.startswith("on disk: ")
    assert not [finding for finding in found if finding.name == "hub cache"]


def test_what_the_hubs_cache_holds_whole_needs_no_network(hub: Callable[[str], Path], tmp_path: Path) -> None:
    cache = hub("unreachable")
    run = compose_run(*FROM_HUB, "task=sst2", "task.hub=org/t", f"task.revision={REVISION}", f"runs_dir={tmp_path}")
    fill(cache, "model", "org/m", "config.json", "model.safetensors")
    fill(cache, "dataset", "org/t", "sst2/train-0.parquet")
    assert {(f.name, f.level) for f in doctor.examine(run)} >= {("model", "error"), ("task", "error"), ("hub", "error")}
    fill(cache, "model", "org/m", "tokenizer.json")
    fill(cache, "dataset", "org/t", "sst2/validation-0.parquet")
    found = doctor.examine(run)
    assert one(found, "model").text.startswith("in the hub's cache: org/m") and one(found, "model").level == "ok"
    assert one(found, "task").text.startswith("in the hub's cache: org/t") and one(found, "task").level == "ok"
    assert one(found, "hub").level == "warning"


def test_the_doctor_finds_in_the_cache_what_the_run_finds_there(hub: Callable[[str], Path], tmp_path: Path) -> None:
    import pandas as pd

    from rankbench.tasks import data

    cache = hub("unreachable")
    run = compose_run("model=tiny_bert", "task=sst2", "task.hub=org/t", f"task.revision={REVISION}")
    fill(cache, "dataset", "org/t", "sst2/train-0.parquet", "sst2/validation-0.parquet")
    for file in cache.rglob("*.parquet"):
        pd.DataFrame([{"sentence": r["text"], "label": r["label"]} for r in sentences(8)]).to_parquet(file)
    assert one(doctor.examine(run), "task").level == "ok"
    assert len(data.load(run.task).train) == 8


def test_a_model_path_that_is_missing_is_told_in_the_runs_own_words(make_run: Callable[..., Run]) -> None:
    found = one(doctor.examine(make_run("model.path=/nowhere/at/all")), "model")
    assert found == Finding("model", "error", "model.path=/nowhere/at/all does not exist", "correct the path")


def test_nothing_but_the_hub_is_asked_over_the_network(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], no_network: list[str]
) -> None:
    from huggingface_hub import constants

    run = make_run("log=wandb", *FROM_HUB)
    doctor.examine(run)
    assert no_network == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    assert one(doctor.examine(run), "hub").level == "error"
    assert len(no_network) == 1 and no_network[0].startswith("create_connection")


# Weights & Biases, Slurm


def test_a_key_for_wandb_is_found_and_never_printed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make_run: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run("log=wandb")
    missing = one(doctor.examine(run), "wandb")
    assert missing.level == "warning" and "wandb login" in missing.mend
    assert one(doctor.examine(make_run()), "wandb") == Finding("wandb", "ok", "not used (log=none)")
    assert one(doctor.examine(make_run("log=wandb", "log.mode=offline")), "wandb").text == "offline by choice"
    file = tmp_path / "netrc"
    file.write_text("machine elsewhere\n login user\n password secret\n")
    monkeypatch.setenv("NETRC", str(file))
    assert one(doctor.examine(run), "wandb").level == "warning"
    file.write_text("machine api.wandb.ai\n login user\n password secret\n")
    assert one(doctor.examine(run), "wandb").text == f"a key is in {file}"
    doctor.report(run)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert one(doctor.examine(run), "wandb").text == "a key is in WANDB_API_KEY"
    doctor.report(run)
    assert "secret" not in "".join(capsys.readouterr())


def test_a_missing_wandb_is_an_error_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert one(doctor.examine(make_run()), "wandb").level == "ok"
    found = one(doctor.examine(make_run("log=wandb")), "wandb")
    assert (found.level, found.mend) == ("error", "pip install --upgrade wandb")


def test_a_slurm_job_is_named(monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(doctor.examine(make_run()), "slurm").text == "no Slurm here; cluster runs need it"
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    found = one(doctor.examine(make_run()), "slurm")
    assert (found.level, found.text) == ("ok", f"{tmp_path / 'sbatch'}; inside job 4711")


# The report and the refusal


def test_the_report_fits_80_columns_and_returns_whether_anything_is_wrong(
    pretend: Callable[..., None],
    installed: Callable[..., None],
    make_run: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.report(make_run()) == 0
    fine = capsys.readouterr().out.splitlines()
    assert fine[-1].endswith("0 warnings, 0 errors") and not [line for line in fine if "->" in line]
    pretend(V100, architectures=CU130, cuda="13.0")
    installed("libbitsandbytes_cuda130.so")
    assert doctor.report(make_run("model.path=/a/" + "very/" * 30 + "long/path")) == 1
    wrong = capsys.readouterr().out.splitlines()
    assert max(map(len, fine + wrong)) <= 80 and "\x1b" not in "".join(wrong)
    assert wrong[-1].endswith("1 warning, 2 errors")
    (start,) = [number for number, line in enumerate(wrong) if line.split()[:2] == ["error", "gpu"]]
    assert "".join(wrong[start].partition("Tesla")[:1]) == "error    gpu 0         "
    mends = [line for line in wrong if line.lstrip().startswith("-> ")]
    assert len(mends) == 3 and {line.index("->") for line in mends} == {wrong[start].index("Tesla")}


def test_a_run_that_the_device_can_do_is_let_through_quickly_and_silently(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from conftest import compose_run\n"
        "from rankbench.forecast.doctor import refuse\n"
        "refuse(compose_run('model=tiny_bert', 'task=classification'))\n"
        "print([name for name in ('bitsandbytes', 'transformers', 'wandb', 'huggingface_hub') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.slow
def test_the_report_is_all_on_stdout(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from conftest import compose_run\n"
        "from rankbench.forecast.doctor import report\n"
        f"report(compose_run('model=tiny_bert', 'task.data_dir={tmp_path}', 'log=wandb'))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("ok       python") and "bitsandbytes" in done.stdout


def test_a_gpu_that_torch_cannot_use_is_refused_with_the_wheel_to_install(
    pretend: Callable[..., None], make_run: Callable[..., Run]
) -> None:
    pretend(V100, architectures=CU130, cuda="13.0")
    with pytest.raises(RequestError, match=r"Tesla V100.*cannot run on it; .*cu126 wheel index") as refusal:
        doctor.refuse(make_run())
    assert "\n" not in str(refusal.value)


def test_disk_hub_and_wandb_are_not_the_refusals_business(
    hub: Callable[[str], Path], make_run: Callable[..., Run], tmp_path: Path
) -> None:
    hub("unreachable")
    (tmp_path / "file").write_text("in the way")
    run = make_run(*FROM_HUB, f"runs_dir={tmp_path / 'file'}", "log=wandb")
    doctor.refuse(run)
    assert {f.name for f in doctor.examine(run) if f.level == "error"} == {"runs_dir", "model", "hub"}


def test_a_missing_torch_is_one_error_and_the_other_lines_stay(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]
) -> None:
    run = make_run()
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine(run)
    assert (one(found, "torch").level, one(found, "torch").mend) == ("error", "pip install --upgrade torch")
    assert {"python", "memory", "runs_dir", "model", "task", "hub", "wandb", "slurm"} <= {f.name for f in found}
    with pytest.raises(RequestError, match=r"torch cannot be used.*pip install --upgrade torch"):
        doctor.refuse(run)


def test_a_python_that_is_too_old_is_an_error(monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run]) -> None:
    run = make_run()
    assert one(doctor.examine(run), "python").level == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert one(doctor.examine(run), "python").level == "error"


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("No module named 'sympy.core'", name="sympy.core"), "sympy"),
        (AttributeError("module has no attribute 'version'", name="version"), "torch"),
        (OSError("libcudnn.so.9: cannot open shared object file"), "torch"),
    ],
    ids=["lacks_a_package", "broken", "lacks_a_library"],
)
def test_a_broken_torch_is_told_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], error: Exception, package: str
) -> None:
    def fail(memory: bool) -> None:
        raise error

    monkeypatch.setattr(doctor, "look_at_torch", fail)
    found = one(doctor.examine(make_run()), package)
    assert (found.level, found.mend) == ("error", f"pip install --upgrade {package}") and str(error) in found.text


@pytest.mark.parametrize("metric", ["meteor_e2e", "meteor_webnlg"])
@pytest.mark.parametrize("lacking", ["java", "pycocoevalcap"])
def test_meteor_without_its_java_or_package_is_refused_before_anything_is_read(
    metric: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_main: Callable[..., Answer]
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    if lacking == "pycocoevalcap":
        java.write_text("")
        java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    nowhere = ("model=tiny_llama", "task=instruction", f"task.data_dir={tmp_path / 'data'}")
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.jsonl").write_text("no JSON\n")
    words = [*nowhere, f"task.metrics=[{metric}]", f"runs_dir={tmp_path / 'runs'}"]
    answer = call_main(*words)
    assert answer.rc == 2 and lacking in answer.err and "rankbench[meteor]" in answer.err, answer.err
    assert not list((tmp_path / "runs").glob("*/record.json"))
    said = " ".join(call_main("doctor", *words).out.split())
    assert "meteor" in said and "rankbench[meteor]" in said
    with pytest.raises(RequestError, match=lacking):
        rankbench.score(metric, ["a"], ["a"])
