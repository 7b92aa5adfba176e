"""The literature's metrics against hand-worked and published numbers, and their intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experts import OutcomeTable
from router_rl.studies.frontier import (
    Points,
    Ranking,
    cost_saved,
    cpt,
    frontier_facts,
    quality_gained,
    ranking_facts,
    router_arena,
)
from router_rl.studies.metrics import apgr


def test_cpt_by_hand() -> None:
    weak, strong = np.array([0, 0, 0, 0, 1.0]), np.array([1, 1, 1, 0, 0.0])
    score = np.array([5, 4, 3, 2, 1.0])  # gains 1, 1, 1, 0, -1; the gap is 2
    assert cpt(weak, strong, score, 0.5) == pytest.approx(1 / 5)
    assert cpt(weak, strong, score, 0.8) == pytest.approx(2 / 5)
    assert cpt(weak, strong, score, 1.0) == pytest.approx(2 / 5)
    assert cpt(weak, strong, -score, 0.5) == pytest.approx(4 / 5)
    assert cpt(strong, weak, score, 0.5) is None
    assert cpt(weak, strong, score, 0.0) == 0.0  # nothing to recover


def test_a_random_order_needs_half_the_calls_for_half_the_gap() -> None:
    """RouteLLM's random router: CPT(50) about 50 %, CPT(80) about 80 % (table 1)."""
    rng = np.random.default_rng(0)
    weak = rng.random(20_000) * 0.2
    strong = weak + 0.3 + 0.1 * rng.random(20_000)
    score = rng.random(20_000)
    assert cpt(weak, strong, score, 0.5) == pytest.approx(0.5, abs=0.01)
    assert cpt(weak, strong, score, 0.8) == pytest.approx(0.8, abs=0.01)


def test_router_arena_by_hand() -> None:
    # At the geometric middle of the costs C = 1/2: 1.1 * .6 * .5 / (.06 + .5)
    assert router_arena(0.6, (200 * 0.0044) ** 0.5) == pytest.approx(0.33 / 0.56)
    assert router_arena(1.0, 0.0044) == pytest.approx(1.0)
    assert router_arena(1.0, 1e-9) == pytest.approx(1.0)
    assert router_arena(0.0, 1.0) == 0.0
    assert router_arena(0.9, 500.0) == 0.0


@pytest.mark.parametrize(
    ("name", "accuracy", "cost", "score"),
    [
        ("MIRT-BERT", 66.88, 0.15, 66.89),
        ("Azure-Router", 68.09, 0.54, 66.66),
        ("NIRT-BERT", 66.34, 0.21, 66.12),
        ("GPT-5", 73.96, 10.02, 64.32),
    ],
)
def test_router_arena_as_published(name: str, accuracy: float, cost: float, score: float) -> None:
    """Accuracy, US dollars per 1,000 queries and score on github.com/RouteWorks/RouterArena."""
    assert 100 * router_arena(accuracy / 100, cost) == pytest.approx(score, abs=0.02), name


@pytest.mark.parametrize(
    ("name", "zero"),
    [
        ("llmdrift_math", 0.7505),
        ("llmrouter_pool9", 0.6167),
        ("routellm_gsm8k", 0.7475),
        ("routellm_mmlu", 0.7433),
        ("routellm_mtbench", 0.8784),
        ("zeroeval_pool27", 0.8298),
    ],
)
def test_zero_router_of_public_tables(shared_table: Callable[[str], Path], name: str, zero: float) -> None:
    """AIQ of the experts alone as another implementation has it."""
    table = OutcomeTable.read(shared_table(f"{name}.parquet"), progress=False)
    singles = Points(cost=table.cost.astype(float), quality=table.quality.astype(float))
    facts = frontier_facts({"zero_router": singles}, singles, resamples=5)["zero_router"]
    assert facts["aiq"]["value"] == pytest.approx(zero, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("routellm_gsm8k", 1.125), ("routellm_mmlu", 1.285), ("routellm_mtbench", 1.024)]
)
def test_oracle_ranking_of_public_tables(
    shared_table: Callable[[str], Path], name: str, value: float
) -> None:
    """APGR of the order by the gain itself, as another implementation has it."""
    table = OutcomeTable.read(shared_table(f"{name}.parquet"), progress=False)
    order = np.argsort(table.quality.mean(axis=0, dtype=float))
    weak, strong = (table.quality[:, column].astype(float) for column in order)
    assert apgr(weak, strong, strong - weak) == pytest.approx(value, abs=1e-3)


