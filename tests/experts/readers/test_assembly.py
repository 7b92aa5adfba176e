"""Outcomes in any order make the same table; what is not told stays a hole."""

from __future__ import annotations

import numpy as np
import pytest

from experts.readers import Outcome
from experts.readers.assembly import assemble


def test_orders_do_not_matter_but_for_names() -> None:
    told = [
        Outcome(query="q1", expert="a", quality=1.0, prompt="one", cost=0.5),
        Outcome(query="q2", expert="b", quality=0.25, group="g"),
        Outcome(query="q1", expert="b", quality=None, cost=2.0),
        Outcome(query="q2", expert="a", quality=0.0, prompt="two", tokens_in=3),
    ]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = assemble(told[i] for i in order)
        rows = [found.query.index(name) for name in ("q1", "q2")]
        columns = [found.experts.index(name) for name in ("a", "b")]
        np.testing.assert_array_equal(
            found.numbers["quality"][np.ix_(rows, columns)], np.float32([[1.0, np.nan], [0.0, 0.25]])
        )
        np.testing.assert_array_equal(
            found.numbers["cost"][np.ix_(rows, columns)], np.float32([[0.5, 2.0], [np.nan, np.nan]])
        )
        assert found.numbers["tokens_in"][rows[1], columns[0]] == 3
        assert found.facts["prompt"][rows].tolist() == ["one", "two"]
        assert found.facts["group"][rows].tolist() == [None, "g"]
        assert found.repeated == 0


def test_of_repeated_outcomes_the_first_counts() -> None:
    found = assemble(Outcome(query="q", expert="a", quality=value) for value in (0.75, 0.0, 0.0))
    assert found.repeated == 2
    assert found.numbers["quality"].tolist() == [[pytest.approx(0.75)]]


def test_nothing() -> None:
    found = assemble([])
    assert found.query == []
    assert found.numbers["quality"].shape == (0, 0)
