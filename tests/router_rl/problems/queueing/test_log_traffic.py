"""A decision log makes a queueing problem: its arrivals, its latencies, its outages, its qualities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs.service_time import service_times
from experts import DecisionLog, InputError, OutcomeTable
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.problem import ActionPolicy
from router_rl.problems.queueing.logged_latency import (
    fitted_latencies,
    logged_latencies,
    others_in_flight,
    table_latencies,
)
from router_rl.problems.queueing.logged_traffic import logged_arrivals, logged_outages
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.routing.problem import RoutingProblem

FEW = {"loads": (0.7,), "episodes": 2, "window": 16}


def make_log(rows: int = 400, **changes: Any) -> DecisionLog:
    """Decisions of a uniform policy: `slow` takes 0.5 s and 0.02 s a token, `fast` a fifth of it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 3))
    action = rng.integers(0, 2, rows)
    tokens_in, tokens_out = rng.integers(10, 400, rows), rng.integers(5, 300, rows)
    noise = rng.lognormal(0.0, 0.1, rows)
    latency = (0.5 + 0.001 * tokens_in + 0.02 * tokens_out) * noise * np.where(action == 0, 1.0, 0.2)
    values: dict[str, Any] = {
        "experts": ("slow", "fast"),
        "query_id": [f"q{row}" for row in range(rows)],
        "action": action,
        "propensity": np.full(rows, 0.5),
        "quality": np.where(action == 0, 1.0, features[:, 0] > 0),
        "cost": np.where(action == 0, 4.0, 1.0),
        "features": features,
        "at": 1e9 + rng.exponential(5.0, rows).cumsum(),
        "latency_s": latency,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
    }
    return DecisionLog(**{**values, **changes})


def test_a_second_try_is_no_arrival() -> None:
    log = make_log(6, at=[3.0, 1.0, 2.0, 5.0, 4.0, np.nan], previous=[None, None, "x", None, None, None])
    assert logged_arrivals(log).arrival_s.tolist() == [1.0, 3.0, 4.0, 5.0]
    with pytest.raises(InputError, match="has no times; log the time of each decision in a column `at`"):
        logged_arrivals(make_log(6, at=None))


def test_latencies_are_fitted_to_the_lengths_of_prompts_and_answers() -> None:
    for scale, model in zip((1.0, 0.2), fitted_latencies(make_log(2000)), strict=True):
        assert model.per_out == pytest.approx(0.02 * scale, rel=0.05)
        assert model.per_in == pytest.approx(0.001 * scale, rel=0.3)
        assert model.base == pytest.approx(0.5 * scale, rel=0.2)
        assert model.noise.std() == pytest.approx(0.1, rel=0.15)


def test_measured_latencies_stay_and_the_others_follow_the_length_of_the_answer() -> None:
    log = make_log(2000)
    assert log.latency_s is not None
    seconds = logged_latencies(log, log)
    row = np.arange(len(log))
    np.testing.assert_array_equal(seconds[row, log.action], log.latency_s)
    other = seconds[row, 1 - log.action] * np.where(log.action == 0, 5.0, 0.2)
    assert np.corrcoef(other, log.latency_s)[0, 1] > 0.9
    assert other.mean() == pytest.approx(log.latency_s.mean(), rel=0.03)
    np.testing.assert_array_equal(logged_latencies(log, log), seconds)


def test_a_wordier_expert_is_given_longer_answers() -> None:
    log = make_log(2000)
    assert log.tokens_out is not None
    wordy = replace(log, tokens_out=np.where(log.action == 0, 3 * log.tokens_out, log.tokens_out))
    assert wordy.tokens_out is not None
    seconds = logged_latencies(wordy, wordy)
    rows = wordy.action == 1  # answered by `fast`, so the answers of `slow` are three times as long
    slow = fitted_latencies(wordy)[0]
    assert wordy.tokens_in is not None
    expected = slow.base + slow.per_in * wordy.tokens_in[rows] + slow.per_out * 3 * wordy.tokens_out[rows]
    assert seconds[rows, 0].mean() == pytest.approx(expected.mean(), rel=0.05)


def test_without_token_counts_latencies_are_drawn_from_those_of_the_expert(table: OutcomeTable) -> None:
    log = make_log(tokens_in=None, tokens_out=None)
    assert log.latency_s is not None
    seconds = table_latencies(log, table)
    for expert in range(2):
        own = log.latency_s[log.action == expert]
        assert np.isclose(seconds[:, expert][:, None], own).any(axis=1).all()


def test_latencies_of_broken_answers_do_not_count() -> None:
    log = make_log()
    assert log.latency_s is not None
    status = np.where(np.arange(len(log)) % 4 == 0, "failed", "ok").astype(object)
    spoiled = replace(log, status=status, latency_s=np.where(status == "failed", 1e4, log.latency_s))
    assert logged_latencies(spoiled, log).max() < 100
    with pytest.raises(InputError, match="has no answer of fast with a latency"):
        fitted_latencies(replace(log, status=np.where(log.action == 1, "failed", "ok").astype(object)))


def test_requests_in_flight_by_hand() -> None:
    # slow: 0 to 4, 1 to 2, 3 to 9: none, one and one others; fast is alone.
    log = make_log(4, action=[0, 0, 0, 1], at=[0.0, 1.0, 3.0, 1.5], latency_s=[4.0, 1.0, 6.0, 1.0])
    np.testing.assert_allclose(others_in_flight(log), [2 / 3, 0.0])


