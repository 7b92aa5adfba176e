"""Cascade problems: one solved by hand, and a made one with agreement between experts."""

from __future__ import annotations

import pytest
from environment_tables import made_cascade, solved_cascade

from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.objective import Objective


@pytest.fixture(scope="session")
def solved() -> CascadeProblem:
    """Return the problem solved by hand, at compute weight 0.5."""
    return CascadeProblem(solved_cascade(), Objective(compute_weight=0.5))


@pytest.fixture(scope="session")
def made() -> CascadeProblem:
    """Return the made problem at two compute weights."""
    return CascadeProblem(made_cascade(), [Objective(compute_weight=weight) for weight in (0.1, 0.4)])
