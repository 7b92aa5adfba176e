"""Service times: latency, else tokens, else cost."""

from __future__ import annotations

import numpy as np
import pytest

from envs.service_time import service_times
from experts import InputError, OutcomeTable


def table(**columns):
    return OutcomeTable(
        experts=["a", "b"],
        query_id=range(3),
        features=np.zeros((3, 1)),
        quality=np.ones((3, 2)),
        cost=np.array([[1.0, 3.0]] * 3),
        split=["train"] * 3,
        **columns,
    )


def test_the_best_column_there_is_decides():
    tokens, seconds = np.full((3, 2), 100.0), np.full((3, 2), 7.0)
    assert (service_times(table(tokens_out=tokens, latency_s=seconds)) == 7.0).all()
    assert (service_times(table(tokens_out=tokens), tokens_per_second=20.0) == 5.0).all()
    assert service_times(table()).tolist() == [[0.5, 1.5]] * 3


def test_a_time_that_is_missing_or_0_is_named():
    seconds = np.array([[1.0, 1.0], [1.0, np.nan], [1.0, 1.0]])
    with pytest.raises(
        InputError, match="latency_s=nan: row 1 of b has no time above 0; fill in latency_s for all experts"
    ):
        service_times(table(latency_s=seconds))
    with pytest.raises(InputError, match="row 0 of a has no time above 0"):
        service_times(table(latency_s=np.zeros((3, 2))))
