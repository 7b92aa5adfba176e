"""Validation of a policy over all cases of a problem; the best weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...problems.load import share_entropy
from ...problems.problem import Problem
from ...routing.policies.network_policy import NetworkPolicy
from ..training_loop import Callback, CurvePoint, Snapshot

__all__ = ["BestPolicy"]


class BestPolicy:
    """Validates a policy and keeps its best weights.

    Args:
        problem: gives the validation rows and the cases.
        callback: is called with a `Snapshot` after every validation; it shows the middle case.

    Attributes:
        weights: state of the policy with the highest mean utility over the cases.
    """

    def __init__(self, problem: Problem, callback: Callback | None) -> None:
        self.weights: dict[str, Tensor] = {}
        self._problem = problem
        self._callback = callback
        self._best = float("-inf")
        self._curve: list[CurvePoint] = []

    def update(self, policy: NetworkPolicy, step: int, total: int, training: Mapping[str, float]) -> None:
        """Validate a policy.

        Args:
            policy: the current policy.
            step: decisions so far.
            total: decisions at the end.
            training: means over the last rollout, for the callback.
        """
        cases = self._problem.cases
        results = [self._problem.evaluate(policy, "validation", case) for case in cases]
        utility = sum(result.means()["utility"] for result in results) / len(results)
        if utility > self._best:
            self._best = utility
            self.weights = {name: value.clone() for name, value in policy.state_dict().items()}
        middle = results[(len(results) - 1) // 2]
        shares = middle.shares
        self._curve.append(CurvePoint(step, utility, share_entropy(shares), float(shares.max())))
        if self._callback is not None:
            snapshot = Snapshot(
                step=step,
                total=total,
                validation=middle,
                best=self._best,
                training=training,
                curve=tuple(self._curve),
                message="decisions",
            )
            self._callback(snapshot)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "best": self._best,
            "weights": self.weights,
            "curve": [list(point) for point in self._curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best, self.weights = state["best"], state["weights"]
        self._curve = [CurvePoint(*point) for point in state["curve"]]
