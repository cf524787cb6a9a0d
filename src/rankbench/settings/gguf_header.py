"""What a GGUF file says of itself at its beginning, read without its weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from rankbench.errors import RequestError

SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
OTHER_NAMES = {"gemma3": "gemma3_text", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}  # as config.json has them


def model_type(file: Path) -> str:
    """The architecture of the model in a file, as a config.json would call it. Raises RequestError."""
    try:
        with open(file, "rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ValueError("it does not begin as a GGUF file does")
            _, _, settings = struct.unpack("<IQQ", stream.read(20))
            for _ in range(settings):
                key, value = _text(stream), _value(stream, _number(stream, "I"))
                if key == "general.architecture":
                    return OTHER_NAMES.get(value, str(value))
        raise ValueError("it names no general.architecture")
    except (OSError, ValueError, struct.error) as error:
        raise RequestError(
            f"{file} cannot be read: {error}; model.path must be a folder in the hub's format, or a GGUF file"
        ) from error


def _number(stream: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))[0]


def _text(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "Q")).decode("utf-8", errors="replace")


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == TEXT:
        return _text(stream)
    if kind == ARRAY:
        inner, count = _number(stream, "I"), _number(stream, "Q")
        return [_value(stream, inner) for _ in range(count)]
    if kind not in SIZES:
        raise ValueError(f"it has a value of the unknown kind {kind}")
    return _number(stream, SIZES[kind])
