"""Answers of a new expert: which query each row belongs to, and errors that name row and fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experts import InputError, OutcomeTable
from experts.readers.probes import read_probes

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    return OutcomeTable(
        experts=("old", "older"),
        query_id=np.array(["q0", "q1", "q2", "q3"], dtype=object),
        prompt=np.array(["first", "second  question", "third", "fourth"], dtype=object),
        features=None,
        quality=np.zeros((4, 2)),
        cost=np.ones((4, 2)),
        cost_unit="usd",
        split=np.array(["train", "train", "validation", "test"]),
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(**columns: Any) -> Path:
        path = tmp_path / "probes.parquet"
        named = {name.replace("__", "/"): values for name, values in columns.items()}
        pq.write_table(pa.table(named), path)
        return path

    return file


def test_rows_by_id_and_by_prompt(table: OutcomeTable, write: Write) -> None:
    path = write(
        # `collect` numbers prompts without ids from q0: the prompt decides.
        query_id=["q2", "q0", "other"],
        prompt=["third", "second question", "first"],
        quality__new=[1.0, 0.5, 0.0],
        cost__new=[0.1, 0.2, 0.3],
        quality__old=[0.0, 0.0, 0.0],
        cost__old=[1.0, 1.0, 1.0],
    )
    probes = read_probes(path, table)
    assert probes.expert == "new"
    assert probes.rows.tolist() == [2, 1, 0]
    np.testing.assert_allclose(probes.quality, [1.0, 0.5, 0.0])
    np.testing.assert_allclose(probes.cost, [0.1, 0.2, 0.3], rtol=1e-6)


def test_without_prompts_the_id_decides(table: OutcomeTable, write: Write) -> None:
    path = write(query_id=["q3", "q1"], quality__new=[True, False], cost__new=[1, 2])
    assert read_probes(path, table).rows.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("columns", "expert", "message"),
    [
        ({"query_id": ["q9"]}, None, "query_id.*q9.*row 0 is not a query of the table.*--suggest"),
        ({"query_id": ["q1", "q1"]}, None, "query_id.*rows 0 and 1 are the same query"),
        ({"query_id": ["q0"], "prompt": ["unknown"]}, None, "row 0 is not a query of the table"),
        ({"query_id": ["q0"], "quality__new": [1.5]}, None, r"quality/new.*1.5.*outside \[0, 1\]"),
        ({"query_id": ["q0"], "cost__new": [float("nan")]}, None, "cost/new.*row 0 is missing"),
        ({"query_id": ["q0"], "quality__b": [1.0], "cost__b": [1.0]}, None, "2 new experts.*--expert"),
        ({"query_id": ["q0"]}, "nobody", "expert.*nobody.*no new expert.*use one of new"),
        ({"query_id": ["q0"]}, "old", "expert.*old.*no new expert"),
    ],
)
def test_errors(
    table: OutcomeTable, write: Write, columns: dict[str, Any], expert: str | None, message: str
) -> None:
    rows = len(columns["query_id"])
    values = {"quality__new": [1.0] * rows, "cost__new": [1.0] * rows, **columns}
    with pytest.raises(InputError, match=message):
        read_probes(write(**values), table, expert)


def test_a_file_of_known_experts_only(table: OutcomeTable, write: Write) -> None:
    path = write(query_id=["q0"], quality__old=[1.0], cost__old=[1.0])
    with pytest.raises(InputError, match="all of its experts are in the table"):
        read_probes(path, table)


def test_another_cost_unit(table: OutcomeTable, tmp_path: Path) -> None:
    other = OutcomeTable(
        experts=("old", "new"),
        query_id=table.query_id,
        features=None,
        quality=table.quality,
        cost=table.cost,
        cost_unit="flops",
        split=table.split,
    )
    other.write(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"cost_unit.*flops.*not the unit of the table, usd"):
        read_probes(tmp_path / "p.parquet", table)
