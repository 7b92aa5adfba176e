"""What a recommendation selects from: every model, and every method that a user can deploy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from router_rl.studies.operating_target import Candidate
from router_rl.studies.recommendation import _candidates

SINGLES: Any = SimpleNamespace(
    names=("small", "large"), tuning_quality=np.array([0.5, 0.75]), tuning_cost=np.array([1.0, 4.0])
)


def _group(family: str, extra_inputs: tuple[str, ...] = ()) -> Any:
    seeds = [{"quality": 0.6, "compute": 0.2}, {"quality": 0.7, "compute": 0.3}]
    return [SimpleNamespace(family=family, extra_inputs=extra_inputs, validation=each) for each in seeds]


def test_rules_gates_and_agents_are_candidates_and_bounds_are_not() -> None:
    groups = {
        ("knn", "a"): _group("baseline"),
        ("softmax_gate", "a"): _group("gate"),
        ("exact_pg", "b"): _group("rl"),
        ("oracle", "a"): _group("bound"),
        ("group_label", "a"): _group("baseline", ("group",)),
        ("best_single", "a"): _group("baseline"),
        ("random", "a"): _group("baseline"),
    }
    found = _candidates(groups, SINGLES, "a", scale=10.0)
    assert found[:2] == [
        Candidate(method=None, case="a", expert="small", quality=0.5, cost=1.0),
        Candidate(method=None, case="a", expert="large", quality=0.75, cost=4.0),
    ]
    methods = [(each.method, each.case) for each in found[2:]]
    assert methods == [("knn", "a"), ("softmax_gate", "a"), ("exact_pg", "b")]
    for each in found[2:]:
        assert each.expert is None
        assert (each.quality, each.cost) == pytest.approx((0.65, 2.5))
