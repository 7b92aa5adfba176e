"""The training methods that the benchmark times, and their hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..methods.method import Fit, Method
from ..methods.registry import find_method
from ..problems.routing.problem import RoutingProblem
from . import plain_ppo

__all__ = ["BASELINES", "LEARNERS", "Learner", "routing_method"]

_UNLIMITED = 10**9


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A training method with its default hyperparameters, without early stopping.

    Attributes:
        name: as in the tables.
        fit: trains it.
        hyperparameters: of a problem and a number of decisions. The number None means unlimited, or the
            default budget where a schedule runs over the budget.
        decisions: how many decisions its throughput is timed over.
        trains_by_epoch: it trains on whole epochs of the training rows; otherwise on the decisions given.
    """

    name: str
    fit: Fit
    hyperparameters: Callable[[RoutingProblem, int | None], Any]
    decisions: int
    trains_by_epoch: bool = False


def routing_method(name: str) -> Method:
    """A trained method of the routing problem, by name."""
    method = find_method("routing", name)
    assert isinstance(method, Method)
    return method


def _sb3(name: str, decisions: int, **changes: Any) -> Learner:
    def hyperparameters(problem: RoutingProblem, decisions: int | None) -> Any:
        values = plain_ppo.PlainPPOHyperparameters(
            decisions=decisions or _UNLIMITED, patience=_UNLIMITED, **changes
        )
        steps = min(values.n_steps, values.decisions // plain_ppo.LANES)
        return replace(values, n_steps=steps, batch_size=min(values.batch_size, steps * plain_ppo.LANES))

    return Learner(name=name, fit=plain_ppo.fit, hyperparameters=hyperparameters, decisions=decisions)


def _sampling(name: str, decisions: int, *, unlimited: bool = False) -> Learner:
    """A method whose budget is a number of decisions.

    Args:
        name: of the method.
        decisions: of its throughput.
        unlimited: its schedules do not depend on the budget, so that the budget can be raised.
    """
    method = routing_method(name)

    def hyperparameters(problem: RoutingProblem, decisions: int | None) -> Any:
        budget = {} if decisions is None and not unlimited else {"decisions": decisions or _UNLIMITED}
        return method.configure({"patience": _UNLIMITED, **budget})

    return Learner(name=name, fit=method.fit, hyperparameters=hyperparameters, decisions=decisions)


def _by_epoch(name: str, decisions: int) -> Learner:
    method = routing_method(name)

    def hyperparameters(problem: RoutingProblem, decisions: int | None) -> Any:
        epochs = _UNLIMITED if decisions is None else math.ceil(decisions / len(problem.train))
        return method.configure({"patience": _UNLIMITED, "epochs": epochs})

    return Learner(
        name=name,
        fit=method.fit,
        hyperparameters=hyperparameters,
        decisions=decisions,
        trains_by_epoch=True,
    )


# Multiples of 16,384, so that every method's last rollout is complete.
LEARNERS = (
    _sb3("sb3_ppo", 16_384),
    _sb3("sb3_ppo_large", 65_536, **plain_ppo.LARGE),
    _sampling("ppo", 65_536, unlimited=True),
    _sampling("router_ppo", 262_144),
    _sampling("reinforce", 524_288),
    _by_epoch("exact_pg", 262_144),
    _by_epoch("softmax_gate", 262_144),
)
BASELINES = ("sb3_ppo", "sb3_ppo_large")
