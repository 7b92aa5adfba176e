"""Sparse tables: what is missing is counted, kept apart from zero, stored as null, and refused elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from envs.outcomes import Outcomes, compute_scale
from experts import InputError, OutcomeTable
from experts.table.missing_outcomes import answered_mean, complete_rows, missing_count, require_complete
from experts.table.sparse_split import LEAST_COMPLETE
from router_rl.problems.data_digest import table_digest


def sparse(rows: int = 60, share: float = 0.4, seed: int = 0, split: bool = True) -> OutcomeTable:
    """Three experts; outcomes of the first half of the rows are missing at random, but one of each row."""
    random = np.random.default_rng(seed)
    quality = random.random((rows, 3)).astype(np.float32)
    cost = (0.5 + random.random((rows, 3))).astype(np.float32) * np.float32([1, 2, 4])
    missing = random.random((rows, 3)) < share
    missing[rows // 2 :] = False
    missing[np.arange(rows), np.arange(rows) % 3] = False
    names = ["train", "validation", "test"] if split else ["train"]
    quality[missing], cost[missing] = np.nan, np.nan
    return OutcomeTable(
        experts=("a", "b", "c"),
        query_id=range(rows),
        features=random.normal(size=(rows, 4)),
        quality=quality,
        cost=cost,
        split=np.repeat(names, [rows // 2, rows // 4, rows - rows // 2 - rows // 4] if split else [rows]),
    )


def test_counts_and_means_are_those_of_a_loop() -> None:
    table = sparse()
    known = [
        [(q, c) for q, c in zip(*column, strict=True) if q == q]
        for column in zip(table.quality.T, table.cost.T, strict=True)
    ]
    assert table.missing == missing_count(table.quality) == 180 - sum(map(len, known)) > 10
    np.testing.assert_allclose(answered_mean(table.quality), [np.mean([q for q, _ in own]) for own in known])
    np.testing.assert_allclose(compute_scale(table), max(np.mean([c for _, c in own]) for own in known))
    np.testing.assert_array_equal(
        complete_rows(table.quality), [all(q == q for q in row) for row in table.quality]
    )
    assert (table.answered.sum(), table.part("test").missing) == (sum(map(len, known)), 0)


def test_a_complete_table_has_the_same_bits_as_before() -> None:
    values = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    assert answered_mean(values).tolist() == values.mean(axis=0, dtype=np.float64).tolist()
    assert missing_count(values) == 0


def test_null_in_parquet_and_back(tmp_path: Path) -> None:
    table = sparse()
    table.write(tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet")
    assert sum(stored[f"quality/{name}"].null_count for name in "abc") == table.missing
    back = OutcomeTable.read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(back.quality, table.quality)
    np.testing.assert_array_equal(back.cost, table.cost)
    assert table_digest(back) == table_digest(table)


def test_the_digest_covers_what_is_missing_but_not_which_nan_it_is() -> None:
    table = sparse()
    row, expert = np.argwhere(np.isnan(table.quality))[0]
    zero = [np.where(np.isnan(values), np.float32(0), values) for values in (table.quality, table.cost)]
    assert table_digest(replace(table, quality=zero[0], cost=zero[1])) != table_digest(table)
    other = np.array(table.quality)
    other.view(np.uint32)[row, expert] = 0xFFC00001
    assert np.isnan(other[row, expert])
    assert table_digest(replace(table, quality=other)) == table_digest(table)


def _set(values: np.ndarray, where: object, value: float) -> np.ndarray:
    changed = np.array(values)
    changed[where] = value
    return changed


def test_what_is_missing_must_fit_together() -> None:
    table = sparse()
    row, expert = (int(each) for each in np.argwhere(np.isnan(table.quality))[0])
    for name, other in (("quality", "cost"), ("cost", "quality")):
        known = _set(getattr(table, other), (row, expert), 0.5)
        with pytest.raises(InputError, match=f"{name}/.*row {row} .* is missing, and its {other} is not"):
            replace(table, **{other: known})
    nothing = {name: _set(getattr(table, name), 5, np.nan) for name in ("quality", "cost")}
    with pytest.raises(InputError, match=r"row 5 .*like that of every other expert; drop the row"):
        replace(table, **nothing)
    whole = table.part("test")
    nobody = {name: _set(getattr(whole, name), (slice(None), 1), np.nan) for name in ("quality", "cost")}
    with pytest.raises(InputError, match="quality/b=nan: is missing on every row"):
        replace(whole, **nobody)
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):  # values are checked beside missing ones
        replace(table, quality=_set(table.quality, (1, 1), 1.5))
    with pytest.raises(InputError, match=r"probabilities=None: .* outcomes are missing"):
        replace(table, probabilities=np.full((60, 3, 2), 0.5), label=np.zeros(60))


def test_environments_refuse_with_the_count() -> None:
    table = sparse()
    with pytest.raises(InputError, match=rf"{table.missing} of 180 outcomes are missing \("):
        Outcomes.of(table, 1.0)
    with pytest.raises(InputError, match=r"cascade needs them all; import with"):
        require_complete(table, "cascade")
    require_complete(table.part("test"), "cascade")


def test_a_split_made_of_a_sparse_table_keeps_incomplete_rows_in_train(tmp_path: Path) -> None:
    table = sparse(rows=200, split=False)
    table.write(tmp_path / "t.parquet")
    made = OutcomeTable.read(tmp_path / "t.parquet")
    sizes = {name: int((made.split == name).sum()) for name in ("train", "validation", "test")}
    assert sizes == {"train": 120, "validation": 40, "test": 40}
    assert made.part("validation").missing == made.part("test").missing == 0 < made.part("train").missing
    assert any("incomplete rows in train" in note for note in made.notes)
    assert OutcomeTable.read(tmp_path / "t.parquet", seed=1).split.tolist() != made.split.tolist()


def test_a_split_needs_complete_rows_and_takes_what_there_is(tmp_path: Path) -> None:
    few = replace(sparse(rows=50, share=0.9, split=False), split=["test"] * 50)  # 25 rows are complete
    few.write(tmp_path / "t.parquet")
    made = OutcomeTable.read(tmp_path / "t.parquet")
    complete = complete_rows(few.quality)
    held_out = made.split != "train"
    assert (held_out & ~complete).sum() == 0
    assert 18 <= held_out.sum() <= complete.sum()
    least = few.take(np.r_[np.flatnonzero(~complete), np.flatnonzero(complete)[: LEAST_COMPLETE - 1]])
    least.write(tmp_path / "t.parquet")
    with pytest.raises(
        InputError, match=rf"{LEAST_COMPLETE - 1} of {len(least)} rows have the outcome of every"
    ):
        OutcomeTable.read(tmp_path / "t.parquet")


def test_validation_is_taken_from_complete_training_rows(tmp_path: Path) -> None:
    table = sparse(rows=200)
    replace(table, split=np.repeat(["train", "test"], [150, 50])).write(tmp_path / "t.parquet")
    made = OutcomeTable.read(tmp_path / "t.parquet")
    assert (made.split == "test").tolist() == [False] * 150 + [True] * 50
    assert (made.part("validation").missing, len(made.part("validation"))) == (0, 37)
