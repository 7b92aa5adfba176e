"""Every number and word of the results of a small comparison, whose methods name the expert that they choose.

After a change on purpose, run this file with `--force-regen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_methods
from pytest_regressions.data_regression import DataRegressionFixture

from experts import OutcomeTable
from router_rl import Objective, RoutingProblem, compare
from router_rl.studies.operating_target import Target

LEFT_OUT = (
    *("created", "versions", "commit", "command", "digest", "folder"),
    *("seconds", "fit_seconds", "fit_seconds_mean"),
)
METHODS = ["toy_gate_one", "toy_warm"]
WEIGHTS = (0.05, 0.1, 0.4)


def table() -> OutcomeTable:
    plain = toy_methods.disagreeing_table(cost=(0.001, 0.002, 0.003, 0.004, 0.005, 0.006))
    count = len(plain)
    return replace(
        plain,
        cost_unit="usd",
        prompt=np.array([f"prompt {row}" for row in range(count)], dtype=object),
        group=np.array([f"group {row % 2}" for row in range(count)], dtype=object),
    )


def stable(value: Any) -> Any:
    """Return results with five significant digits, without what depends on the machine or names a trial."""
    if isinstance(value, Mapping):
        return {str(name): stable(each) for name, each in value.items() if name not in LEFT_OUT}
    if isinstance(value, list | tuple):
        return [stable(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) > 1e-6 else 0.0
    return str(value) if isinstance(value, str) else value


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(RoutingProblem, "always", ("best_single", "oracle"))
    with toy_methods.installed():
        yield


def test_a_comparison_of_three_cases(tmp_path: Path, data_regression: DataRegressionFixture) -> None:
    objectives = [Objective(compute_weight=each) for each in WEIGHTS]
    results = compare(RoutingProblem(table(), objectives), METHODS, seeds=2, n_trials=2, out=tmp_path).results
    first, shown = results["cases"][0]["label"], ("best_single", *METHODS)
    for name in ("rows", "summary"):
        results[name] = [row for row in results[name] if row["case"] == first and row["method"] in shown]
    results["rows"] = [{**row, "router": None} for row in results["rows"]]
    results["frontier"] = {name: results["frontier"][name] for name in METHODS}
    results["queries"]["rows"] = results["queries"]["rows"][:3]
    results["figures"] = results["figures"][:2]
    data_regression.check(stable(results))


def test_a_comparison_with_a_target(data_regression: DataRegressionFixture) -> None:
    objectives = [Objective(compute_weight=each) for each in WEIGHTS]
    target = Target(budget_usd=4.0, save_at_least="20%")
    problem = RoutingProblem(table(), objectives)
    results = compare(problem, METHODS, seeds=2, n_trials=2, target=target).results
    data_regression.check(stable(results["recommendation"]))
