"""Draws follow their distribution, are pure functions of (seed, step), and leave the data order alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankbench.methods.submodel import Submodel
from rankbench.settings.samplers import SAMPLERS, Sampler
from rankbench.system.seeds import generator
from rankbench.training.samplers import draw, probabilities


def sampler(name: str, **settings: object) -> Sampler:
    """The settings of a sampler."""
    return SAMPLERS[name](name, **settings)  # type: ignore[arg-type]


FAMILY = tuple(Submodel(rank=b) for b in range(1, 9))


def drawn(sampler: Sampler, steps: int, seed: int = 0) -> list[int]:
    return [draw(sampler, FAMILY, seed, step)[0][0].rank for step in range(steps)]


@pytest.mark.parametrize(
    "sampler",
    [
        sampler("uniform"),
        sampler("geometric"),
        sampler("geometric", p=0.4),
        sampler("uniform", ranks=[1, 2, 4, 8]),
    ],
)
def test_draws_follow_their_distribution(sampler):
    ranks = sampler.ranks or list(range(1, 9))
    counts = [drawn(sampler, 2000).count(b) for b in ranks]
    assert sum(counts) == 2000
    expected = probabilities(sampler, [Submodel(rank=b) for b in ranks]) * 2000
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_the_geometric_tail_is_renormalised():
    p = probabilities(sampler("geometric"), FAMILY)
    assert p.sum() == pytest.approx(1)
    assert p.round(4).tolist() == [0.2062, 0.1753, 0.1490, 0.1266, 0.1076, 0.0915, 0.0778, 0.0661]


def test_a_geometric_draw_from_chosen_ranks_weighs_by_rank_not_by_place():
    p = probabilities(sampler("geometric", p=0.5), [Submodel(rank=1), Submodel(rank=3)])
    assert p.tolist() == pytest.approx([0.8, 0.2])


def test_a_draw_is_a_function_of_seed_and_step():
    uniform = sampler("uniform")
    whole = drawn(uniform, 50, seed=3)
    resumed = [draw(uniform, FAMILY, 3, step)[0][0].rank for step in range(20, 50)]
    assert whole[20:] == resumed
    assert whole != drawn(uniform, 50, seed=4)


def test_draws_do_not_touch_global_random_state():
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    drawn(sampler("uniform"), 10)
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_draws_are_independent_of_the_data_order():
    ranks = np.array(drawn(sampler("uniform"), 4000))
    orders = np.array([generator(0, "order", step).random() for step in range(4000)])
    assert abs(stats.spearmanr(ranks, orders).statistic) < 0.05


def test_fixed_draws_the_largest():
    assert draw(sampler("fixed"), FAMILY, 0, 5) == ((Submodel(rank=8), 1.0),)


def test_all_draws_every_rank_and_averages():
    members, weights = zip(*draw(sampler("all"), FAMILY, 0, 5), strict=True)
    assert members == FAMILY and weights == pytest.approx([1 / 8] * 8)


def test_sandwich_draws_the_largest_and_another():
    others = set()
    for step in range(400):
        (largest, a), (other, b) = draw(sampler("sandwich"), FAMILY, 0, step)
        assert largest.rank == 8 and a == b == 0.5
        others.add(other.rank)
    assert others == set(range(1, 8))


PAIRS = tuple(Submodel(rank, depth) for depth in (2, 4, 6) for rank in (1, 2, 3, 4))


def test_all_exits_of_a_drawn_rank():
    seen = set()
    for step in range(200):
        members = draw(sampler("exits"), PAIRS, 0, step)
        assert [m.depth for m, _ in members] == [2, 4, 6] and len({m.rank for m, _ in members}) == 1
        assert [weight for _, weight in members] == pytest.approx([1 / 3] * 3)
        seen.add(members[0][0].rank)
    assert seen == {1, 2, 3, 4}
    assert {m.rank for m, _ in draw(sampler("exits", ranks=[3]), PAIRS, 0, 0)} == {3}


def test_exit_weights_weigh_losses_and_draws():
    weights = [1.0, 1.0, 2.0]
    exits = tuple(Submodel(depth=depth) for depth in (2, 4, 6))
    assert draw(sampler("all", exit_weights=weights), exits, 0, 0) == tuple(zip(exits, (0.25, 0.25, 0.5), strict=True))
    for _, weight in (pairs := draw(sampler("exits", exit_weights=weights), PAIRS, 0, 0)):
        assert weight in (0.25, 0.5)
    assert len(pairs) == 3
    drawn = [draw(sampler("uniform", exit_weights=weights), exits, 0, step)[0][0].depth for step in range(4000)]
    assert stats.chisquare([drawn.count(d) for d in (2, 4, 6)], [1000, 1000, 2000]).pvalue > 0.001


def test_a_step_mixes_sub_models_where_each_micro_batch_draws():
    """SortedNet's step: a sub-model for each accumulated micro-batch."""
    mixed, whole = sampler("uniform", per_micro_batch=True), sampler("uniform")

    def step(sampler: Sampler, number: int) -> list[int]:
        return [draw(sampler, FAMILY, 0, number, place)[0][0].rank for place in range(8)]

    assert all(len(set(step(whole, number))) == 1 for number in range(20))
    assert [step(mixed, n)[0] for n in range(20)] == [step(whole, n)[0] for n in range(20)]
    ranks = [rank for n in range(1000) for rank in step(mixed, n)]
    assert stats.chisquare([ranks.count(b) for b in range(1, 9)]).pvalue > 0.001
    assert step(mixed, 5) == step(mixed, 5) and len({tuple(step(mixed, n)) for n in range(20)}) == 20
