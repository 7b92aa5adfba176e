"""The rules do what they say, and solve the case that was solved by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from environment_tables import made_cascade

from experts import InputError
from router_rl.methods.cascade import automix, thresholds
from router_rl.methods.fit import fit
from router_rl.methods.method import NoHyperparameters, Run
from router_rl.problems.cascade.cascade_episodes import measure_episodes
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.objective import Objective


@pytest.fixture(scope="module")
def data(made):
    return made.data(0)


def by_hand(order, stops, most_likely, score, quality, compute, weight):
    """A threshold cascade, one query at a time."""
    total = 0.0
    for row in range(len(score)):
        asked = []
        for stage, expert in enumerate(order):
            asked.append(expert)
            total -= weight * compute[row, expert]
            answer = max(asked, key=lambda e: score[row, e]) if most_likely else expert
            if stage == len(order) - 1 or score[row, answer] >= stops[stage]:
                break
        total += quality[row, answer]
    return total / len(score)


@pytest.mark.parametrize(("experts", "max_experts"), [(2, 3), (4, 3), (4, 2), (4, 1)])
def test_threshold_tables_are_what_the_cascades_earn(data, experts, max_experts):
    score, quality, compute = (
        part[:60, :experts].double().numpy() for part in (data.fitted.posterior, data.quality, data.compute)
    )
    grid = thresholds.threshold_grid(score)
    tables = list(thresholds.threshold_tables(score, quality, compute, grid, max_experts))
    longest = min(max_experts, experts)
    assert len(tables) == 2 * len(list(itertools.permutations(range(experts), longest)))
    for table in tables[:: 7 if experts > 2 else 1]:
        for first, second in ((0, 0), (3, 8), (len(grid) - 1, 5), (12, len(grid) - 1)):
            stops = (grid[first], grid[second])
            found = table.quality[first, second] - 0.3 * table.compute[first, second]
            expected = by_hand(table.order, stops, table.most_likely, score, quality, compute, 0.3)
            assert found == pytest.approx(expected, abs=1e-9)


def test_a_tuned_cascade_earns_through_the_environment_what_the_table_says(made, data):
    fitted = data.fitted
    prior = fitted.beliefs.prior(data.table.outcomes.features)
    score = fitted.beliefs.posterior(prior, data.table.confidence).double().numpy()
    grid = thresholds.threshold_grid(score)
    tables = thresholds.threshold_tables(
        score, data.quality.double().numpy(), data.compute.double().numpy(), grid
    )
    for weight, best in zip(
        (0.02, 0.4), thresholds.tuned_cascades(tables, grid, fitted.beliefs, (0.02, 0.4)), strict=True
    ):
        earned = measure_episodes(best, data.table, made.config, weight).means()["utility"]
        assert earned == pytest.approx(best.utility, abs=2e-4)  # ties of float32 scores with a threshold


@pytest.mark.parametrize("max_experts", [1, 2, 3])
def test_thresholds_ask_no_more_experts_than_they_may(max_experts):
    """In version 1 they asked a third expert whatever the maximum, which ended the episode unanswered."""
    problem = CascadeProblem(made_cascade(), max_experts=max_experts)
    policy = thresholds.fit(problem, NoHyperparameters(), Run())
    for case in problem.cases:
        measured = problem.evaluate(policy, "test", case)
        assert measured.facts["unanswered"] == 0.0
        assert measured.parts["asked"].max() <= max_experts


def test_one_fit_of_thresholds_has_a_cascade_for_each_compute_weight(made):
    together = thresholds.fit(made, NoHyperparameters(), Run())
    for case in made.cases:
        alone = thresholds.fit(made.at(case), NoHyperparameters(), Run())
        found, expected = (made.evaluate(policy, "test", case) for policy in (together, alone))
        np.testing.assert_array_equal(found.utility, expected.utility)
    utility = [made.evaluate(each, "test", made.cases[1]).means()["compute"] for each in together.policies]
    assert utility[0] > utility[1]  # tuned at a higher weight, it spends less


@pytest.mark.parametrize("name", ["thresholds", "automix", "lookahead", "cascade_routing"])
def test_rivals_solve_the_case_solved_by_hand(solved, name):
    measured = solved.evaluate(fit(name, solved), "test")
    assert measured.means()["utility"] == pytest.approx(0.65, abs=0.005)
    assert measured.facts["unanswered"] == 0.0
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(measured.shares, [0.75, 0.25], atol=1e-6)  # half ask the expensive one too


def test_automix_counts_the_states_of_each_group_and_two_rows_of_all(data, monkeypatch):
    """The state of a query says which experts are right on it."""
    found = []

    def record(share, likelihood, worth, price, limit, **_):
        found.append(share)
        return {(): np.zeros(1, dtype=np.int64)}

    monkeypatch.setattr(automix, "_solve", record)
    policy = automix.fit_automix(data, 0.1, max_experts=3, groups=3, bins=4, seed=0)
    chance = data.fitted.prior.sigmoid()
    group = (chance.unsqueeze(1) - policy.centres).square().sum(dim=-1).argmin(dim=-1).numpy()
    right = [tuple(row) for row in (data.quality >= 0.5).tolist()]
    for number, share in enumerate(found):
        rows = [row for row in range(len(right)) if group[row] == number]
        for state, part in zip(sorted(set(right)), share, strict=True):
            count = sum(right[row] == state for row in rows) + 2.0 * right.count(state) / len(right)
            assert part == pytest.approx(count / (len(rows) + 2.0))


def test_automix_is_not_solved_for_too_many_experts(data):
    many = dataclasses.replace(
        data, table=dataclasses.replace(data.table, outcomes=_widened(data.table.outcomes))
    )
    with pytest.raises(InputError, match="13 experts is too large to solve exactly"):
        automix.fit_automix(many, 0.1, max_experts=3, groups=1, bins=4, seed=0)


def _widened(outcomes):
    quality = outcomes.quality[:, [0] * 13]
    return dataclasses.replace(outcomes, quality=quality, compute=outcomes.compute[:, [0] * 13])


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


def test_beliefs_of_rows_are_out_of_fold(data):
    fitted = data.fitted
    assert fitted.fold.bincount().min() > 50
    features = data.table.outcomes.features
    members = fitted.beliefs.members(features)
    torch.testing.assert_close(fitted.prior, members[fitted.fold, torch.arange(len(features))])
    right = data.quality.mean(dim=0)
    torch.testing.assert_close(fitted.posterior.sigmoid().mean(dim=0), right, atol=0.03, rtol=0.0)


@pytest.fixture(scope="module")
def agreeing():
    """The made problem where agreement moves the beliefs."""
    return CascadeProblem(
        made_cascade(), [Objective(compute_weight=w) for w in (0.1, 0.4)], agreement_beliefs=True
    )


def settled_by_hand(data, row, asked):
    """The log-odds of the experts asked on a row, each moved by the others."""
    posterior, moves = data.fitted.posterior[row], data.moves[row]
    return {e: float(posterior[e]) + sum(float(moves[f, e]) for f in asked if f != e) for e in asked}


def test_threshold_tables_read_agreement(agreeing):
    data = agreeing.data(0)
    assert (data.moves != 0.0).any()
    rows = 40
    score, quality, compute, moves = (
        part[:rows].double().numpy()
        for part in (data.fitted.posterior, data.quality, data.compute, data.moves)
    )
    grid = thresholds.threshold_grid(score)
    tables = list(thresholds.threshold_tables(score, quality, compute, grid, 3, moves=moves))
    assert len(tables) == 2 * 24
    for table in tables[::5]:
        for first, second in ((3, 8), (12, 20), (len(grid) - 1, 5)):
            total = 0.0
            for row in range(rows):
                asked = []
                for stage, expert in enumerate(table.order):
                    asked.append(expert)
                    total -= 0.3 * compute[row, expert]
                    known = settled_by_hand(data, row, asked)
                    answer = max(asked, key=known.__getitem__) if table.most_likely else expert
                    if stage == 2 or known[answer] >= grid[(first, second)[stage]]:
                        break
                total += quality[row, answer]
            found = table.quality[first, second] - 0.3 * table.compute[first, second]
            assert found == pytest.approx(total / rows, abs=1e-5)


@pytest.mark.parametrize("name", ["thresholds", "automix", "lookahead", "cascade_routing"])
def test_rivals_answer_every_query_where_agreement_is_believed(agreeing, name):
    part = agreeing.at(agreeing.cases[0])
    measured = part.evaluate(fit(name, part), "test")
    assert measured.facts["unanswered"] == 0.0
    assert measured.parts["asked"].max() <= 3
    assert measured.means()["utility"] > 0.75


def test_the_solved_process_with_agreement_is_the_best_policy_of_its_own_model():
    rng = np.random.default_rng(1)
    kinds = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    share = rng.dirichlet(np.ones(8))
    likelihood = np.stack([rng.dirichlet(np.ones(2), size=8).T for _ in range(3)])
    agree = np.zeros((3, 3, 2, 8))
    for one, other in itertools.combinations(range(3), 2):
        agree[one, other, 1] = rng.random(8)
        agree[one, other, 0] = 1.0 - agree[one, other, 1]
    price = np.array([0.02, 0.05, 0.1])
    actions = automix._solve(share, likelihood, kinds, price, 3, agree=agree, after=[-1, 0, -1])

    def value(seen, pairs):
        """The best from bins {expert: bin} and agreements {(e, f): 0 or 1}, by trying everything."""
        chance = share.copy()
        for expert, at in seen.items():
            chance = chance * likelihood[expert, at]
        for pair, at in pairs.items():
            chance = chance * agree[(*pair, at)]
        options = {3 + expert: (chance @ kinds[:, expert]) / chance.sum() for expert in seen}
        for expert in {0, 1, 2} - set(seen):
            if expert == 1 and 0 not in seen:
                continue
            new = [tuple(sorted((expert, other))) for other in seen]
            worth = 0.0
            for at in range(2):
                for equal in itertools.product(range(2), repeat=len(new)):
                    odds = chance * likelihood[expert, at]
                    for pair, same in zip(new, equal, strict=True):
                        odds = odds * agree[(*pair, same)]
                    later = {**pairs, **dict(zip(new, equal, strict=True))}
                    worth += odds.sum() / chance.sum() * value({**seen, expert: at}, later)[0]
            options[expert] = worth - price[expert]
        best = max(options, key=options.__getitem__)
        return options[best], best

    assert int(actions[()]) == value({}, {})[1]
    for bins in itertools.product(range(2), repeat=2):
        for same in range(2):
            expected = value({0: bins[0], 2: bins[1]}, {(0, 2): same})[1]
            assert int(actions[(0, 2)][(*bins, same)]) == expected
    for place in itertools.product(range(2), repeat=6):
        pairs = dict(zip([(0, 1), (0, 2), (1, 2)], place[3:], strict=True))
        assert int(actions[(0, 1, 2)][place]) == value(dict(enumerate(place[:3])), pairs)[1]


def test_orders_keep_follow_ups_after_what_they_follow():
    after = torch.tensor([-1, 0, -1])
    assert list(thresholds.permitted_orders(3, 2, after)) == [(0, 1), (0, 2), (2, 0)]
    assert len(list(thresholds.permitted_orders(4, 3, None))) == 24
