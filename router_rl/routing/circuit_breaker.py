"""Which experts are left alone for a while because they failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .router import Router
from .router_error import RouterError

__all__ = ["Health"]


class Health:
    """Keeps who failed lately, and says who may be chosen; any number of threads may share it.

    An expert that failed rests, and twice as long after each further failure in a row. When its rest is over
    it may be chosen again.

    Args:
        router: whose experts these are.
        rest: seconds after a first failure.
        longest: seconds that a rest never exceeds.
        clock: seconds that never go back.

    Raises:
        RouterError: a rest is not positive, or exceeds the longest.
    """

    def __init__(
        self,
        router: Router,
        *,
        rest: float = 10.0,
        longest: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0.0 < rest <= longest:
            raise RouterError(f"rest={rest} must be above 0 and at most longest={longest}")
        self._experts = {name: index for index, name in enumerate(router.experts)}
        self._allowed = [True] * len(router.experts) if router.allowed is None else router.allowed.tolist()
        self._rest, self._longest, self._clock = rest, longest, clock
        self._until: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._lock = threading.Lock()

    def failed(self, expert: str) -> None:
        """Let an expert rest."""
        self._check(expert)
        with self._lock:
            failures = self._failures[expert] = self._failures.get(expert, 0) + 1
            rest = min(self._rest * 2.0 ** min(failures - 1, 60), self._longest)
            self._until[expert] = self._clock() + rest

    def answered(self, expert: str) -> None:
        """Forget an expert's failures."""
        self._check(expert)
        with self._lock:
            self._until.pop(expert, None)
            self._failures.pop(expert, None)

    def mask(self, without: Iterable[str] = ()) -> Tensor:
        """Who may be chosen: [N] bool, the `action_mask` of `Router.route`.

        Where nobody healthy is left, those that rest may be chosen after all, and at the end everybody: a
        query refused for certain is worse than one that an ailing expert may answer.

        Args:
            without: experts that may not, such as those that failed on this very query.
        """
        without = set(without)
        for name in without:
            self._check(name)
        with self._lock:
            now = self._clock()
            resting = {name for name, until in self._until.items() if now < until}
        for barred in (resting | without, without, set[str]()):
            may = [a and name not in barred for name, a in zip(self._experts, self._allowed, strict=True)]
            if any(may):
                break
        return torch.tensor(may)

    def _check(self, expert: str) -> None:
        if expert not in self._experts:
            raise RouterError(f"expert {expert!r} is unknown; the router's are {', '.join(self._experts)}")
