"""Decision logs: for each query the expert that was chosen, its propensity and its outcome.

A service observes the outcome of the chosen expert only (bandit feedback). With propensities, the log gives
off-policy estimates of another router (`router_rl/problems/off_policy.py`) and is training data
(`router_rl/problems/logged_feedback.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.atomic import replacing
from ..io.errors import InputError, unknown_name
from .feature_column import read_features
from .outcome_table import OutcomeTable
from .parquet_columns import float_column, text_column
from .parquet_file import opened_parquet

__all__ = ["DecisionLog", "epsilon_greedy", "log_decisions"]

_NUMBERS = {"propensity": "(0, 1]", "quality": "[0, 1]", "cost": "[0, inf)"}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class DecisionLog:
    """T decisions among N experts.

    In Parquet the columns are `query_id`, `expert` (a name), `propensity`, `quality`, `cost` and optionally
    `features`. Arrays are converted to the types below and checked when the log is made.

    Args:
        experts: N distinct names.
        query_id: [T] str; a query may occur more than once.
        action: [T] int64, the chosen expert, 0 to N - 1.
        propensity: [T] float32 in (0, 1], the probability of choosing that expert.
        quality: [T] float32 in [0, 1], of that expert.
        cost: [T] float32 >= 0, of that expert, in the unit of the table that goes with the log.
        features: [T, D] float32, finite, the router's inputs; None if a table has them by `query_id`.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", tuple(self.experts))
        object.__setattr__(self, "query_id", np.asarray(self.query_id, dtype=object))
        object.__setattr__(self, "action", np.asarray(self.action, dtype=np.int64))
        for name in (*_NUMBERS, "features"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asanyarray(value, dtype=np.float32))
        if len(self) == 0:
            raise InputError("log", 0, "has no decisions", "log at least one")
        for name in ("action", *_NUMBERS):
            shape = getattr(self, name).shape
            if shape != (len(self),):
                raise InputError(name, shape, f"should have shape ({len(self)},)", "one value a decision")
        wrong = (self.action < 0) | (self.action >= len(self.experts))
        self._check("action", wrong, f"is not in 0 to {len(self.experts) - 1}")
        inside = {
            "propensity": (self.propensity > 0) & (self.propensity <= 1),
            "quality": (self.quality >= 0) & (self.quality <= 1),
            "cost": (self.cost >= 0) & (self.cost < np.inf),
        }
        for name, good in inside.items():  # NaN fails every comparison
            self._check(name, ~good, f"is outside {_NUMBERS[name]}")
        if self.features is not None:
            if self.features.ndim != 2 or len(self.features) != len(self):
                shape = self.features.shape
                raise InputError(
                    "features", shape, f"should have shape ({len(self)}, D)", "one row a decision"
                )
            infinite: Any = ~np.isfinite(self.features)
            self._check("features", infinite.any(axis=1), "is not finite")

    def _check(self, name: str, wrong: np.ndarray, problem: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            row = int(rows[0])
            value = getattr(self, name)[row].tolist()
            raise InputError(name, value, f"row {row} {problem}", "correct it or drop the row")

    def __len__(self) -> int:
        return len(self.query_id)

    def take(self, rows: np.ndarray) -> DecisionLog:
        """Return the log of some rows, in the given order.

        Args:
            rows: [M] integer row numbers.

        Raises:
            InputError: no rows are left.
        """
        return DecisionLog(
            experts=self.experts,
            query_id=self.query_id[rows],
            action=self.action[rows],
            propensity=self.propensity[rows],
            quality=self.quality[rows],
            cost=self.cost[rows],
            features=None if self.features is None else self.features[rows],
        )

    @classmethod
    def read(cls, path: Path | str, experts: Sequence[str]) -> DecisionLog:
        """Read a Parquet file.

        Args:
            path: the file.
            experts: the N names in the order of their ids.

        Raises:
            InputError: the file does not exist, is not Parquet, lacks a column, or names an unknown expert.
        """
        path = Path(path)
        with opened_parquet("log", path, "give a Parquet file of decisions") as file:
            names = file.schema_arrow.names
            for name in ("query_id", "expert", *_NUMBERS):
                if name not in names:
                    raise InputError(name, None, f"{path}: the column is missing", "add it to the log")
            if file.metadata.num_rows == 0:
                raise InputError("log", str(path), "has no decisions", "log at least one")
            table = file.read(columns=["query_id", "expert", *_NUMBERS])
            table.validate(full=True)
            features = read_features(file, path, progress=False) if "features" in names else None
            numbers = {name: float_column(name, table[name]) for name in _NUMBERS}
            texts = {name: text_column(name, table[name], path) for name in ("query_id", "expert")}
        ids = {name: index for index, name in enumerate(experts)}
        for name, values in texts.items():
            for row, value in enumerate(values):
                if value is None or value != value:
                    fix = "fill it in or drop the row"
                    raise InputError(name, None, f"row {row} is missing in {path}", fix)
        for name in texts["expert"]:
            if str(name) not in ids:
                raise unknown_name("expert", str(name), experts)
        return cls(
            experts=tuple(experts),
            query_id=np.array([str(name) for name in texts["query_id"]], dtype=object),
            action=np.array([ids[str(name)] for name in texts["expert"]], dtype=np.int64),
            features=features,
            **numbers,
        )

    def write(self, path: Path | str) -> None:
        """Write the log as Parquet (zstd), atomically."""
        columns: dict[str, Any] = {
            "query_id": pa.array(self.query_id.tolist(), type=pa.string()),
            "expert": pa.array([self.experts[action] for action in self.action]),
            **{name: pa.array(getattr(self, name)) for name in _NUMBERS},
        }
        if self.features is not None:
            flat = pa.array(np.ascontiguousarray(self.features).reshape(-1))
            columns["features"] = pa.FixedSizeListArray.from_arrays(flat, self.features.shape[1])
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")


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
