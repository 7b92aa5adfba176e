"""The rivals do what they say, and solve the case that was solved by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from envs import CascadeConfig
from router_rl.methods.cascade import automix, lookahead, thresholds
from router_rl.problems.cascade.cascade_data import CascadeData
from router_rl.problems.cascade.cascade_episodes import play


@pytest.fixture(scope="module")
def data(made):
    return CascadeData.of(made)


def by_hand(order, stops, surest, score, quality, compute, weight):
    """A threshold cascade, one query at a time."""
    total = 0.0
    for row in range(len(score)):
        asked = []
        for stage, expert in enumerate(order):
            asked.append(expert)
            total -= weight * compute[row, expert]
            answer = max(asked, key=lambda e: score[row, e]) if surest else expert
            if stage == len(order) - 1 or score[row, answer] >= stops[stage]:
                break
        total += quality[row, answer]
    return total / len(score)


@pytest.mark.parametrize("experts", [2, 4])
def test_threshold_tables_are_what_the_cascades_earn(data, experts):
    score, quality, compute = (
        part[:60, :experts].double().numpy() for part in (data.fitted.posterior, data.quality, data.compute)
    )
    tables, grid = thresholds.threshold_tables(score, quality, compute)
    longest = min(3, experts)
    assert len(tables) == 2 * len(list(itertools.permutations(range(experts), longest)))
    for table in tables[:: 7 if experts > 2 else 1]:
        for first, second in ((0, 0), (3, 8), (len(grid) - 1, 5), (12, len(grid) - 1)):
            stops = (grid[first], grid[second])
            found = table.quality[first, second] - 0.3 * table.compute[first, second]
            expected = by_hand(table.order, stops, table.surest, score, quality, compute, 0.3)
            assert found == pytest.approx(expected, abs=1e-9)


def test_a_tuned_cascade_earns_through_the_environment_what_the_table_says(made, data):
    fitted = data.fitted
    prior = fitted.beliefs.prior(data.table.outcomes.features)
    score = fitted.beliefs.posterior(prior, data.table.confidence)
    tables, grid = thresholds.threshold_tables(
        score.double().numpy(), data.quality.double().numpy(), data.compute.double().numpy()
    )
    for weight in (0.02, 0.4):
        best = thresholds.best_thresholds(tables, grid, fitted.beliefs, weight)
        earned = play(best.actions, data.table, CascadeConfig(), weight).means()["utility"]
        assert earned == pytest.approx(best.utility, abs=2e-4)  # ties of float32 scores with a threshold


def solvers(data, weight):
    fitted = data.fitted
    score, quality, compute = (
        part.double().numpy() for part in (fitted.posterior, data.quality, data.compute)
    )
    tables, grid = thresholds.threshold_tables(score, quality, compute)
    yield thresholds.best_thresholds(tables, grid, fitted.beliefs, weight)
    yield automix.fit_automix(
        fitted.beliefs,
        fitted.prior,
        fitted.posterior,
        data.quality,
        data.table.price,
        weight,
        limit=3,
        groups=1,
        bins=4,
        seed=0,
    )
    yield lookahead.candidates(fitted.beliefs, data.table.price, fitted.prior, fitted.posterior)[6]


def test_rivals_solve_the_case_solved_by_hand(solved):
    data = CascadeData.of(solved)
    found = [play(one.actions, data.table, CascadeConfig(), 0.5) for one in solvers(data, 0.5)]
    for one in found:
        assert one.means()["utility"] == pytest.approx(0.65, abs=0.005)
        assert one.facts["unanswered"] == 0.0


def test_the_solved_process_is_the_best_policy_of_its_own_model():
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(4))
    kinds = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    likelihood = np.stack([rng.dirichlet(np.ones(3), size=4).T for _ in range(2)])
    price = np.array([0.1, 0.2])
    actions = automix._solve(share, likelihood, kinds, price, 2)

    def value(seen):
        """The best from bins seen {expert: bin}, by trying everything."""
        chance = share.copy()
        for expert, at in seen.items():
            chance = chance * likelihood[expert, at]
        options = {2 + expert: (chance @ kinds[:, expert]) / chance.sum() for expert in seen}
        for expert in {0, 1} - set(seen):
            odds = [(chance * likelihood[expert, at]).sum() / chance.sum() for at in range(3)]
            later = [value({**seen, expert: at})[0] for at in range(3)]
            options[expert] = float(np.dot(odds, later)) - price[expert]
        best = max(options, key=options.__getitem__)
        return options[best], best

    assert int(actions[()]) == value({})[1]
    for at in range(3):
        assert int(actions[(0,)][at]) == value({0: at})[1]
        for other in range(3):
            assert int(actions[(0, 1)][at, other]) == value({0: at, 1: other})[1]


def test_beliefs_of_rows_come_from_networks_that_have_not_seen_them(data):
    fitted = data.fitted
    assert fitted.fold.bincount().min() > 50
    features = data.table.outcomes.features
    members = fitted.beliefs.members(features)
    torch.testing.assert_close(fitted.prior, members[fitted.fold, torch.arange(len(features))])
    right = data.quality.mean(dim=0)
    torch.testing.assert_close(fitted.posterior.sigmoid().mean(dim=0), right, atol=0.03, rtol=0.0)
