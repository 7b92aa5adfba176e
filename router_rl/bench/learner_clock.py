"""Two clocks: decisions a second, and seconds to a validation utility."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ..methods.method import Run
from ..methods.training_loop import Snapshot
from ..problems.routing.problem import Task
from .learners import Learner

__all__ = ["Spread", "decisions_per_second", "seconds_to_reach", "spread"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of repeats; None where they lie beyond the limit."""

    median: float | None
    quartiles: tuple[float | None, float | None]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of values, infinity standing for what was never reached.

    >>> spread([1.0, 2.0, float("inf")])
    Spread(median=2.0, quartiles=(1.0, None))
    """
    found = np.quantile(np.array(values), (0.25, 0.5, 0.75), method="inverted_cdf")
    low, middle, high = (float(value) if math.isfinite(value) else None for value in found)
    return Spread(median=middle, quartiles=(low, high))


def decisions_per_second(learner: Learner, task: Task, decisions: int, seed: int) -> float:
    """How many decisions a learner trains on in a second, measuring on validation as often as it does.

    The clock starts at the first measurement, when everything is built.
    """
    settings = learner.settings(task, decisions)
    began: list[float] = []

    def watch(snapshot: Snapshot) -> None:
        if not began:
            began.append(time.perf_counter())

    learner.fit(task, settings, Run(seed=seed, watch=watch))
    trained = (
        settings.epochs * len(task.train)
        if hasattr(settings, "epochs") and not hasattr(settings, "steps")
        else decisions
    )
    return trained / (time.perf_counter() - began[0])


class _Stop(Exception):
    pass


def seconds_to_reach(
    learner: Learner, task: Task, reference: float, *, every: int, limit: float, seed: int
) -> float:
    """Seconds from the call until a measurement on validation is as good as a reference.

    Nothing is left out: building the learner and measuring it count.

    Args:
        learner: trained until it is there.
        task: what it learns.
        reference: the validation utility.
        every: decisions between two measurements.
        limit: seconds after which it is stopped.
        seed: of the fit.

    Returns:
        seconds, or infinity for a learner that does not get there.
    """
    began = time.perf_counter()
    reached = math.inf

    def watch(snapshot: Snapshot) -> None:
        nonlocal reached
        passed = time.perf_counter() - began
        if snapshot.best >= reference:
            reached = passed
        if snapshot.best >= reference or passed > limit:
            raise _Stop

    with suppress(_Stop):
        learner.fit(task, learner.settings(task, None), Run(seed=seed, watch=watch, validate_every=every))
    return reached if reached <= limit else math.inf
