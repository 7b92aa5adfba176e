"""Half of the validation rows select hyperparameters and methods; no fit reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from environment_tables import made_cascade, prompt_cascade, topics

from experts import InputError, OutcomeTable
from router_rl import (
    CachingProblem,
    CascadeProblem,
    Objective,
    QueueingProblem,
    RoutingProblem,
    TokenMoEProblem,
)
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import find_method
from router_rl.problems.tuning_rows import with_tuning_rows


def test_half_of_the_validation_rows_and_no_others(kinds: OutcomeTable) -> None:
    split = with_tuning_rows(kinds).split
    before = (kinds.split == "validation").sum()
    assert (split == "validation").sum() + (split == "tuning").sum() == before
    assert abs((split == "tuning").sum() - before / 2) <= 0.5
    other = kinds.split != "validation"
    np.testing.assert_array_equal(split[other], kinds.split[other])


def test_a_table_with_tuning_rows_keeps_them(kinds: OutcomeTable) -> None:
    divided = with_tuning_rows(kinds)
    assert with_tuning_rows(divided) is divided


def test_equal_prompts_stay_together() -> None:
    table = prompt_cascade()
    assert table.prompt is not None
    prompt = np.array([f"question {row // 4}" for row in range(len(table))])
    whole = np.full(len(table), "train", dtype="U10")
    whole[: len(table) // 2] = "validation"
    table = with_tuning_rows(replace(table, prompt=prompt, split=whole))
    for name in np.unique(prompt):
        assert len(set(table.split[prompt == name])) == 1


def test_one_validation_row_cannot_be_divided(kinds: OutcomeTable) -> None:
    split = np.where(kinds.split == "validation", "train", kinds.split)
    split[0] = "validation"
    with pytest.raises(InputError, match="has 1 validation rows; half of them must select"):
        RoutingProblem(replace(kinds, split=split), Objective())


@pytest.mark.parametrize("name", ["ridge", "knn", "softmax_gate", "em_gate", "exact_pg", "best_single"])
def test_no_fit_reads_the_tuning_rows(kinds: OutcomeTable, name: str) -> None:
    """The outcomes of the tuning rows are reversed; the fitted router stays the same."""
    divided = with_tuning_rows(kinds)
    quality = np.array(divided.quality)
    rows = divided.split == "tuning"
    quality[rows] = 1.0 - quality[rows]
    changed = replace(divided, quality=quality, probabilities=None, label=None)
    divided = replace(divided, probabilities=None, label=None)
    one, two = (
        _fitted(name, RoutingProblem(table, Objective(compute_weight=0.1))) for table in (divided, changed)
    )
    assert all(one[key].equal(two[key]) for key in one)


def _fitted(name: str, problem: RoutingProblem) -> dict[str, Any]:
    method = find_method("routing", name)
    assert isinstance(method, Method)
    small = {"epochs": 2} if hasattr(method.hyperparameters(), "epochs") else {}
    return method.fit(problem, method.configure(small), Run(seed=0)).state_dict()


@pytest.mark.parametrize("feedback", ["full", "bandit"])
def test_routing_evaluates_them_apart(kinds: OutcomeTable, feedback: str) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.1), feedback=feedback)
    policy = _policy(problem, "best_single")
    rows = {split: len(problem.evaluate(policy, split).utility) for split in ("validation", "tuning")}
    assert rows == {"validation": len(problem.validation), "tuning": len(problem.tuning)}
    if feedback == "bandit":  # the outcomes that the log does not have are estimated there too
        truth = problem.table.part("tuning").quality
        assert not np.allclose(problem.tuning.quality, truth)


@pytest.mark.slow
def test_environments_evaluate_them_apart() -> None:
    problems: list[Any] = [
        CascadeProblem(made_cascade(), Objective(compute_weight=0.1)),
        QueueingProblem(topics(), loads=(0.8,), episodes=2, window=64),
        CachingProblem(topics(), resident_shares=(0.5,), episodes=2),
    ]
    for problem in problems:
        name = "lru" if problem.name == "caching" else "best_single"
        policy = _policy(problem, name)
        found = [problem.evaluate(policy, split).utility for split in ("validation", "tuning")]
        assert not np.array_equal(*found), problem.name


def test_token_sequences_are_divided() -> None:
    parts = TokenMoEProblem(train=4, validation=4, test=4, length=16).pool.parts
    assert abs(len(parts["validation"]) - len(parts["tuning"])) <= 1
    assert not (parts["validation"].tokens[:, None] == parts["tuning"].tokens[None]).all(axis=2).any()


def _policy(problem: Any, name: str) -> Any:
    method = find_method(problem.name, name)
    assert isinstance(method, Method)
    return method.fit(problem, method.hyperparameters(), Run(seed=0))


def test_rows_without_a_prompt_are_divided() -> None:
    table = prompt_cascade()
    blank = with_tuning_rows(replace(table, prompt=np.array([""] * len(table), dtype=object)))
    without = with_tuning_rows(replace(table, prompt=None))
    np.testing.assert_array_equal(blank.split, without.split)
    assert (blank.split == "tuning").sum() == (table.split == "validation").sum() // 2
