"""Who is timed, and with how long a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..methods.method import Fit
from ..methods.registry import METHODS
from ..problems.routing.problem import Task
from . import plain_ppo

__all__ = ["BASELINES", "LEARNERS", "ON_DEVICE", "Learner"]

_NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A learner under its default settings.

    Attributes:
        name: as in the tables.
        fit: trains it.
        settings: the task and a number of decisions to its settings, without early stopping; None for as
            many as it takes, or the whole of a budget that its own schedule runs over.
        decisions: how many to time its pace over.
    """

    name: str
    fit: Fit
    settings: Callable[[Task, int | None], Any]
    decisions: int


def _plain(**changes: Any) -> Callable[[Task, int | None], Any]:
    def settings(task: Task, decisions: int | None) -> Any:
        given = plain_ppo.PlainPPOSettings(decisions=decisions or _NEVER, patience=_NEVER, **changes)
        steps = min(given.n_steps, given.decisions // plain_ppo.LANES)
        return replace(given, n_steps=steps, batch_size=min(given.batch_size, steps * plain_ppo.LANES))

    return settings


def _played(name: str, *, endless: bool) -> Callable[[Task, int | None], Any]:
    def settings(task: Task, decisions: int | None) -> Any:
        budget = {} if decisions is None and not endless else {"decisions": decisions or _NEVER}
        return METHODS[name].configure({"patience": _NEVER, **budget})

    return settings


def _walked(name: str) -> Callable[[Task, int | None], Any]:
    def settings(task: Task, decisions: int | None) -> Any:
        epochs = _NEVER if decisions is None else math.ceil(decisions / len(task.train))
        return METHODS[name].configure({"patience": _NEVER, "epochs": epochs})

    return settings


def _learner(name: str, settings: Callable[[Task, int | None], Any], decisions: int) -> Learner:
    fit = METHODS[name].fit if name in METHODS else plain_ppo.fit
    return Learner(name=name, fit=fit, settings=settings, decisions=decisions)


# Multiples of 16,384, so that nobody's rollout is overrun.
LEARNERS = (
    _learner("sb3_ppo", _plain(), 16_384),
    _learner("sb3_ppo_large", _plain(**plain_ppo.LARGE), 65_536),
    _learner("ppo", _played("ppo", endless=True), 65_536),
    _learner("router_ppo", _played("router_ppo", endless=False), 262_144),
    _learner("reinforce", _played("reinforce", endless=False), 524_288),
    _learner("exact_pg", _walked("exact_pg"), 262_144),
    _learner("softmax_gate", _walked("softmax_gate"), 262_144),
)
BASELINES = ("sb3_ppo", "sb3_ppo_large")
ON_DEVICE = ("router_ppo", "reinforce", "exact_pg")
