"""The state of a queue router, maintained while serving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..router import Router, Routing, StateInput
from ..router_error import RouterError
from ..scorers.queue_scorer import QueueConstants, QueueScorer
from .network_scorer import NetworkScorer, network_policy_of

__all__ = [
    "ArrivalGaps",
    "LiveQueues",
    "adapted_queues",
    "predicted_service",
    "queue_constants",
    "queue_state",
    "queue_state_inputs",
    "server_state_inputs",
]

_RATES = (1 / 8, 1 / 64)  # as `RouterRL/Queueing-v0` has them


def queue_state_inputs(experts: Sequence[str]) -> tuple[StateInput, ...]:
    """Return the parts of a queue router's second input, 3 N + 6 numbers."""
    names, count = tuple(experts), len(experts)
    return (
        StateInput("waiting", count, "requests that wait at each expert", names),
        StateInput("taken", count, "busy replicas of each expert", names),
        StateInput("down", count, "1 where an expert is down, else 0", names),
        StateInput("deadline", 1, "seconds until the request is late"),
        StateInput("value", 1, "value of the request; 1 by default"),
        StateInput("gaps", 2, "running means of the seconds between arrivals, with rates 1/8 and 1/64"),
        StateInput("budget", 2, "compute left for each request left, and the share left; 0 without a budget"),
    )


def server_state_inputs(experts: Sequence[str]) -> tuple[StateInput, ...]:
    """Return the parts of the second input of a router of model servers, 7 N + 8 numbers."""
    names, count = tuple(experts), len(experts)
    taken = StateInput("taken", count, "requests that each server works on", names)
    return (
        *(taken if part.name == "taken" else part for part in queue_state_inputs(experts)),
        StateInput("used", count, "used share of each KV cache, or of the fullest rate limit", names),
        StateInput("ahead", count, "tokens of prompts not computed yet, at each server", names),
        StateInput("recent_first", count, "running mean of the seconds to the first token, rate 1/8", names),
        StateInput("recent_token", count, "running mean of the seconds per further token, rate 1/8", names),
        StateInput("tokens", 1, "tokens of the prompt"),
        StateInput("first_deadline", 1, "seconds until the first token is late; 0 for none"),
    )


def queue_constants(router: Router) -> QueueConstants | None:
    """Return the constants of a queue router; None for a router that reads no queues."""
    if isinstance(router.scorer, NetworkScorer):
        return router.scorer.queues
    return router.scorer.constants if type(router.scorer) is QueueScorer else None  # not of model servers


def queue_state(
    experts: Sequence[str],
    *,
    waiting: Sequence[float],
    taken: Sequence[float],
    down: Sequence[bool],
    deadline_s: float,
    gaps: Sequence[float],
    value: float = 1.0,
    budget: Sequence[float] = (0.0, 0.0),
) -> Tensor:
    """Return a queue router's second input, [1, 3 N + 6] float32; `queue_state_inputs` lists its parts.

    Args:
        experts: names of the N experts.
        waiting, taken, down, deadline_s, value: as for `LiveQueues.route`.
        gaps: [2] running means of the seconds between arrivals.
        budget: [2] compute left for each request left, and the share of requests left.

    Raises:
        RouterError: a sequence does not have one number per expert.
    """
    for name, given in (("waiting", waiting), ("taken", taken), ("down", down)):
        if len(given) != len(experts):
            raise RouterError(f"{name} has {len(given)} numbers; give one for each of {', '.join(experts)}")
    numbers = [*waiting, *taken, *map(float, down), deadline_s, value, *gaps, *budget]
    return torch.tensor([numbers], dtype=torch.float64).float()


def adapted_queues(router: Router, replicas: Sequence[int], slowdown: Sequence[float]) -> Router:
    """Return the same policy for experts with other replicas or of other speeds; nothing is trained.

    The router of a network policy is returned as it is: its weights hold the speeds of its training.

    Args:
        router: one that reads queues.
        replicas: [N], requests that each expert works on at once (batches count as one).
        slowdown: [N], seconds that each expert takes over those that the router predicts.

    Raises:
        RouterError: the router reads no queues.
    """
    _constants(router)
    if network_policy_of(router) is not None:
        return router
    assert isinstance(router.scorer, QueueScorer)
    scorer = router.scorer.adapted(replicas, slowdown)
    adapted = Router(
        scorer,
        router.rule,
        router.experts,
        state=router.state,
        fallback=router.fallback,
        stochastic=router.stochastic,
        allowed=None if router.allowed is None else router.allowed.tolist(),
        text=router.text,
    )
    return adapted.train(router.training)


