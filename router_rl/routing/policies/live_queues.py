"""The state of a queue router, maintained while serving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..router import Router, Routing, StateInput
from ..router_error import RouterError
from ..scorers.queue_scorer import QueueScorer

__all__ = ["LiveQueues", "queue_state_inputs"]

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
        if not isinstance(router.scorer, QueueScorer):
            raise RouterError("this router was not trained on queues; train one with `train --env queueing`")
        if budget is not None and requests < 1:
            raise RouterError(f"requests={requests!r}: a budget is for a number of requests; use 1 or more")
        self.router = router
        self._left = None if budget is None else budget * requests
        self._requests = self._to_come = requests
        self._gaps = [router.scorer.constants.gap] * len(_RATES)
        self._last: float | None = None

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
        down = [False] * len(self.router.experts) if down is None else down
        for name, given in (("waiting", waiting), ("taken", taken), ("down", down)):
            if len(given) != len(self.router.experts):
                raise RouterError(
                    f"{name} has {len(given)} numbers; give one for each of {', '.join(self.router.experts)}"
                )
        if self._last is not None:
            gap = now - self._last
            self._gaps = [mean + rate * (gap - mean) for mean, rate in zip(self._gaps, _RATES, strict=True)]
        self._last = now
        budget = [0.0, 0.0]
        if self._left is not None:
            budget = [self._left / max(self._to_come, 1), self._to_come / self._requests]
        numbers = [*waiting, *taken, *map(float, down), deadline_s, value, *self._gaps, *budget]
        return torch.tensor([numbers], dtype=torch.float64).float()

    def used(self, compute: float) -> None:
        """Count the last request against the budget.

        Args:
            compute: that the request took, in the router's unit.
        """
        self._to_come -= 1
        if self._left is not None:
            self._left -= compute
