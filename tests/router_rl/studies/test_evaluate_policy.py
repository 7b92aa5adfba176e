"""A run on prompts is evaluated on other prompts with the text pipeline of its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environment_tables import made_cascade, prompt_cascade, topics

from experts import InputError, OutcomeTable
from router_rl import Objective
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.prompt_features import featurised
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing import RouterError
from router_rl.studies.evaluate_table import evaluate_run
from router_rl.studies.runs import read_run, train_run

WEIGHTS = [Objective(compute_weight=weight) for weight in (0.05, 0.2)]


def _cascade(table: OutcomeTable) -> CascadeProblem:
    return CascadeProblem(table, WEIGHTS, max_experts=2)


def _caching(table: OutcomeTable) -> CachingProblem:
    return CachingProblem(table, wait_weight=3.0, episodes=2, window=8, resident_shares=(0.5,))


def _queueing(table: OutcomeTable) -> QueueingProblem:
    return QueueingProblem(table, loads=(0.8,), episodes=2, window=8)


PROBLEMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "cascade": (_cascade, "exact_pg", {"steps": 4, "members": 1, "hidden": 8}),
    "a router of cascades": (_cascade, "softmax_gate", {"epochs": 2}),
    "caching": (
        _caching,
        "cross_entropy",
        {"generations": 4, "population": 4, "elite": 2, "streams": 2},
    ),
    "queueing": (_queueing, "best_single", {}),
}


def _other_prompts() -> OutcomeTable:
    """Return a table of the same experts with other prompts, whose words are partly those of training."""
    table = prompt_cascade()
    assert table.prompt is not None
    prompt = np.array(
        [f"please do: {text} and more words {row % 7}" for row, text in enumerate(table.prompt)]
    )
    return replace(table, prompt=prompt.astype(object))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_other_prompts_get_the_features_of_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, method, few = PROBLEMS[name]
    train_run(make(prompt_cascade()), method, tmp_path, hyperparameters=few)
    run, table = read_run(tmp_path), _other_prompts()
    assert table.prompt is not None
    problem_type = type(make(table))
    own = problem_type.evaluate
    features: list[np.ndarray] = []

    def evaluate(self: Any, *given: Any, **more: Any) -> Any:
        features.append(self.table.features)
        return own(self, *given, **more)

    monkeypatch.setattr(problem_type, "evaluate", evaluate)
    found = evaluate_run(run, table, "test")
    wanted = run.policy.text([str(text) for text in table.prompt]).numpy()
    np.testing.assert_array_equal(features[0], wanted)
    assert wanted.std(axis=0).max() > 0.0

    problem = make(featurised(table, run.policy.text))
    case = next(case for case in problem.cases if case.label == found["cases"][0]["label"])
    assert own(problem, run.policy, "test", case).means() == pytest.approx(found["cases"][0]["test"])


def test_a_run_on_a_tables_features_refuses_prompts(tmp_path: Path) -> None:
    train_run(_cascade(made_cascade()), "exact_pg", tmp_path, hyperparameters=PROBLEMS["cascade"][2])
    run = read_run(tmp_path)
    assert run.policy.text is None
    with pytest.raises(InputError, match="features of these prompts would not be those of training"):
        evaluate_run(run, prompt_cascade(), "test")
    wide = topics()
    with pytest.raises(RouterError, match=r"takes 2 features .* but the table has 5"):
        evaluate_run(run, replace(wide, confidence=wide.quality), "test")


def test_a_policy_that_reads_no_query_takes_a_table_of_prompts(tmp_path: Path) -> None:
    problem = CascadeProblem(prompt_cascade(), WEIGHTS, max_experts=2, use_features=False)
    trained = train_run(problem, "exact_pg", tmp_path, hyperparameters=PROBLEMS["cascade"][2])
    found = evaluate_run(read_run(tmp_path), prompt_cascade(), "test")
    assert found["cases"][0]["test"] == pytest.approx(trained.facts["cases"][0]["test"], abs=1e-6)