@torch.inference_mode()
def predicted_service(router: Router, features: Tensor) -> Tensor:
    """Return the seconds that each expert is predicted to work on each request, [T, N] float32.

    For a network policy they are the mean seconds of the training.

    Args:
        router: one that reads queues.
        features: [T, D] float.

    Raises:
        RouterError: the router reads no queues.
    """
    constants = _constants(router)
    if isinstance(router.scorer, QueueScorer):
        return router.scorer.service(features)
    return torch.tensor(constants.service).expand(len(features), -1)


class ArrivalGaps:
    """Running means of the seconds between arrivals, with rates 1/8 and 1/64.

    They begin at the mean gap of a router's training. The record does not depend on it, so that routers of
    different training can share one.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._weights = [1.0 for _ in _RATES]  # of the mean that they begin at
        self._sums = [0.0 for _ in _RATES]

    def arrived(self, now: float) -> None:
        """Record an arrival.

        Args:
            now: seconds on a monotonic clock.
        """
        if self._last is not None:
            for at, rate in enumerate(_RATES):
                self._weights[at] *= 1.0 - rate
                self._sums[at] += rate * (now - self._last - self._sums[at])
        self._last = now

    def means(self, first: float) -> list[float]:
        """Return the running means, [2] seconds.

        Args:
            first: seconds that they begin at, `QueueConstants.gap` of a router.
        """
        return [weight * first + total for weight, total in zip(self._weights, self._sums, strict=True)]


class LiveQueues:
    """Routes requests as they arrive; needs torch alone.

    ```python
    queues = LiveQueues(load_router("router/"))
    routing = queues.route(features, time.monotonic(), waiting=[3, 0], taken=[1, 1], deadline_s=2.0)
    ```

    Args:
        router: one trained on `RouterRL/Queueing-v0`.
        budget: mean compute allowed for a request over `requests`; None: there is no budget.
        requests: how many requests the budget covers.

    Raises:
        RouterError: the router was not trained on queues, or a budget has no number of requests.
    """

    def __init__(self, router: Router, budget: float | None = None, requests: int = 0) -> None:
        self._first_gap = _constants(router).gap
        if budget is not None and requests < 1:
            raise RouterError(f"requests={requests!r}: a budget is for a number of requests; use 1 or more")
        self.router = router
        self._left = None if budget is None else budget * requests
        self._requests = self._to_come = requests
        self._gaps = ArrivalGaps()

    @torch.inference_mode()
    def route(
        self,
        features: Tensor,
        now: float,
        *,
        waiting: Sequence[float],
        taken: Sequence[float],
        deadline_s: float,
        down: Sequence[bool] | None = None,
        value: float = 1.0,
    ) -> Routing:
        """Route one request; the queues are those at its arrival, without the request itself.

        Args:
            features: [D] float.
            now: seconds on a monotonic clock.
            waiting: [N] requests that wait at each expert.
            taken: [N] busy replicas of each expert; all of them where any request waits.
            deadline_s: seconds from now until the request is late.
            down: [N] True where an expert is down; None: all are up.
            value: of the request.

        Raises:
            RouterError: a sequence does not have one number per expert.
        """
        state = self.state(now, waiting=waiting, taken=taken, deadline_s=deadline_s, down=down, value=value)
        return self.router(features.unsqueeze(0), state)

    def state(
        self,
        now: float,
        *,
        waiting: Sequence[float],
        taken: Sequence[float],
        deadline_s: float,
        down: Sequence[bool] | None = None,
        value: float = 1.0,
    ) -> Tensor:
        """Record an arrival; returns the router's second input [1, 3 N + 6] float32.

        Args:
            now, waiting, taken, deadline_s, down, value: as for `route`.

        Raises:
            RouterError: a sequence does not have one number per expert.
        """
        self._gaps.arrived(now)
        budget = [0.0, 0.0]
        if self._left is not None:
            budget = [self._left / max(self._to_come, 1), self._to_come / self._requests]
        return queue_state(
            self.router.experts,
            waiting=waiting,
            taken=taken,
            down=[False] * len(self.router.experts) if down is None else down,
            deadline_s=deadline_s,
            value=value,
            gaps=self._gaps.means(self._first_gap),
            budget=budget,
        )

    def used(self, compute: float) -> None:
        """Count the last request against the budget.

        Args:
            compute: that the request took, in the router's unit.
        """
        self._to_come -= 1
        if self._left is not None:
            self._left -= compute


def _constants(router: Router) -> QueueConstants:
    """Return the constants of a router that reads queues."""
    constants = queue_constants(router)
    if constants is None:
        raise RouterError("this router was not trained on queues; train one with `train --env queueing`")
    return constants
