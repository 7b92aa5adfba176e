"""A run of one of several cases, the case that it takes, and the commit and prices that are written down."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_methods
from toy_methods import disagreeing_table

from router_rl import Objective, RoutingProblem
from router_rl.studies import results
from router_rl.studies.add_expert import Extension
from router_rl.studies.run_difference import _result
from router_rl.studies.runs import train_run


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_problem_with_several_cases_is_trained_in_its_middle_case(tmp_path: Path, count: int) -> None:
    weights = [0.1, 0.2, 0.3, 0.4, 0.5][:count]
    problem = RoutingProblem(disagreeing_table(), [Objective(compute_weight=each) for each in weights])
    with toy_methods.installed():
        facts = train_run(problem, "toy_gate_one", tmp_path).facts
    middle = {2: 0.1, 3: 0.2, 5: 0.3}[count]
    (note,) = [each for each in facts["notes"] if each.startswith("trained at")]
    assert note.startswith(f"trained at compute weight {middle} only; select compute weight ")
    assert facts["objective"]["compute_weight"] == middle


def test_a_run_of_the_only_case_has_no_note_on_cases(tmp_path: Path) -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    with toy_methods.installed():
        facts = train_run(problem, "toy_gate_one", tmp_path).facts
    assert not [each for each in facts["notes"] if each.startswith("trained at")]


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkout around the file there is none, whatever the working directory is."""
    file = tmp_path / "checkout" / "package" / "studies" / "results.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(results, "__file__", str(file))
    assert results._commit() is None
    root = tmp_path / "checkout"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    commit = ["git", "-C", str(root), *identity, "commit", "--quiet", "--allow-empty", "-m", "x"]
    subprocess.run(commit, check=True)
    head = ["git", "-C", str(root), "rev-parse", "HEAD"]
    full = subprocess.run(head, check=True, capture_output=True, text=True).stdout
    found = results._commit()
    assert found is not None
    assert full.startswith(found)


def test_a_new_expert_is_priced_in_the_cost_of_the_table() -> None:
    """Utility per unit of cost; a budget has no price of its own."""
    priced: Any = SimpleNamespace(
        _objective=lambda: Objective(compute_weight=0.1), run=SimpleNamespace(scale=4.0)
    )
    assert Extension._price(priced) == pytest.approx(0.1 / 4.0)
    priced._objective = lambda: Objective(budget=0.3)
    assert Extension._price(priced) == 0.0


def test_costs_of_two_units_are_not_compared() -> None:
    def outcome(cost: float) -> Any:
        return SimpleNamespace(method="knn", case="c", utility="u", test={"utility": 0.5, "cost": cost})

    def entry(unit: str) -> Any:
        return SimpleNamespace(cost_unit=unit, utility="u")

    rows = ((), ())
    both = _result(outcome(1.0), outcome(3.0), (entry("usd"), entry("usd")), rows, "unpaired")
    assert both["cost_unit"] == "usd"
    assert {row["name"]: row["difference"] for row in both["means"]}["cost"] == 2.0
    other = _result(outcome(1.0), outcome(3.0), (entry("usd"), entry("flops")), rows, "unpaired")
    assert other["cost_unit"] is None
    assert [row["name"] for row in other["means"]] == ["utility"]
