"""What this machine can do for a run, line by line, each trouble with the way to mend it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rankbench.errors import RequestError
from rankbench.models.device import V100_MEMORY
from rankbench.settings.hardware import Hardware
from rankbench.settings.log import Log
from rankbench.settings.metrics import METRICS, meteor
from rankbench.settings.run import Run
from rankbench.settings.sources import Source, locate
from rankbench.settings.train import Optimizer
from rankbench.system.files import expanded
from rankbench.system.home import refusal
from rankbench.system.network import look_for_key, reachable

GIB = 2**30
VOLTA, TURING, AMPERE = (7, 0), (7, 5), (8, 0)  # int8 begins with the second, bf16 with the third
WHEEL = "pip uninstall -y torch; pip install torch --index-url <PyTorch's {} wheel index>"
VOLTA_WHEEL = WHEEL.format("cu126") + " (CUDA 13 wheels carry no Volta; torch 2.14 is the last release that does)"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `level` is ok, warning or error; `mend` says what to do about it where it is not ok."""

    name: str
    level: str
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Gpu:
    """A visible GPU; memory in bytes, `free` None where it was not asked."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int | None = None

    def __str__(self) -> str:
        return f"{self.name} (capability {self.capability[0]}.{self.capability[1]})"


V100 = Gpu("hardware=v100", VOLTA, V100_MEMORY)


def report(run: Run) -> int:
    """Print what was found for `run`, at most 80 columns wide; 1 if anything is an error, else 0."""
    found = examine(run)
    wide = max(len(finding.name) for finding in found)
    for finding in found:
        head = f"{finding.level:<7}  {finding.name:<{wide}}  "
        for mark, text in ((head, finding.text), (" " * len(head) + "-> ", finding.mend * (finding.level != "ok"))):
            for number, line in enumerate(textwrap.wrap(text, 80 - len(mark), break_on_hyphens=False)):
                print(f"{' ' * len(mark) if number else mark}{line}")
    ok, warnings, errors = ([f.level for f in found].count(level) for level in ("ok", "warning", "error"))
    print(f"{ok} ok, {warnings} warning{'s' * (warnings != 1)}, {errors} error{'s' * (errors != 1)}")
    return int(errors > 0)


def refuse(run: Run) -> None:
    """Nothing where the device can do what `run` asks; raises RequestError, with the way out, where it cannot."""
    for finding in (*meteor_lines(run), *v100_lines(run), *_outlive("torch", "error", _device, run, False)):
        if finding.level == "error":
            raise RequestError(f"{finding.text}; {finding.mend}")


def examine(run: Run) -> list[Finding]:
    """Everything that `run` leans on, looked at without loading a model or leaving a file."""
    slurm, job = shutil.which("sbatch") or "no Slurm here; cluster runs need it", os.environ.get("SLURM_JOB_ID")
    return [
        Finding("python", "error" if sys.version_info < (3, 10) else "ok", sys.version.split()[0], "use 3.10 or later"),
        *_outlive("torch", "error", _device, run, True),
        *v100_lines(run),
        *meteor_lines(run),
        *_outlive("psutil", "warning", memory_lines),
        disk_line("runs_dir", Path(run.runs_dir), "choose another runs_dir"),
        *_outlive("huggingface_hub", "error", _home),
        *_outlive("huggingface_hub", "error", _sources, run),
        *_outlive("wandb", "error", wandb_lines, run.log, look_for_key()),
        Finding("slurm", "ok", f"{slurm}; inside job {job}" if job else slurm),
    ]


def _outlive(package: str, level: str, look: Callable[..., list[Finding]], *words: object) -> list[Finding]:
    try:
        return look(*words)
    except Exception as error:  # a package that is missing or broken fails in many ways
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        package = ((isinstance(error, ImportError) and error.name) or package).split(".")[0]
        return [Finding(package, level, f"{package} cannot be used: {cause}", f"pip install --upgrade {package}")]


def _device(run: Run, whole: bool) -> list[Finding]:
    stored = run.quantization.name
    version, cuda, built_for, gpus = look_at_torch(memory=whole)
    needed = stored != "none" or (bool(gpus) and run.train.optimizer is Optimizer.paged_adamw)
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    return [
        torch_line(version, cuda, len(gpus), driver),
        *(gpu_line(index, gpu, built_for) for index, gpu in enumerate(gpus)),
        precision_line(run, gpus[0] if gpus else None),
        *(
            _outlive("bitsandbytes", "error" if needed else "warning", _bitsandbytes, gpus, stored)
            if whole or needed
            else []
        ),
    ]


def look_at_torch(memory: bool) -> tuple[str, str | None, list[str], list[Gpu]]:
    """torch's version, its CUDA, what it was built for, its GPUs; `memory` asks what is free, which takes a little."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0] if memory else None
        gpus.append(Gpu(card.name, (card.major, card.minor), card.total_memory, free))
    return torch.__version__, torch.version.cuda, torch.cuda.get_arch_list(), gpus


