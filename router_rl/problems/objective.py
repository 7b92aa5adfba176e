"""Objective: what a router maximises, `quality - compute_weight * compute - load_weight * load`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
from torch import Tensor

from envs import RoutingConfig
from envs.reward import utility
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import NonNegative, Positive, Size

__all__ = ["Objective"]

Number = TypeVar("Number", float, np.ndarray, Tensor)


@dataclass(frozen=True, kw_only=True)
class Objective(CheckedOptions):
    """The trade-off between quality, compute and load.

    Attributes:
        compute_weight: utility per unit of compute (1 = one call of the most expensive expert), at least 0.
        load_weight: utility per unit of load (squared coefficient of variation of shares), at least 0.
        window: number of decisions over which load is charged.
        budget: maximum mean compute per query, in the same unit. Compute is then not penalized, and the
            compute weight only starts the search for the multiplier.
        max_cost: maximum mean compute of an expert, in the same unit; more expensive experts are not
            selected.

    Raises:
        InputError: a weight is negative or not finite, or the window, the budget or the maximum cost is not
            positive.
    """

    prefix: ClassVar[str] = "objective"

    compute_weight: NonNegative = 0.1
    load_weight: NonNegative = 0.0
    window: Size = 256
    budget: Positive | None = None
    max_cost: Positive | None = None

    def config(
        self, *, k: int, observe_load: bool, choose: Literal["experts", "some", "weights"] = "experts"
    ) -> RoutingConfig:
        """Return the configuration of the environment with this objective.

        Args:
            k: experts per decision.
            observe_load: whether the observation includes the window's load.
            choose: what an action is.
        """
        return RoutingConfig(
            compute_weight=self.compute_weight,
            load_weight=self.load_weight,
            window=self.window,
            k=k,
            observe_load=observe_load,
            choose=choose,
        )

    def utility(self, quality: Number, compute: Number, load: Number) -> Number:
        """Return the utility of quality, compute and load of the same shape."""
        weight = self.compute_weight if self.budget is None else 0.0
        parts = {"quality": quality, "compute": compute, "load": load}
        return utility(parts, {"compute": weight, "load": self.load_weight})
