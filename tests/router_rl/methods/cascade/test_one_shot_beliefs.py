"""The one-shot rule on beliefs asks the expert of the highest believed utility, and no other."""

from __future__ import annotations

import pytest
from environment_tables import made_cascade

from router_rl.methods.fit import fit
from router_rl.problems.cascade.problem import CascadeProblem


@pytest.mark.parametrize("weight", [0.02, 0.4])
def test_it_earns_what_a_loop_over_the_queries_earns(weight: float) -> None:
    problem = CascadeProblem(made_cascade())
    case = next(case for case in problem.cases if case.values["compute_weight"] == weight)
    policy = fit("beliefs", problem, seed=1)
    found = problem.evaluate(policy, "test", case)
    beliefs, rows = problem.data(1).fitted.beliefs, problem.rows("test").outcomes
    price = problem.data(1).table.price.tolist()
    chance = beliefs.prior(rows.features).sigmoid().tolist()
    earned, asked = [], set()
    for row, believed in enumerate(chance):
        expert = max(range(len(price)), key=lambda e: believed[e] - weight * price[e])
        earned.append(float(rows.quality[row, expert] - weight * rows.compute[row, expert]))
        asked.add(expert)
    assert found.utility.tolist() == pytest.approx(earned, abs=1e-6)
    assert found.parts["asked"].tolist() == [1.0] * len(earned)
    assert len(asked) > 1
