"""The terminal's views at 80 columns, of every problem, with as many methods as there are."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from routing_methods import METHODS

from router_rl.reports.terminal import evaluation_view, facts_view, paths_of, progress_of, results_view

SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


def printed(view: object, *, styled: bool = False) -> str:
    console = Console(width=80, force_terminal=styled, color_system="standard" if styled else None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_every_method_fits_80_columns() -> None:
    spread = {name: (method.family, -0.01 * i, 0.3) for i, (name, method) in enumerate(METHODS.items())}
    results = SAMPLES["sample_results"](spread | {"oracle": ("bound", 0.04, 0.2)}, experts=7)
    results["table_facts"] |= {"cost_unit": "usd", "compute_unit": 0.0157}
    text = printed(results_view(results))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for name in METHODS:
        assert text.count(f"\n{name} ") == 3, name  # once a case
    assert "US$ 15.7 per 1,000 queries" in " ".join(text.split())


@pytest.mark.parametrize(("half", "shown"), [(0.25, "±.250"), (10.3, "±10.300")])
def test_the_interval_has_its_half_width(half: float, shown: str) -> None:
    results = SAMPLES["sample_results"]({"ridge": ("baseline", -0.01, 0.3)}, experts=7)
    for row in results["summary"]:
        row["utility_ci95"] = [row["utility_mean"] - half, row["utility_mean"] + half]
    assert shown in printed(results_view(results))


def test_the_recommendation_comes_first() -> None:
    results = SAMPLES["sample_results"]()
    text = " ".join(printed(results_view(results)).split())
    sentence = results["recommendation"]["sentence"]
    assert text.startswith(sentence)
    assert text.index("Compute weight 0.02") < text.index("Utility = quality")
    assert text.index("Utility = quality") < text.index(results["verdict"][0])
    without = printed(results_view(results | {"recommendation": None}))
    assert without.strip().startswith("Compute weight 0.02")


def test_an_environment_shows_its_columns_as_far_as_they_fit() -> None:
    results = SAMPLES["environment_results"]()
    text = printed(results_view(results))
    assert "vs rival quality compute" in text
    assert "missed" in text
    assert "vs rival: paired difference to index_rule;" in " ".join(text.split())
    for row in results["summary"]:
        row |= {f"other_{i}_mean": 1.0 for i in range(9)}
    text = printed(results_view(results))
    assert max(map(len, text.splitlines())) <= 80
    assert "other 8" not in text.split("In the report:")[0]
    assert "other 8" in text.split("In the report:")[1]


def test_a_long_case_label_does_not_widen_the_method_column() -> None:
    results = SAMPLES["environment_results"]()
    label = "75% of the experts' bytes resident, and a label as long as a sentence"
    results["cases"][0]["label"] = label
    for row in results["summary"]:
        row["case"] = label if row["load"] == 0.5 else row["case"]
    text = printed(results_view(results))
    assert label in text
    assert "missed" in text


def test_methods_stand_by_utility_below_the_bound() -> None:
    results = SAMPLES["sample_results"]({"oracle": ("bound", -1.0, 0.3), **SAMPLES["METHODS"]})
    text = printed(results_view(results))
    block = text.split("Compute weight 0.1\n")[1].split("Compute weight 0.4")[0].splitlines()[1:]
    names = [line.split()[0] for line in block if line.strip()]
    here = {row["method"]: row["utility_mean"] for row in results["summary"] if row["compute_weight"] == 0.1}
    assert names == ["oracle", *sorted(here.keys() - {"oracle"}, key=lambda name: -here[name])]
    assert "best gate" in text
    assert "▼" in text


def test_a_method_with_extra_inputs_is_marked_and_not_bold() -> None:
    methods = {"group_label": ("baseline", 0.03, 0.2), **SAMPLES["METHODS"]}
    text = printed(results_view(SAMPLES["sample_results"](methods)), styled=True)
    assert "\x1b[1mgroup_label" not in text
    assert "\x1b[1mwarm_exact_pg" in text
    assert "† uses extra inputs (group)" in text


def test_reused_trials_are_counted() -> None:
    results = SAMPLES["sample_results"]()
    assert "reused" not in printed(results_view(results))
    assert "12 trials reused" in printed(results_view(results | {"reused": 12}))
    assert "1 trial reused" in printed(results_view(results | {"reused": 1}))


def run(**changes: Any) -> dict[str, Any]:
    objective = {"compute_weight": 0.1, "load_weight": 0.0, "budget": None, "max_cost": None}
    means = {"utility": 0.5, "quality": 0.6, "compute": 0.4, "load_cv": 1.0, "drops": 0.3, "entropy": 0.1}
    facts = {"problem": {"name": "routing"}, "method": "m", "objective": objective, "experts": ["a", "b"]}
    return facts | {"test": {**means, "shares": [1.0, 0.0]}, "notes": [], "collapse": None} | changes


def test_a_run_in_trouble_says_so() -> None:
    trouble = {"problems": ["sends nearly everything to one expert"], "reasons": []}
    text = printed(evaluation_view(run(collapse=trouble)))
    assert "Warning: the router sends nearly everything to one expert." in text
    assert "- none of the reasons that are checked applies" in text
    right = {"problems": [], "reasons": ["no collapse: the oracle, too"]}
    text = printed(evaluation_view(run(collapse=right)))
    assert "Warning" not in text
    assert "- no collapse: the oracle, too" in text
    assert "Warning" not in printed(evaluation_view(run()))


def test_a_routing_run_shows_its_objective_means_and_shares() -> None:
    text = printed(evaluation_view(run()))
    assert "quality - 0.1 x compute" in text
    assert "test quality" in text
    assert "100.0%" in text
    assert "dropped" not in text
    assert "entropy" not in text
    objective = {"compute_weight": 0.1, "load_weight": 0.2, "budget": 0.3, "max_cost": 0.9}
    text = " ".join(printed(evaluation_view(run(objective=objective))).split())
    assert "quality - 0.2 x load, mean compute at most 0.3, no expert above 0.9" in text


def test_a_run_of_several_cases_without_objective_or_shares() -> None:
    cases = [
        {"label": f"load {load:g}", "values": {"load": load}, "test": {"utility": load, "missed": 0.25}}
        for load in (0.5, 0.9)
    ]
    test = {"utility": 0.5, "missed": 0.25, "shares": None}
    text = printed(evaluation_view(run(problem={"name": "queueing"}, objective=None, cases=cases, test=test)))
    assert "queueing" in text
    assert "objective" not in text
    assert "objective" not in printed(evaluation_view(run(cases=cases)))  # each case has its own
    lines = [line.split() for line in text.splitlines() if line.startswith("Load") or " Load" in line]
    assert [line[-2:] for line in lines] == [["0.5000", "0.2500"], ["0.9000", "0.2500"]]
    one = printed(
        evaluation_view(run(problem={"name": "queueing"}, objective=None, cases=cases[:1], test=test))
    )
    assert "load 0.5" in one
    assert "test missed" in one


def test_paths_show_the_report_the_curves_and_the_router(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert paths_of({"out": place, "router": f"{place}/router"}) == [
        f"report {place}/report.html",
        f"trials {place}/trials",
        f"router {place}/router",
    ]
    assert paths_of({"run": place, "router": None}) == [f"run    {place}"]
    (tmp_path / "tensorboard").mkdir()
    lines = paths_of({"run": place, "router": "router"})
    assert lines[1:] == [f"curves tensorboard --logdir {place}/tensorboard", f"router {place}/router"]
    (tmp_path / "wandb" / "offline-run-1-a").mkdir(parents=True)
    assert paths_of({"out": place})[1:3] == [
        f"curves tensorboard --logdir {place}/tensorboard",
        f"curves wandb sync {place}/wandb/offline-run-*",
    ]


def test_facts_leave_paths_and_missing_values_out() -> None:
    text = printed(
        facts_view({"rows": 3, "none": None, "out": "a/b", "means": {"a": 0.123456}, "list": [1, 2]})
    )
    assert [line.split() for line in text.splitlines()] == [
        ["rows", "3"],
        ["means", "a", "0.1235"],
        ["list", "1,", "2"],
    ]


@pytest.mark.parametrize("total", [10, 200])
def test_progress_without_a_terminal_prints_every_tenth(total: int) -> None:
    written = io.StringIO()
    with progress_of("trials", Console(file=written, width=80)) as update:
        for done in range(total + 1):
            update(done, total, "ppo, seed 0 (reused)")
    lines = written.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == f"{total}/{total} trials: ppo, seed 0 (reused)"
