"""Two timings of a training method: decisions per second, and seconds to a reference utility."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ..methods.method import Run
from ..methods.training_loop import Snapshot
from ..problems.routing.problem import RoutingProblem
from .learners import Learner

__all__ = ["Spread", "decisions_per_second", "seconds_to_reach", "spread"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of repeats; None where they lie beyond the time limit."""

    median: float | None
    quartiles: tuple[float | None, float | None]


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of the values; infinity stands for a repeat that ran into the time limit.

    >>> spread([1.0, 2.0, float("inf")])
    Spread(median=2.0, quartiles=(1.0, None))
    """
    quantiles = np.quantile(np.array(values), (0.25, 0.5, 0.75), method="inverted_cdf")
    low, middle, high = (float(value) if math.isfinite(value) else None for value in quantiles)
    return Spread(median=middle, quartiles=(low, high))


def decisions_per_second(learner: Learner, problem: RoutingProblem, decisions: int, seed: int) -> float:
    """Training decisions per second, with the learner's own validation measurements included.

    The clock starts at the first validation measurement, when everything is built.

    Args:
        learner: the method to time.
        problem: what it is trained on.
        decisions: how many to train on; a learner that trains by epoch completes the last epoch.
        seed: of the fit.
    """
    hyperparameters = learner.hyperparameters(problem, decisions)
    started: list[float] = []

    def callback(snapshot: Snapshot) -> None:
        if not started:
            started.append(time.perf_counter())

    learner.fit(problem, hyperparameters, Run(seed=seed, callback=callback))
    trained = hyperparameters.epochs * len(problem.train) if learner.trains_by_epoch else decisions
    return trained / (time.perf_counter() - started[0])


class _Stop(Exception):
    pass


def seconds_to_reach(
    learner: Learner,
    problem: RoutingProblem,
    reference: float,
    *,
    validate_every: int,
    limit: float,
    seed: int,
) -> float:
    """Seconds until the validation utility reaches a reference, with building and validating included.

    Args:
        learner: trained until it reaches the reference.
        problem: what it is trained on.
        reference: mean utility on the validation rows.
        validate_every: decisions between two measurements.
        limit: seconds after which training is stopped.
        seed: of the fit.

    Returns:
        seconds; infinity for a learner that does not reach the reference within the limit.
    """
    start = time.perf_counter()
    reached = math.inf

    def callback(snapshot: Snapshot) -> None:
        nonlocal reached
        elapsed = time.perf_counter() - start
        if snapshot.best >= reference:
            reached = elapsed
        if snapshot.best >= reference or elapsed > limit:
            raise _Stop

    with suppress(_Stop):
        run = Run(seed=seed, callback=callback, validate_every=validate_every)
        learner.fit(problem, learner.hyperparameters(problem, None), run)
    return reached if reached <= limit else math.inf
