"""Decision logs: for each query the expert that was chosen, its propensity and its outcome.

A service observes the outcome of the chosen expert only (bandit feedback). With propensities and scores, the
log gives off-policy estimates of another router (`router_rl/problems/off_policy.py`) and is training data
(`router_rl/problems/logged_feedback.py`). Its times, latencies and failures need neither: logs of other
servers have them too (`experts/readers/log_importing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..io.errors import InputError
from .log_parquet import NUMBERS, TEXTS, read_log, write_log
from .outcome_table import OutcomeTable

__all__ = ["DecisionLog", "epsilon_greedy", "log_decisions"]

_LEARNED = {"propensity": "(0, 1]", "quality": "[0, 1]", "cost": "[0, inf)"}
_FIXES = {
    "propensity": "log the probability of each choice, as `serve --explore 0.1` does",
    "quality": "post scores to /v1/outcomes",
    "cost": "log what each answer cost",
    "features": "log the router's inputs, as `serve` does, or give --table",
}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class DecisionLog:
    """T decisions among N experts.

    In Parquet each column has the name of its field, and `expert` holds the name of the action. Arrays are
    converted to the types below and checked when the log is made. A number that is not known is NaN, a text
    that is not known is None.

    Args:
        experts: N distinct names.
        query_id: [T] str; a query may occur more than once.
        action: [T] int64, the chosen expert, 0 to N - 1.
        propensity: [T] float32 in (0, 1], the probability of choosing that expert. Logs of other servers do
            not have it, and requests that name the expert neither.
        quality: [T] float32 in [0, 1], of that expert.
        cost: [T] float32 >= 0, of that expert, in `cost_unit`.
        features: [T, D] float32, the router's inputs; None if a table has them by `query_id`.
        at: [T] float64, seconds since 1970 at which the expert was asked.
        latency_s: [T] float64 >= 0, seconds until its whole answer.
        tokens_in: [T] float64 >= 0, tokens of the prompt.
        tokens_out: [T] float64 >= 0, tokens of the answer.
        status: [T] str: `ok`, `failed`, `cut` (the answer broke off), `gone` (the client left) or `started`;
            not known counts as `ok`.
        session: [T] str, the conversation.
        previous: [T] str, the decision whose failure led to this one; None for the first try of a request.
        prompt: [T] str, the text of the query.
        cost_unit: "usd", "flops", "seconds" or "unknown".
        router: folder of the router that served, if it is known.
        pipeline: digest of its text pipeline, which made the features, if it is known.

    Raises:
        InputError: names the column, the row and the fix.
    """

    experts: tuple[str, ...]
    query_id: np.ndarray
    action: np.ndarray
    propensity: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    features: np.ndarray | None = None
    at: np.ndarray | None = None
    latency_s: np.ndarray | None = None
    tokens_in: np.ndarray | None = None
    tokens_out: np.ndarray | None = None
    status: np.ndarray | None = None
    session: np.ndarray | None = None
    previous: np.ndarray | None = None
    prompt: np.ndarray | None = None
    cost_unit: str = "unknown"
    router: str | None = None
    pipeline: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", tuple(self.experts))
        kinds = {"action": np.int64, **dict.fromkeys(("query_id", *TEXTS), object)}
        kinds |= dict.fromkeys((*_LEARNED, "features"), np.float32)
        for name in self._columns():
            kind: Any = kinds.get(name, np.float64)
            object.__setattr__(self, name, np.asanyarray(getattr(self, name), dtype=kind))
        if len(self) == 0:
            raise InputError("log", 0, "has no decisions", "log at least one")
        for name in self._columns():
            shape = getattr(self, name).shape
            if name != "features" and shape != (len(self),):
                raise InputError(name, shape, f"should have shape ({len(self)},)", "one value a decision")
        wrong = (self.action < 0) | (self.action >= len(self.experts))
        self._check("action", wrong, f"is not in 0 to {len(self.experts) - 1}")
        for name in (*_LEARNED, *NUMBERS):
            if (values := getattr(self, name)) is not None:
                low = values <= 0 if name == "propensity" else values < 0
                high = values > 1 if name in ("propensity", "quality") else values == np.inf
                self._check(name, low | high, f"is outside {_LEARNED.get(name, '[0, inf)')}")
        if self.features is not None:
            if self.features.ndim != 2 or len(self.features) != len(self):
                shape = self.features.shape
                raise InputError(
                    "features", shape, f"should have shape ({len(self)}, D)", "one row a decision"
                )
            finite: Any = np.isfinite(self.features).all(axis=1)
            unknown: Any = np.isnan(self.features).all(axis=1)
            self._check("features", ~(finite | unknown), "is not finite")

    def _columns(self) -> list[str]:
        """Return the names of the columns that the log has."""
        others = ("experts", "cost_unit", "router", "pipeline")
        names = (each.name for each in fields(self) if each.name not in others)
        return [name for name in names if getattr(self, name) is not None]

    def _check(self, name: str, wrong: np.ndarray, problem: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            row = int(rows[0])
            value = getattr(self, name)[row].tolist()
            raise InputError(name, value, f"row {row} {problem}", "correct it or drop the row")

    def __len__(self) -> int:
        return len(self.query_id)

    @property
    def answered(self) -> np.ndarray:
        """Which decisions got a whole answer, [T] bool."""
        if self.status is None:
            return np.ones(len(self), dtype=bool)
        return np.array([status in (None, "ok") for status in self.status])

    @property
    def failed(self) -> np.ndarray:
        """Which decisions got no answer, or one that broke off, [T] bool."""
        if self.status is None:
            return np.zeros(len(self), dtype=bool)
        return np.array([status in ("failed", "cut") for status in self.status])

    def take(self, rows: np.ndarray) -> DecisionLog:
        """Return the log of some rows, in the given order.

        Args:
            rows: [M] integer row numbers.

        Raises:
            InputError: no rows are left.
        """
        columns = {name: getattr(self, name)[rows] for name in self._columns()}
        return replace(self, **columns)

    def scored(self) -> DecisionLog:
        """Return the decisions from which a router can be estimated or trained.

        They have a propensity, a quality and a cost, and features if the log has any.

        Raises:
            InputError: there are none; says what is missing, and how to get it.
        """
        known = {name: ~np.isnan(getattr(self, name)) for name in _LEARNED}
        if self.features is not None:
            known["features"] = ~np.isnan(self.features).any(axis=1)
        rows = np.flatnonzero(np.logical_and.reduce(list(known.values())))
        if len(rows) == len(self):
            return self
        if len(rows):
            return self.take(rows)
        missing = {name: int((~values).sum()) for name, values in known.items() if not values.all()}
        counts = ", ".join(f"{count} without {name}" for name, count in missing.items())
        problem = f"has no decision from which a router can be estimated or trained: {counts}"
        fix = "; ".join(_FIXES[name] for name in missing)
        raise InputError("log", f"{len(self)} decisions", problem, fix)

    @classmethod
    def read(cls, path: Path | str, experts: Sequence[str] | None = None) -> DecisionLog:
        """Read a Parquet file.

        Args:
            path: the file.
            experts: the N names in the order of their ids; None: those that the file names, in its order.

        Raises:
            InputError: the file does not exist, is not Parquet, lacks a column, or names an unknown expert.
        """
        return cls(**read_log(Path(path), experts))

    def write(self, path: Path | str) -> None:
        """Write the log as Parquet (zstd), atomically."""
        columns = {name: getattr(self, name) for name in self._columns()}
        write_log(Path(path), self.experts, columns, self.cost_unit, self.router, self.pipeline)


def log_decisions(table: OutcomeTable, probabilities: np.ndarray, seed: int) -> DecisionLog:
    """Return the log of a stochastic policy on a table: one expert sampled per query, and its outcome.

    Args:
        table: T queries with the outcomes of N experts.
        probabilities: [T, N] float >= 0, the policy; rows sum to 1.
        seed: of the samples.

    Returns:
        T decisions in the table's order, with the table's features.

    Raises:
        InputError: the probabilities do not fit the table, or a row is not a distribution.
    """
    shape = (len(table), len(table.experts))
    if probabilities.shape != shape:
        raise InputError(
            "probabilities", probabilities.shape, f"should have shape {shape}", "give one row a query"
        )
    total = probabilities.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(~((probabilities >= 0).all(axis=1) & (np.abs(total - 1) <= 1e-3)))
    if len(wrong):
        row = int(wrong[0])
        problem = f"row {row} is not a distribution"
        raise InputError("probabilities", probabilities[row].tolist(), problem, "make rows sum to 1")
    below = probabilities.cumsum(axis=1, dtype=np.float64)
    # Divided by their last value the sums end in exactly 1: rounding never samples a probability of 0.
    drawn = np.random.default_rng(seed).random((len(table), 1))
    action = (below / below[:, -1:] <= drawn).sum(axis=1)
    row = np.arange(len(table))
    return DecisionLog(
        experts=table.experts,
        query_id=table.query_id,
        action=action,
        propensity=probabilities[row, action],
        quality=table.quality[row, action],
        cost=table.cost[row, action],
        features=table.features,
    )


def epsilon_greedy(choice: np.ndarray, experts: int, epsilon: float) -> np.ndarray:
    """Return the epsilon-greedy policy: the given choice, or with probability epsilon a uniform expert.

    Args:
        choice: [T] int64, the expert that a router chooses.
        experts: N.
        epsilon: in [0, 1], the probability of a uniformly random expert.

    Returns:
        [T, N] float64, rows sum to 1.

    Raises:
        InputError: epsilon is not in [0, 1].

    >>> epsilon_greedy(np.array([1]), 4, 0.2).round(2)
    array([[0.05, 0.85, 0.05, 0.05]])
    """
    if not 0.0 <= epsilon <= 1.0:
        raise InputError("epsilon", epsilon, "is not a probability", "use 0 to 1")
    return epsilon / experts + (1.0 - epsilon) * np.eye(experts)[choice]
