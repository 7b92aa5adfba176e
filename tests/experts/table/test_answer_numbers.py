"""Answers are equal by class, or by text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from experts import OutcomeTable
from experts.table.answer_numbers import answer_numbers


def made(**changes: object) -> OutcomeTable:
    values = np.ones((3, 3), dtype=np.float32)
    fields: dict[str, object] = {"experts": ["a", "b", "c"], "query_id": range(3), "features": values}
    fields |= {"quality": values, "cost": values, "split": ["train", "validation", "test"]}
    return OutcomeTable(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_most_probable_class_is_the_answer() -> None:
    probabilities = np.eye(3, dtype=np.float32)[[[0, 1, 2], [2, 2, 0], [1, 1, 1]]]
    table = made(probabilities=probabilities, label=np.zeros(3), quality=probabilities.argmax(2) == 0)
    numbers = answer_numbers(table)
    assert numbers is not None
    assert numbers.tolist() == [[0, 1, 2], [2, 2, 0], [1, 1, 1]]


def test_texts_are_compared_and_a_missing_one_is_equal_to_no_other() -> None:
    columns = {"answer/a": ["Yes", None, ""], "answer/b": [" yes", None, "7"], "answer/c": ["no", "7", "7"]}
    numbers = answer_numbers(made(extra=pa.table(columns)))
    assert numbers is not None
    same = numbers[:, :, None] == numbers[:, None, :]
    assert [tuple(row[[0, 0, 1], [1, 2, 2]]) for row in same] == [
        (True, False, False),
        (False, False, False),
        (False, False, True),
    ]
    assert same[:, range(3), range(3)].all()


def test_without_answers_of_two_experts_there_are_none() -> None:
    assert answer_numbers(made()) is None
    assert answer_numbers(made(extra=pa.table({"answer/a": ["x", "y", "z"]}))) is None
    two = answer_numbers(made(extra=pa.table({"answer/a": ["x"] * 3, "answer/c": ["x"] * 3})))
    assert two is not None
    assert (two[:, 0] == two[:, 2]).all()
    assert (two[:, 0] != two[:, 1]).all()
