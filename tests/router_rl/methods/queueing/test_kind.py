"""Queues through `compare --env` and `train --env`, what they leave, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

import train_router
from experts import InputError
from router_rl.methods.environments import problem_of
from router_rl.methods.queueing import methods
from router_rl.methods.queueing.index_rule import IndexHyperparameters
from router_rl.methods.queueing.kind import QUEUEING
from router_rl.methods.queueing.rollout_iteration import RolloutHyperparameters
from router_rl.problems.queueing.problem import DEFAULTS, prepare
from router_rl.routing import LiveQueues, load

OPTIONS = ["--options.loads", "[0.7]", "--options.episodes", "4", "--options.window", "40"]


@pytest.fixture
def quick(monkeypatch):
    """Search little, so that a fit takes a moment."""
    index = IndexHyperparameters(candidates=8, lanes=2, validation_lanes=4, rounds=1)
    settings = RolloutHyperparameters(index=index, rounds=1, states=16, lanes=8, follow=8, validation_lanes=4)
    monkeypatch.setattr(methods, "_TRIES", (settings,))
    monkeypatch.setattr("router_rl.problems.queueing.problem.IndexHyperparameters", lambda terms: index)


def test_compare_writes_results_and_a_report_with_queues_over_time(tmp_path, quick, capsys):
    out = tmp_path / "compare"
    names = "rollout_iteration,index_rule_late,least_wait,round_robin"
    words = ["compare", "--env", "queueing", "--methods", names, "--out", str(out), "--seeds", "2", *OPTIONS]
    assert train_router.main(words) == 0
    assert "index_rule_late" in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    assert {row["method"] for row in found["rows"]} == {*names.split(","), "random", "best_single"}
    for row in found["rows"]:
        assert row["p50_s"] <= row["p95_s"] <= row["p99_s"]
        assert 0.0 <= row["missed"] <= 1.0
        assert row["load"] == 0.7
    rules = [row for row in found["rows"] if row["method"] == "least_wait" and row["split"] == "test"]
    assert rules[0]["utility"] == rules[1]["utility"]  # a rule knows no seed
    page = (out / "report.html").read_text()
    assert "Queues over time" in page
    assert "cheap-generalist" in page
    assert page.count("<svg") == 1


def test_train_leaves_a_policy_that_serves_live(tmp_path, quick):
    out = tmp_path / "run"
    words = ["train", "--env", "queueing", "--method", "rollout_iteration", "--out", str(out), *OPTIONS]
    assert train_router.main(words) == 0
    queues = LiveQueues(load(out / "policy"))
    idle = [0] * 7
    found = queues.route(torch.zeros(64), 0.0, waiting=idle, taken=idle, deadline_s=1.0)
    assert found.experts.shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lodes": [0.5]}, "did you mean 'loads'"),
        ({"loads": "much"}, "are not numbers"),
        ({"loads": []}, "are none, or stand twice"),
        ({"loads": [0.5], "episodes": 1}, "give no interval"),
        ({"arrivals": "gone.parquet"}, "no such file"),
        ({"batch_slope": 3.0}, "is no share"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        problem_of(QUEUEING, None, options)


def test_a_policy_can_be_tested_on_another_trace():
    problem = prepare(None, {**DEFAULTS, "loads": [0.5], "test_arrivals": "bursts", "window": 300})
    task = problem.tasks[0.5]
    spread = {
        split: float(task.core(split, 20).state.episodes.arrival.diff(dim=1).std())
        for split in ("validation", "test")
    }
    assert spread["test"] > 1.2 * spread["validation"]
