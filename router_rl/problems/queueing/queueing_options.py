"""The options of the queueing problem."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Range, Size, Width
from experts.llm.server_options import ApiOptions, ContinuousOptions

from ..feature_config import FeatureConfig

__all__ = ["QueueingOptions", "errors_name_options"]


@dataclass(frozen=True, kw_only=True)
class QueueingOptions(CheckedOptions):
    """The options of `QueueingProblem`.

    The unit of deadlines and outages is the mean service time over the experts.

    Attributes:
        arrivals: `poisson`, `bursts`, or the Parquet path of a trace, whose first half is for training, the
            next quarter for validation and the last quarter for test. With a decision log, `poisson` stands
            for the log's arrivals.
        test_arrivals: other arrivals for the test split, to measure transfer; null: the same.
        loads: arrival rates over the capacity of all experts; one case each.
        episodes: episodes of an evaluation; a confidence interval needs 2.
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
        mean_up: mean service times between an expert's recovery and its next failure; 0 for no failures, or
            with a decision log for those of the log.
        mean_repair: mean service times until a failed expert is repaired.
        budget: mean compute per request of an episode; null: no budget.
        overspend_weight: utility per unit of compute above the budget.
        servers: `queue`: replicas with queues and fixed batches. `continuous`: engines with continuous
            batching. `api`: rate-limited APIs. The last two use the lengths of the trace's prompts and
            answers, else the token counts of the table.
        first_deadlines: deadline of the first token of each class, in mean service times; none where empty.
        continuous: options of the engines.
        api: options of the APIs.

    Raises:
        InputError: a value is out of range; names it as the problem's option, such as `problem.batch`.
    """

    prefix: ClassVar[str] = "problem"

    arrivals: str = "poisson"
    test_arrivals: str | None = None
    loads: tuple[Positive, ...] = (0.5, 0.8, 0.95)
    episodes: Annotated[int, Range(2, 10_000_000)] = 128
    features: FeatureConfig = field(default_factory=FeatureConfig)
    lateness_weight: NonNegative = 0.5
    miss_weight: NonNegative = 0.0
    window: Size = 512
    replicas: Width | tuple[Width, ...] = 1
    batch: Count = 1
    batch_slope: Fraction = 0.1
    deadlines: tuple[Positive, ...] = (2.0,)
    values: tuple[NonNegative, ...] = (1.0,)
    shares: tuple[NonNegative, ...] = ()
    mean_up: NonNegative = 0.0
    mean_repair: Positive = 20.0
    budget: Positive | None = None
    overspend_weight: NonNegative = 1.0
    servers: Literal["queue", "continuous", "api"] = "queue"
    first_deadlines: tuple[Positive, ...] = ()
    continuous: ContinuousOptions = field(default_factory=ContinuousOptions)
    api: ApiOptions = field(default_factory=ApiOptions)

    def __post_init__(self) -> None:
        for name in ("arrivals", "test_arrivals"):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))
        if isinstance(self.loads, int | float):
            object.__setattr__(self, "loads", (self.loads,))
        super().__post_init__()
        if not self.loads or len(set(self.loads)) < len(self.loads):
            reason = "are not distinct" if self.loads else "are empty"
            raise InputError("problem.loads", list(self.loads), reason, "use 0.5,0.8,0.95")
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
