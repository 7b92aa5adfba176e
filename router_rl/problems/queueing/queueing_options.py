"""The options of the queueing problem."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from experts import InputError

from ..feature_config import FeatureConfig

__all__ = ["QueueingOptions", "errors_name_options"]


@dataclass(frozen=True, kw_only=True)
class QueueingOptions:
    """The options of `QueueingProblem`.

    The unit of deadlines and outages is the mean service time over the experts.

    Attributes:
        arrivals: `poisson`, `bursts`, or the Parquet path of a trace, whose first half is for training, the
            next quarter for validation and the last quarter for test.
        test_arrivals: other arrivals for the test split, to measure transfer; null: the same.
        loads: arrival rates over the capacity of all experts; one case each.
        episodes: episodes of an evaluation.
        features: features computed from prompts, if the table has no features.
        lateness_weight: utility, per unit of value, of one deadline of lateness.
        miss_weight: utility, per unit of value, of a missed deadline.
        window: number of requests per episode.
        replicas: servers of each expert: one number, or one for each expert.
        batch: maximum batch size of a replica.
        batch_slope: increase of a batch's time for each further request, as a fraction.
        deadlines: deadline of each class of requests, in mean service times.
        values: value of a request of each class.
        shares: relative frequency of each class; equal where empty.
        mean_up: mean service times between an expert's recovery and its next failure; 0 for no failures.
        mean_repair: mean service times until a failed expert is repaired.
        budget: mean compute per request of an episode; null: no budget.
        overspend_weight: utility per unit of compute above the budget.

    Raises:
        InputError: a value is out of range; names it as the problem's option, such as `problem.batch`.
    """

    arrivals: str = "poisson"
    test_arrivals: str | None = None
    loads: tuple[float, ...] = (0.5, 0.8, 0.95)
    episodes: int = 128
    features: FeatureConfig = field(default_factory=FeatureConfig)
    lateness_weight: float = 0.5
    miss_weight: float = 0.0
    window: int = 512
    replicas: int | tuple[int, ...] = 1
    batch: int = 1
    batch_slope: float = 0.1
    deadlines: tuple[float, ...] = (2.0,)
    values: tuple[float, ...] = (1.0,)
    shares: tuple[float, ...] = ()
    mean_up: float = 0.0
    mean_repair: float = 20.0
    budget: float | None = None
    overspend_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("arrivals", "test_arrivals"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else str(value))
        object.__setattr__(self, "loads", _numbers(self.loads))
        if not self.loads or len(set(self.loads)) < len(self.loads):
            reason = "are not distinct" if self.loads else "are empty"
            raise InputError("problem.loads", list(self.loads), reason, "use 0.5,0.8,0.95")
        if not all(0.0 < load < math.inf for load in self.loads):
            raise InputError("problem.loads", list(self.loads), "are not all positive", "use 0.5,0.8,0.95")
        if self.episodes < 2:
            reason = "is too few for a confidence interval"
            raise InputError("problem.episodes", self.episodes, reason, "use 2 or more")
        with errors_name_options():
            self.config(self.loads[0], 0.0)

    def config(self, load: float, compute_weight: float) -> Any:
        """Return the options of the environment, a `QueueingConfig`.

        Args:
            load: arrival rate over the capacity of all experts.
            compute_weight: utility per unit of compute.

        Raises:
            InputError: a value is out of range.
        """
        from envs import QueueingConfig

        names = [each.name for each in fields(QueueingConfig) if each.name not in ("load", "compute_weight")]
        own = {name: getattr(self, name) for name in names}
        return QueueingConfig(load=load, compute_weight=compute_weight, **own)


@contextmanager
def errors_name_options(name: str | None = None) -> Generator[None]:
    """Name a field of an environment's error as the problem's option: `batch` becomes `problem.batch`.

    Args:
        name: of the option; the error's own field if None.
    """
    try:
        yield
    except InputError as error:
        option = f"problem.{name or error.field}"
        error.args = (option + str(error).removeprefix(error.field),)
        error.field = option
        raise


def _numbers(loads: Any) -> tuple[float, ...]:
    """Return one number or several as a tuple."""
    try:
        return tuple(float(load) for load in (loads if isinstance(loads, list | tuple) else (loads,)))
    except (TypeError, ValueError) as error:
        raise InputError("problem.loads", loads, f"are not numbers ({error})", "use 0.5,0.8,0.95") from error
