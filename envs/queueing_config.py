"""The options of the queueing environment: load, queues, deadlines, outages and the weights of the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size, Width
from experts.llm.server_options import ApiOptions, ContinuousOptions

__all__ = ["QueueingConfig"]


@dataclass(frozen=True, kw_only=True)
class QueueingConfig(CheckedOptions):
    """The arrivals, the queues and the weights of the reward.

    The unit of deadlines and outages is the mean service time over the experts, so that the same options suit
    experts of milliseconds and of minutes.

    Attributes:
        load: arrival rate over the capacity of all experts with full batches.
        compute_weight: utility per unit of compute (one request of the most expensive expert).
        lateness_weight: utility, per unit of value, of one deadline of lateness.
        miss_weight: utility, per unit of value, of a missed deadline.
        window: W, requests of an episode.
        replicas: servers of each expert: one number, or N.
        batch: the most requests that a replica works on together.
        batch_slope: increase of a batch's time for each further request, as a fraction; 1 is no gain from
            batching.
        deadlines: of each class of requests, in mean service times.
        values: of a request of each class.
        shares: relative frequency of each class; equal where empty.
        mean_up: mean service times between an expert's recovery and its next failure; 0 for no failures.
        mean_repair: mean service times that it is down.
        budget: mean compute per request of an episode; None for no bound.
        overspend_weight: utility per unit of compute above the budget.
        servers: `queue`: replicas with queues and fixed batches. `continuous`: engines with continuous
            batching. `api`: rate-limited APIs.
        first_deadlines: deadline of the first token of each class, in mean service times; none where empty.
        continuous: the engines' options.
        api: the APIs' options.

    Raises:
        InputError: a value is out of range.
    """

    load: Positive = 0.8
    compute_weight: NonNegative = 0.1
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
        super().__post_init__()
        if not self.deadlines:
            raise InputError("deadlines", [], "are empty", "give each class of requests a number above 0")
        for name, values in (("values", self.values), ("shares", self.shares or self.values)):
            if len(values) != len(self.deadlines):
                problem = f"do not match {len(self.deadlines)} deadlines"
                raise InputError(name, list(values), problem, "give each class a number of at least 0")
        if self.replicas == ():
            raise InputError("replicas", [], "are empty", "give one number, or one for each expert")
        if self.first_deadlines and len(self.first_deadlines) != len(self.deadlines):
            problem = f"do not match {len(self.deadlines)} deadlines"
            fix = "give each class a number above 0, or none"
            raise InputError("first_deadlines", list(self.first_deadlines), problem, fix)
        if self.servers == "queue" and self.first_deadlines:
            fix = "use them with servers continuous or api"
            raise InputError("first_deadlines", list(self.first_deadlines), "queues have no first token", fix)
        if self.servers != "queue":
            for name in ("replicas", "batch"):
                if getattr(self, name) != 1:
                    problem = f"is for servers queue, not {self.servers}"
                    raise InputError(
                        name, getattr(self, name), problem, "use 1, and an expert for each server"
                    )
        if self.shares and sum(self.shares) == 0.0:
            raise InputError("shares", list(self.shares), "are all 0", "leave them out, or give one above 0")

    @property
    def max_deadline(self) -> float:
        """The longest deadline, in mean service times."""
        return max(self.deadlines)

    @property
    def class_shares(self) -> tuple[float, ...]:
        """The probability of each class; they sum to 1."""
        shares = self.shares or tuple(1.0 for _ in self.deadlines)
        return tuple(share / sum(shares) for share in shares)

    def replicas_of(self, experts: int) -> Tensor:
        """The servers of each expert, [N] int64.

        Raises:
            InputError: `replicas` has another length.
        """
        if isinstance(self.replicas, int):
            return torch.full((experts,), self.replicas)
        if len(self.replicas) != experts:
            fix = "give one number, or one for each expert"
            raise InputError("replicas", self.replicas, f"there are {experts} experts", fix)
        return torch.tensor(self.replicas)

    def gap(self, batch_service: Sequence[float]) -> float:
        """Mean seconds between arrivals that give the load, for mean seconds of full batches [N]."""
        counts = self.replicas_of(len(batch_service)).tolist()
        pace = sum(count * self.batch / seconds for count, seconds in zip(counts, batch_service, strict=True))
        up = self.mean_up / (self.mean_up + self.mean_repair) if self.mean_up else 1.0
        return 1.0 / (self.load * pace * up)
