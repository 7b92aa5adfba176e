"""Limits of the recommended operating point, which is selected on tuning rows: cost, quality, saving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Positive, Range

__all__ = ["Candidate", "Target", "select"]


@dataclass(frozen=True, kw_only=True)
class Target(CheckedOptions):
    """Limits of the recommended operating point; all that are given must hold on the tuning rows.

    Attributes:
        budget_usd: maximum mean cost, in US$ per 1,000 queries.
        max_quality_loss: maximum loss of mean quality compared with the best single expert.
        save_at_least: minimum share of the best single expert's cost that is saved, such as 50%.
    """

    budget_usd: Positive | None = None
    max_quality_loss: Annotated[float, Range(0.0, 1.0, below=True)] | None = None
    save_at_least: float | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save_at_least is not None:
            object.__setattr__(self, "save_at_least", _share(self.save_at_least))

    def __bool__(self) -> bool:
        """Return whether any limit is given."""
        return self != Target()

    def to_json(self) -> dict[str, float]:
        """Return the limits that are given."""
        limits: dict[str, Any] = {
            "budget_usd": self.budget_usd,
            "max_quality_loss": self.max_quality_loss,
            "save_at_least": self.save_at_least,
        }
        return {name: float(value) for name, value in limits.items() if value is not None}

    def holds(self, quality: float, cost: float, best_quality: float, best_cost: float) -> bool:
        """Return whether a mean quality and cost satisfy every limit.

        Args:
            quality: mean quality.
            cost: mean cost of a query, in the table's unit (US$ if there is a budget).
            best_quality: mean quality of the best single expert.
            best_cost: its mean cost.
        """
        within = self.budget_usd is None or 1000.0 * cost <= self.budget_usd
        good = self.max_quality_loss is None or quality >= best_quality - self.max_quality_loss
        saved = self.save_at_least is None or cost <= (1.0 - float(self.save_at_least)) * best_cost
        return within and good and saved


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An operating point: a method in a case, or one expert for every query.

    Attributes:
        method: name of the method; None for one expert.
        case: label of the case.
        expert: name of the expert; None for a method.
        quality: mean quality on the tuning rows.
        cost: mean cost of a query on the tuning rows, in the table's unit.
    """

    method: str | None
    case: str
    expert: str | None = None
    quality: float
    cost: float


def select(candidates: Sequence[Candidate], target: Target) -> Candidate | None:
    """Return the operating point that satisfies a target; None if there is none.

    With a limit on quality it is the cheapest one, otherwise the one with the highest quality. Among equal
    ones the first is selected.

    Args:
        candidates: operating points; those of one expert include the best single expert, the reference.
        target: the limits.
    """
    single = max((each for each in candidates if each.expert is not None), key=lambda each: each.quality)
    feasible = [
        each for each in candidates if target.holds(each.quality, each.cost, single.quality, single.cost)
    ]
    if not feasible:
        return None
    if target.max_quality_loss is not None:
        return min(feasible, key=lambda each: (each.cost, -each.quality))
    return max(feasible, key=lambda each: (each.quality, -each.cost))


def _share(value: float | str) -> float:
    """Return a share that is given as 0.5 or as 50%."""
    try:
        share = float(value[:-1]) / 100.0 if isinstance(value, str) and value.endswith("%") else float(value)
    except ValueError:
        share = float("nan")
    if not 0.0 < share < 1.0:
        raise InputError("save_at_least", value, "is not a share of the cost", "give 50% or 0.5")
    return share
