"""Rules without anything to tune earn on test episodes what they earned in version 1.

Tuned rules and learners do not: since then, half of the validation rows select hyperparameters.

`version1_numbers.json` was written by version 1 (commit 1db48b5) on the table of `conftest.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router_rl.methods.fit import fit
from router_rl.problems.objective import Objective
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.studies.compare import compare

NUMBERS = json.loads((Path(__file__).parent / "version1_numbers.json").read_text(encoding="utf-8"))


FIXED = ("least_wait", "shortest_queue", "power_of_two", "round_robin", "random", "best_single")


@pytest.mark.slow
def test_every_row_of_a_comparison_is_version_1s(table):
    problem = QueueingProblem(table, loads=(0.6, 0.9), episodes=4, window=32)
    rows = compare(problem, FIXED, seeds=2, n_trials=1).results["rows"]
    utility = {
        (row["method"], row["case"], row["seed"]): row["utility"] for row in rows if row["split"] == "test"
    }
    expected = {
        tuple(key[:3]): value for *key, value in NUMBERS["plain"] if key[0] in FIXED and key[3] == "test"
    }
    assert utility.keys() == expected.keys()
    for key, value in expected.items():
        assert utility[key] == pytest.approx(value, abs=1e-6), key


HARD = [each for each in NUMBERS["hard"] if each["method"] in FIXED and each["split"] == "test"]


@pytest.mark.parametrize("expected", HARD, ids=lambda each: f"{each['method']}-{each['seed']}")
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
