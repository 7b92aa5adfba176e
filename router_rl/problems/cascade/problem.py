"""The cascade on one table: its rows, the beliefs fitted on them, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.cascade import CascadeConfig, CascadeTable
from envs.outcomes import compute_scale
from experts import OutcomeTable, open_table

from ..problem import Case
from .cascade_data import CascadeData

__all__ = ["DEFAULTS", "CascadeProblem", "cases_of", "prepare"]

DEFAULTS: Mapping[str, Any] = {
    "compute_weights": (0.02, 0.05, 0.1, 0.2, 0.4),
    "limit": 3,
    "features": True,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CascadeProblem:
    """What every method is given.

    Attributes:
        table: the whole outcome table, as the options left it.
        config: what is allowed.
        weights: compute weights to compare under.
        rows: by split, as the environment has them.
    """

    table: OutcomeTable
    config: CascadeConfig
    weights: tuple[float, ...]
    rows: Mapping[str, CascadeTable]
    _data: dict[int, CascadeData] = field(default_factory=dict)

    def data(self, seed: int) -> CascadeData:
        """Training and validation rows with beliefs fitted by this seed, once."""
        if seed not in self._data:
            self._data.clear()  # one seed after the other: nothing is asked for twice
            self._data[seed] = CascadeData.of(self.table, seed)
        return self._data[seed]


def prepare(table: str | None, options: Mapping[str, Any]) -> CascadeProblem:
    """Read the table.

    Args:
        table: a Parquet path or an embedded source's name; digits if None.
        options: `compute_weights`, `limit` (experts asked), `features` (False: the query itself is hidden, so
            that only what the experts say can be acted on) and `seed` of an embedded source.

    Raises:
        InputError: the table lacks confidences or features.
    """
    whole = open_table(table or "digits", seed=int(options["seed"]))
    if not options["features"]:
        whole = _hidden(whole)
    weights = tuple(float(weight) for weight in options["compute_weights"])
    config = CascadeConfig(compute_weights=weights, limit=int(options["limit"]))
    scale = compute_scale(whole.part("train"))
    rows = {split: CascadeTable.of(whole.part(split), scale) for split in ("train", "validation", "test")}
    return CascadeProblem(table=whole, config=config, weights=weights, rows=rows)


def cases_of(problem: CascadeProblem) -> list[Case]:
    """A case for each compute weight."""
    return [
        Case(label=f"compute weight {weight:g}", values={"compute_weight": weight})
        for weight in problem.weights
    ]


def _hidden(table: OutcomeTable) -> OutcomeTable:
    """The table with one feature that says nothing."""
    from dataclasses import replace

    return replace(table, features=np.zeros((len(table), 1), dtype=np.float32))
