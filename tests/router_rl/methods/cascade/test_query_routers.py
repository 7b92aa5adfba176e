"""Routers of the query in a cascade are those that routing trains on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from environment_tables import made_cascade

from router_rl import Objective
from router_rl.methods.fit import fit
from router_rl.methods.registry import find_method
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.routing.problem import RoutingProblem


@pytest.mark.parametrize("name", ["softmax_gate", "knn", "ridge", "best_single"])
def test_they_earn_what_they_earn_in_routing(name):
    objective = Objective(compute_weight=0.2)
    cascade = CascadeProblem(made_cascade(), objective)
    routing = RoutingProblem(made_cascade(), objective)
    found = cascade.evaluate(fit(name, cascade, seed=1), "test")
    expected = routing.evaluate(fit(name, routing, seed=1), "test")
    np.testing.assert_allclose(found.utility, expected.utility, atol=1e-6)
    np.testing.assert_array_equal(found.share, expected.share)


def test_their_hyperparameters_are_those_of_routing():
    for name in ("softmax_gate", "knn", "ridge", "warm_exact_pg"):
        ours, theirs = find_method("cascade", name), find_method("routing", name)
        assert ours.candidates(4) == theirs.candidates(4)
        assert ours.family == theirs.family
    assert find_method("cascade", "warm_exact_pg").warm_starts_from is not None
