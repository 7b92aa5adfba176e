"""The whole benchmark in a few seconds, and the form of what it says."""

from __future__ import annotations

import json

import pytest

import train_router
from router_rl.bench.goals import goals_of
from router_rl.bench.learner_clock import spread
from router_rl.bench.learner_table import markdown
from router_rl.bench.learners import LEARNERS

ROW = {"median": None, "quartiles": [None, None]}


def test_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_router.main(["bench", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"schema_version", "machine", "plan", "tables", "transitions", "scaling"}
    (table,) = found["tables"]
    names = [learner.name for learner in LEARNERS]
    assert [row["learner"] for row in table["pace"]] == ["bare", *names]
    assert all(row["median"] > 0 for row in table["pace"])
    assert [row["learner"] for row in table["reach"]] == names
    assert table["best_single"] < table["reference"] < table["tuned"]
    assert [set(goal) for goal in table["goals"]] == [{"goal", "target", "found", "at_least", "met"}] * 4
    (cell,) = found["scaling"]
    assert 0 < cell["before_mib"] <= cell["peak_mib"]
    assert {row["env"] for row in found["transitions"]} >= {"routing", "cascade", "queueing", "caching"}
    assert all(row["per_second"] > 0 < row["sb3_ppo_per_second"] for row in found["transitions"])
    text = markdown(found)
    for word in (*names, "bare", "met", "1,000", "queueing"):
        assert word in text
    train_router.out.print(train_router.COMMANDS["bench"].view(found))
    assert "sb3_ppo_large" in capsys.readouterr().out


def test_spread_keeps_what_was_not_reached() -> None:
    never = float("inf")
    assert spread([1.0, never, never]).median is None
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]).median == 3.0


def test_goals_by_hand() -> None:
    speedups = {"router_ppo": 41.0, "reinforce": None, "exact_pg": 99.0}
    table = {
        "pace": [{"learner": "exact_pg", "median": 80.0}, {"learner": "bare", "median": 100.0}],
        "reach": [
            {"learner": name, **ROW, "speedup": ratio, "at_least": False} for name, ratio in speedups.items()
        ],
        "sweep": {"gate_s": 2.0, "warm_to_best_s": 4.0},
    }
    assert [(goal.found, goal.met) for goal in goals_of(table)] == [
        (99.0, False),
        (41.0, True),
        (0.8, True),
        (0.5, False),
    ]
