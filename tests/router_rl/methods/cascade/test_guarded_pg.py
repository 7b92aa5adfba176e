"""The guarded policy decides by the tuned threshold cascade unless the network is better on held-out rows."""

from __future__ import annotations

import pytest
import torch

from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade import guarded_pg, thresholds
from router_rl.methods.cascade.cascade_training import fit_exact_pg
from router_rl.methods.cascade.guarded_pg import GuardedPGHyperparameters, held_out_utility
from router_rl.methods.method import Run
from router_rl.problems.cascade.cascade_episodes import run_episodes
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.routing import load
from router_rl.routing.policies.cascade_policy import CascadePolicy

SMALL = {"steps": 16, "members": 2, "hidden": 16}


def steps_of(problem: CascadeProblem, policy, case) -> torch.Tensor:
    rows = problem.rows("test")
    weight = case.values["compute_weight"]
    return run_episodes(policy, rows, problem.config, weight, torch.arange(rows.outcomes.queries)).steps


@pytest.mark.parametrize(("errors", "network"), [(0.0, None), (1e9, False)])
def test_it_decides_as_the_better_of_both_on_held_out_rows(made, errors, network):
    run = Run(seed=0)
    found = guarded_pg.fit(made, GuardedPGHyperparameters(**SMALL, errors=errors), run)
    trained = fit_exact_pg(made, GuardedPGHyperparameters(**SMALL), Run(seed=0)).module
    tuned = thresholds.fit(made, None, Run(seed=0))
    data = made.data(0)
    for case, rule in zip(made.cases, tuned.policies, strict=True):
        weight = case.values["compute_weight"]
        rows, utility = held_out_utility(trained, data, weight)
        alone = guarded_pg.cross_fitted_utility(rule, made, data, weight)[rows]
        better = float(utility.mean()) > float(alone.mean()) if network is None else network
        assert (weight in run.facts["network_decides"]) == better
        expected = steps_of(made, trained if better else rule, case)
        assert steps_of(made, found, case).equal(expected)
    assert "compute weights at which the network decides" in run.messages[-1]


def test_held_out_utility_is_of_the_member_that_was_not_trained_on_the_row(made):
    policy = fit_exact_pg(made, GuardedPGHyperparameters(**SMALL), Run(seed=0)).module
    data = made.data(0)
    rows, utility = held_out_utility(policy, data, 0.1)
    assert data.fitted.fold[rows].unique().tolist() == [0, 1]
    alone = CascadePolicy.from_spec({**policy.spec(), "members": 1})
    alone.price.copy_(policy.price)
    with torch.no_grad():
        for name, weight in alone.named_parameters():
            kept = policy.get_parameter(name)
            weight.copy_(kept if name.startswith("beliefs.") else kept[1:2])
    own = data.fitted.fold[rows] == 1
    expected = guarded_pg.greedy_utility(alone, data, rows[own], 0.1)
    torch.testing.assert_close(utility[own], expected)


def test_the_exported_policy_keeps_its_rules(made, tmp_path):
    policy = guarded_pg.fit(made, GuardedPGHyperparameters(**SMALL, errors=1e9), Run(seed=0)).module
    write_policy(policy, tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    assert loaded.rules.sizes == [2, 3]
    for case in made.cases:
        assert steps_of(made, loaded, case).equal(steps_of(made, policy, case))
    down = torch.ones(1, 4, dtype=torch.bool)
    first = int(policy.rules.order[0, 0])
    down[0, first] = False
    unknown = torch.full((1, 4), float("nan"))
    step = loaded.decide(loaded.observe(torch.zeros(1, 2), unknown, compute_weight=0.1, may_ask=down))
    assert int(step.ask) not in (-1, first)  # the network decides where the rule cannot
