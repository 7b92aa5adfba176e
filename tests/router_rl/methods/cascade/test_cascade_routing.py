"""Cascade routing: the expected best of a set, and the choice of the set, against slow twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from router_rl.methods.cascade import cascade_routing
from router_rl.methods.cascade.cascade_routing import Spreads, candidates, expected_best
from router_rl.problems.cascade.cascade_episodes import measure_episodes
from router_rl.routing.policies.cascade_policy import CascadeView


def test_the_expected_best_is_that_of_samples():
    rng = np.random.default_rng(0)
    mean, spread = rng.random((5, 3)), 0.02 + 0.3 * rng.random((5, 3))
    known = rng.random(5)
    sets = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    found = expected_best(*(torch.tensor(part).float() for part in (known, mean, spread, sets)))
    drawn = np.clip(rng.normal(mean, spread, (40_000, 5, 3)), 0.0, 1.0)
    for index, members in enumerate(sets):
        best = np.where(members > 0.0, drawn, 0.0).max(axis=2)
        expected = np.maximum(best, known).mean(axis=0)
        np.testing.assert_allclose(found[:, index].numpy(), expected, atol=0.01)
    np.testing.assert_allclose(found[:, 0].numpy(), known, atol=1e-6)  # the empty set


@pytest.mark.parametrize("place", [3, 7, 13])
def test_the_step_is_that_of_the_best_set(made, place):
    data = made.data(0)
    rule = candidates(data, 3)[place]
    core = made.core("test", made.cases[0], lanes=40, seed=0)
    observation = core.begin(torch.arange(40), 0.1)
    running = torch.ones(40, dtype=torch.bool)
    for _ in range(4):
        view = CascadeView.of(observation, 4)
        prior = rule.beliefs.prior(view.features)
        posterior = rule.beliefs.posterior(prior, view.confidence)
        likely = rule.beliefs.current(prior, posterior, view.asked, view.agree).sigmoid()
        spread = rule.spreads.after(view.asked)
        actions = rule.act(observation)
        for row in running.nonzero().squeeze(-1).tolist():
            assert int(actions[row]) == by_hand(rule, view, likely, spread, row)
        running = running & ~core.step(actions).terminated
        observation = core.observation()
    assert not running.any()


def by_hand(rule, view, likely, spread, row):
    """One query: try every set, ask the cheapest of the best one or stop."""
    asked = [e for e in range(4) if view.asked[row, e]]
    left = [e for e in range(4) if view.askable[row, e]]
    known = max((float(likely[row, e]) for e in asked), default=0.0)
    unit = float(view.weight[row]) * (rule.later if asked else rule.first)
    worth = {(): known if asked else -1.0}
    for size in range(1, 3 - len(asked) + 1):
        for members in itertools.combinations(left, size):
            chosen = list(members)
            best = expected_best(
                torch.tensor(known), likely[row, chosen], spread[row, chosen], torch.ones(1, size)
            )
            worth[members] = float(best) - unit * float(rule.price[chosen].sum())
    best = max(worth, key=worth.__getitem__)
    if not best:
        return max(asked, key=lambda e: float(likely[row, e])) + 4
    return min(best, key=lambda e: float(rule.price[e]))


def test_the_spread_is_that_of_the_change_in_the_estimate(made):
    data = made.data(0)
    spreads = Spreads.of(data, 3)
    prior, posterior, beliefs = data.fitted.prior, data.fitted.posterior, data.fitted.beliefs
    asked = torch.tensor([False, True, False, False]).expand_as(prior)
    before = beliefs.current(prior, posterior, asked, data.same * 0.0).sigmoid()
    expected = (posterior.sigmoid() - before).std(dim=0)
    found = spreads.after(asked[:1])[0]
    torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]])
    three = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(spreads.after(three)[0], spreads.values[-1])  # not measured by itself


def test_few_experts_are_tried_where_there_are_many(made, monkeypatch):
    monkeypatch.setattr(cascade_routing, "_TRIED", 2)
    rule = candidates(made.data(0), 3)[0]
    measured = measure_episodes(rule, made.rows("test"), made.config, 0.1)
    assert measured.facts["unanswered"] == 0.0
    assert measured.parts["asked"].max() <= 3
