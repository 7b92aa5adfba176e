"""Tables of the cascade study: unparsed answers are missing, and ranks are of training answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from benchmark_scripts import benchmark

from experts import InputError, OutcomeTable
from experts.table.answer_numbers import answer_numbers

cascade_tables = benchmark("cascade_tables")


def made() -> OutcomeTable:
    rows = 60
    values = np.ones((rows, 2), dtype=np.float32)
    answers = ["A", "None", "B"] * (rows // 3)
    return OutcomeTable(
        experts=("a", "b"),
        query_id=np.arange(rows).astype(str),
        features=None,
        quality=values,
        cost=values,
        split=np.array(["train"] * 40 + ["validation"] * 10 + ["test"] * 10),
        prompt=np.array([f"question {row}" for row in range(rows)]),
        fold=np.arange(rows) % 5,
        tokens_out=np.column_stack([np.arange(rows), np.arange(rows)[::-1]]),
        extra=pa.table({"answer/a": answers, "answer/b": answers, "reference": ["A"] * rows}),
    )


def test_an_answer_that_was_not_parsed_agrees_with_none(tmp_path: Path) -> None:
    made().write(tmp_path / "mmlupro_pool22.parquet")
    table = cascade_tables.answers_alone(tmp_path / "mmlupro_pool22.parquet")
    assert table.fold is not None
    assert set(table.fold) == {0, 1, 2, 3}  # fold 4 is sealed
    assert set(table.split[table.fold == 3]) == {"test"}
    numbers = answer_numbers(table)
    assert numbers is not None
    parsed = np.array([int(name) % 3 != 1 for name in table.query_id])
    np.testing.assert_array_equal(numbers[:, 0] == numbers[:, 1], parsed)
    made().write(tmp_path / "other.parquet")
    other = cascade_tables.answers_alone(tmp_path / "other.parquet")
    assert len(other) == 60
    assert set(other.split[other.fold == 4]) == {"test"}


def test_length_ranks_are_among_the_training_answers() -> None:
    table = cascade_tables.with_length_ranks(made())
    assert table.confidence is not None
    assert table.confidence[0, 0] == pytest.approx(0.5 / 41)
    assert table.confidence[39, 0] == pytest.approx(39.5 / 41)
    assert table.confidence[59, 0] == pytest.approx(40.5 / 41)


def test_an_unknown_suffix_is_named() -> None:
    with pytest.raises(InputError, match=r"digits\+follow.*unknown suffix.*\+follow-ups, \+length-ranks"):
        benchmark("cascade")._table("digits+follow", None)