def test_saved_and_gained_by_hand() -> None:
    cost, quality = np.array([1.0, 2.0, 4.0]), np.array([0.4, 0.8, 0.9])
    assert cost_saved(cost, quality, 4.0, 0.8) == pytest.approx(0.5)
    assert cost_saved(cost, quality, 4.0, 0.6) == pytest.approx(1 - 1.5 / 4)
    assert cost_saved(cost, quality, 4.0, 0.95) is None
    assert quality_gained(cost, quality, 3.0, 0.8) == pytest.approx(0.05)
    assert quality_gained(cost, quality, 1.5, 0.7) == pytest.approx(-0.1)


def _points(*columns: tuple[float, list[float]]) -> Points:
    quality = np.array([values for _, values in columns], dtype=float).T
    cost = np.tile([price for price, _ in columns], (len(quality), 1))
    return Points(cost=cost, quality=quality)


def test_a_frontier_by_hand() -> None:
    """Two experts at 1 and 3 cents with qualities 1/2 and 3/4; a router that is always right at 2 cents."""
    singles = _points((0.01, [1, 0, 1, 0]), (0.03, [1, 1, 0, 1]))
    facts = frontier_facts(
        {"router": _points((0.02, [1, 1, 1, 1])), "zero_router": singles}, singles, cost_unit="usd"
    )
    router, zero = facts["router"], facts["zero_router"]
    assert zero["aiq"]["value"] == pytest.approx(0.625)
    assert router["aiq"]["value"] == pytest.approx((0.75 + 1) / 2)
    assert router["aiq_above_zero"]["value"] == pytest.approx(0.25)
    assert zero["aiq_above_zero"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert router["cost_saved"]["value"] == pytest.approx(0.5)  # quality 3/4 halfway from 1 to 2 cents
    assert router["quality_gained"]["value"] == pytest.approx(0.25)
    assert router["router_arena"]["value"] == pytest.approx(router_arena(1.0, 20.0))
    low, high = router["aiq"]["ci95"]
    assert low < 0.875 < high + 1e-9
    assert frontier_facts({"router": singles}, singles)["router"]["router_arena"] is None


@pytest.mark.slow
def test_intervals_hold_what_they_should() -> None:
    """Of 20 samples from a known population, about 95 % of intervals hold the population's AIQ."""
    inside = 0
    for trial in range(20):
        rng = np.random.default_rng(trial)
        right = rng.random((400, 3)) < [0.5, 0.7, 0.8]
        singles = Points(cost=np.tile([1.0, 3.0], (400, 1)), quality=right[:, [0, 1]].astype(float))
        router = Points(cost=np.full((400, 1), 2.0), quality=right[:, 2:].astype(float))
        low, high = frontier_facts({"r": router}, singles, seed=trial, resamples=300)["r"]["aiq"]["ci95"]
        inside += low <= (0.65 + 0.8) / 2 <= high
    assert inside >= 17


def test_rankings() -> None:
    rng = np.random.default_rng(0)
    weak, strong = (rng.random(500) < 0.5).astype(float), (rng.random(500) < 0.8).astype(float)
    facts = ranking_facts(
        {
            "oracle": [Ranking(weak=weak, strong=strong, score=strong - weak)],
            "random": [Ranking(weak=weak, strong=strong, score=rng.random(500)) for _ in range(2)],
        }
    )
    assert facts["oracle"]["apgr"]["value"] > 0.95
    assert facts["oracle"]["cpt80"]["value"] < 0.3
    low, high = facts["random"]["apgr"]["ci95"]
    assert low < 0.5 < high
    assert facts["random"]["cpt50"]["ci95"][0] < 0.5 < facts["random"]["cpt50"]["ci95"][1]


def test_equal_scores_rank_nothing() -> None:
    weak, strong = np.tile([0.0, 1.0, 0.0], 40), np.tile([1.0, 1.0, 0.0], 40)
    flat = Ranking(weak=weak, strong=strong, score=np.zeros(120))
    told = Ranking(weak=weak, strong=strong, score=np.arange(120.0))
    facts = ranking_facts({"best_single": [flat], "ridge": [told]}, resamples=5)
    assert facts["ridge"]["apgr"] is not None
    assert facts["best_single"]["apgr"] is None
