"""The page of `choose_rank`: the answer and its command first, then all that it rests on."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_run
from test_choice import a_search, change_record, hits, of_ranks, trained
from test_report import Reader

import rankbench
from rankbench.settings.identity import settings
from rankbench.tables import answered

FORM = {1: hits(0.6), 2: hits(0.8), 4: hits(0.8)}
DATA = {
    "label_names": ["bad", "good <b>"],
    "location": "here & there",
    "splits": {
        "train": {"file": "train.csv", "rows": 1200, "labels": {"bad": 700, "good <b>": 500}},
        "validation": {"file": "validation.csv", "rows": 400},
    },
}


def a_page(run: Path, **options: Any) -> str:
    made = rankbench.choose_rank(run, **options)
    made.save(run.parent / "page.html")
    text, reader = (run.parent / "page.html").read_text(), Reader()
    reader.feed(text)
    assert not reader.open, "every element that opens is closed"
    assert not re.search(r"(src|href)=[\"'](?!#)|@import|<script|url\((?!#)", text), "nothing is fetched or run"
    return text


def places(text: str, *parts: str) -> list[int]:
    return [text.index(html.escape(part)) for part in parts]


def one_run(folder: Path, **more: Any) -> Path:
    config = settings(compose_run("task=classification", "model=tiny_llama", "adapter=dylora", "adapter.r=4"))
    run = of_ranks(folder / "run", FORM, data=DATA, config=config, **more)
    trained(run, {"method": "dylora", "r": 4, "scale": "alpha_over_b", "trained_ranks": [1, 2, 4]})
    subs = json.loads((run / "record.json").read_text())["submodels"]
    training = {"seconds": 12.34, "peak_memory_bytes": 3 * 2**20, "examples_per_second": 1.0}
    change_record(run, {"training": training, "submodels": [sub | {"eval_seconds": 1.0} for sub in subs]})
    return run


def test_the_answer_and_its_command_come_first_and_what_it_rests_on_below(tmp_path: Path) -> None:
    run = one_run(tmp_path)
    text = a_page(run, margin=2)
    command = f"<pre><code>{html.escape(f'rankbench export {run} --rank 2 --to DIR')}</code></pre>"
    assert command in text and text.count("rankbench export") == 1
    order = places(text, "Rank 2: the smallest rank", "rankbench export", "Chosen on one half", "What it costs")
    order[2:2] = [text.index("<svg"), text.index("minus best")]
    assert order == sorted(order)
    assert places(text, "By class", "Settings", "Data") == sorted(places(text, "By class", "Settings", "Data"))
    assert 'class="answer"' in text[: order[0]]


def test_cost_classes_settings_and_data_are_the_records(tmp_path: Path) -> None:
    text = a_page(one_run(tmp_path), margin=2)
    assert all(told in text for told in ("12.3", "3 MiB", "1,000 to 4,000", "on cpu in fp32"))
    assert "name=classification" in text and "name=dylora; r=4;" in text
    assert "good &lt;b&gt;" in text and "good <b>" not in text and "here &amp; there" in text
    assert "bad: 700, good &lt;b&gt;: 500" in text and "1,200" in text
    right = round(100 * float(FORM[2].mean()), 1)
    assert f"(accuracy x 100: {right})" in text, "of the rank that is named, not of the largest"


def test_many_runs_are_one_page_with_every_methods_cost(tmp_path: Path) -> None:
    for seed in (0, 1):
        a_search(tmp_path / "runs", seed)
    text = a_page(tmp_path / "runs", margin=30)
    assert re.search(r'<th scope="row">dylora</th><td>2</td>', text) and "LoRA, one training a rank" in text
    assert "r=1 or 4" in text or "r=4 or 1" in text
    assert "<td>0, 1</td>" in text and text.count("<h2>") == 4


def test_a_cut_that_answers_has_its_classes_on_the_page(tmp_path: Path) -> None:
    a_search(tmp_path / "runs")
    text = a_page(tmp_path / "runs", margin=2)
    assert "svd, rank 2: the smallest candidate within 2" in text
    right = 100 * float(hits(0.8, but=1).mean())
    assert "By class" in text and "rank 2 cut by svd, validation, 400 examples" in text
    assert f"(accuracy x 100: {right:.1f})" in text


def test_where_nothing_is_named_the_page_says_so_and_exports_nothing(tmp_path: Path) -> None:
    text = a_page(one_run(tmp_path), margin=0.01)
    assert "do not tell" in text.split("<svg")[0] and "rankbench export" not in text
    assert "<pre><code>rankbench table choose_rank" in text


@pytest.mark.parametrize("lacking", ["data", "training"])
def test_older_records_have_a_page_too(lacking: str, tmp_path: Path) -> None:
    run = one_run(tmp_path)
    record = json.loads((run / "record.json").read_text())
    del record[lacking]
    (run / "record.json").write_text(json.dumps(record))
    assert "Rank 2: the smallest rank" in a_page(run, margin=2)


def test_runs_on_other_data_have_rows_of_their_own() -> None:
    def one(rows: int) -> dict[str, Any]:
        return {"data": {"splits": {"train": {"file": "t.csv", "rows": rows}, "validation": {"file": "v", "rows": 2}}}}

    frame = answered.data([one(10), one(20), one(10)]).frame
    assert frame["rows"].to_dict() == {"train": "10", "validation": "2", "train (2)": "20"}


def test_what_has_no_classes_has_none_on_its_page(tmp_path: Path) -> None:
    run = one_run(tmp_path)
    config = json.loads((run / "record.json").read_text())["config"]
    config["task"]["prompts"] = ["{question}"]
    change_record(run, {"config": config})
    assert "By class" not in a_page(run, margin=2)
