"""What a comparison keeps for its report: single queries, groups, learning curves and calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, compare
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method
from router_rl.methods.training_loop import CurvePoint
from router_rl.problems.measure import Measurement
from router_rl.studies.query_groups import query_groups
from router_rl.studies.query_section import query_section
from router_rl.studies.results_schema import check_results
from router_rl.studies.trial import Trial, run_trial
from router_rl.studies.trial_figures import learning_curve

CASES = [Objective(compute_weight=weight) for weight in (0.05, 0.5)]


@pytest.fixture(scope="module")
def prompted(kinds: OutcomeTable) -> OutcomeTable:
    return replace(kinds, prompt=np.array([f"prompt {row} " * 60 for row in range(len(kinds))], dtype=object))


@pytest.fixture(scope="module")
def results(prompted: OutcomeTable) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoutingProblem, "always", ("random", "best_single"))
        options = {"seeds": 2, "n_trials": 2}
        return compare(RoutingProblem(prompted, CASES), ["softmax_gate", "ridge"], **options).results


@pytest.mark.slow
def test_single_queries_are_those_of_the_recommended_router(
    results: dict[str, Any], prompted: OutcomeTable
) -> None:
    queries, recommended, test = results["queries"], results["recommendation"], prompted.part("test")
    assert (queries["method"], queries["case"]) == (recommended["method"], recommended["case"])
    assert queries["seed"] == recommended["router"]["seed"]
    assert queries["total"] == len(test)
    assert len(queries["rows"]) == 100
    places = {name: place for place, name in enumerate(test.query_id)}
    for row in queries["rows"]:
        at = places[row["id"]]
        (expert,) = row["experts"]
        assert row["quality"] == test.quality[at, expert]
        assert row["cost"] == pytest.approx(float(test.cost[at, expert]))
        assert row["each_quality"] == test.quality[at].tolist()
        assert row["prompt"] == str(test.prompt[at])[:299] + "…"  # type: ignore[index]
        assert row["group"] == test.group[at]  # type: ignore[index]
    assert len({row["experts"][0] for row in queries["rows"]}) == 4


def test_the_schema_refuses_queries_of_other_experts(results: dict[str, Any]) -> None:
    check_results(results)
    first, *others = results["queries"]["rows"]
    for wrong in ({"experts": [4]}, {"each_cost": [1.0]}):
        queries = {**results["queries"], "rows": [first | wrong, *others]}
        with pytest.raises(ValueError, match=r"queries\.rows\[0\] is not of 4 experts"):
            check_results(results | {"queries": queries})


def test_the_schema_refuses_facts_of_other_experts(results: dict[str, Any]) -> None:
    for name in ("expert_quality", "expert_cost"):
        facts = {**results["table_facts"], name: results["table_facts"][name][:3]}
        with pytest.raises(ValueError, match=rf"table_facts\.{name} is not of 4 experts"):
            check_results(results | {"table_facts": facts})


def test_every_learned_method_has_a_curve_and_a_calibration(results: dict[str, Any]) -> None:
    figures = {(figure["form"], figure["method"]): figure["data"] for figure in results["figures"]}
    assert ("calibration", "softmax_gate") in figures
    assert ("calibration", "ridge") not in figures  # its logits are no log-probabilities
    curve = figures["learning_curve", "softmax_gate"]["curve"]
    assert curve[0][0] == 0
    assert curve[-1][1] > curve[0][1]
    bins = figures["calibration", "softmax_gate"]["bins"]
    assert sum(each["queries"] for each in bins) == results["queries"]["total"]
    stated = [each["stated"] for each in bins]
    assert stated == sorted(stated)
    right = sum(each["came_true"] * each["queries"] for each in bins) / results["queries"]["total"]
    assert right > 0.9  # the kinds are told apart, and nearly every choice is the best one


def test_every_setting_of_the_first_seed_has_figures(kinds: OutcomeTable, tmp_path: Path) -> None:
    problem, method = RoutingProblem(kinds, CASES), find_method("routing", "softmax_gate")
    assert isinstance(method, Method)
    options = {"method": method.name, "hyperparameters": method.hyperparameters(), "number": 1}
    first, second = (
        run_trial(Trial(case=problem.cases[0], seed=seed, **options), problem, tmp_path) for seed in (0, 1)
    )
    assert {figure["form"] for figure in first.figures} == {"learning_curve", "calibration"}
    assert second.figures == ()


def test_long_curves_are_thinned_and_short_ones_are_no_figure(kinds: OutcomeTable) -> None:
    case = RoutingProblem(kinds, CASES).cases[1]
    points = [CurvePoint(step, float(step), 0.0, 0.0) for step in range(500)]
    (figure,) = learning_curve(points, case)
    steps = [step for step, _ in figure.data["curve"]]
    assert (steps[0], steps[-1], len(steps)) == (0, 499, 60)
    assert case.label in figure.note
    assert learning_curve([points[0], CurvePoint(1, float("nan"), 0.0, 0.0)], case) == []


def test_a_table_without_groups_has_clusters_named_after_queries(prompted: OutcomeTable) -> None:
    known = query_groups(prompted)
    assert known.names == ["blue", "green", "grey", "red"]
    assert not known.clustered
    table = replace(prompted, group=None)
    groups = query_groups(table)
    kinds = prompted.part("test").group
    assert groups.clustered
    assert 4 <= len(groups.names) <= 8
    assert set(groups.labels) == set(groups.names)
    sizes = [int((groups.labels == name).sum()) for name in groups.names]
    assert sizes == sorted(sizes, reverse=True)
    for place, name in enumerate(groups.names, 1):
        assert name.startswith(f"{place}: prompt ")
        assert len(set(kinds[groups.labels == name])) == 1  # type: ignore[index]
    few = replace(table, features=np.zeros_like(table.features))
    assert query_groups(few).names == ["all"]


def test_without_the_recommended_seed_the_first_router_is_shown(prompted: OutcomeTable) -> None:
    problem = RoutingProblem(prompted, CASES[0])
    entries = []
    for seed, expert in ((0, 1), (1, 2)):
        share = np.zeros((len(prompted.part("test")), 4), dtype=np.float32)
        share[:, expert] = 1.0
        parts = {name: np.zeros(len(share)) for name in ("quality", "compute")}
        test = Measurement(utility=np.zeros(len(share)), parts=parts, share=share)
        entries.append(SimpleNamespace(method="ridge", case=problem.case, seed=seed, test=test))
    recommended = {"method": "ridge", "case": problem.case.label, "router": {"seed": 7}}
    section = query_section({("ridge", problem.case.label): entries}, problem, recommended)  # type: ignore[dict-item]
    assert section is not None
    assert section["seed"] == 0
    assert section["rows"][0]["experts"] == [1]
    second = query_section(
        {("ridge", problem.case.label): entries},  # type: ignore[dict-item]
        problem,
        recommended | {"router": {"seed": 1}},
    )
    assert second is not None
    assert second["rows"][0]["experts"] == [2]