def meteor_lines(run: Run) -> list[Finding]:
    """Whether METEOR's Java and package are here, where the run scores by it."""
    if not any(METRICS[name].java for name in run.task.metrics):
        return []
    try:
        java, package = meteor()
    except RequestError as error:
        text, _, mend = str(error).partition("; ")
        return [Finding("meteor", "error", text, mend)]
    return [Finding("meteor", "ok", f"{java}, {package}")]


def torch_line(version: str, cuda: str | None, gpus: int, driver: bool) -> Finding:
    """Which PyTorch is installed, and whether it misses a GPU that an NVIDIA `driver` stands for."""
    text = f"{version}, CUDA {cuda}" if cuda else f"{version}, built without CUDA"
    if gpus or not driver:
        return Finding("torch", "ok", text)
    look = "see nvidia-smi and CUDA_VISIBLE_DEVICES; for an old driver: " if cuda else ""
    text += ": sees no GPU, but an NVIDIA driver is here"
    return Finding("torch", "warning", text, look + WHEEL.format("cu126"))


def covers(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for `architectures` (torch.cuda.get_arch_list) runs on a GPU of this capability."""
    built = [found.groups() for name in architectures if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)(\D?)", name))]
    for kind, major, minor, exact in built:
        older = (int(major), int(minor)) < capability and (kind == "compute" or int(major) == capability[0])
        if (int(major), int(minor)) == capability or (older and not exact):
            return True
    return bool(architectures) and not built  # ROCm has other names, of which nothing is claimed


def gpu_line(index: int, gpu: Gpu, architectures: list[str]) -> Finding:
    """The GPU, its memory, and whether PyTorch's build runs on it; only the first is the run's."""
    text = f"{gpu}, {gpu.total / GIB:.1f} GiB" + ("" if gpu.free is None else f", {gpu.free / GIB:.1f} GiB free")
    if covers(architectures, gpu.capability):
        return Finding(f"gpu {index}", "ok", text)
    text += f": torch is built for {', '.join(architectures)} and cannot run on it"
    wheel = VOLTA_WHEEL if gpu.capability < TURING else WHEEL.format("cu130")
    return Finding(f"gpu {index}", "warning" if index else "error", text, wheel)


def precision_line(run: Run, gpu: Gpu | None) -> Finding:
    """What train.precision comes to and why, as `choose_precision` decides it; bf16 where the GPU has none."""
    asked, compute = run.precision.value, run.quantization.compute_dtype.value
    held = V100 if gpu and run.hardware is Hardware.v100 else gpu
    bf16 = held is not None and held.capability >= AMPERE
    for key, value in (("train.precision", asked), ("quantization.compute_dtype", compute)):
        if gpu and value == "bf16" and gpu.capability < AMPERE:
            return Finding("precision", "error", f"{key}=bf16: {gpu} has no bf16", f"use {key}=fp32 or fp16")
    if gpu is None and asked == "fp16":
        return Finding("precision", "error", "train.precision=fp16 needs a visible GPU", "use train.precision=fp32")
    why = f"{held} computes it" if bf16 else f"{held} has no bf16, and fp16 is opt-in"
    why = why if gpu else "no GPU is visible (a CPU does bf16 too, if asked)"
    text = f"auto picks {'bf16' if bf16 else 'fp32'}: {why}" if asked == "auto" else f"{asked}, as asked"
    return Finding("precision", "ok", text)


def v100_lines(run: Run) -> list[Finding]:
    """What of `run` a V100 could not do, where hardware=v100 holds it to that."""
    if run.hardware is not Hardware.v100:
        return []
    found = (precision_line(run, V100), bitsandbytes_line("", "", [V100], run.quantization.name))
    wrong = [replace(finding, name="v100") for finding in found if finding.level == "error"]
    return wrong or [Finding("v100", "ok", "fp32 or fp16 alone, no int8, no flash attention, at most 32 GiB")]


def _bitsandbytes(gpus: list[Gpu], quantization: str) -> list[Finding]:
    with contextlib.redirect_stderr(io.StringIO()):  # a library that does not load logs its traceback
        import bitsandbytes
        from bitsandbytes.cextension import lib
    loaded = vars(lib)  # its getattr answers to any name
    if gpus and "_lib" not in loaded:
        raise OSError(loaded.get("error_msg"))
    library = Path(loaded["_lib"]._name).name if "_lib" in loaded else "no native library"
    return [bitsandbytes_line(bitsandbytes.__version__, library, gpus, quantization)]


def bitsandbytes_line(version: str, library: str, gpus: list[Gpu], quantization: str) -> Finding:
    """Whether bitsandbytes runs on these GPUs with this library; an error only where the run asks to quantize."""
    build = tuple(map(int, found.groups())) if (found := re.search(r"_cuda(\d\d)(\d+)", library)) else (0, 0)
    lowest = (99, 0) if "_cpu" in library else (6, 0) if build < (12, 8) else VOLTA if build < (13, 0) else TURING
    mend = f"{VOLTA_WHEEL}; bitsandbytes follows it" if build >= (13, 0) else "pip install --upgrade bitsandbytes"
    for gpu in gpus:
        level = "error" if quantization != "none" and gpu is gpus[0] else "warning"
        if gpu.capability < lowest:
            return Finding("bitsandbytes", level, f"bitsandbytes {version}: no code for {gpu} in {library}", mend)
        if quantization == "int8" and gpu.capability < TURING:
            return Finding("bitsandbytes", level, f"int8 needs capability 7.5; {gpu} is older", "use quantization=nf4")
    return Finding("bitsandbytes", "ok", f"{version} with {library}")


def memory_lines(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Finding]:
    """The memory that a new program can have here, within the limits of the cgroups that this one is in."""
    import psutil

    least = available = psutil.virtual_memory().available
    own = proc / "self/cgroup"
    for line in own.read_text().splitlines() if own.exists() else []:
        _, kind, inside = line.split(":", 2)
        folder = cgroups / ("memory" if kind == "memory" else "") / inside.strip("/")
        files = [p / name for p in (folder, *folder.parents) for name in ("memory.max", "memory.limit_in_bytes")]
        least = min([least, *(int(text) for p in files if p.is_file() and (text := p.read_text().strip()).isdigit())])
    text = f"{available / GIB:.1f} GiB free" + (f", {least / GIB:.1f} GiB in this cgroup" if least < available else "")
    return [Finding("memory", "warning" if least < GIB else "ok", text, "free some, or ask the scheduler for more")]


def disk_line(name: str, folder: Path, mend: str) -> Finding:
    """Whether there is room, and leave to write, where `folder` is or would be made."""
    if error := refusal(folder):
        return Finding(name, "error", f"{error.filename} cannot be written ({error.strerror or error})", mend)
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    level = "error" if free < GIB / 2 else "warning" if free < 5 * GIB else "ok"
    return Finding(name, level, f"{free / GIB:.1f} GiB free at {there}", mend)


def _home() -> list[Finding]:
    """Where libraries keep files of their own, where that cannot be written: runs do without, downloads do not."""
    from huggingface_hub import constants

    home, hub = expanded("~"), Path(constants.HF_HOME)
    places = {"HOME": home} | ({} if hub.is_relative_to(home) else {"HF_HOME": hub})
    found = [disk_line(key, place, f"set {key} to a folder that can be written") for key, place in places.items()]
    wrong = [line for line in found if line.level == "error"]
    return [replace(line, level="warning", text=f"{line.text}; runs do without, downloads do not") for line in wrong]


def _sources(run: Run) -> list[Finding]:
    from huggingface_hub import constants

    hub = "offline" if constants.HF_HUB_OFFLINE else "reachable" if reachable(constants.ENDPOINT) else "unreachable"
    found, lacking = [], []
    for group in ("model", "task"):
        try:
            source = locate(group, getattr(run, group))
            lacks = source.kind == "hub" and not _cached(run, group, source)
            lacking += [group] * lacks
            found.append(source_line(group, source, lacks, hub))
        except RequestError as error:
            found.append(Finding(group, "error", *str(error).split("; ", 1)))
    if run.model.found:
        found.insert(1, Finding("model=auto", "ok", f"found {run.model.found}"))
    if lacking:
        found.append(disk_line("hub cache", Path(constants.HF_HUB_CACHE), "set HF_HOME to a folder on a larger disk"))
    return [*found, hub_line(hub, lacking)]


def _cached(run: Run, group: str, source: Source) -> bool:
    from huggingface_hub import snapshot_download

    inside, kind = f"{source.part}/" if source.part else "", "model" if group == "model" else "dataset"
    needed: list[tuple[str, ...]] = [(f"{inside}{split}-*.parquet",) for split in run.task.files]  # as data.load has it
    if group == "model":
        needed = [("config.json",), ("*.safetensors",), ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")]
    with contextlib.suppress(OSError, ValueError):
        folder = snapshot_download(source.hub or "", repo_type=kind, revision=source.revision, local_files_only=True)
        return all(any(any(Path(folder).glob(pattern)) for pattern in some) for some in needed)
    return False


def source_line(group: str, source: Source, lacks: bool, hub: str) -> Finding:
    """Where the model or the task comes from, and whether it can."""
    place = f": {source.path or f'{source.hub} at {source.revision}'}" if source.kind != "random" else ""
    where = "needs the network, not in the hub's cache" if lacks else "in the hub's cache"
    where = {"path": "on disk", "package": "in a package", "random": "random weights"}.get(source.kind, where)
    mend = "unset HF_HUB_OFFLINE" if hub == "offline" else "go online"
    mend = f"give {group}.{'path' if group == 'model' else 'data_dir'}=<folder>, or {mend}"
    return Finding(group, "error" if lacks and hub != "reachable" else "ok", where + place, mend)


def hub_line(hub: str, lacking: list[str]) -> Finding:
    """Whether the hub can be asked; an error only where the run must."""
    level = "ok" if hub != "unreachable" else "error" if lacking else "warning"
    text = "offline by choice (HF_HUB_OFFLINE)" if hub == "offline" else hub
    text += "" if level == "ok" else f"; this run needs {' and '.join(lacking) or 'nothing'} from it"
    return Finding("hub", level, text, "go online" if lacking else "HF_HUB_OFFLINE=1 says so for good")


def wandb_lines(log: Log, key: str) -> list[Finding]:
    """Whether log=wandb would reach W&B; `key` says where one was found."""
    if log.name != "wandb":
        return [Finding("wandb", "ok", "not used (log=none)")]
    import wandb  # noqa: F401

    mode = os.environ.get("WANDB_MODE", log.mode) if log.mode == "auto" else log.mode
    chosen = mode in ("offline", "disabled")
    text = f"{mode} by choice" if chosen else f"a key is in {key}" if key else "no key, so nothing is sent"
    return [Finding("wandb", "ok" if chosen or key else "warning", text, "wandb login, or later wandb sync")]
