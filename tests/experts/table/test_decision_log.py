"""Decision logs: drawn as the policy says, kept as they were, refused where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog, epsilon_greedy, log_decisions

GOOD: dict[str, Any] = {
    "experts": ("left", "right"),
    "query_id": ["a", "b", "a"],
    "action": [0, 1, 1],
    "propensity": [0.5, 0.5, 1.0],
    "quality": [1.0, 0.0, 0.5],
    "cost": [1.0, 2.0, 2.0],
    "features": [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
}


def _table(rows: int) -> OutcomeTable:
    rng = np.random.default_rng(0)
    return OutcomeTable(
        experts=("a", "b", "c"),
        query_id=np.array([f"q{i}" for i in range(rows)], dtype=object),
        features=rng.normal(size=(rows, 2)),
        quality=rng.random((rows, 3)),
        cost=rng.random((rows, 3)),
        split=np.array(["train"] * rows),
    )


def test_parquet_gives_back_what_it_got(tmp_path: Path) -> None:
    log = DecisionLog(**GOOD)
    log.write(tmp_path / "log.parquet")
    found = DecisionLog.read(tmp_path / "log.parquet", ("left", "right"))
    assert found.experts == log.experts
    for name in ("query_id", "action", "propensity", "quality", "cost", "features"):
        np.testing.assert_array_equal(getattr(found, name), getattr(log, name))
        assert getattr(found, name).dtype == getattr(log, name).dtype
    swapped = DecisionLog.read(tmp_path / "log.parquet", ("right", "left"))
    assert swapped.action.tolist() == [1, 0, 0]
    DecisionLog(**{**GOOD, "features": None}).write(tmp_path / "bare.parquet")
    assert DecisionLog.read(tmp_path / "bare.parquet", ("left", "right")).features is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": [0, 1, 2]}, "action=2: row 2 is not in 0 to"),
        ({"propensity": [0.5, 0.0, 1.0]}, r"propensity=0.0: row 1 is outside \(0, 1\]"),
        ({"quality": [0.5, 2.0, 1.0]}, r"quality=2.0: row 1 is outside \[0, 1\]"),
        ({"cost": [0.5, 1.0, float("inf")]}, r"cost=inf: row 2 is outside \[0, inf\)"),
        ({"latency_s": [0.5, -1.0, 1.0]}, r"latency_s=-1.0: row 1 is outside \[0, inf\)"),
        ({"at": [0.5]}, r"at=\(1,\): should have shape \(3,\)"),
        ({"cost": [0.5, 1.0]}, r"cost=\(2,\): should have shape \(3,\)"),
        ({"features": [[0.0], [1.0]]}, r"features=\(2, 1\): should have shape \(3, D\)"),
        ({"features": [[0.0], [float("inf")], [1.0]]}, "row 1 is not finite"),
        ({"query_id": []}, "log=0: has no decisions"),
    ],
)
def test_mistakes_name_the_column_and_the_row(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DecisionLog(**{**GOOD, **change})


def test_mistakes_in_files(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with pytest.raises(InputError, match="no such file"):
        DecisionLog.read(path, ("left", "right"))
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        DecisionLog.read(path, ("left", "right"))
    columns = {"query_id": ["a"], "expert": ["left"], "propensity": [0.5], "quality": [1.0], "cost": [1.0]}
    pq.write_table(pa.table({k: v for k, v in columns.items() if k != "expert"}), path)
    with pytest.raises(InputError, match=r"expert=None: .*the column is missing"):
        DecisionLog.read(path, ("left", "right"))
    pq.write_table(pa.table({**columns, "expert": ["lefd"]}), path)
    with pytest.raises(InputError, match="expert='lefd': unknown; did you mean 'left'"):
        DecisionLog.read(path, ("left", "right"))
    pq.write_table(pa.table({**columns, "cost": ["dear"]}), path)
    with pytest.raises(InputError, match="cost='string': is not numeric"):
        DecisionLog.read(path, ("left", "right"))


def test_what_is_missing_is_said_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {"query_id": ["a", "b"], "expert": ["right", "left"], "quality": [1.0, None]}
    pq.write_table(pa.table(columns), path)
    log = DecisionLog.read(path)
    assert log.experts == ("left", "right")
    assert log.action.tolist() == [1, 0]
    assert np.isnan(log.propensity).all()
    with pytest.raises(InputError) as error:
        log.scored()
    message = str(error.value)
    assert "2 without propensity, 1 without quality, 2 without cost" in message
    assert "serve --explore" in message
    assert "/v1/outcomes" in message


def test_scored_decisions_have_all_that_estimates_need() -> None:
    nan = float("nan")
    log = DecisionLog(**{**GOOD, "propensity": [0.5, nan, 1.0], "quality": [1.0, 0.0, nan], "at": [1, 2, 3]})
    kept = log.scored()
    assert kept.query_id.tolist() == ["a"]
    assert kept.at is not None
    assert kept.at.tolist() == [1.0]
    whole = DecisionLog(**GOOD)
    assert whole.scored() is whole
    unread = DecisionLog(**{**GOOD, "features": [[0.0, 1.0], [nan, nan], [0.0, 1.0]]})
    assert unread.scored().action.tolist() == [0, 1]
    with pytest.raises(InputError, match="row 1 is not finite"):
        DecisionLog(**{**GOOD, "features": [[0.0, 1.0], [nan, 1.0], [0.0, 1.0]]})


def test_traffic_is_kept_in_full_precision(tmp_path: Path) -> None:
    traffic: dict[str, Any] = {
        "at": [1_787_392_800.25, 1_787_392_800.5, float("nan")],
        "latency_s": [0.5, float("nan"), 0.0],
        "tokens_in": [3, 4, 5],
        "status": ["ok", "failed", None],
        "previous": [None, "a", None],
        "session": ["s", None, "s"],
    }
    unread = [[0.0, 1.0], [float("nan")] * 2, [0.0, 1.0]]
    log = DecisionLog(**{**GOOD, **traffic, "features": unread, "cost_unit": "usd", "router": "folder"})
    assert log.answered.tolist() == [True, False, True]
    assert log.failed.tolist() == [False, True, False]
    log.write(tmp_path / "log.parquet")
    assert pq.read_table(tmp_path / "log.parquet")["features"].null_count == 1
    back = DecisionLog.read(tmp_path / "log.parquet")
    assert (back.experts, back.cost_unit, back.router) == (("left", "right"), "usd", "folder")
    for name in (*traffic, "features", "propensity"):
        np.testing.assert_array_equal(getattr(back, name), getattr(log, name))
    assert back.tokens_out is None


@pytest.mark.parametrize("known", [0, 1, 2, None])
def test_features_of_some_decisions(tmp_path: Path, known: int | None) -> None:
    features = np.full((3, 2), np.nan, dtype=np.float32)
    if known is not None:
        features[known] = [0.5, -1.0]
    DecisionLog(**{**GOOD, "features": features.tolist()}).write(tmp_path / "log.parquet")
    table = pq.read_table(tmp_path / "log.parquet")
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=1)
    for name in ("log", "groups"):
        back = DecisionLog.read(tmp_path / f"{name}.parquet")
        if known is None:
            assert back.features is None
        else:
            np.testing.assert_array_equal(back.features, features)


def test_requests_that_name_another_expert_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {"query_id": list("abc"), "expert": ["left", "other", "right"]}
    pq.write_table(pa.table({**columns, "propensity": [0.5, None, 0.5]}), path)
    assert DecisionLog.read(path, ("left", "right")).query_id.tolist() == ["a", "c"]
    for propensity in ([0.5, 0.5, 0.5], [None, None, None]):  # the router chose it; or nothing is known
        pq.write_table(pa.table({**columns, "propensity": pa.array(propensity, pa.float64())}), path)
        with pytest.raises(InputError, match="expert='other': unknown"):
            DecisionLog.read(path, ("left", "right"))


def test_a_log_is_drawn_from_the_policy() -> None:
    table = _table(20_000)
    policy = np.tile([0.0, 0.75, 0.25], (20_000, 1))
    log = log_decisions(table, policy, seed=1)
    row = np.arange(20_000)
    counts = np.bincount(log.action, minlength=3) / 20_000
    assert counts[0] == 0.0
    assert counts[1] == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(log.propensity, policy[row, log.action].astype(np.float32))
    np.testing.assert_array_equal(log.quality, table.quality[row, log.action])
    np.testing.assert_array_equal(log.cost, table.cost[row, log.action])
    assert log_decisions(table, policy, seed=1).action.tolist() == log.action.tolist()
    assert log_decisions(table, policy, seed=2).action.tolist() != log.action.tolist()


def test_nobody_of_probability_zero_is_drawn() -> None:
    table = _table(3)
    for first in range(3):
        assert log_decisions(table, np.eye(3)[np.full(3, first)], seed=0).action.tolist() == [first] * 3


def test_a_policy_has_to_be_one() -> None:
    with pytest.raises(InputError, match="row 1 is not a distribution"):
        log_decisions(_table(2), np.array([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]]), seed=0)
    with pytest.raises(InputError, match=r"should have shape \(2, 3\)"):
        log_decisions(_table(2), np.ones((2, 2)) / 2, seed=0)
    with pytest.raises(InputError, match=r"epsilon=1\.5: is not a probability"):
        epsilon_greedy(np.array([0]), 2, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_id": ["q"] * 3 + [None]}, r"query_id=None: row 3 is missing in .*log.parquet"),
        ({"query_id": [float("nan")] * 4}, r"query_id=None: row 0 is missing"),
        ({"expert": ["a", None, "b", "a"]}, r"expert=None: row 1 is missing"),
        ({"expert": [["a"]] * 4}, r"expert=.*is not a column of texts"),
        ({"propensity": ["0.5"] * 4}, r"propensity='string': is not numeric"),
        ({"features": [["1"]] * 4}, r"features=.*is not numeric"),
    ],
)
def test_wrong_columns_of_a_file_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    columns = {"query_id": list("qrst"), "expert": list("abab"), "features": [[1.0]] * 4}
    columns |= {name: [0.5] * 4 for name in ("propensity", "quality", "cost")}
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({**columns, **changes}), path)
    with pytest.raises(InputError, match=message):
        DecisionLog.read(path, ["a", "b"])
    pq.write_table(pa.table(columns).slice(0, 0), path)
    with pytest.raises(InputError, match=r"log='.*log.parquet': has no decisions"):
        DecisionLog.read(path, ["a", "b"])


def test_a_damaged_log_is_one_line(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"query_id": list("qrst"), "expert": list("abab"), "features": [[1.0]] * 4}
    columns |= {name: [0.5] * 4 for name in ("propensity", "quality", "cost")}
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    whole, failed = path.read_bytes(), 0
    for at in range(4, len(whole), 41):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            DecisionLog.read(path, ["a", "b"])
        except InputError as error:
            failed += 1
            assert str(error).isprintable()  # noqa: PT017 (a value that is read as another one is no error)
    assert failed > 10
