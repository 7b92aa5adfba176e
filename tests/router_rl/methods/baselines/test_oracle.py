"""The oracle against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.baselines import oracle
from router_rl.methods.baselines.oracle import measure_oracle
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equals_brute_force(kinds: OutcomeTable, k: int) -> None:
    rows = kinds.take(np.arange(40))
    found = measure_oracle(rows, Objective(compute_weight=0.2), 10.0, [k])
    for t in range(40):
        best = -np.inf
        for chosen in combinations(range(4), k):
            mixture = rows.probabilities[t, list(chosen)].mean(axis=0)
            mixed = float(mixture.argmax() == rows.label[t]) if k > 1 else 0.0
            quality = max(mixed, rows.quality[t, list(chosen)].max())
            best = max(best, quality - 0.2 * rows.cost[t, list(chosen)].sum() / 10.0)
        assert found.utility[t] == pytest.approx(best, abs=1e-6)


def test_ties_go_to_the_cheapest(kinds: OutcomeTable) -> None:
    found = measure_oracle(kinds, Objective(compute_weight=0.0), 10.0, [1])
    all_wrong = kinds.quality.max(axis=1) == 0
    several = kinds.quality.sum(axis=1) > 1
    assert several.any()
    assert (found.share[several].argmax(axis=1) == kinds.quality[several].argmax(axis=1)).all()
    assert (found.share[all_wrong].argmax(axis=1) == 0).all()


def test_no_router_is_above_it(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.1)
    test = kinds.part("test")
    bound = measure_oracle(test, objective, 10.0, [1])
    for method in ("softmax_gate", "ridge", "best_single"):
        assert (
            measure(fit(method, RoutingProblem(kinds, objective)), test, objective, 10.0).utility
            <= bound.utility + 1e-6
        ).all()


def test_many_sets_are_narrowed(kinds: OutcomeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "_MAX_SETS", 3)
    found = measure_oracle(kinds, Objective(compute_weight=0.0), 10.0, [2])
    assert (found.quality >= kinds.quality.max(axis=1)).all()
