"""The speed of an adapter beside its layers and merged: what is timed, and that it leaves all as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import a_batch, attached, encoded

from rankbench.methods.submodel import Submodel
from rankbench.scoring import forward_speed
from rankbench.tables import costs
from rankbench.tables.measured import Member, Trained


@pytest.mark.parametrize("training", [True, False])
def test_both_sides_are_timed_and_all_is_left_as_found(training):
    tuning = attached()
    tuning.model.train(training)
    tuning.activate(Submodel(rank=3))
    seen = []
    layer = tuning.layers[0]
    watched = layer.register_forward_hook(lambda module, given, out: seen.append((given[0].detach(), out.detach())))
    found = forward_speed.measure(tuning.model, tuning, encoded(37, seed=5), batch_size=8, pad_id=0)
    watched.remove()
    assert found["rows"] == 8 and found["tokens"] % 8 == 0 and found["rank"] == 8
    assert found["merged"] > 0 and found["unmerged"] > 0
    plain = [torch.equal(out, layer.get_base_layer()(given)) for given, out in seen]
    assert plain == [False, *[False, True] * forward_speed.REPEATS], "one to warm up, then in turns"
    assert tuning.model.training is training and tuning.active() == Submodel(rank=3)
    tuning.model.eval()
    with torch.no_grad():
        after = tuning.model(**a_batch()).logits
        tuning.activate(Submodel(rank=3))
        assert torch.equal(after, tuning.model(**a_batch()).logits)


def test_what_a_sub_model_costs_is_said(tmp_path):
    sub = {"rank": 2, "depth": None, "parameters": {"adapter": 1000, "head": 250, "trainable": 1250, "total": 10**9}}
    speed = {"rows": 64, "tokens": 640, "rank": 8, "merged": 412.4, "unmerged": 380.2}
    record = {"forward_speed": speed, "environment": {"device": "a processor"}}
    assert costs.line(Member("", "", {0: Trained(tmp_path, record, sub)})) == (
        "It costs 1,250 parameters, 5 kB as an adapter, or 4.0 GB as a merged model (float32). Merged it answers 412 "
        "rows a second, unmerged 380 (at rank 8, 64 rows of 10 tokens; a processor)."
    )
    assert "rows a second" not in costs.line(Member("", "", {0: Trained(tmp_path, {}, sub)}))
    whole = sub | {"parameters": sub["parameters"] | {"adapter": 0}}
    told = costs.line(Member("", "", {0: Trained(tmp_path, {}, whole)}))
    assert told == "It costs 1,000,000,000 parameters, 4.0 GB in float32."
