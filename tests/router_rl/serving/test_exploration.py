"""Propensities are exact: they sum to 1, and are the frequencies of the choices."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experts import InputError
from experts.table.prices import Price
from router_rl.serving.decider import Decider
from router_rl.serving.exploration import (
    affordable,
    epsilon_greedy_propensities,
    mixed,
    softmax_propensities,
)
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.serve_options import ServeOptions

PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_they_sum_to_one_and_keep_to_the_mask(epsilon: float) -> None:
    for may in ([True, True, True], [False, True, False], [False, False, False]):
        probabilities = epsilon_greedy_propensities(1, may, epsilon)
        assert probabilities.sum() == pytest.approx(1.0)
        assert all(one == 0.0 for at, one in enumerate(probabilities) if at != 1 and not may[at])
        assert probabilities[1] == probabilities.max()


@pytest.mark.parametrize("may", [[True, True, True], [False, True, False], [False, False, False]])
def test_a_softmax_draws_from_the_eligible_in_proportion(may: list[bool]) -> None:
    scores = np.array([3.0, 1.0, 2.0])
    weights = [
        math.exp(score / 0.5) if ok or at == 1 else 0.0
        for at, (score, ok) in enumerate(zip(scores, may, strict=True))
    ]
    expected = [weight / sum(weights) for weight in weights]
    assert softmax_propensities(1, may, scores, 0.5).tolist() == pytest.approx(expected)


def test_a_softmax_of_experts_without_scores_is_uniform() -> None:
    scores = np.full(3, np.nan)
    assert softmax_propensities(0, [True, True, False], scores, 1.0).tolist() == [0.5, 0.5, 0.0]


def test_low_temperatures_do_not_overflow() -> None:
    assert softmax_propensities(0, [True, True], np.array([5.0, 4.0]), 1e-300).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("explore", [0.3, 1.0])
def test_a_temperature_draws_by_the_scores(router: Path, explore: float) -> None:
    decider = Decider(Live(LoadedRouter.of(router)), PRICES, explore=explore, temperature=2.0)
    decision = decider.decide("What is 3 plus 4?")
    drawn = torch.softmax(torch.tensor(list(decision.scores.values()), dtype=torch.float64) / 2.0, 0).tolist()
    best = max(decision.scores, key=decision.scores.__getitem__)
    for name, probability in zip(decision.scores, drawn, strict=True):
        expected = (1.0 - explore) * (name == best) + explore * probability
        assert decision.propensities[name] == pytest.approx(expected)
    assert 0.5 < drawn[list(decision.scores).index(best)] < 1.0
    decider.breaker.failed(best)
    assert decider.decide("What is 3 plus 4?").propensities[best] == 0.0


@pytest.mark.parametrize("name", ["explore_temperature", "explore_extra_usd"])
def test_options_of_exploration_need_exploration(name: str) -> None:
    with pytest.raises(InputError, match=f"serve.{name}.*has no effect without exploration.*--explore"):
        ServeOptions(**{name: 0.5})
    ServeOptions(**{name: 0.5, "explore": 0.1})


def test_a_canary_mixes() -> None:
    probabilities = mixed(np.array([0.9, 0.1]), np.array([0.2, 0.8]), 0.5)
    assert probabilities.tolist() == pytest.approx([0.55, 0.45])


def test_exploring_keeps_to_the_extra_cost() -> None:
    assert affordable([1.0, 1.5, 3.0], 1, 0.0) == [True, True, False]
    assert affordable([1.0, 1.5, 3.0], 0, None) == [True, True, True]


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_propensities_are_the_frequencies_of_choices(
    router: Path, other_router: Path, fraction: float
) -> None:
    one, two = LoadedRouter.of(router), LoadedRouter.of(other_router)
    decider = Decider(Live(one, two, fraction), PRICES, explore=0.2)
    decider.reseed(0)
    decisions = [decider.decide("What is 3 plus 4?") for _ in range(400)]
    counts = Counter(each.expert for each in decisions)
    expected = decisions[0].propensities
    assert all(each.propensities == expected for each in decisions)
    assert expected["small"] == pytest.approx(0.9 * (1 - fraction) + 0.1 * fraction)
    for name, probability in expected.items():
        error = 4.0 * (probability * (1 - probability) / 400) ** 0.5
        assert counts[name] / 400 == pytest.approx(probability, abs=error)
    canary = sum(each.router == two.digest for each in decisions) / 400
    assert canary == pytest.approx(fraction, abs=0.1)


def test_never_to_an_expert_that_failed_or_costs_too_much(router: Path) -> None:
    decider = Decider(Live(LoadedRouter.of(router)), PRICES, explore=1.0, extra_usd=1e-6)
    decider.reseed(0)
    plus, times = ("What is 3 plus 4?", "What is 3 times 4?")
    assert {decider.decide(plus).expert for _ in range(50)} == {"small"}  # large costs more than that
    assert {decider.decide(times).expert for _ in range(50)} == {"small", "large"}  # small is cheaper
    decider.breaker.failed("small")
    assert {decider.decide(plus).expert for _ in range(50)} == {"large"}
    assert decider.decide(plus).excluded == {"small": "failed recently"}


@pytest.mark.parametrize("canary", [False, True])
def test_each_router_chooses_among_its_own_allowed_experts(router: Path, canary: bool) -> None:
    """A router that was promoted, or is a canary, may allow other experts than the one of the start."""
    loaded = LoadedRouter.of(router)
    limited = copy.deepcopy(loaded.router)
    limited.allowed = torch.tensor([name == "small" for name in loaded.experts])
    cheap = replace(loaded, digest="sha256:cheap", router=limited)
    decider = Decider(Live(cheap), PRICES)
    times = "What is 3 times 4?"
    assert decider.decide(times).expert == "small"
    assert decider.decide(times).excluded == {"large": "not allowed by the router"}
    decider.replace(Live(cheap, loaded, 0.25) if canary else Live(loaded))
    share = 0.25 if canary else 1.0
    assert decider.decide(times).propensities == {"small": 1.0 - share, "large": share}


def test_a_router_without_first_choice_and_a_folder_without_router_are_refused(
    make_router: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no best expert for a single request"):
        LoadedRouter.of(make_router("drawn", method="random"))
    with pytest.raises(InputError, match="router="):
        LoadedRouter.of(tmp_path)


def test_a_ranking_is_what_the_router_routes(router: Path) -> None:
    loaded = LoadedRouter.of(router)
    for prompt in ("What is 3 plus 4?", "What is 3 times 4?", ""):
        for may in (None, torch.tensor([False, True])):
            routing = loaded.router.route(prompt, action_mask=may)
            ranking = loaded.rank(prompt, None, may)
            assert ranking.best == int(routing.experts[0, 0])
            assert ranking.scores.tolist() == routing.logits[0].tolist()
