"""Arrival times of requests: recorded traces as Parquet, Poisson arrivals and bursts.

The queueing environment scales the rate of a trace to its load, so only the pattern of the gaps matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experts.io.errors import InputError, unknown_name

__all__ = ["ARRIVALS", "Arrivals", "open_arrivals", "split_arrivals"]

ARRIVALS = ("poisson", "bursts")
_PARTS = {"train": (0.0, 0.5), "validation": (0.5, 0.625), "test": (0.75, 1.0), "tuning": (0.625, 0.75)}
_SYNTHETIC = 65_536
_TOKENS = ("tokens_in", "tokens_out")
_RATES = (0.5, 5.0)  # calm and busy, requests per unit of time
_DWELL = (200.0, 200.0)  # mean requests in each state before it switches


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Arrivals:
    """A sequence of arrivals.

    Args:
        name: of the trace or process.
        arrival_s: [M] float64, seconds, non-decreasing, M >= 3, the last after the first.
        tokens: [M, 2] float64, tokens of each prompt and of its answer, at least 1; None if not known.

    Raises:
        InputError: a time is missing, not finite or out of order; names the row and the fix.
    """

    name: str
    arrival_s: np.ndarray
    tokens: np.ndarray | None = None

    def __post_init__(self) -> None:
        times = np.asarray(self.arrival_s, dtype=np.float64)
        object.__setattr__(self, "arrival_s", times)
        if times.ndim != 1 or len(times) < 3:
            raise InputError("arrival_s", times.shape, "is too short", "give a column of 3 or more times")
        wrong = np.flatnonzero(~np.isfinite(times))
        if len(wrong):
            raise InputError(
                "arrival_s", float(times[wrong[0]]), f"row {wrong[0]} is not finite", "drop the row"
            )
        wrong = np.flatnonzero(np.diff(times) < 0)
        if len(wrong):
            row = int(wrong[0]) + 1
            raise InputError(
                "arrival_s", float(times[row]), f"row {row} is before row {row - 1}", "sort the trace"
            )
        if times[-1] == times[0]:
            raise InputError(
                "arrival_s", float(times[0]), "all requests arrive at once", "use a trace with a rate"
            )

    @classmethod
    def read(cls, path: Path | str) -> Arrivals:
        """Read the column `arrival_s` of a Parquet file, and `tokens_in` and `tokens_out` where it has both.

        Raises:
            InputError: the file or the column is missing, or does not hold times.
        """
        path = Path(path)
        if not path.is_file():
            problem, fix = "no such file", f"give a Parquet file, or {' or '.join(ARRIVALS)}"
            raise InputError("arrivals", str(path), problem, fix)
        try:
            column = pq.read_table(path, columns=["arrival_s"])["arrival_s"]
            times = column.to_numpy().astype(np.float64)
            names = [name for name in _TOKENS if name in pq.read_schema(path).names]
            counts = pq.read_table(path, columns=names) if len(names) == len(_TOKENS) else None
            tokens = counts and np.stack([counts[name].to_numpy().astype(np.float64) for name in names], 1)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            problem = f"has no readable column arrival_s ({error})"
            raise InputError("arrivals", str(path), problem, "write arrival_s in seconds") from error
        return cls(name=path.stem, arrival_s=times, tokens=None if tokens is None else tokens.clip(min=1.0))

    def gaps(self) -> np.ndarray:
        """Gaps between arrivals, scaled to mean 1, [M - 1] float64."""
        gaps = np.diff(self.arrival_s)
        return gaps / gaps.mean()

    def part(self, first: float, last: float) -> Arrivals:
        """The arrivals between two fractions of the trace, by number: `part(0.0, 0.5)` is its first half."""
        rows = slice(int(first * len(self.arrival_s)), int(last * len(self.arrival_s)))
        tokens = None if self.tokens is None else self.tokens[rows]
        return Arrivals(name=self.name, arrival_s=self.arrival_s[rows], tokens=tokens)

    def jittered(self, seconds: float, seed: int = 0) -> Arrivals:
        """Spread each arrival over the seconds after its time stamp, for traces with rounded time stamps."""
        noise = np.random.default_rng(seed).uniform(0.0, seconds, len(self.arrival_s))
        times = self.arrival_s + noise
        order = np.argsort(times, kind="stable")
        tokens = None if self.tokens is None else self.tokens[order]
        return Arrivals(name=self.name, arrival_s=times[order], tokens=tokens)


def open_arrivals(name: str | Path, seed: int = 0) -> Arrivals:
    """Arrivals by name: `poisson`, `bursts`, or the path of a Parquet trace.

    `bursts` is a Markov-modulated Poisson process of two states, calm and ten times as busy (Fischer and
    Meier-Hellstern 1993, https://doi.org/10.1016/0166-5316(93)90035-S).

    Raises:
        InputError: the name is unknown or the file cannot be read.
    """
    if name == "poisson":
        gaps = np.random.default_rng(seed).exponential(1.0, _SYNTHETIC)
        return Arrivals(name="poisson", arrival_s=gaps.cumsum())
    if name == "bursts":
        return Arrivals(name="bursts", arrival_s=_modulated(np.random.default_rng(seed)).cumsum())
    if isinstance(name, str) and not Path(name).suffix and not Path(name).exists():
        raise unknown_name("arrivals", name, [*ARRIVALS, "a Parquet path"])
    return Arrivals.read(name)


def split_arrivals(arrivals: Arrivals | Path | str, split: str | None) -> Arrivals:
    """The arrivals of a split: a part of a recorded trace, or generated ones with a seed of its own.

    Args:
        arrivals: a trace, `poisson`, `bursts`, or the path of a trace.
        split: `train`, `validation`, `tuning` or `test`; None for all.
    """
    if isinstance(arrivals, str) and arrivals in ARRIVALS:
        return open_arrivals(arrivals, seed=0 if split is None else 1 + list(_PARTS).index(split))
    trace = arrivals if isinstance(arrivals, Arrivals) else open_arrivals(arrivals)
    return trace if split is None else trace.part(*_PARTS[split])


def _modulated(rng: np.random.Generator) -> np.ndarray:
    parts: list[np.ndarray] = []
    total = state = 0
    while total < _SYNTHETIC:
        stay = int(rng.geometric(1.0 / _DWELL[state]))
        parts.append(rng.exponential(1.0 / _RATES[state], stay))
        total, state = total + stay, 1 - state
    return np.concatenate(parts)[:_SYNTHETIC]
