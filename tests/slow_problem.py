"""A problem whose evaluations take time and are written down, for tests that kill what runs them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toy_methods import disagreeing_table

from router_rl import Objective, RoutingProblem

__all__ = ["METHODS", "SlowProblem", "numbers", "seen", "slow_problem"]

METHODS = ["softmax_gate", "ridge", "knn"]


class SlowProblem(RoutingProblem):
    """The table that ranks experts otherwise on tuning rows.

    Attributes:
        journal: file in which every fit that is measured stands: its process.
        seconds: what measuring a fit takes.
    """

    always = ("random", "best_single", "zero_router", "oracle")
    journal: Path | None = None
    seconds = 0.0

    def evaluate(self, policy: Any, split: str, case: Any = None, *, seed: int = 0) -> Any:
        """Measure as usual, after some time."""
        if split == "tuning" and self.journal is not None:
            with self.journal.open("a", encoding="utf-8") as stream:
                stream.write(f"{os.getpid()}\n")
            time.sleep(self.seconds)
        return RoutingProblem.evaluate(self, policy, split, case, seed=seed)


def slow_problem(
    journal: Path | None = None, seconds: float = 0.0, weights: Sequence[float] = (0.1, 0.3)
) -> SlowProblem:
    """Return the problem; journal and seconds are not part of its digest."""
    problem = SlowProblem(disagreeing_table(), [Objective(compute_weight=weight) for weight in weights])
    problem.journal, problem.seconds = journal, seconds
    return problem


def seen(journal: Path) -> list[int]:
    """Return the process of each fit that another process measured so far."""
    found = [int(line) for line in journal.read_text().split()] if journal.exists() else []
    return [process for process in found if process != os.getpid()]


def numbers(study: Any) -> list[dict[str, Any]]:
    """Return the rows of a comparison without times."""
    timed = ("fit_seconds", "router")
    rows = study.results["rows"]
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]
