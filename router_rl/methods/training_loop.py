"""What every trained method shares: validation as it goes, the best checkpoint kept, progress reported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..problems.load import share_entropy
from ..problems.measure import Measurement
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.router_measurement import RouterMeasurement, Rows, measure_rows
from ..routing import Router, Selection, selection_from_spec

__all__ = [
    "CurvePoint",
    "EarlyStopping",
    "Judge",
    "Snapshot",
    "Callback",
    "adamw",
    "optimizer_state",
    "restore_optimizer",
]


class CurvePoint(NamedTuple):
    """One measurement on the validation rows, in short.

    Attributes:
        step: in the learner's own unit.
        utility: mean over the rows.
        entropy: of the experts' shares, nats: 0 if one does everything, log N if all do the same.
        largest_share: of the experts' shares.
    """

    step: int
    utility: float
    entropy: float
    largest_share: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a fit is.

    Attributes:
        step, total: in the learner's own unit, such as epochs or decisions.
        validation: the policy measured on validation; None where the learner has not measured it.
        best: the highest validation utility so far; NaN where nothing was measured.
        training: means over the training data since the last snapshot.
        curve: every validation measurement so far, this one last; kept when a fit resumes.
        message: what was done last, in words.
    """

    step: int
    total: int
    validation: Measurement | None
    best: float
    training: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    message: str = ""


Callback = Callable[[Snapshot], None]
Judge = Callable[[Router], RouterMeasurement]


class EarlyStopping:
    """Measures a router on validation, keeps the best weights and their rule, and says when to stop.

    Args:
        problem: its validation rows and objective are the judge.
        patience: measurements without a better one before stopping.
        callback: is passed every measurement.
        judge: measures the router; on the validation rows under the problem's objective if None.
    """

    def __init__(
        self, problem: RoutingProblem, patience: int, callback: Callback | None, judge: Judge | None = None
    ) -> None:
        self._judge = judge or partial(
            measure_rows,
            rows=Rows.of(problem.validation, problem.scale, problem.device),
            objective=problem.objective,
        )
        self._compiled = problem.compile
        self._patience = patience
        self._watch = callback
        self._best = float("-inf")
        self._stale = 0
        self._weights: dict[str, Tensor] = {}
        self._rule: Selection | None = None
        self._curve: list[CurvePoint] = []

    def update(
        self, router: Router, step: int, total: int, training: Mapping[str, float] | None = None
    ) -> bool:
        """Measure; returns True if it is time to stop."""
        result = self._judge(router)
        utility = float(result.utility.mean(dtype=np.float64))
        if utility > self._best:
            self._best, self._stale = utility, 0
            self._weights = {name: value.clone() for name, value in router.scorer.state_dict().items()}
            self._rule = router.rule
        else:
            self._stale += 1
        shares = result.shares
        self._curve.append(CurvePoint(step, utility, share_entropy(shares), float(shares.max())))
        if self._watch is not None:
            self._watch(
                Snapshot(
                    step=step,
                    total=total,
                    validation=result,
                    best=self._best,
                    training=training or {},
                    curve=tuple(self._curve),
                )
            )
        return self._stale >= self._patience

    def best(self, router: Router) -> Router:
        """Put the best weights seen, and the rule they had, into a router; return it in evaluation mode."""
        router.scorer.load_state_dict(self._weights)
        router.rule = self._rule or router.rule
        return (copy.deepcopy(router) if self._compiled else router).eval()  # a copy is as it was written

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        rule = None if self._rule is None else self._rule.spec()
        return {
            "best": self._best,
            "stale": self._stale,
            "weights": self._weights,
            "rule": rule,
            "curve": [list(point) for point in self._curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._best, self._stale = state["best"], state["stale"]
        self._weights = state["weights"]
        self._rule = None if state["rule"] is None else selection_from_spec(state["rule"])
        self._curve = [CurvePoint(*point) for point in state["curve"]]


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) in one kernel for all weights.

    A router's weights are so few that an optimizer which walks them one by one costs as much as a backward
    pass.
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's moments as a nested dict of tensors (its hyperparameters are the run's settings)."""
    return {str(index): dict(state) for index, state in optimizer.state_dict()["state"].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put moments saved by `optimizer_state` back."""
    groups = optimizer.state_dict()["param_groups"]
    moments = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
