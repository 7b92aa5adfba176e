"""The best expert of each group: by hand, with unseen groups, without groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, compare, export, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import load

OBJECTIVE = Objective(compute_weight=0.05)


@pytest.fixture
def without_groups(kinds: OutcomeTable) -> OutcomeTable:
    return replace(kinds, group=None)


def test_chooses_by_the_group_alone(kinds: OutcomeTable, tmp_path: Path) -> None:
    router = fit("group_label", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"strength": 0.0})
    (part,) = router.state
    assert (part.name, part.size, part.labels) == ("group", 4, ("blue", "green", "grey", "red"))
    test = kinds.part("test")
    found = measure(router, test, OBJECTIVE, 10.0)
    own = np.array([kinds.experts.index(name) for name in test.group])
    assert np.array_equal(found.share.argmax(axis=1), own)
    # The logits are the group's mean utilities, whatever the features are.
    train = kinds.part("train")
    mean = (train.quality - 0.05 * train.cost / 10)[train.group == "green"].mean(axis=0)
    onehot = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    for features in (torch.zeros(1, 4), torch.full((1, 4), 1e6)):
        np.testing.assert_allclose(router(features, onehot).logits[0].detach().numpy(), mean, atol=1e-5)
    export(router, tmp_path / "router", rows=kinds)
    assert load(tmp_path / "router").state == router.state


def test_an_unseen_group_takes_the_best_single_expert(kinds: OutcomeTable) -> None:
    router = fit("group_label", RoutingProblem(kinds, OBJECTIVE))
    test = kinds.part("test")
    other = replace(test, group=np.full(len(test), "violet", dtype=object))
    found = measure(router, other, OBJECTIVE, 10.0)
    assert found.shares[router.fallback] == 1.0
    assert kinds.experts[router.fallback] == "grey"


def test_a_strong_mean_overrules_the_groups(kinds: OutcomeTable) -> None:
    router = fit("group_label", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"strength": 1000000000.0})
    assert measure(router, kinds, OBJECTIVE, 10.0).shares[3] == 1.0


def test_tables_without_groups(kinds: OutcomeTable, without_groups: OutcomeTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs a column that the table lacks \(group\)"):
        fit("group_label", RoutingProblem(without_groups, OBJECTIVE))
    with pytest.raises(InputError, match="has no groups, which the router needs"):
        measure(fit("group_label", RoutingProblem(kinds, OBJECTIVE)), without_groups, OBJECTIVE, 10.0)
    problem = RoutingProblem(without_groups, OBJECTIVE)
    found = compare(problem, ["group_label", "hash"], seeds=1, n_trials=1).results
    assert "group_label needs a column that the table lacks (group): left out" in found["notes"]
    assert "group_label" not in {row["method"] for row in found["rows"]}
