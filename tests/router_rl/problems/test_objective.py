"""The objective's arithmetic and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from experts import InputError
from router_rl import Objective


def test_utility_by_hand() -> None:
    objective = Objective(compute_weight=0.5, load_weight=0.1)
    assert objective.utility(1.0, 0.4, 2.0) == pytest.approx(0.6)
    found = objective.utility(np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, -1.0]))
    np.testing.assert_allclose(found, [0.5, 0.1])


@pytest.mark.parametrize("field", ["compute_weight", "load_weight"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_weight_must_be_a_weight(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field}="):
        Objective(**{field: value})  # type: ignore[arg-type]


def test_a_window_must_be_positive() -> None:
    with pytest.raises(InputError, match="window=0"):
        Objective(window=0)
