"""What the forwards of several ranks share: the answers are those of the plain model, and the work is less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import sample
from tiny import attached, encoded

from rankbench.methods.cuts import cut
from rankbench.methods.submodel import Submodel
from rankbench.scoring.evaluation import evaluate
from rankbench.scoring.shared import FIRST_TOKEN, shared
from rankbench.tasks.encoding import collate

SPLIT = encoded(37, seed=5, name="validation")
CASES = [
    *((f"model.random.model_type={kind}",) for kind in FIRST_TOKEN),
    ("model.random.model_type=electra", "+model.random.embedding_size=16"),
    ("adapter=lora",),
    ("adapter.target_modules=all-linear",),
    ("adapter.target_modules=[dense]",),
    ("model=tiny_gpt2",),
    ("model=tiny_llama",),
]


def measured(tuning, batch, stack_tokens=0):
    members = [Submodel(rank=b) for b in range(1, 9)]
    settings = {"batch_size": batch, "pad_id": 0, "stack_tokens": stack_tokens}
    found = evaluate(tuning.model, tuning, [SPLIT], members, ["accuracy"], **settings)
    return np.stack([score.predictions["validation"]["scores"] for score in found])


def plain(tuning):
    """What the model itself says, rank after rank."""
    batch = {k: v for k, v in collate(SPLIT, np.arange(len(SPLIT)), 0).items() if k != "labels"}
    found = []
    for member in tuning.family:
        tuning.activate(member)
        with torch.no_grad():
            found.append(tuning.model(**batch).logits.softmax(-1).numpy())
    return np.stack(found)


@pytest.mark.parametrize("case", sample(CASES, CASES[0], CASES[3]), ids=lambda case: " ".join(case))
def test_scores_are_those_of_the_plain_model(case):
    tuning = attached(*case)
    expected = plain(tuning)
    assert np.ptp(expected, axis=0).max() > 1e-3, "ranks differ"
    for batch in (1, 8, 64):
        assert measured(tuning, batch) == pytest.approx(expected, abs=1e-5)
    assert measured(tuning, 8, stack_tokens=10**9) == pytest.approx(expected, abs=1e-5)
    assert plain(tuning).tobytes() == expected.tobytes(), "all is as it was"


@pytest.mark.parametrize("how", ["svd", "svd_global"])
def test_cuts_score_as_the_plain_model_does(how):
    tuning = attached()
    with cut(tuning, how):
        assert measured(tuning, 64) == pytest.approx(plain(tuning), abs=1e-5)


def test_a_batch_is_embedded_once_and_the_last_layer_ends_with_one_token():
    tuning = attached()
    encoder = tuning.model.get_base_model().base_model
    embedded, keys, last = [], [], []
    encoder.embeddings.word_embeddings.register_forward_hook(lambda _m, args, _o: embedded.append(args[0].shape))
    encoder.encoder.layer[0].attention.self.value.base_layer.register_forward_hook(lambda *_: keys.append(1))
    encoder.encoder.layer[-1].intermediate.register_forward_hook(lambda _m, args, _o: last.append(args[0].shape[1]))
    measured(tuning, 8)
    assert len(embedded) == 5, "batches"
    assert last == [1] * 8 * 5
    assert len(keys) == 8 * 5, "asked each time"
    before = list(keys)
    plain(tuning)
    assert len(embedded) == 5 + 8 and len(keys) == len(before) + 8 and last[-1] > 1, "afterwards as before"


def test_a_rank_multiplies_once_where_a_batch_is_large():
    tuning = attached()
    value = tuning.model.get_base_model().base_model.encoder.layer[1].attention.self.value
    products = []
    value.base_layer.register_forward_hook(lambda _m, args, _o: products.append(args[0].shape[:-1].numel()))
    batch = {k: v for k, v in collate(SPLIT, np.arange(len(SPLIT)), 0).items() if k != "labels"}
    with torch.no_grad(), shared(tuning, True):
        tuning.model(**batch)
        assert not products
        tuning.model(**{k: v[:1, :8] for k, v in batch.items()})
        assert products == [8], "the weights have more numbers than two products take"
        tuning.activate_rows([Submodel(rank=2)] * len(SPLIT))
        tuning.model(**batch)
        assert len(products) == 2, "ranks by row"


def test_nothing_is_left_out_of_training():
    tuning = attached()
    tuning.model.train()
    batch = collate(SPLIT, np.arange(8), 0)
    with shared(tuning, True):
        pass
    tuning.model(**batch).loss.backward()
    assert all(p.grad is not None for p in tuning.trained().values())


@pytest.mark.parametrize("case", [("adapter=full",), ("adapter=sorted_ft",)], ids=" ".join)
def test_other_methods_are_left_alone(case):
    tuning = attached(*case)
    with shared(tuning, True):
        assert not any("forward" in vars(module) for module in tuning.model.modules())
