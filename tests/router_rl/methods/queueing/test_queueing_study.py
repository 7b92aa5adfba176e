"""Queues through studies: results, parallel processes, resumed runs, changed data, live serving."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.fit import fit
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing import LiveQueues, Router, load
from router_rl.studies.compare import compare
from router_rl.studies.runs import train_run

FEW = {"loads": (0.7,), "episodes": 4, "window": 24}
SEARCH = {"candidates": 8, "lanes": 2, "validation_lanes": 4, "iterations": 1}
QUICK = {"index": SEARCH, "iterations": 2, "states": 16, "lanes": 8, "horizon": 8, "validation_lanes": 4}
RULES = ["least_wait", "power_of_two", "round_robin", "static_gate"]


def rows_of(study):
    """The rows without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if name != "fit_seconds"} for row in study.results["rows"]
    ]


def test_a_comparison_has_the_rival_the_response_times_the_shares_and_a_figure(table, tmp_path):
    problem = QueueingProblem(table, **FEW)
    study = compare(problem, ["index_rule_late", *RULES], seeds=2, n_trials=1, out=tmp_path)
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in kept["rows"]} == {"index_rule_late", *RULES, "random", "best_single"}
    for row in kept["rows"]:
        assert row["load"] == 0.7
        assert row["p50_s"] <= row["p95_s"] <= row["p99_s"]
        assert 0.0 <= row["missed"] <= 1.0
        assert sum(row["shares"]) == pytest.approx(1.0)
    for row in study.summary:
        rival = row["paired_difference_to_rival"]
        assert rival is None if row["method"] == "index_rule_late" else rival["method"] == "index_rule_late"
    utility = {(row["method"], row["seed"]): row["utility"] for row in kept["rows"] if row["split"] == "test"}
    assert utility["least_wait", 0] == utility["least_wait", 1]  # nothing random enters it
    assert utility["random", 0] != utility["random", 1]
    figures = {figure["method"]: figure for figure in kept["figures"]}
    assert set(RULES) <= set(figures)
    assert figures["least_wait"]["form"] == "queue_timeline"
    assert len(figures["least_wait"]["data"]["seen"]) == 24


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(table):
    problem = QueueingProblem(table, **FEW)
    names = ["index_rule", "power_of_two"]
    one, two = (compare(problem, names, seeds=2, n_trials=1, jobs=jobs) for jobs in (1, 2))
    assert rows_of(one) == rows_of(two)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_comparison_resumes_and_fits_what_is_missing(table, tmp_path):
    problem = QueueingProblem(table, **FEW)
    first = compare(problem, RULES, seeds=1, n_trials=1, out=tmp_path)
    again = compare(problem, RULES, seeds=2, n_trials=1, out=tmp_path)
    assert (first.reused, again.reused) == (0, 6)
    assert [row for row in rows_of(again) if row["seed"] == 0] == rows_of(first)


@pytest.mark.slow
@pytest.mark.parametrize(("states", "seed", "improves"), [(32, 6, False), (64, 3, True)])
def test_an_interrupted_fit_resumes_after_its_last_iteration(table, tmp_path, states, seed, improves):
    problem = QueueingProblem(table, **FEW)
    options = {"seed": seed, "hyperparameters": {**QUICK, "states": states, "guard": 0.0}}
    expected, reported = [], []

    def record(snapshot):
        expected.append((snapshot.step, snapshot.best))

    def interrupt(snapshot):
        reported.append((snapshot.step, snapshot.best))
        if len(reported) == 1:
            raise KeyboardInterrupt

    whole = train_run(problem, "rollout_iteration", tmp_path / "whole", **options, callback=record)
    assert whole.policy.scorer.prices.any()
    assert (expected[1][1] > expected[0][1]) == improves

    with pytest.raises(KeyboardInterrupt):
        train_run(problem, "rollout_iteration", tmp_path / "resumed", **options, callback=interrupt)
    resumed = train_run(problem, "rollout_iteration", tmp_path / "resumed", **options, callback=interrupt)
    assert reported == expected
    assert resumed.facts["test"] == whole.facts["test"]
    for name, weight in whole.policy.state_dict().items():
        assert torch.equal(weight, resumed.policy.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_another_table_at_the_same_path_gives_other_rows(make_table, tmp_path):
    path = tmp_path / "table.parquet"
    studies = []
    for seed in (0, 1):
        make_table(seed=seed).write(path)
        problem = QueueingProblem(OutcomeTable.read(path), **FEW)
        studies.append(compare(problem, RULES, seeds=1, n_trials=1, out=tmp_path / "study"))
    assert studies[1].reused == 0
    assert rows_of(studies[0]) != rows_of(studies[1])


@pytest.mark.usefixtures("no_report")
def test_another_trace_at_the_same_path_gives_other_rows(table, tmp_path):
    path = tmp_path / "trace.parquet"
    studies = []
    for shape in (1.0, 0.1, 0.1):
        gaps = np.random.default_rng(0).gamma(shape, size=400)
        pq.write_table(pa.table({"arrival_s": gaps.cumsum()}), path)
        problem = QueueingProblem(table, arrivals=str(path), **FEW)
        studies.append(compare(problem, ["least_wait"], seeds=1, n_trials=1, out=tmp_path / "study"))
    assert [study.reused for study in studies] == [0, 0, 3]
    assert rows_of(studies[0]) != rows_of(studies[1])
    assert rows_of(studies[1]) == rows_of(studies[2])


def test_the_trained_router_is_saved_measured_again_and_serves_live_queues(table, tmp_path):
    problem = QueueingProblem(table, **FEW)
    run = train_run(problem, "rollout_iteration", tmp_path, hyperparameters=QUICK)
    router = load(tmp_path / "router")
    assert isinstance(router, Router)
    measured = problem.evaluate(router, "test").means()
    assert measured == pytest.approx({name: run.facts["test"][name] for name in measured}, abs=1e-6)
    core = problem.core("test", problem.case, lanes=1, seed=3)
    queues = LiveQueues(router)
    live, simulated = [], []
    for step in range(24):
        observation = core.observation()
        waiting, taken, down = observation[0, 2:11].reshape(3, 3).tolist()
        deadline = float(core.state.episodes.deadline[0, step])
        routing = queues.route(
            observation[0, :2], float(core.now), waiting=waiting, taken=taken, down=down, deadline_s=deadline
        )
        live.append(int(routing.experts[0, 0]))
        simulated.append(int(router.act(observation)))
        core.step(torch.tensor(simulated[-1:]))
    assert live == simulated
    assert len(set(live)) > 1


def test_a_static_gate_of_routing_is_a_policy_and_can_be_exported(table, tmp_path):
    problem = QueueingProblem(table, **FEW)
    gate = fit("softmax_gate", problem)
    assert gate.state == ()
    run = train_run(problem, "softmax_gate", tmp_path)
    assert problem.evaluate(gate, "test").means() == pytest.approx(
        problem.evaluate(run.router, "test").means(), abs=1e-6
    )
