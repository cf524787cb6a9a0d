"""What the forwards of several ranks share: the answers are those of the plain model, and the work is less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import sample
from tiny import a_run, attached, encoded, randomise

from rankbench import methods
from rankbench.errors import RequestError
from rankbench.methods.cuts import cut
from rankbench.methods.submodel import Submodel
from rankbench.models import backbone, quantization
from rankbench.scoring.evaluation import evaluate
from rankbench.scoring.shared import FIRST_TOKEN, shared
from rankbench.tasks.encoding import collate

CPU = torch.device("cpu")
SPLIT = encoded(37, seed=5, name="validation")
CASES = [
    *((f"model.random.model_type={kind}",) for kind in FIRST_TOKEN),
    ("model.random.model_type=electra", "+model.random.embedding_size=16"),
    ("adapter=lora",),
    ("adapter.target_modules=all-linear",),
    ("adapter.target_modules=[dense]",),
    ("model=tiny_gpt2",),
    ("model=tiny_llama",),
    # Its rows and tokens are one dimension in fc1 and fc2.
    (
        *("model=tiny_bert", "adapter.target_modules=all-linear", "model.random.model_type=opt"),
        *("+model.random.ffn_dim=64", "+model.random.word_embed_proj_dim=32"),
    ),
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


@pytest.mark.parametrize("case", sample(CASES, CASES[0], CASES[3], CASES[-1]), ids=lambda case: " ".join(case))
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


class Turned(torch.nn.Module):
    """A layer that sees the tokens before the rows of the batch, as no family that is known to."""

    def __init__(self, core: torch.nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.core(x.transpose(0, 1)).transpose(0, 1)


def turned(*words: str):
    run = a_run("adapter.target_modules=[core]", *words)
    model = backbone.load(run.model, 2, False, run.seed, quantization.storage(run.quantization, "fp32", CPU)).model
    for layer in model.bert.encoder.layer:
        layer.intermediate.dense = Turned(layer.intermediate.dense)
    tuning = methods.attach(run, model)
    randomise(tuning.model)
    tuning.model.eval()
    return tuning


def test_a_layer_that_sees_other_rows_is_measured_rank_by_rank(caplog):
    tuning = turned()
    expected = plain(tuning)
    assert np.ptp(expected, axis=0).max() > 1e-3, "ranks differ"
    assert measured(tuning, 8, stack_tokens=10**9) == pytest.approx(expected, abs=1e-5)
    assert "one sub-model is measured at a time" in caplog.text and not tuning.stacks
    batch = collate(SPLIT, np.arange(8), 0)
    tuning.activate_rows([tuning.family[i] for i in range(8)])
    with pytest.raises(RequestError, match=r"give sampler\.per_row=false"):
        tuning.model(**batch)


@pytest.mark.parametrize("quantized", ["nf4", "fp4"])
def test_a_quantized_layer_computes_after_an_evaluation_as_before(quantized):
    run = a_run(f"quantization={quantized}", "quantization.compute_dtype=fp32", "train.precision=bf16")
    model = backbone.load(run.model, 2, False, run.seed, quantization.storage(run.quantization, "bf16", CPU)).model
    tuning = methods.attach(run, model)
    query = tuning.model.get_base_model().bert.encoder.layer[0].attention.self.query.base_layer
    x = torch.randn(2, 5, query.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = query(x)
        measured(tuning, 64)
        after = query(x)
    assert before.dtype == after.dtype == torch.float32
    assert before.numpy().tobytes() == after.numpy().tobytes()
