"""The monitor: sums by hand, false alarms as rare as promised, drift found soon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experts import DecisionLog, InputError, OutcomeTable
from router_rl.problems.drift import _threshold, cusum, monitor, monitor_log
from router_rl.routing import Hard, LinearScorer, Router


def _table(rows: int = 300) -> OutcomeTable:
    rng = np.random.default_rng(0)
    return OutcomeTable(
        experts=("a", "b"),
        query_id=np.array([f"q{i}" for i in range(rows)], dtype=object),
        features=np.ones((rows, 1)),
        quality=rng.random((rows, 2)) < [0.8, 0.4],
        cost=rng.lognormal(0, 1, (rows, 2)),
        split=np.array(["validation"] * rows),
    )


def _router() -> Router:
    return Router(LinearScorer(1, 2), Hard(), ["a", "b"]).eval()  # all zeros: always the first


def _log(seed: int, decisions: int = 400, quality: float = 0.8, scale: float = 1.0) -> DecisionLog:
    rng = np.random.default_rng(seed)
    action = (rng.random(decisions) < 0.1).astype(np.int64)
    late = np.arange(decisions) >= decisions // 2
    chance = np.where(action == 0, np.where(late, quality, 0.8), 0.4)
    return DecisionLog(
        experts=("a", "b"),
        query_id=np.array([f"d{i}" for i in range(decisions)], dtype=object),
        action=action,
        propensity=np.where(action == 0, 0.9, 0.1),
        quality=rng.random(decisions) < chance,
        cost=rng.lognormal(0, 1, decisions) * np.where(late, scale, 1.0),
    )


def test_sums_by_hand() -> None:
    up, down = cusum(np.array([[1.25, -2.25, 0.5], [0.0, 0.25, 3.25]]))
    assert up.tolist() == [[1.0, 0.0, 0.25], [0.0, 0.0, 3.0]]
    assert down.tolist() == [[0.0, 2.0, 1.25], [0.0, 0.0, 0.0]]


def test_equal_maxima_have_no_tail() -> None:
    assert _threshold(np.ones(1000), 0.001) == 1.0


def test_the_tail_beyond_the_simulated_streams_is_exponential() -> None:
    """10 of 1000 maxima are above the 99% quantile, by 5.49 on average; 0.4% are 2.5 times rarer."""
    expected = 989.01 + 5.49 * np.log(2.5)
    assert _threshold(np.arange(1000.0), 0.004) == pytest.approx(expected)
    assert _threshold(np.arange(1000.0), 0.01) == pytest.approx(989.01)
    assert _threshold(np.arange(1000.0), 0.25) == pytest.approx(749.25)


def test_false_alarms_are_rare() -> None:
    alarms = sum(bool(monitor(_router(), _table(), _log(seed, 150), false_alarms=0.1)) for seed in range(16))
    assert alarms <= 5


@pytest.mark.parametrize(
    ("changes", "kind"), [({"quality": 0.45}, "quality"), ({"scale": 4.0}, "cost"), ({"scale": 0.05}, "cost")]
)
def test_drift_is_found_soon_and_where_it_began(changes: dict[str, float], kind: str) -> None:
    for seed in range(3):
        found = [
            alarm for alarm in monitor(_router(), _table(), _log(seed, **changes)) if alarm.expert == "a"
        ]
        assert [alarm.kind for alarm in found] == [kind]
        assert 200 < found[0].decision < 300
        assert found[0].since < 260


def test_a_log_is_compared_with_its_own_beginning() -> None:
    alarms = sum(bool(monitor_log(_log(seed, 300), false_alarms=0.1)) for seed in range(16))
    assert alarms <= 5
    for seed in range(3):
        (found,) = monitor_log(_log(seed, 600, quality=0.45))
        assert (found.expert, found.kind) == ("a", "quality")
        assert 300 <= found.since < 360
        assert found.since < found.decision < 420
        assert found.seen < 0.65 < found.expected


def test_a_log_without_propensities_or_scores_is_watched_for_what_it_has() -> None:
    log = _log(0, 600, scale=4.0)
    nothing = np.full(len(log), np.nan)
    spend = replace(log, propensity=nothing, quality=nothing)
    found = [(drift.expert, drift.kind) for drift in monitor_log(spend)]
    assert found in ([("a", "cost")], [("a", "cost"), ("b", "cost")])  # both rose, `b` is rarely chosen
    worse, even = _log(0, 600, quality=0.2), np.arange(600) % 2 == 0
    halved = monitor_log(replace(worse, quality=np.where(even, worse.quality, np.nan)))
    assert [(drift.expert, drift.kind) for drift in halved] == [("a", "quality")]
    assert np.isfinite([halved[0].expected, halved[0].seen]).all()
    with pytest.raises(InputError, match="has no expert with 20 outcomes in its first 20 decisions"):
        monitor_log(log.take(np.arange(40)))
    with pytest.raises(InputError, match=r"reference=1.5: is not between 0 and 1"):
        monitor_log(log, reference=1.5)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"false_alarms=1.5"):
        monitor(_router(), _table(), _log(0), false_alarms=1.5)
    other = _log(0)
    renamed = DecisionLog(
        experts=("a", "c"),
        query_id=other.query_id,
        action=other.action,
        propensity=other.propensity,
        quality=other.quality,
        cost=other.cost,
    )
    with pytest.raises(InputError, match="other experts than the table"):
        monitor(_router(), _table(), renamed)
