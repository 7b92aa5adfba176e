"""Early stopping on validation, progress snapshots and optimizer state, shared by all trained methods."""

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
    "Callback",
    "CurvePoint",
    "EarlyStopping",
    "Evaluator",
    "Snapshot",
    "adamw",
    "descend",
    "optimizer_state",
    "restore_optimizer",
]


class CurvePoint(NamedTuple):
    """One validation result.

    Attributes:
        step: in the method's unit, such as epochs or decisions.
        utility: mean over the validation rows.
        entropy: entropy of the experts' shares, in nats: 0 if one expert gets all queries, log N if balanced.
        largest_share: largest share of one expert.
    """

    step: int
    utility: float
    entropy: float
    largest_share: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Progress of a fit, as passed to its callback.

    Attributes:
        step: progress in the method's unit, such as epochs or decisions.
        total: the last step.
        validation: validation result of the current policy; None if it was not validated.
        best: highest validation utility so far; NaN without validation.
        training: means over the training data since the last snapshot.
        curve: all validation results so far, including those before a resume.
        message: what was done last.
    """

    step: int
    total: int
    validation: Measurement | None
    best: float
    training: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    message: str = ""


Callback = Callable[[Snapshot], None]
Evaluator = Callable[[Router], RouterMeasurement]


class EarlyStopping:
    """Early stopping: validates a router, keeps its best weights and rule, and says when to stop.

    Step 0 is a point of the curve, and no candidate: a fitted start was selected on the same validation rows,
    so its utility there is too high to be compared with that of later steps.

    Args:
        problem: gives the validation rows and the objective.
        patience: validations without improvement before training stops.
        callback: is called with a `Snapshot` after every validation.
        evaluate: evaluates the router; by default on the validation rows under the problem's objective.
    """

    def __init__(
        self,
        problem: RoutingProblem,
        patience: int,
        callback: Callback | None,
        evaluate: Evaluator | None = None,
    ) -> None:
        self._evaluate = evaluate or partial(
            measure_rows,
            rows=Rows.of(problem.validation, problem.scale, problem.device),
            objective=problem.objective,
        )
        self._compiled = problem.compile
        self._patience = patience
        self._callback = callback
        self._best = float("-inf")
        self._stale = 0
        self._weights: dict[str, Tensor] = {}
        self._rule: Selection | None = None
        self._curve: list[CurvePoint] = []

    def update(
        self, router: Router, step: int, total: int, training: Mapping[str, float] | None = None
    ) -> bool:
        """Validate the router; returns True if training should stop.

        Args:
            router: the current policy.
            step: progress in the method's unit.
            total: the last step.
            training: means over the training data since the last update, for the callback.
        """
        result = self._evaluate(router)
        utility = float(result.utility.mean(dtype=np.float64))
        if step == 0:
            pass
        elif utility > self._best:
            self._best, self._stale = utility, 0
            self._weights = {name: value.clone() for name, value in router.scorer.state_dict().items()}
            self._rule = router.rule
        else:
            self._stale += 1
        shares = result.shares
        self._curve.append(CurvePoint(step, utility, share_entropy(shares), float(shares.max())))
        if self._callback is not None:
            self._callback(
                Snapshot(
                    step=step,
                    total=total,
                    validation=result,
                    best=utility if step == 0 else self._best,
                    training=training or {},
                    curve=tuple(self._curve),
                )
            )
        return self._stale >= self._patience

    def best(self, router: Router) -> Router:
        """Load the best weights and their rule into a router; returns it in evaluation mode."""
        if self._weights:
            router.scorer.load_state_dict(self._weights)
        router.rule = self._rule or router.rule
        return (copy.deepcopy(router) if self._compiled else router).eval()  # the copy is not compiled

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        rule = None if self._rule is None else self._rule.spec()
        return {
            "best": self._best,
            "stale": self._stale,
            "weights": self._weights,
            "rule": rule,
            "curve": [list(point) for point in self._curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best, self._stale = state["best"], state["stale"]
        self._weights = state["weights"]
        self._rule = None if state["rule"] is None else selection_from_spec(state["rule"])
        self._curve = [CurvePoint(*point) for point in state["curve"]]


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW in its fused implementation (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101).

    A router has so few weights that an optimizer which updates them one by one takes as long as a backward
    pass.
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimizer step along the gradient of a scalar loss.

    The same as `zero_grad`, `backward` and `step`. Nothing is accumulated, which saves time with small
    networks.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's moments as a nested dict of tensors, without its hyperparameters."""
    return {str(index): dict(state) for index, state in optimizer.state_dict()["state"].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore moments saved by `optimizer_state`."""
    groups = optimizer.state_dict()["param_groups"]
    moments = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
