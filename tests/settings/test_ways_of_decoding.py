"""How responses are decoded: what is asked for, what is refused, and that it names the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import compose_run, refused, write_jsonl

ASKED = ("model=tiny_llama", "task=triviaqa")
CHANGES = [
    ["generation=beam"],
    ["generation=beam", "generation.num_beams=3"],
    ["generation=beam", "generation.length_penalty=0.8"],
    ["generation=beam", "generation.early_stopping=never"],
    ["generation=sample"],
    ["generation=sample", "generation.temperature=0.5"],
    ["generation=sample", "generation.top_k=5"],
    ["generation=sample", "generation.top_p=0.9"],
    ["generation.no_repeat_ngram_size=3"],
    ["generation.no_repeat_ngram_size=3", "generation.no_repeat_ngram_of=generated"],
    ["generation.min_new_tokens=2"],
    ["generation.stop_texts=[.]"],
]


def test_each_way_of_decoding_is_another_run_and_greedy_is_what_it_was(tmp_path: Path):
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"question": "a", "answer": "b"}])
    asked = (*ASKED, f"task.data_dir={tmp_path}")
    before = compose_run(*asked)
    assert compose_run(*asked, "generation=greedy").run_id == before.run_id
    ids = [compose_run(*asked, *change).run_id for change in CHANGES]
    assert len({before.run_id, *ids}) == len(CHANGES) + 1


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["generation.num_beams=4"], "give generation=beam, or leave num_beams out"),
        (["generation=sample", "generation.length_penalty=0.5"], "give generation=beam"),
        (["generation=greedy", "generation.early_stopping=true"], "give generation=beam"),
        (["generation=beam", "generation.temperature=0.5"], "give generation=sample"),
        (["generation.top_k=3"], "give generation=sample"),
        (["generation=beam", "generation.num_beams=1"], "or generation=greedy"),
        (["generation=beam", "generation.num_beams=0"], "must be at least 1"),
        (["generation=beam", "generation.length_penalty=inf"], "must be finite"),
        (["generation=beam", "generation.early_stopping=2"], "must be true, false or never"),
        (["generation=sample", "generation.temperature=0"], "generation=greedy draws nothing"),
        (["generation=sample", "generation.top_p=0"], "above 0 and at most 1"),
        (["generation=sample", "generation.top_k=-1"], "must not be negative"),
        (["generation.no_repeat_ngram_size=-1"], "must not be negative"),
        (["generation.no_repeat_ngram_of=generated"], "give generation.no_repeat_ngram_size=4 with it"),
        (["generation.min_new_tokens=51"], "above task.max_new_tokens=50"),
        (["generation.stop_texts=['']"], "has an empty text"),
        (["generation.name=beams"], "choose generation=greedy|beam|sample"),
        (["task=sst2", "generation=beam"], "a classification task has none; leave it out"),
        (["task=stsb", "generation.stop_texts=[.]"], "a regression task has none; leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_mend(words: list[str], mend: str):
    assert mend in refused(*ASKED, *words)


def test_a_command_line_gives_line_breaks_as_it_can():
    for given in (r"generation.stop_texts=['\n\n']", "generation.stop_texts=['\n\n']", r"generation.stop_texts=[\n\n]"):
        assert compose_run(*ASKED, given).generation.stops == ["\n\n"]
