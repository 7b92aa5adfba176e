"""Options that `train` and `compare` share.

The parser executes the type-checking imports of a module that holds options, so this one has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import NonNegative, Positive, Size

__all__ = ["ComparedObjective", "DataOptions"]


@dataclass(frozen=True, kw_only=True)
class DataOptions(CheckedOptions):
    """The problem, and the outcomes that it is about.

    Attributes:
        table: a Parquet file or the name of a source, see `list`.
        log: a decision log: a Parquet file of `log export` or `log import`, or the URL of a log of `serve`.
            Without a table, the outcomes of experts that were not chosen are estimated. For queueing it gives
            the arrivals, service times and outages.
        env: the problem, see `list`.
        allow_leakage: accept prompts that are in two splits; every output then says so.
    """

    table: str | None = None
    log: str | None = None
    env: str = "routing"
    allow_leakage: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparedObjective(CheckedOptions):
    """The objective: one case per compute weight.

    Attributes:
        compute_weight: utility per unit of compute, comma-separated; null: the problem's default.
        load_weight: utility per unit of load, at least 0.
        window: decisions per window of the load penalty.
        budget: maximum mean compute per query, in place of the compute weights; the most expensive expert
            costs 1.
        max_cost: maximum mean compute of an expert; more expensive experts are never selected.
    """

    prefix: ClassVar[str] = "objective"

    compute_weight: list[NonNegative] | NonNegative | str | None = None
    load_weight: NonNegative = 0.0
    window: Size = 256
    budget: Positive | None = None
    max_cost: Positive | None = None
