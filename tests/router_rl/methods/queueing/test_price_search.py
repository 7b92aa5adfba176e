"""The search for prices: its draws, its episodes and what it keeps, with a utility that is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from router_rl.methods.method import Run
from router_rl.methods.queueing import price_search
from router_rl.methods.queueing.price_search import PriceHyperparameters, fit_prices


class Call(NamedTuple):
    """One evaluation of candidates."""

    prices: Tensor
    split: str
    lanes: int
    seed: int


class Scorer:
    """Notes the prices that score the lanes."""

    def __init__(self) -> None:
        self.prices = torch.zeros(5)
        self.seen = torch.empty(0)

    def scores(self, observation: Tensor, prices: Tensor) -> Tensor:
        self.seen = prices
        return prices


TARGET = torch.tensor([0.1, -0.2, 0.0, 0.3, -0.1])


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tensor, list[Call]]]:
    """Return a function that searches for `TARGET`, and returns the result and all evaluations."""

    def run(
        seed: int = 0, utility: Callable[[Tensor, str], Tensor] | None = None, **values: Any
    ) -> tuple[Tensor, list[Call]]:
        scorer, calls = Scorer(), []

        def earned(
            problem: Any,
            count: int,
            actions: Callable[[Tensor], Tensor],
            split: str,
            *,
            lanes: int,
            seed: int,
        ) -> Tensor:
            actions(torch.zeros(count * lanes, 1))
            prices = scorer.seen[:count]
            assert scorer.seen.equal(prices.repeat(lanes, 1))
            calls.append(Call(prices, split, lanes, seed))
            return -(prices - TARGET).square().sum(dim=-1) if utility is None else utility(prices, split)

        monkeypatch.setattr(price_search, "candidate_utility", earned)
        monkeypatch.setattr(price_search, "strongest_index", lambda *_: SimpleNamespace(scorer=scorer))
        found: Any = fit_prices(SimpleNamespace(), PriceHyperparameters(**values), Run(seed=seed))  # type: ignore[arg-type]
        return found.scorer.prices, calls

    return run


def test_it_comes_near_the_best_prices(search: Callable[..., tuple[Tensor, list[Call]]]) -> None:
    prices, calls = search()
    assert float((prices - TARGET).norm()) < 0.05
    assert [call.split for call in calls] == ["train"] * 16 + ["validation"]
    assert {(len(call.prices), call.lanes) for call in calls[:-1]} == {(48, 6)}
    # The index rule, and the mean after every fourth generation.
    assert (len(calls[-1].prices), calls[-1].lanes) == (5, 96)
    assert not calls[-1].prices[0].any()


def test_every_generation_of_every_seed_has_episodes_of_its_own(
    search: Callable[..., tuple[Tensor, list[Call]]],
) -> None:
    seeds = [call.seed for seed in range(4) for call in search(seed)[1] if call.split == "train"]
    assert len(set(seeds)) == len(seeds) == 4 * 16


def test_a_generation_moves_to_the_best_draws(search: Callable[..., tuple[Tensor, list[Call]]]) -> None:
    """With a pace of 1, the next mean is that of the best draws, and the first draw is the mean."""
    _, calls = search(pace=1.0, population=6, elite=2, generations=3)
    assert not calls[0].prices[0].any()
    for call, following in itertools.pairwise(calls[:3]):
        distance = (call.prices - TARGET).square().sum(dim=-1)
        best = call.prices[distance.argsort()[:2]]
        torch.testing.assert_close(following.prices[0], best.mean(dim=0))


def test_the_best_candidate_on_validation_is_kept(
    search: Callable[..., tuple[Tensor, list[Call]]],
) -> None:
    """Validation prefers the opposite of what training does, so the index rule stays."""

    def utility(prices: Tensor, split: str) -> Tensor:
        distance = (prices - TARGET).square().sum(dim=-1)
        return -distance if split == "train" else distance

    prices, _ = search(utility=utility)
    assert not prices.any()
