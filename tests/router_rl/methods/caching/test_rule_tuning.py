"""Caching rules are tuned on validation rows: other rows would choose other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from environment_tables import topics

from experts import InputError
from router_rl.methods.caching import cache_search, candidates
from router_rl.methods.caching.cache_rules import tuned_bonus, tuned_foresight, tuned_index, tuned_pinned
from router_rl.methods.caching.cache_search import SearchHyperparameters, search
from router_rl.methods.caching.candidates import Weights, best_weights, utilities, weights_of
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.cascade import beliefs

SMALL = SearchHyperparameters(population=4, elite=2, generations=4, streams=2)


@pytest.fixture(scope="module")
def problem() -> Iterator[CachingProblem]:
    """Beliefs are right on all rows but those of validation, where they are the wrong way round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beliefs, "_EPOCHS", 1)
        patch.setattr(beliefs, "_EXCHANGES", 1)
        patch.setattr(candidates, "_STREAMS", 2)
        patch.setattr(candidates, "_FINAL_STREAMS", 2)
        made = CachingProblem(topics(), wait_weight=0.1, episodes=2, window=16, resident_shares=(0.5,))
        for split in made.chance:
            quality = made.rows(made.case, split).outcomes.quality
            right = 1.0 - quality if split == "validation" else quality
            made.chance[split] = made.later[split] = right
        yield made


def test_kills_rules_tuned_on_test_or_training_rows(problem: CachingProblem) -> None:
    """To trust the beliefs pays on all rows but those of validation, where distrust pays."""
    weights = weights_of([({"worth": 1.0}, {}), ({"worth": -1.0}, {})])
    policy = problem.policy(problem.case)
    for split, better in {"train": 0, "validation": 1, "tuning": 0, "test": 0}.items():
        earned = utilities(problem, split, policy, weights, streams=2, seed=0)
        assert int(earned.argmax()) == better
    assert best_weights(problem, weights).answer.equal(weights.answer[1])


@pytest.mark.parametrize("rule", [tuned_bonus, tuned_index, tuned_foresight])
def test_kills_a_rule_tuned_on_other_rows(
    problem: CachingProblem,
    rule: Callable[[CachingProblem], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits: list[str] = []

    def record(problem: CachingProblem, split: str, *rest: Any, **named: Any) -> torch.Tensor:
        splits.append(split)
        return torch.arange(float(len(rest[1].answer)))

    monkeypatch.setattr(candidates, "utilities", record)
    rule(problem)
    assert splits == ["validation", "validation"]


def test_kills_a_search_on_test_rows(problem: CachingProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations run on training rows; the best mean is chosen on validation rows."""
    splits: list[str] = []

    def record(problem: CachingProblem, split: str, *rest: Any, **named: Any) -> torch.Tensor:
        splits.append(split)
        return utilities(problem, split, *rest, **named)

    monkeypatch.setattr(cache_search, "utilities", record)
    monkeypatch.setattr(candidates, "utilities", record)
    search(problem, SMALL, seed=0, start=problem.policy(problem.case))
    assert set(splits) <= {"train", "validation"}
    assert splits.count("train") == SMALL.generations
    assert splits[-2:] == ["validation", "validation"]


def test_kills_a_search_that_ignores_the_seed(
    problem: CachingProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws and request streams differ between seeds, and streams between generations."""
    draws: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    used: dict[int, set[int]] = {0: set(), 1: set()}
    now = 0

    def record(
        problem: CachingProblem, split: str, policy: Any, weights: Weights, *, streams: int, seed: int
    ) -> torch.Tensor:
        if split == "train":
            draws[now].append(weights.answer[1])
            used[now].update(range(seed, seed + streams))
        return torch.arange(float(len(weights.answer)))

    monkeypatch.setattr(cache_search, "utilities", record)
    monkeypatch.setattr(candidates, "utilities", record)
    for now in (0, 1):
        search(problem, SMALL, seed=now, start=problem.policy(problem.case))
    assert not draws[0][0].equal(draws[1][0])
    for seed in (0, 1):
        assert len(used[seed]) == SMALL.generations * SMALL.streams
    assert not used[0] & used[1]


@pytest.mark.parametrize("streams", [3, 6])
def test_kills_generations_that_share_request_streams(
    problem: CachingProblem, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    used: list[int] = []

    def record(problem: CachingProblem, split: str, *rest: Any, streams: int, seed: int) -> torch.Tensor:
        if split == "train":
            used.extend(range(seed, seed + streams))
        return torch.arange(float(len(rest[1].answer)))

    monkeypatch.setattr(cache_search, "utilities", record)
    monkeypatch.setattr(candidates, "utilities", record)
    settings = SearchHyperparameters(population=4, elite=2, generations=12, streams=streams)
    search(problem, settings, seed=0, start=problem.policy(problem.case))
    assert len(used) == len(set(used)) == 12 * streams


def test_kills_pinned_experts_chosen_on_test_rows(problem: CachingProblem) -> None:
    """Training rows ask the first and the third expert only, other rows the second and the fourth."""
    before = dict(problem.chance)
    for split, chance in before.items():
        asked = torch.tensor([0, 2] if split == "train" else [1, 3])
        chosen = asked[torch.arange(len(chance)) % 2]
        problem.chance[split] = torch.nn.functional.one_hot(chosen, 4).float()
    allowed = tuned_pinned(problem).allowed
    problem.chance.update(before)
    assert allowed.tolist() == [True, False, True, False]


def test_kills_training_beliefs_that_are_in_fold() -> None:
    """Training requests are answered by out-of-fold predictions, as new requests would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beliefs, "_EPOCHS", 2)
        patch.setattr(beliefs, "_EXCHANGES", 1)
        made = CachingProblem(topics(), resident_shares=(0.5,))
    features = made.rows(made.case, "train").outcomes.features
    for fitted, by_split in ((made.fitted, made.chance), (made.foreseen, made.later)):
        members = fitted.beliefs.members(features)
        out_of_fold = members[fitted.fold, torch.arange(len(features))].sigmoid()
        torch.testing.assert_close(by_split["train"], out_of_fold)
        assert not torch.allclose(by_split["train"], fitted.beliefs.prior(features).sigmoid())


def test_an_elite_above_the_population_is_refused() -> None:
    with pytest.raises(InputError, match=r"method.elite=40: is above the population; use 1 to 32"):
        SearchHyperparameters(elite=40)
