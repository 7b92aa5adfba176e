"""Wide Parquet read by columns gives the table and report of reading by rows; all else is read by rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experts import import_results
from experts.readers import importing
from experts.readers.columnar import columns_of


def results(**changes: Any) -> dict[str, Any]:
    """Forty queries of two experts; a value of None leaves the column out."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "query_id": [f"q{row}" for row in range(40)],
        "prompt": [f"prompt {row % 38}" for row in range(40)],
        "group": ["x", "y"] * 20,
        "fold": np.arange(40) % 38 % 4,
        "features": pa.FixedSizeListArray.from_arrays(random.random(120).astype(np.float32), 3),
        **{f"quality/{name}": random.random(40).astype(np.float32) for name in "ba"},
        **{f"cost/{name}": random.random(40) + 0.1 for name in "ab"},
        "tokens_in/a": [None, *map(float, range(39))],
        "latency_s/b": pa.nulls(40, pa.float32()),
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": None},
        {"split": ["train", "test"] * 19 + ["train", "test"]},
        {"features": None, "fold": None},
    ],
)
def test_columns_and_rows_give_the_same(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "r.parquet", results(**changes))
    assert columns_of([source], progress=False) is not None
    by_columns = import_results(source, tmp_path / "c.parquet", progress=False)
    monkeypatch.setattr(importing, "columns_of", lambda files, *, progress: None)
    by_rows = import_results(source, tmp_path / "r2.parquet", progress=False)
    assert by_columns == by_rows
    one, two = pq.read_table(tmp_path / "c.parquet"), pq.read_table(tmp_path / "r2.parquet")
    assert one.column_names == two.column_names
    assert one.equals(two)
    assert one.schema.metadata == two.schema.metadata


@pytest.mark.parametrize(
    "changes",
    [
        {"query_id": ["q0", "q0", *(f"q{row}" for row in range(2, 40))]},
        {"query_id": [None, *(f"q{row}" for row in range(1, 40))]},
        {"prompt": [" ", *(f"p{row}" for row in range(1, 40))]},
        {"split": ["dev"] * 40},
        {"quality/a": [None, *[1.0] * 39]},
        {"quality/a": ["1"] * 40},
        {"quality/a": [1] * 40},
        {"quality/a": [2.0] * 40},
        {"cost/c": [1.0] * 40},
        {"answer/a": ["yes"] * 40},
        {"question": ["why?"] * 40},
        {"tokens_in/cl100k": [5.0] * 40},
        {"features": [[1.0, 2.0]] * 40},
        {"label": [1] * 40},
    ],
)
def test_everything_else_is_read_by_rows(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "r.parquet", results(**changes))

    def outcome(name: str) -> object:
        try:
            return import_results(source, tmp_path / name, progress=False)
        except Exception as error:  # the same one
            return repr(error)

    first = outcome("a.parquet")
    monkeypatch.setattr(importing, "columns_of", lambda files, *, progress: None)
    assert first == outcome("b.parquet")


def test_options_that_change_values_need_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "r.parquet", results(prompt=None))
    (tmp_path / "p.yaml").write_text("{a: {call: 2}, b: {call: 4}}")
    report = import_results(source, tmp_path / "t.parquet", full_marks=2, progress=False)
    half = import_results(source, tmp_path / "u.parquet", progress=False)
    assert report.experts["a"]["quality"] == pytest.approx(half.experts["a"]["quality"] / 2)
    priced = import_results(source, tmp_path / "v.parquet", prices=tmp_path / "p.yaml", progress=False)
    assert priced.experts["b"]["cost"] == pytest.approx(4.0)
    assert replace(half, findings=()) != priced
