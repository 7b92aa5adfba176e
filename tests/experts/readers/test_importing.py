"""Results become a table on disk whole or not at all; what is left out and what is odd is told."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import InputError, OutcomeTable, import_results


def _rows(queries: int = 10, experts: str = "ab", **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "query_id": f"q{query}",
            "prompt": f"prompt {query}",
            "split": ("train", "validation", "test")[query % 3],
            "model": expert,
            "score": (query + index) % 2,
            "cost": 0.1 * (index + 1) * (1 + query % 3),
            **changes,
        }
        for query in range(queries)
        for index, expert in enumerate(experts)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_table_that_reads_back(tmp_path: Path) -> None:
    source, out = _write(tmp_path / "r.jsonl", _rows()), tmp_path / "t.parquet"
    report = import_results(source, out, cost_unit="usd", progress=False)
    assert (report.format, report.queries, report.kept, report.dropped) == ("long", 10, 10, {})
    assert report.findings == ()
    table = OutcomeTable.read(out)
    assert table.experts == ("a", "b")
    assert table.cost_unit == "usd"
    assert table.query_id.tolist() == [f"q{query}" for query in range(10)]
    np.testing.assert_array_equal(table.quality[:2], [[0, 1], [1, 0]])
    assert (report.best_single, report.oracle) == (0.5, 1.0)


def test_costs_from_prices(tmp_path: Path) -> None:
    rows = _rows(cost=None, input_tokens=1_000_000, output_tokens=0)
    source = _write(tmp_path / "r.jsonl", rows)
    (tmp_path / "p.yaml").write_text("prices: {a: {input: 1}, b: {input: 2, call: 1}}")
    with pytest.raises(InputError, match=r"cost='a'.*--prices"):
        import_results(source, tmp_path / "t.parquet", progress=False)
    import_results(source, tmp_path / "t.parquet", prices=tmp_path / "p.yaml", progress=False)
    table = OutcomeTable.read(tmp_path / "t.parquet")
    np.testing.assert_allclose(table.cost[0], [1.0, 3.0])
    assert table.cost_unit == "usd"
    assert any(note.startswith("prices: p.yaml") for note in table.notes)
    (tmp_path / "p.yaml").write_text("prices: {a: {input: 1}, b: {output: 2}}")
    for row in rows:
        del row["output_tokens"]
    with pytest.raises(InputError, match=r"prices='b'.*has no token counts"):
        import_results(
            _write(source, rows), tmp_path / "t.parquet", prices=tmp_path / "p.yaml", progress=False
        )


def test_holes_cost_rows_or_experts(tmp_path: Path) -> None:
    rows = [row for row in _rows(experts="abc") if (row["query_id"], row["model"]) != ("q3", "c")]
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, progress=False)
    assert (report.kept, report.dropped) == (9, {"an expert is missing": 1})
    assert [finding.kind for finding in report.findings] == ["missing"]
    report = import_results(source, out, missing="experts", progress=False)
    assert (report.kept, report.dropped, list(report.experts)) == (10, {}, ["a", "b"])
    apart = _rows(5, "a") + [{**row, "query_id": "x" + row["query_id"]} for row in _rows(5, "b")]
    with pytest.raises(InputError, match="no query has every expert"):
        import_results(_write(source, apart), out, progress=False)
    with pytest.raises(InputError, match="leaves 0 experts"):
        import_results(source, out, missing="experts", progress=False)
    assert len(OutcomeTable.read(out)) == 10  # what failed left it as it was


def test_leaks_are_told_and_dropped_on_request(tmp_path: Path) -> None:
    rows = _rows()
    for row in rows:
        if row["query_id"] == "q0":  # a training row with a test row's prompt
            row["prompt"] = "prompt  2"
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, progress=False)
    assert [finding.kind for finding in report.findings] == ["duplicate_prompts", "leakage"]
    with pytest.raises(InputError, match="the same prompt is in split"):
        OutcomeTable.read(out)
    report = import_results(source, out, drop_leaks=True, progress=False)
    assert report.dropped == {"leaking prompt": 1}
    assert "q0" not in OutcomeTable.read(out).query_id


def test_scales_and_repeats(tmp_path: Path) -> None:
    rows = [{**row, "score": 10 * row["score"]} for row in _rows()]
    source, out = _write(tmp_path / "r.jsonl", [*rows, rows[0]]), tmp_path / "t.parquet"
    with pytest.raises(InputError, match=r"quality/b=10.0.*--full-marks"):
        import_results(source, out, progress=False)
    assert not out.exists()
    report = import_results(source, out, full_marks=10, progress=False)
    assert [(finding.kind, finding.count) for finding in report.findings] == [("repeated", 1)]
    assert OutcomeTable.read(out).quality.max() == 1.0


def test_out_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out='.*': is a folder; name a file"):
        import_results(_write(tmp_path / "r.jsonl", _rows()), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "holdout"}, r"split='holdout'"),
        ({"cost": -1}, "cost/a=-1.0"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_results(_write(tmp_path / "r.jsonl", _rows(**changes)), tmp_path / "t.parquet", progress=False)
    assert not (tmp_path / "t.parquet").exists()


def test_answers_are_never_held_together(tmp_path: Path) -> None:
    answers = 8_000_000
    rows = [{**row, "response": "x" * (answers // 400)} for row in _rows(200)]
    source = _write(tmp_path / "r.jsonl", rows)
    del rows
    tracemalloc.start()
    import_results(source, tmp_path / "t.parquet", progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < answers / 4


def test_features_come_along(tmp_path: Path) -> None:
    wide = [
        {"features": [q, 0.5], "quality/a": q % 2, "quality/b": 0, "cost/a": 1, "cost/b": 2}
        for q in range(10)
    ]
    source, out = _write(tmp_path / "r.jsonl", wide), tmp_path / "t.parquet"
    import_results(source, out, progress=False)
    features = OutcomeTable.read(out).features
    assert features is not None
    np.testing.assert_array_equal(features, [[q, 0.5] for q in range(10)])
    wide[3]["features"] = [1.0]
    with pytest.raises(InputError, match="features"):
        import_results(_write(source, wide), out, progress=False)


def test_a_real_table_keeps_the_tokens_that_prices_need(
    tmp_path: Path, shared_table: Callable[[str], Path]
) -> None:
    out = tmp_path / "t.parquet"
    import_results(shared_table("zeroeval_pool27.parquet"), out, progress=False)
    table = OutcomeTable.read(out)
    assert table.tokens_in is not None
    assert np.isfinite(table.tokens_in).all()
    assert table.tokens_out is not None
    assert np.isfinite(table.tokens_out).all()


@pytest.mark.parametrize("name", ["routellm_mtbench", "llmrouter_pool9"])
def test_real_tables_survive(tmp_path: Path, shared_table: Callable[[str], Path], name: str) -> None:
    source = shared_table(f"{name}.parquet")
    report = import_results(source, tmp_path / "t.parquet", progress=False)
    before, after = OutcomeTable.read(source), OutcomeTable.read(tmp_path / "t.parquet")
    assert report.kept == len(before)
    assert {finding.kind for finding in report.findings} <= {"duplicate_prompts", "constant_cost"}
    order = [before.experts.index(expert) for expert in after.experts]
    np.testing.assert_array_equal(after.quality, before.quality[:, order])
    np.testing.assert_array_equal(after.cost, before.cost[:, order])
    np.testing.assert_array_equal(after.fold, before.fold)
