"""A card says what data, templates and commands say, whatever marks are in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from test_export import train

from rankbench.shipping.export import export

CLASSES = ["a|b", "<b>bold</b>", "$5$", "two\nlines", "`tick` ```", "*star* _under_ \\", "😀"]
COMMAND = "rankbench '+task.prompts=[\"```text {a} ````\"]'"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The exported folder of a run of such classes, its record changed to hold such a command; and the card."""
    root = tmp_path_factory.mktemp("card")
    rows = [{"text": f"row {i}", "label": CLASSES[i % len(CLASSES)]} for i in range(21)]
    for split in ("train", "validation"):
        write_jsonl(root / "classes" / f"{split}.jsonl", rows)
    done = train(root, "tiny_bert", f"task.data_dir={root / 'classes'}", "train.max_steps=1")
    folder = Path(shutil.copytree(done.folder, root / "copy"))
    record = json.loads((folder / "record.json").read_text())
    record["environment"]["command"] = COMMAND
    record["data"]["splits"]["train"]["file"] = "a|b_*.csv"
    record["config"]["model"]["name"] = "of | an _older_ record"
    (folder / "record.json").write_text(json.dumps(record))
    export(folder, root / "😀 out", 2)
    return root / "😀 out", (root / "😀 out" / "README.md").read_text()


def read(card: str) -> Any:
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table"])
    return reader.parse(card.split("---\n", 2)[2])


def test_a_card_shows_every_class_and_name_as_it_is(card: tuple[Path, str]) -> None:
    texts = [token for token in read(card[1]) if token.type == "inline"]
    marks = {child.type for token in texts for child in token.children}
    assert marks <= {"text", "softbreak", "code_inline", "strong_open", "strong_close"}
    said = ["".join(child.content for child in token.children) for token in texts]
    outputs = next(text for text in said if "Its outputs:" in text)
    for name in CLASSES:
        assert " ".join(name.splitlines()) in outputs, name
    assert any("of | an _older_ record" in text for text in said)
    assert any("rows of a|b_*.csv, sha256" in text for text in said)


def test_the_code_and_the_command_stand_on_the_card_as_they_are(
    card: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [token.content.rstrip("\n") for token in read(card[1]) if token.type == "fence"]
    assert COMMAND in blocks
    found: dict[str, Any] = {}
    monkeypatch.chdir(card[0].parent)
    exec(next(block for block in blocks if "from peft" in block), found)
    assert sorted(found["model"].config.label2id) == sorted(CLASSES)
