"""A run judged by a log: the estimates, the truth beside them, and what a log cannot judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog, epsilon_greedy, log_decisions
from router_rl import Objective, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard
from router_rl.studies.evaluate_log import evaluate_log, evaluate_router_log, policy_of
from router_rl.studies.runs import TrainedRun, train_run

OBJECTIVE = Objective(compute_weight=0.05)


@pytest.fixture(scope="module")
def run(kinds: OutcomeTable, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    task = RoutingProblem(kinds, OBJECTIVE, Hard(), feedback="bandit")
    return train_run(task, "ridge", tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def log(kinds: OutcomeTable) -> DecisionLog:
    return log_decisions(kinds, np.full((len(kinds), 4), 0.25), seed=0)


def test_the_run_says_what_it_learned_from(run: TrainedRun) -> None:
    assert run.facts["problem"]["options"]["feedback"] == "bandit"
    assert run.facts["problem"]["options"]["log"] == {"epsilon": 1.0, "clip": None, "seed": 0}
    assert any(note.startswith("bandit feedback") for note in run.facts["notes"])


def test_a_log_alone_and_with_a_table(kinds: OutcomeTable, run: TrainedRun, log: DecisionLog) -> None:
    alone = evaluate_log(run, log, None)["off_policy"]
    assert alone["decisions"] == len(kinds)
    assert alone["truth"] is None
    with_table = evaluate_log(run, replace(log, features=None), kinds.part("test"))["off_policy"]
    assert with_table["decisions"] == len(kinds.part("test"))
    assert with_table["truth"] == pytest.approx(run.facts["test"]["utility"], abs=1e-6)
    for name in ("ips", "snips", "dr"):
        low, high = with_table[name]["ci95"]
        assert low < with_table["truth"] < high


def test_a_routers_own_log_gives_its_mean(kinds: OutcomeTable, run: TrainedRun) -> None:
    test = kinds.part("test")
    assert test.features is not None
    own = log_decisions(test, policy_of(run.router, test.features), seed=0)
    found = evaluate_log(run, own, test)["off_policy"]
    assert found["effective_sample_size"] == pytest.approx(len(test))
    for name in ("ips", "snips"):
        assert found[name]["mean"] == pytest.approx(found["truth"], abs=1e-6)


def test_the_policy_of_a_random_router_is_even(kinds: OutcomeTable) -> None:
    assert kinds.features is not None
    np.testing.assert_allclose(
        policy_of(fit("random", RoutingProblem(kinds, OBJECTIVE)), kinds.features), 0.25
    )


def test_what_a_log_cannot_judge(kinds: OutcomeTable, run: TrainedRun, log: DecisionLog) -> None:
    assert kinds.features is not None
    with pytest.raises(InputError, match="log=600: has no features"):
        evaluate_log(run, replace(log, features=None), None)
    with pytest.raises(InputError, match="none of its queries is in these rows"):
        evaluate_log(run, replace(log, query_id=np.array(["other"] * len(log))), kinds)
    loaded: dict[str, Any] = {**run.facts["objective"], "load_weight": 0.1}
    with pytest.raises(InputError, match="load depends on earlier decisions"):
        evaluate_log(replace(run, facts={**run.facts, "objective": loaded}), log, None)
    with pytest.raises(InputError, match="the router selects 2"):
        policy_of(fit("ridge", RoutingProblem(kinds, OBJECTIVE, select="topk")), kinds.features)
    with pytest.raises(InputError, match="log='group': the router has inputs beside the features"):
        policy_of(fit("group_label", RoutingProblem(kinds, OBJECTIVE)), kinds.features)


def test_a_log_without_propensities_is_refused(run: TrainedRun, log: DecisionLog) -> None:
    nothing = np.full(len(log), np.nan)
    with pytest.raises(InputError, match=r"600 without propensity; log the probability .*serve --explore"):
        evaluate_log(run, replace(log, propensity=nothing), None)
    with pytest.raises(InputError, match=r"600 without quality; post scores to /v1/outcomes"):
        evaluate_log(run, replace(log, quality=nothing), None)


def test_decisions_that_cannot_be_used_are_left_out_and_counted(run: TrainedRun, log: DecisionLog) -> None:
    quality = log.quality.copy()
    quality[::3] = np.nan
    found = evaluate_log(run, replace(log, quality=quality), None)
    assert found["off_policy"]["decisions"] == 400
    assert "200 of 600 decisions are without" in found["notes"][-1]
    kept = evaluate_log(run, log.take(np.flatnonzero(~np.isnan(quality))), None)
    assert kept["off_policy"] == found["off_policy"]


def test_quality_and_cost_are_estimated_beside_utility(
    kinds: OutcomeTable, run: TrainedRun, log: DecisionLog
) -> None:
    found = evaluate_log(run, log, kinds)["off_policy"]
    for name in ("quality", "cost"):
        part = found[name]
        low, high = part["dr"]["ci95"]
        assert low < part["truth"] < high
        assert part["logged"]["mean"] == pytest.approx(float(getattr(log, name).mean()), rel=1e-5)
        difference = part["dr"]["mean"] - part["logged"]["mean"]
        assert part["difference"]["mean"] == pytest.approx(difference)


def test_an_exported_router_has_no_utility(run: TrainedRun, log: DecisionLog) -> None:
    alone = evaluate_router_log(run.folder / "router", run.router, log, None)
    assert "ips" not in alone["off_policy"]
    of_run = evaluate_log(run, log, None)["off_policy"]
    assert alone["off_policy"]["quality"] == of_run["quality"]
    assert alone["off_policy"]["effective_sample_size"] == of_run["effective_sample_size"]


def test_a_usual_expert_and_its_log(kinds: OutcomeTable, run: TrainedRun, tmp_path: Path) -> None:
    """An epsilon-greedy log goes to disk and back, and says less of a router that departs from it."""
    policy = epsilon_greedy(np.full(len(kinds), 3), 4, 0.2)
    log_decisions(kinds, policy, seed=1).write(tmp_path / "log.parquet")
    found = evaluate_log(run, DecisionLog.read(tmp_path / "log.parquet", kinds.experts), kinds)["off_policy"]
    assert found["effective_sample_size"] < 0.25 * len(kinds)
    assert found["dr"]["ci95"][0] < found["truth"] < found["dr"]["ci95"][1]


def test_a_conditioned_router_is_judged_at_its_objective(
    kinds: OutcomeTable, log: DecisionLog, tmp_path: Path
) -> None:
    task = RoutingProblem(kinds, OBJECTIVE, Hard())
    run = train_run(task, "conditioned_pg", tmp_path / "run", hyperparameters={"epochs": 2})
    found = evaluate_log(run, log, kinds.part("test"))["off_policy"]
    assert found["truth"] == pytest.approx(run.facts["test"]["utility"], abs=1e-6)
