"""Who takes a table with missing training outcomes, who refuses it with the count, and what is learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environment_tables import made_cascade, topics
from routing_methods import METHODS

import train_router
from experts import InputError, OutcomeTable
from router_rl import CachingProblem, CascadeProblem, Objective, QueueingProblem, SessionProblem, fit
from router_rl.methods.registry import methods_of
from router_rl.problems.routing.problem import RoutingProblem

OBJECTIVE = Objective(compute_weight=0.05)
TAKERS = [name for name, method in METHODS.items() if method.sparse]
CLOSED = ("ridge", "knn", "kernel", "cluster", "centroid", "boosted_trees", "group_label", "inferred_group")
READS_NOTHING = ("random", "hash")


def hidden(table: OutcomeTable, share: float = 0.6, seed: int = 0) -> OutcomeTable:
    """The table without a share of its training outcomes."""
    random = np.random.default_rng(seed)
    missing = random.random(table.quality.shape) < share
    missing[np.arange(len(table)), random.integers(0, len(table.experts), len(table))] = False
    missing[table.split != "train"] = False
    known = np.where(missing, np.float32(np.nan), np.float32(1))
    return replace(
        table, quality=table.quality * known, cost=table.cost * known, probabilities=None, label=None
    )


@pytest.fixture(scope="module")
def sparse(kinds: OutcomeTable) -> OutcomeTable:
    return hidden(kinds)


def test_the_methods_that_take_it() -> None:
    assert set(TAKERS) == {
        *CLOSED,
        *READS_NOTHING,
        *("best_single", "zero_router", "softmax_gate", "em_gate"),
        *("exact_pg", "warm_exact_pg", "conditioned_pg", "priced_pg"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [name for name in TAKERS if name not in (*READS_NOTHING, "best_single", "zero_router")]
)
def test_it_learns_from_a_table_with_three_of_five_outcomes_missing(
    kinds: OutcomeTable, sparse: OutcomeTable, method: str
) -> None:
    # The specialist of each kind earns .979 on average; the best single expert .65.
    problem = RoutingProblem(sparse, OBJECTIVE)
    router = fit(method, problem, n_trials=4 if method == "cluster" else 1)
    full = RoutingProblem(kinds, OBJECTIVE)
    assert full.evaluate(router, "test").means()["utility"] > 0.9


@pytest.mark.parametrize("method", [*CLOSED, *READS_NOTHING, "best_single", "zero_router"])
def test_its_router_is_whole(sparse: OutcomeTable, method: str) -> None:
    problem = RoutingProblem(sparse, OBJECTIVE)
    router = fit(method, problem)
    assert not any(bool(each.isnan().any()) for each in router.parameters())
    assert np.isfinite(problem.evaluate(router, "test").utility).all()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in TAKERS])
def test_the_others_refuse_with_the_count(sparse: OutcomeTable, method: str) -> None:
    problem = RoutingProblem(sparse, OBJECTIVE)
    missing, total = problem.missing_outcomes
    with pytest.raises(
        InputError, match=rf"method='{method}': needs every .*{missing:,} of {total:,} outcomes"
    ):
        fit(method, problem)
    with pytest.raises(
        InputError, match=rf"methods='{method}': needs every .*{missing:,} of {total:,} outcomes"
    ):
        methods_of(problem, [method])
    assert method not in {each.name for each in methods_of(problem, None)}


def test_a_start_that_refuses_is_refused(sparse: OutcomeTable) -> None:
    with pytest.raises(InputError, match=r"method.start='guarded_knn': needs every training outcome"):
        fit("warm_exact_pg", RoutingProblem(sparse, OBJECTIVE), hyperparameters={"start": "guarded_knn"})


@pytest.mark.parametrize(
    ("problem", "table"),
    [
        (CascadeProblem, made_cascade),
        (QueueingProblem, topics),
        (CachingProblem, topics),
        (SessionProblem, topics),
    ],
)
def test_other_problems_refuse_with_the_count(problem: Any, table: Callable[[], OutcomeTable]) -> None:
    sparse = hidden(table(), 0.3)
    count = f"{sparse.missing:,} of {sparse.quality.size:,} outcomes are missing"
    with pytest.raises(InputError, match=rf"{count} .* and {problem.name} needs them all; use --env routing"):
        problem(sparse)


def test_routing_refuses_incomplete_rows_that_are_not_for_training(kinds: OutcomeTable) -> None:
    for name in ("validation", "test"):
        quality, cost = np.array(kinds.quality), np.array(kinds.cost)
        rows = np.flatnonzero(kinds.split == name)
        quality[rows[:3], 0] = cost[rows[:3], 0] = np.nan
        table = replace(kinds, quality=quality, cost=cost, probabilities=None, label=None)
        with pytest.raises(
            InputError, match=rf"split='{name}': 3 of {len(rows)} rows lack the outcome of some"
        ):
            RoutingProblem(table, OBJECTIVE)


def test_bandit_feedback_needs_all_outcomes(sparse: OutcomeTable) -> None:
    with pytest.raises(InputError, match=r"problem.feedback='bandit': is simulated .* outcomes are missing"):
        RoutingProblem(sparse, OBJECTIVE, feedback="bandit")


def test_a_problem_says_what_is_missing_and_keeps_what_is_known(
    kinds: OutcomeTable, sparse: OutcomeTable
) -> None:
    problem, full = RoutingProblem(sparse, OBJECTIVE), RoutingProblem(kinds, OBJECTIVE)
    missing, total = problem.missing_outcomes
    assert (missing, total) == (sparse.missing, sparse.part("train").quality.size)
    (note,) = (note for note in problem.notes if note.startswith("sparse table"))
    assert f"{missing:,} of {total:,} outcomes are missing" in note
    assert not any(note.startswith("sparse table") for note in full.notes)
    assert full.missing_outcomes == (0, full.train.quality.size)
    assert full.train is full.logged
    assert problem.digest() != full.digest()
    assert problem.test_rows() == full.test_rows()  # results can be paired
    assert problem.train.missing == 0 < problem.logged.missing
    mean = np.nanmean(problem.logged.cost, axis=0, dtype=np.float64).max()
    assert problem.scale == pytest.approx(mean)  # a missing cost is not a cost of 0
    hierarchical = RoutingProblem(sparse, OBJECTIVE, "hierarchical")
    assert fit("ridge", hierarchical).rule.name == "hierarchical"


def test_folds_of_a_sparse_table_keep_what_is_missing(sparse: OutcomeTable) -> None:
    problem = RoutingProblem(sparse, OBJECTIVE)
    rows = len(problem.train)
    folds = [(np.arange(rows // 2, rows), np.arange(rows // 2))]
    for part, away in problem.folds(folds):
        assert part.missing_outcomes == (part.logged.missing, part.logged.quality.size)
        assert part.logged.missing > 0 == part.train.missing == away.missing


@pytest.mark.slow
def test_commands_state_the_count(
    sparse: OutcomeTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse.write(tmp_path / "t.parquet")
    count = f"{sparse.missing:,} of {sparse.part('train').quality.size:,} outcomes are missing"
    table = ("--table", str(tmp_path / "t.parquet"))
    few = ("--seeds", "1", "--n-trials", "1", "--compute-weights", "0.1")
    words = ["compare", *table, "--methods", "ridge,knn", *few, "--out", str(tmp_path / "c")]
    assert train_router.main(words) == 0
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert any(count in note for note in results["notes"])
    assert count in (tmp_path / "c" / "report.html").read_text()
    assert {row["method"] for row in results["rows"]} >= {"ridge", "knn", "oracle", "group_label"}
    assert "guarded_knn" not in {row["method"] for row in results["rows"]}
    capsys.readouterr()
    run = ("--out", str(tmp_path / "r"))
    assert train_router.main(["train", *table, "--method", "ridge", *run]) == 0
    assert count in " ".join(capsys.readouterr().out.split())
    assert train_router.main(["evaluate", str(tmp_path / "r"), *table]) == 0
    assert count in " ".join(capsys.readouterr().out.split())
    ask = ("--suggest", "20", "--out", str(tmp_path / "ask.jsonl"))
    assert train_router.main(["add-expert", str(tmp_path / "r"), *table, *ask]) != 0
    assert "adding an expert needs them all" in " ".join(capsys.readouterr().err.split())
    assert train_router.main(["train", *table, "--method", "ppo", *run]) != 0
    assert count in " ".join(capsys.readouterr().err.split())
    assert train_router.main(["compare", "--env", "cascade", *table, "--out", str(tmp_path / "d")]) != 0
    assert "outcomes are missing" in " ".join(capsys.readouterr().err.split())
