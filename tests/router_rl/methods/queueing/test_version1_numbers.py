"""Every method earns what it earned in version 1, with one hyperparameter setting and the same seeds.

`version1_numbers.json` was written by version 1 (commit 1db48b5) on the table of `conftest.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_rl.methods.fit import fit
from router_rl.methods.registry import method_names
from router_rl.problems.objective import Objective
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.studies.compare import compare

NUMBERS = json.loads((Path(__file__).parent / "version1_numbers.json").read_text(encoding="utf-8"))


def test_every_row_of_a_comparison_is_version_1s(table):
    problem = QueueingProblem(table, loads=(0.6, 0.9), episodes=4, window=32)
    names = [name for name in method_names("queueing") if name != "ppo"]
    rows = compare(problem, names, seeds=2, n_trials=1).results["rows"]
    utility = {(row["method"], row["case"], row["seed"], row["split"]): row["utility"] for row in rows}
    expected = {tuple(key): value for *key, value in NUMBERS["plain"]}
    assert utility.keys() == expected.keys()
    for key, value in expected.items():
        assert utility[key] == pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("expected", NUMBERS["hard"], ids=lambda each: f"{each['method']}-{each['seed']}")
def test_batches_classes_outages_and_a_budget_are_version_1s(table, expected):
    problem = QueueingProblem(
        table,
        Objective(compute_weight=0.02),
        loads=(0.8,),
        episodes=4,
        test_arrivals="bursts",
        window=32,
        batch=2,
        deadlines=(1.0, 4.0),
        values=(2.0, 0.5),
        shares=(0.3, 0.7),
        mean_up=30.0,
        mean_repair=5.0,
        budget=0.3,
        overspend_weight=5.0,
        miss_weight=0.1,
    )
    expected = dict(expected)
    method, seed, split = (expected.pop(name) for name in ("method", "seed", "split"))
    measured = problem.evaluate(fit(method, problem, seed=seed), split)
    assert measured.means() == pytest.approx(expected, abs=1e-6)
