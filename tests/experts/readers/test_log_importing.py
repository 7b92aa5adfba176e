"""Logs of other servers: rows of LiteLLM's own code, and replay records by their schema."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import train_router
from experts import DecisionLog, InputError, import_results
from experts.readers.log_importing import import_log
from experts.readers.served import seconds_of

SPEND_LOGS = Path(__file__).parents[2] / "fixtures" / "litellm" / "spend_logs.jsonl"


def record(**changes: Any) -> dict[str, Any]:
    """A replay record with the fields that every record has."""
    return {
        "id": "replay-1",
        "timestamp": "2026-08-22T10:00:00.123456789Z",
        "session_id": "s",
        "signals": {},
        "turn_index": 0,
        "selected_model": "small",
        "selection_method": "static",
        "outcomes": [],
        "response_status": 200,
        "lifecycle_state": "completed",
        "duration_ms": 1500,
        "prompt_tokens": 12,
        "completion_tokens": 34,
        "actual_cost": 0.002,
        "currency": "USD",
        **changes,
    }


def outcome(verdict: str, minute: int = 0, target: str = "model") -> dict[str, Any]:
    time = f"2026-08-22T11:{minute:02}:00Z"
    return {"timestamp": time, "source": "user", "target": target, "verdict": verdict, "score": 0.25}


def imported(rows: list[dict[str, Any]], folder: Path, **options: Any) -> tuple[DecisionLog, dict[str, Any]]:
    source, out = folder / "log.jsonl", folder / "log.parquet"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_log(source, out, progress=False, **options)
    return DecisionLog.read(out), report


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SPEND_LOGS.read_text().splitlines()]


def test_rows_of_litellm_are_requests(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    log, report = imported(rows[::-1], tmp_path)
    assert report["format"] == "litellm"
    assert report["left_out"] == {"no chat request (aembedding)": 1, "answered from LiteLLM's cache": 1}
    chats = [row for row in rows if row["call_type"] == "acompletion" and row["cache_hit"] != "True"]
    chats.sort(key=lambda row: row["startTime"])
    assert len(log) == len(chats) == 25
    assert log.query_id.tolist() == [row["request_id"] for row in chats]
    assert [log.experts[expert] for expert in log.action] == [row["model"] for row in chats]
    assert log.cost_unit == "usd"
    np.testing.assert_allclose(log.cost, [row["spend"] for row in chats], rtol=1e-6)
    assert log.at is not None
    assert log.latency_s is not None
    assert log.tokens_out is not None
    assert log.session is not None
    np.testing.assert_allclose(np.diff(log.at) >= 0, True)
    np.testing.assert_allclose(log.latency_s, [row["request_duration_ms"] / 1000 for row in chats])
    assert log.session.tolist() == [row["session_id"] for row in chats]
    failed = np.array([row["status"] == "failure" for row in chats])
    assert failed.sum() == 2
    assert log.failed.tolist() == failed.tolist()
    assert np.isnan(log.tokens_out[failed]).all()
    assert log.tokens_out[~failed].tolist() == [
        row["completion_tokens"] for row in chats if row["status"] == "success"
    ]
    facts = report["experts"]["openai/gpt-4o"]
    own = [row for row in chats if row["model"] == "openai/gpt-4o"]
    assert facts["decisions"] == len(own)
    assert facts["failed"] == 1
    assert facts["cost"] == pytest.approx(np.mean([row["spend"] for row in own if row["spend"]]))
    with pytest.raises(InputError, match=r"25 without propensity, 25 without quality.*serve --explore"):
        log.scored()


def test_another_column_can_name_the_expert(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    log, _ = imported(rows, tmp_path, expert_column="model_group")
    assert log.experts == ("chat", "gpt-4o", "gpt-4o-mini")
    with pytest.raises(InputError, match=r"has no requests .*no model.*--expert-column"):
        imported(rows, tmp_path, expert_column="modle_group")


def test_a_csv_and_a_parquet_file_of_the_database_say_the_same(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    log, _ = imported(rows, tmp_path)
    table = tmp_path / "rows.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:  # as `\copy` of psql writes times without a zone
            times = {
                name: row[name].replace("T", " ").removesuffix("+00:00") for name in ("startTime", "endTime")
            }
            writer.writerow({**row, **times})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    times = pa.array(columns.pop("startTime")).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({**columns, "startTime": times}), tmp_path / "rows.parquet")
    for source in (table, tmp_path / "rows.parquet"):
        import_log(source, tmp_path / "other.parquet", progress=False)
        other = DecisionLog.read(tmp_path / "other.parquet")
        for name in ("query_id", "action", "at", "latency_s", "tokens_in", "status"):
            np.testing.assert_array_equal(getattr(other, name), getattr(log, name))


def test_replay_records_are_requests_with_outcomes(tmp_path: Path) -> None:
    rows = [
        record(
            id="good", outcomes=[outcome("underpowered", 5), outcome("good_fit", 9), outcome("failed", 1)]
        ),
        record(id="weak", timestamp="2026-08-22T10:00:01Z", outcomes=[outcome("underpowered")]),
        record(id="strong", timestamp="2026-08-22T10:00:02Z", outcomes=[outcome("overprovisioned")]),
        record(id="route", timestamp="2026-08-22T10:00:03Z", outcomes=[outcome("failed", target="route")]),
        record(
            id="broken", timestamp="2026-08-22T10:00:04Z", lifecycle_state="failed", selected_model="large"
        ),
        record(id="left", timestamp="2026-08-22T10:00:05Z", lifecycle_state="aborted"),
        record(id="old", timestamp="2026-08-22T10:00:06Z", lifecycle_state="", response_status=503),
        record(id="cached", from_cache=True),
        {key: value for key, value in record().items() if key != "selected_model"},
    ]
    log, report = imported(rows, tmp_path)
    assert report["format"] == "vsr_replay"
    assert report["left_out"] == {"answered from the semantic cache": 1, "no model": 1}
    assert log.query_id.tolist() == ["good", "weak", "strong", "route", "broken", "left", "old"]
    assert log.experts == ("large", "small")
    np.testing.assert_array_equal(log.quality[:4], [1.0, 0.0, 1.0, np.nan])
    assert log.status is not None
    assert log.status.tolist() == ["ok", "ok", "ok", "ok", "failed", "gone", "failed"]
    assert log.latency_s is not None
    assert log.latency_s[0] == 1.5
    assert log.at is not None
    assert log.at[1] - log.at[0] == pytest.approx(0.876544, abs=1e-6)
    assert log.tokens_in is not None
    assert log.tokens_in[0] == 12
    with pytest.raises(InputError, match="7 without propensity, 4 without quality"):
        log.scored()


def test_bad_rows_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "log.parquet"
    bad = [
        (record(timestamp="yesterday"), r"timestamp='yesterday': .*row 0: is not a time"),
        (record(duration_ms="long"), r"duration_ms='long': .*row 0: is not a number"),
        (record(actual_cost=-1), r"cost=-1.0: row 0 is outside"),
        (record(outcomes="[1"), r"outcomes='\[1': .*row 0: is not JSON"),
        ({"model": "small", "score": 1}, "is of no known format; its columns begin 'model', 'score'"),
    ]
    for row, message in bad:
        with pytest.raises(InputError, match=message):
            imported([row], tmp_path)
        assert not out.exists()
    with pytest.raises(InputError, match="format='litelm': unknown; did you mean 'litellm'"):
        imported([record()], tmp_path, format_name="litelm")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("1970-01-01 01:00:00.5+01:00", 0.5),
        ("1970-01-01 01:00:00.5+01", 0.5),
        ("1970-01-01T00:00:01.123456789", 1.123456),
        ("1970-01-02", 86_400.0),
        ("0001-01-01T00:00:00Z", -62_135_596_800.0),
        (12.5, 12.5),
        (" ", None),
    ],
)
def test_times_of_every_spelling(text: object, seconds: float | None) -> None:
    assert seconds_of({"at": text}, "at", "row 0") == seconds


def test_import_of_outcomes_refuses_a_log_and_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a log of requests.*convert it by `log import`"):
        import_results(SPEND_LOGS, tmp_path / "table.parquet", progress=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "log.parquet")
    words = ["log", "import", str(SPEND_LOGS), "--out", out]
    assert train_router.main(words) == 0
    shown = capsys.readouterr().out
    assert "openai/gpt-4o-mini" in shown
    assert "no propensities and scores" in " ".join(shown.split())
    assert train_router.main(["log", "import", "--out", out]) == 2
    assert "source=None: is missing" in capsys.readouterr().err
    assert train_router.main(["log", "export", "--format", "litellm", "--out", out]) == 2
    assert "is about the import" in capsys.readouterr().err
    assert train_router.main([*words, "--since", "5"]) == 2
    assert "is about the export" in capsys.readouterr().err
