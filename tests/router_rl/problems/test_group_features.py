"""Tables without prompts and features are routed by group, in every problem."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environment_tables import prompt_cascade, topics

from experts import InputError, OutcomeTable
from router_rl import (
    CachingProblem,
    CascadeProblem,
    Objective,
    QueueingProblem,
    RoutingProblem,
    export,
    fit,
)
from router_rl.problems.prompt_features import FeatureConfig, with_features
from router_rl.routing import RouterError, load
from router_rl.routing.digests import digest_of
from router_rl.studies.evaluate_table import evaluate_run
from router_rl.studies.runs import read_run, train_run

SMALL: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "routing": (lambda table: RoutingProblem(table), "ridge", {}),
    "cascade": (
        lambda table: CascadeProblem(table, [Objective(compute_weight=0.1)], max_experts=2),
        "exact_pg",
        {"steps": 2, "members": 1, "hidden": 4},
    ),
    "queueing": (
        lambda table: QueueingProblem(table, loads=(0.8,), episodes=2, window=8),
        "best_single",
        {},
    ),
    "caching": (
        lambda table: CachingProblem(table, episodes=2, window=8, resident_shares=(0.5,)),
        "cross_entropy",
        {"generations": 2, "population": 4, "elite": 2, "streams": 2},
    ),
}


def grouped() -> OutcomeTable:
    """Return 4 experts, each right on its own group, without prompts and features."""
    table = topics()
    assert table.features is not None
    group = np.array([f"topic {row.argmax()}" for row in table.features[:, :4]], dtype=object)
    return replace(table, features=None, group=group, confidence=table.quality)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_problem_takes_a_table_of_groups(name: str, tmp_path: Path) -> None:
    make, method, few = SMALL[name]
    table = grouped()
    problem = make(table)
    assert problem.inputs[0] == "group"
    assert make(prompt_cascade()).inputs[0] == "prompt"
    trained = train_run(problem, method, tmp_path, hyperparameters=few)
    found = evaluate_run(read_run(tmp_path), table, "test")
    assert found["test"]["utility"] == pytest.approx(trained.facts["test"]["utility"], abs=1e-5)


def test_a_router_of_groups_is_given_the_group_alone(tmp_path: Path) -> None:
    problem = RoutingProblem(grouped(), Objective(compute_weight=0.0))
    assert problem.inputs == ("group",)
    assert problem.table.notes[-1] == "features: computed from the groups, 8 columns"
    router = fit("ridge", problem, seed=0, n_trials=1)
    assert problem.evaluate(router, "test").means()["quality"] > 0.8
    export(router, tmp_path / "router", format="safetensors", rows=problem)
    assert 'router.route(groups="its group")' in (tmp_path / "router" / "README.md").read_text()
    loaded = load(tmp_path / "router")
    for each in (router, loaded):
        names = [f"topic {topic}" for topic in (2, 0, 3, 1)]
        assert each.route(groups=names).experts[:, 0].tolist() == [2, 0, 3, 1]
        assert each.route(groups="topic 1").experts.tolist() == [[1]]
        assert each.route(["", "x"], ["topic 1", "topic 0"]).experts.tolist() == [[1], [0]]
        with pytest.raises(RouterError, match="reads group; give"):
            each.route()
        with pytest.raises(RouterError, match="the query's group is an input"):
            each.route("a prompt")


def test_a_file_that_names_the_prompt_too_is_read(tmp_path: Path) -> None:
    problem = RoutingProblem(grouped(), Objective(compute_weight=0.0))
    export(fit("ridge", problem, seed=0, n_trials=1), tmp_path / "router")
    path = tmp_path / "router" / "router.json"
    described = json.loads(path.read_text()) | {"inputs": ["prompt", "group"]}
    weights = path.with_suffix(".safetensors").read_bytes()
    path.write_text(json.dumps(described | {"digest": digest_of(described, weights)}))
    assert load(tmp_path / "router").route(groups="topic 1").experts.tolist() == [[1]]


def test_a_router_of_prompts_needs_them() -> None:
    router = fit("ridge", RoutingProblem(prompt_cascade()), seed=0, n_trials=1)
    with pytest.raises(RouterError, match="reads prompt; give"):
        router.route(groups="topic 1")


def test_what_needs_prompts_is_an_error(tmp_path: Path) -> None:
    table = grouped()
    with pytest.raises(InputError, match=r"problem.features.infer_group=True: the table has no prompts"):
        with_features(table, FeatureConfig(infer_group=True))
    with pytest.raises(InputError, match=r"problem.features.embedding=.*: the table has no prompts"):
        with_features(table, FeatureConfig(embedding=tmp_path))
    with pytest.raises(InputError, match="has neither features, nor prompts or groups to make them from"):
        with_features(replace(table, group=None))


def test_the_default_sizes_of_memory_hold_the_largest_of_few_experts() -> None:
    table = grouped()
    pair = replace(
        table,
        experts=table.experts[:2],
        quality=table.quality[:, :2],
        cost=table.cost[:, :2],
        confidence=None,
    )
    problem = CachingProblem(pair, episodes=2, window=8)
    assert [case.values["resident_share"] for case in problem.cases] == [0.5, 0.75, 1.0]
    assert any(
        note.startswith("resident shares: without 0.3, because below 0.5") for note in problem.table.notes
    )
    with pytest.raises(InputError, match=r"problem.resident_shares=0.4: below 0.5 the largest of 2"):
        CachingProblem(pair, episodes=2, window=8, resident_shares=(0.4, 1.0))
