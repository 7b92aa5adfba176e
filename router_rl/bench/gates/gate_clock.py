"""Relative timings: several functions take turns in every round, and each is divided by the first."""

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
    """The time of one function.

    Attributes:
        microseconds: of a call, median over the rounds.
        ratio: over the first function, median of the ratios within each round.
        quartiles: of those ratios.
    """

    microseconds: float
    ratio: float
    quartiles: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict."""
        return asdict(self)


def compare(
    functions: Mapping[str, Callable[[], object]], rounds: int, span: float = 0.004
) -> dict[str, Timing]:
    """Time functions in turn and compare them with the first.

    Args:
        functions: calls without arguments, by name.
        rounds: turns of each function.
        span: seconds that a turn of the fastest function lasts; at least one call.
    """
    # All functions get the same number of calls per turn: their weights are then in cache equally often.
    count = max(1, round(span / min(_fastest(function) for function in functions.values())))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(count):
                function()
            seconds[name].append((time.perf_counter() - start) / count)
    base = np.array(next(iter(seconds.values())))
    timings: dict[str, Timing] = {}
    for name, values in seconds.items():
        low, middle, high = (
            float(value) for value in np.quantile(np.array(values) / base, (0.25, 0.5, 0.75))
        )
        timings[name] = Timing(
            microseconds=1e6 * statistics.median(values), ratio=middle, quartiles=(low, high)
        )
    return timings


def _fastest(function: Callable[[], object], calls: int = 3) -> float:
    """Seconds of the fastest of some calls, after one warm-up call."""
    function()
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-7)
