"""Rows held out in turn: every row once, and what belongs together stays together."""

from __future__ import annotations

import numpy as np

from experts import OutcomeTable
from router_rl.problems.cross_fitting import fold_numbers, held_out


def _table(prompts: list[str] | None = None, fold: list[int] | None = None, rows: int = 12) -> OutcomeTable:
    return OutcomeTable(
        experts=("a", "b"),
        query_id=np.array([f"q{i}" for i in range(rows)], dtype=object),
        features=np.zeros((rows, 1)),
        quality=np.zeros((rows, 2)),
        cost=np.ones((rows, 2)),
        split=np.full(rows, "train"),
        prompt=None if prompts is None else np.array(prompts, dtype=object),
        fold=None if fold is None else np.array(fold),
    )


def test_every_row_is_held_out_once() -> None:
    found = held_out(_table(), 5, seed=0)
    assert len(found) == 5
    assert sorted(np.concatenate([held for _, held in found])) == list(range(12))
    for seen, held in found:
        assert sorted([*seen, *held]) == list(range(12))


def test_the_same_prompt_stays_together() -> None:
    prompts = ["one", " one", "two", "two ", "three", "three", "four", "four", "five", "five", "six", "six"]
    for seed in range(5):
        for _, held in held_out(_table(prompts), 3, seed):
            assert all(row ^ 1 in held for row in held)


def test_the_tables_own_folds_count() -> None:
    found = held_out(_table([f"p{i}" for i in range(12)], [3, 3, 7, 7, 9, 9] * 2), 5, seed=0)
    assert [held.tolist() for _, held in found] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_one_fold_is_none() -> None:
    assert len(held_out(_table(fold=[4] * 12), 5, seed=0)) == 5


def test_rows_without_a_prompt_do_not_stay_together() -> None:
    number = fold_numbers(_table(["", " "] * 20 + ["a"] * 4, rows=44), 4, seed=0)
    assert len(set(number[:40].tolist())) == 4
    assert len(set(number[40:].tolist())) == 1


def test_two_prompts_are_two_folds() -> None:
    number = fold_numbers(_table(["a", "b"] * 6), 5, seed=0)
    assert len(set(number[::2].tolist())) == len(set(number[1::2].tolist())) == 1
    assert number[0] != number[1]


def test_rows_of_one_prompt_are_divided_all_the_same() -> None:
    assert len(set(fold_numbers(_table(["a"] * 12), 5, seed=0).tolist())) == 5
