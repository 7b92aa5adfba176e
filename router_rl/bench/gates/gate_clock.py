"""Several functions timed against the first, round after round, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Timing", "compare"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One function's time.

    Attributes:
        microseconds: of a call, median of the rounds.
        ratio: to the first function, median of the ratios within a round.
        quartiles: of those ratios.
    """

    microseconds: float
    ratio: float
    quartiles: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    functions: Mapping[str, Callable[[], object]], rounds: int, span: float = 0.004
) -> dict[str, Timing]:
    """Time functions in turn; the first is what the others are compared with.

    Args:
        functions: by name, each a call.
        rounds: how often each has its turn.
        span: seconds that a turn of the fastest takes, or one call.
    """
    # As many calls a turn for all: otherwise one has its weights in the cache and another has not.
    count = max(1, round(span / min(_fastest(function) for function in functions.values())))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            for _ in range(count):
                function()
            seconds[name].append((time.perf_counter() - began) / count)
    base = np.array(next(iter(seconds.values())))
    found: dict[str, Timing] = {}
    for name, values in seconds.items():
        low, middle, high = (
            float(value) for value in np.quantile(np.array(values) / base, (0.25, 0.5, 0.75))
        )
        found[name] = Timing(
            microseconds=1e6 * statistics.median(values), ratio=middle, quartiles=(low, high)
        )
    return found


def _fastest(function: Callable[[], object], tries: int = 3) -> float:
    """Seconds of the fastest of some calls, after a first one that nobody counts."""
    function()
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return max(best, 1e-7)
