"""Adaptive consistency stops where the paper's criterion says, and its tables are what episodes earn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from environment_tables import made_cascade

from experts import InputError
from router_rl.methods.cascade.adaptive_consistency import AdaptiveConsistency, fit, orders_of, stability
from router_rl.methods.method import NoHyperparameters, Run
from router_rl.problems.cascade.cascade_episodes import measure_episodes
from router_rl.problems.cascade.problem import CascadeProblem


def test_the_stability_is_the_mass_of_the_beta_above_a_half():
    found = stability(3)
    # Votes 1 to 0: the density 2 x on [0, 1]; 2 to 0: 3 x^2; 1 to 1: symmetric.
    assert found[1, 0] == pytest.approx(0.75)
    assert found[2, 0] == pytest.approx(0.875)
    assert found[3, 0] == pytest.approx(0.9375)
    assert found[1, 1] == pytest.approx(0.5)
    assert found[2, 1] == pytest.approx(0.6875)
    assert found.shape == (4, 4)
    torch.testing.assert_close(found + found.T, torch.ones_like(found))  # one of the two is ahead


def by_hand(data, tuned):
    """Mean quality and compute of one order and threshold, one query at a time."""
    stable, quality, compute = stability(3), 0.0, 0.0
    rows = len(data.quality)
    for row in range(rows):
        asked = []
        for expert in tuned.order:
            asked.append(expert)
            compute += float(data.compute[row, expert])
            votes = {e: sum(int(data.same[row, e, f]) for f in asked) for e in asked}
            first = max(votes.values())
            leads = [e for e in asked if votes[e] == first]
            answer = max(leads, key=lambda e: float(data.fitted.posterior[row, e]))
            second = max((votes[e] for e in asked if not data.same[row, answer, e]), default=0)
            if float(stable[first, second]) >= tuned.threshold:
                break
        quality += float(data.quality[row, answer])
    return quality / rows, compute / rows


def test_the_tables_are_what_the_rule_earns_and_what_the_environment_pays(made):
    data = made.data(0)
    tuned = list(orders_of(data, 3))
    assert len(tuned) == 24 * 3
    assert len({each.threshold for each in tuned}) == 3
    for each in tuned[::17]:
        quality, compute = by_hand(data, each)
        assert each.quality == pytest.approx(quality, abs=1e-5)
        assert each.compute == pytest.approx(compute, abs=1e-5)
    # With the beliefs of new rows in place of the out-of-fold ones, both break ties alike.
    prior = data.fitted.beliefs.prior(data.table.outcomes.features)
    posterior = data.fitted.beliefs.posterior(prior, data.table.confidence)
    alike = replace(data, fitted=replace(data.fitted, prior=prior, posterior=posterior))
    for each in list(orders_of(alike, 3))[1::23]:
        policy = AdaptiveConsistency(beliefs=data.fitted.beliefs, order=each.order, threshold=each.threshold)
        measured = measure_episodes(policy, data.table, made.config, 0.1).means()
        assert measured["quality"] == pytest.approx(each.quality, abs=1e-5)
        assert measured["compute"] == pytest.approx(each.compute, abs=1e-5)


def test_it_keeps_the_best_order_of_every_compute_weight(made):
    policy = fit(made, NoHyperparameters(), Run())
    data = made.data(0)
    for weight, each in zip(made.weights, policy.policies, strict=True):
        utility = {tuned[:2]: tuned.quality - weight * tuned.compute for tuned in orders_of(data, 3)}
        assert utility[each.order, each.threshold] == max(utility.values())
    for case in made.cases:
        measured = made.evaluate(policy, "test", case)
        assert measured.facts["unanswered"] == 0.0


def test_without_answers_there_are_no_votes():
    table = replace(made_cascade(), probabilities=None, label=None)
    with pytest.raises(InputError, match="counts equal answers"):
        fit(CascadeProblem(table), NoHyperparameters(), Run())


@pytest.mark.parametrize("max_experts", [1, 2])
def test_it_asks_no_more_experts_than_it_may(max_experts):
    problem = CascadeProblem(made_cascade(), max_experts=max_experts)
    measured = problem.evaluate(fit(problem, NoHyperparameters(), Run()), "test", problem.cases[0])
    assert measured.parts["asked"].max() <= max_experts
    np.testing.assert_array_equal(measured.facts["unanswered"], 0.0)
    assert torch.is_tensor(stability(max_experts))
