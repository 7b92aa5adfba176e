"""A run's problem again, with all of its options and objectives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experts import InputError, OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.problems.feature_config import FeatureConfig
from router_rl.problems.options import options_as_json, options_from_json
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.routing_options import RoutingOptions
from router_rl.studies.rebuilt_problem import rebuilt_problem
from router_rl.studies.runs import read_run, train_run


def test_nested_options_are_read() -> None:
    features = FeatureConfig(ngram_range=(1, 1), embedding=Path("model"), group=True)
    options = RoutingOptions(scorer=ScorerConfig(hidden=(8, 4)), features=features, select="topk", k=3)
    kept = options_as_json(options)
    assert options_from_json(RoutingOptions, kept, nested=True) == options
    plain = options_from_json(RoutingOptions, kept)
    assert (plain.scorer, plain.features, plain.k) == (ScorerConfig(), FeatureConfig(), 3)


def test_has_the_digest_of_the_run(kinds: OutcomeTable, tmp_path: Path) -> None:
    objective = Objective(compute_weight=0.2, load_weight=0.1, window=64)
    problem = RoutingProblem(kinds, objective, scorer=ScorerConfig(kind="linear"))
    train_run(problem, "ridge", tmp_path / "run")
    again = rebuilt_problem(read_run(tmp_path / "run"), kinds)
    assert again.digest() == problem.digest()
    assert again.objectives == (objective,)
    other = replace(kinds, experts=(*kinds.experts[:-1], "other"))
    with pytest.raises(InputError, match="has other experts than the run"):
        rebuilt_problem(read_run(tmp_path / "run"), other)


@pytest.mark.parametrize("missing", ["options", "cases"])
def test_a_run_without_options_or_cases_is_refused(kinds: OutcomeTable, missing: str) -> None:
    facts = {"problem": {"name": "routing", "options": {}}, "cases": [], "experts": list(kinds.experts)}
    if missing == "cases":
        del facts["cases"]
    else:
        facts["problem"] = {"name": "routing"}
    run: Any = SimpleNamespace(facts=facts, folder=Path("runs/old"))
    with pytest.raises(InputError, match="was written by version 1"):
        rebuilt_problem(run, kinds)