def test_outages_by_hand() -> None:
    # slow fails at 10 and 20 and answers at 40; one failure at 60 is not an outage. fast is watched 90 s.
    log = make_log(
        8,
        action=[0, 0, 0, 0, 0, 0, 1, 1],
        at=[0.0, 10.0, 20.0, 40.0, 60.0, 100.0, 0.0, 90.0],
        status=["ok", "failed", "cut", "ok", "failed", "ok", "ok", "gone"],
    )
    found = logged_outages(log)
    assert found.outages == 1
    assert found.mean_repair_s == 30.0
    assert found.mean_up_s == pytest.approx(100.0 - 30.0)
    assert found.lone == 1 / 8
    assert logged_outages(make_log()).outages == 0
    ends_down = replace(log, status=np.array([*["ok"] * 4, "failed", "failed", "ok", "ok"], dtype=object))
    assert logged_outages(ends_down).mean_repair_s == 40.0


def test_the_time_of_several_outages_is_divided_among_them() -> None:
    # slow is down from 10 to 30, and from 50 to 90; it is watched for 100 s.
    log = make_log(
        8,
        action=[0] * 8,
        at=[0.0, 10.0, 20.0, 30.0, 50.0, 60.0, 90.0, 100.0],
        status=["ok", "failed", "failed", "ok", "failed", "failed", "ok", "ok"],
    )
    found = logged_outages(log)
    assert found.outages == 2
    assert found.mean_repair_s == pytest.approx((20.0 + 40.0) / 2)
    assert found.mean_up_s == pytest.approx((10.0 + 20.0 + 10.0) / 2)
    assert found.lone == 0.0


def test_a_log_alone_makes_a_problem() -> None:
    log = make_log()
    problem = QueueingProblem.of_log(log, options=options(**FEW))
    arrivals = problem.arrivals
    assert not isinstance(arrivals, str)
    np.testing.assert_array_equal(arrivals.arrival_s, logged_arrivals(log).arrival_s)
    assert service_times(problem.table).mean(axis=0) == pytest.approx(
        logged_latencies(log, log).mean(axis=0), rel=1e-4
    )
    assert problem.table.quality.mean(axis=0) == pytest.approx([1.0, 0.5], abs=0.1)
    assert problem.config.mean_up == 0.0
    notes = " ".join(problem.describe().notes)
    assert "mean service times, from the log's latencies: slow" in notes
    assert "the log's 400 requests; its own rate, 0.193 a second, is load 0.116" in notes
    core = problem.core("train", problem.case, lanes=2, seed=0)
    assert float(core.traffic.gaps.mean()) == pytest.approx(core.gap, rel=1e-6)
    slow = problem.evaluate(ActionPolicy(actions=lambda seen: seen[:, 0].long() * 0), "test")
    assert slow.means()["compute"] == pytest.approx(1.0, abs=0.2)


def test_a_table_gives_qualities_where_the_log_has_none(table: OutcomeTable) -> None:
    nothing = np.full(400, np.nan)
    traffic = make_log(propensity=nothing, quality=nothing, features=None)
    problem = QueueingProblem.of_log(traffic, table=table, options=options(**FEW))
    np.testing.assert_array_equal(problem.table.quality, table.quality)
    assert problem.table.latency_s is not None
    assert not np.allclose(problem.table.latency_s, table.latency_s)
    other = QueueingProblem(table, options=options(**FEW))
    assert problem.digest() != other.digest()
    shifted = replace(traffic, at=np.sort(np.random.default_rng(9).uniform(0, 100, 400)))
    assert QueueingProblem.of_log(shifted, table=table, options=options(**FEW)).digest() != problem.digest()
    with pytest.raises(InputError, match=r"400 without propensity, 400 without quality"):
        QueueingProblem.of_log(traffic)
    renamed = replace(traffic, experts=("slow", "quick"))
    with pytest.raises(InputError, match="has other experts than the table; give the table of slow, quick"):
        QueueingProblem.of_log(renamed, table=table)


def test_outages_and_arrivals_are_simulated_unless_the_options_name_others(table: OutcomeTable) -> None:
    log = make_log()
    assert log.at is not None
    down = (log.action == 1) & (log.at > log.at[100]) & (log.at < log.at[120])
    failing = replace(log, status=np.where(down, "failed", "ok").astype(object))
    problem = QueueingProblem.of_log(failing, table=table, options=options(**FEW))
    found = logged_outages(failing)
    assert found.outages == 1
    assert problem.config.mean_repair == pytest.approx(found.mean_repair_s / problem.units.mean_service)
    assert problem.config.mean_up == pytest.approx(found.mean_up_s / problem.units.mean_service)
    assert "1 outages in the log" in " ".join(problem.describe().notes)
    own = options(**FEW, mean_up=50.0, mean_repair=5.0, arrivals="bursts")
    chosen = QueueingProblem.of_log(failing, table=table, options=own)
    assert (chosen.config.mean_up, chosen.config.mean_repair, chosen.arrivals) == (50.0, 5.0, "bursts")


def test_other_problems_say_what_they_take(table: OutcomeTable) -> None:
    log = make_log()
    with pytest.raises(InputError, match="is no data of cascade, which needs all outcomes"):
        CascadeProblem.of_log(log)
    with pytest.raises(InputError, match="has no use beside a table"):
        RoutingProblem.of_log(log, table=table)
    assert len(RoutingProblem.of_log(log).table) == 400


def options(**fields: Any) -> Any:
    from router_rl.problems.queueing.queueing_options import QueueingOptions

    return QueueingOptions(**fields)
