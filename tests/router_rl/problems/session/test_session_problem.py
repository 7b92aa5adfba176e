"""What a session problem takes from a table, and what it measures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from environment_tables import topics

from experts import InputError
from router_rl import Objective, SessionProblem
from router_rl.problems.problem import ActionPolicy

OPTIONS = {"episodes": 6, "window": 40, "turns": 6.0}


def by_topic(observation):
    """The expert of the topic answers."""
    return observation[:, :4].argmax(dim=-1)


def first_expert(observation):
    return torch.zeros(len(observation), dtype=torch.int64)


@pytest.fixture(scope="module")
def problem():
    return SessionProblem(topics(), **OPTIONS)


def test_the_cases_are_compute_weights(problem):
    assert [case.label for case in problem.cases] == ["compute weight 0.05", "compute weight 0.2"]
    card = problem.describe()
    assert card.environment == "RouterRL/Session-v0"
    assert card.facts["turns_median"] == pytest.approx(6, abs=1)
    assert card.facts["cost_unit"] == "unknown"
    assert SessionProblem(topics(), prices=(1, 2, 3, 4)).describe().facts["cost_unit"] == "usd"


def test_a_training_run_has_the_first_compute_weight_of_a_comparison():
    assert SessionProblem.compared_weights == (0.05, 0.2)
    assert SessionProblem.trained_weights == (0.05,)


def test_staying_has_no_switch_and_the_unit_is_its_cost(problem):
    case = problem.cases[1]
    stays = problem.evaluate(ActionPolicy(actions=first_expert), "test", case).means()
    assert stays["switched"] == 0.0
    assert stays["compute"] == pytest.approx(1.0, abs=0.1)  # all experts have one price: a turn costs 1
    assert stays["cache_hit"] == pytest.approx(problem.conversations("test").facts()["cacheable"], abs=0.04)
    assert stays["utility"] == pytest.approx(stays["quality"] - 0.2 * stays["compute"], abs=1e-6)


def test_switching_pays_for_the_context_again(problem):
    case = problem.cases[1]
    measured = problem.evaluate(ActionPolicy(actions=by_topic), "test", case)
    switches, stays = (
        measured.means(),
        problem.evaluate(ActionPolicy(actions=first_expert), "test", case).means(),
    )
    assert switches["quality"] > stays["quality"] + 0.2
    assert switches["switched"] == pytest.approx(0.1 * 0.75 * (1 - 1 / 6), abs=0.04)
    assert switches["missed_k"] > stays["missed_k"]
    assert switches["compute"] > stays["compute"]
    assert measured.utility.shape == (6,)
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)


def test_each_split_has_its_own_conversations_and_one_unit(problem):
    assert not np.array_equal(problem.conversations("train").turns, problem.conversations("test").turns)
    assert problem.rows("test").scale == problem.rows("train").scale == problem.scale
    assert problem.rows("test").prices.equal(problem.rows("train").prices)
    with pytest.raises(InputError, match="split='train': has no evaluation episodes"):
        problem.evaluate(ActionPolicy(actions=first_expert), "train", problem.cases[0])


@pytest.mark.slow
def test_the_digest_covers_the_table_the_options_and_the_trace(tmp_path):
    def trace(tokens):
        columns = {
            "arrival_s": [float(at) for at in range(16)],
            "tokens_in": [tokens] * 16,
            "tokens_out": [10] * 16,
            "hash_ids": [[0, 100 + at] for at in range(16)],
        }
        pq.write_table(pa.table(columns), tmp_path / "trace.parquet")
        return str(tmp_path / "trace.parquet")

    table = topics()
    base = SessionProblem(table, **OPTIONS).digest()
    assert SessionProblem(table, **OPTIONS).digest() == base
    flipped = replace(table, quality=1.0 - table.quality)
    assert SessionProblem(flipped, **OPTIONS).digest() != base
    assert SessionProblem(table, **OPTIONS, persistence=0.8).digest() != base
    one, other = (SessionProblem(table, **OPTIONS, sessions=trace(tokens)) for tokens in (700, 800))
    assert one.digest() != other.digest() != base
    assert one.conversations("train").turns.tolist() == [1] * 8
    assert len(one.conversations("test").turns) == 4


def test_a_copy_in_another_process_measures_the_same(problem):
    copy = pickle.loads(pickle.dumps(problem))
    case = problem.cases[0]
    policy = ActionPolicy(actions=by_topic)
    np.testing.assert_array_equal(
        copy.evaluate(policy, "test", case).utility, problem.evaluate(policy, "test", case).utility
    )


def test_other_conversations_and_prices_share_the_predictions(problem):
    other = problem.changed(turns=20.0, prices=(1.0, 2.0, 3.0, 4.0))
    assert other.chance is problem.chance
    assert other.conversations("test").facts()["turns_median"] == pytest.approx(20, abs=2)
    assert other.rows("test").prices[0, 3] == pytest.approx(4 * float(other.rows("test").prices[0, 0]))
    assert problem.conversations("test").facts()["turns_median"] == pytest.approx(6, abs=1)
    assert other.digest() != problem.digest()
    with pytest.raises(InputError, match=r"problem\.sessions='trace.parquet': belongs to the table"):
        problem.changed(sessions="trace.parquet")


def test_mistakes_are_named():
    for changes, name in (
        ({"turns": 0.0}, "problem.turns"),
        ({"cached_share": 2.0}, "problem.cached_share"),
        ({"prices": (1.0, 2.0)}, "prices"),
        ({"sessions": "agents"}, "sessions"),
        ({"episodes": 1}, "problem.episodes"),
    ):
        with pytest.raises(InputError, match=name):
            SessionProblem(topics(), **changes)
    with pytest.raises(InputError, match=r"objective\.load_weight"):
        SessionProblem(topics(), Objective(load_weight=1.0))
