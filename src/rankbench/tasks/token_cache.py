"""Token ids, kept on disk by the texts and the tokenizer, so that the runs of a sweep tokenise a split once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
import zipfile
from collections.abc import Sequence
from importlib import metadata
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rankbench.system import processes
from rankbench.system.files import flush

log = logging.getLogger("rankbench")

LEAST = 1_000_000  # characters; fewer are tokenised in about a second
FORMAT = 2  # of the files
KEYS = ("input_ids", "token_type_ids")

Ids = dict[str, list[list[int]]]


def tokenised(tokenizer: Any, columns: Sequence[list[str]], **options: Any) -> Ids:
    """The token ids of each row of one or two columns of texts, and their types where the model reads those.

    With `truncation`, `cut` holds a 1 for each row that was longer, else a 0. With `return_overflowing_tokens` there
    are windows instead: `of` holds the row of each, `begins` and `ends` where in the second text each token stands,
    counted from 1; 0 twice for what is no part of it.
    """
    encoded = tokenizer(*columns, padding=False, return_attention_mask=False, **options)
    found = {key: encoded[key] for key in KEYS if key in encoded}
    if options.get("return_overflowing_tokens"):
        found["of"] = [[row] for row in encoded["overflow_to_sample_mapping"]]
        found["begins"], found["ends"] = [], []
        for window, places in enumerate(encoded["offset_mapping"]):
            second = [part == 1 for part in encoded.sequence_ids(window)]
            for key, side in (("begins", 0), ("ends", 1)):
                found[key].append([place[side] + 1 if own else 0 for place, own in zip(places, second, strict=True)])
    elif options.get("truncation"):
        fast = getattr(encoded, "encodings", None)
        found["cut"] = (
            [[int(bool(row.overflowing))] for row in fast] if fast else _cut(tokenizer, columns, found, options)
        )
    return found


def _cut(tokenizer: Any, columns: Sequence[list[str]], found: Ids, options: dict[str, Any]) -> list[list[int]]:
    """Which rows a tokenizer without Rust code has cut: those that are longer whole."""
    limit = options["max_length"]
    full = [row for row, ids in enumerate(found["input_ids"]) if len(ids) >= limit]
    whole = tokenizer(*([texts[row] for row in full] for texts in columns))["input_ids"] if full else []
    longer = {row for row, ids in zip(full, whole, strict=True) if len(ids) > limit}
    return [[int(row in longer)] for row in range(len(found["input_ids"]))]


class Kept:
    """As `tokenised`, from a file under `folder` where there is one.

    A file's name is a hash of all that decides its content, and it is put there by a rename: runs that start together
    on several machines write the same one, and none reads another's half. Without leave or room to write, a run
    tokenises for itself and says so once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writes = processes.first()

    def __call__(self, tokenizer: Any, columns: Sequence[list[str]], **options: Any) -> Ids:
        """The ids of these texts, which are not kept where they are few, or the tokenizer is code of the model's."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        few = sum(len(text) for texts in columns for text in texts) < LEAST
        if few or backend is None or not type(tokenizer).__module__.startswith("transformers."):
            return tokenised(tokenizer, columns, **options)
        tokenised(tokenizer, [["a"] for _ in columns], **options)  # leaves the options in the backend's state
        settings = [type(tokenizer).__name__, tokenizer.model_input_names, tokenizer.split_special_tokens, options]
        versions = [metadata.version(package) for package in ("transformers", "tokenizers")]
        decisive = [FORMAT, versions, backend.to_str(), settings, columns]
        file = self.folder / f"{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()}.npz"
        found = _read(file, len(columns[0]))
        if found is None:
            found = tokenised(tokenizer, columns, **options)
            self._write(file, found)
        return found

    def _write(self, file: Path, ids: Ids) -> None:
        if not self._writes:
            return
        aside = file.with_name(f".{file.stem}.{uuid.uuid4().hex}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as stream:
                np.savez(stream, **_flat(ids))
            flush(aside)
            os.replace(aside, file)
        except OSError as error:
            log.warning("token ids are not kept in %s: %s", self.folder, error.strerror or error)
            self._writes = False
        finally:
            with contextlib.suppress(OSError):  # it is gone where all went well
                aside.unlink()


def _flat(ids: Ids) -> dict[str, Any]:
    """Each list of rows as one array of its values, and one of the rows' lengths, in the smallest types that hold."""
    arrays = {"lengths": np.array([len(row) for row in ids["input_ids"]], np.int32)}
    for key, rows in ids.items():
        values = np.array([value for row in rows for value in row], np.int64)
        arrays[key] = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    return arrays


def _read(file: Path, rows: int) -> Ids | None:
    """The ids in a file; None where there is none, or none whole, which is said."""
    try:
        with zipfile.ZipFile(file) as parts:
            if wrong := parts.testzip():
                raise ValueError(f"the checksum of {wrong} is wrong")
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key].tolist() for key in stored.files}
        lengths = arrays.pop("lengths")
        ends = [0, *accumulate(lengths)]
        single = {key: arrays.pop(key) for key in ("cut", "of") if key in arrays}
        of_all = len(set(single["of"])) if "of" in single else len(lengths)
        whole = of_all == rows and "input_ids" in arrays and all(len(v) == ends[-1] for v in arrays.values())
        if not whole or any(len(values) != len(lengths) for values in single.values()):
            raise ValueError("it holds other rows")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # the reader of zip files fails in as many ways as a file can be damaged
        log.warning("%s is damaged (%s); its texts are tokenised again", file, str(error) or type(error).__name__)
        return None
    found = {key: [values[i:j] for i, j in pairwise(ends)] for key, values in arrays.items()}
    return found | {key: [[value] for value in values] for key, values in single.items()}
