"""The state of a router of model servers, maintained while serving: token buckets and recent times.

The functions compute what `RouterRL/Queueing-v0` computes with `servers="api"` or `"continuous"`. An API has
one bucket for each limit: requests, prompt tokens, answer tokens, and tokens of both. The environment has the
first three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..router import Router
from ..router_error import RouterError
from ..scorers.server_scorer import ServerConstants, ServerScorer
from .network_scorer import NetworkScorer

__all__ = [
    "BUCKETS",
    "Buckets",
    "full_buckets",
    "limits_apis",
    "seconds_until_room",
    "server_constants",
    "server_state",
    "times_of_answer",
    "updated_means",
    "used_share",
    "usual_answer",
    "with_taken",
]

BUCKETS = ("requests", "prompt tokens", "answer tokens", "prompt and answer tokens")
_RECENT = 1 / 8  # rate of the running means, as the environment has it
_NONE = float("inf")


class Buckets(NamedTuple):
    """The token buckets of one API; `BUCKETS` names the K = 4 limits.

    Attributes:
        level: [K] amounts that they hold at `since`; below 0 where they are reserved.
        rate: [K] amounts that they gain a second; infinite without a limit.
        size: [K] amounts that they hold at most; infinite without a limit.
        since: seconds on a monotonic clock.
    """

    level: tuple[float, ...]
    rate: tuple[float, ...]
    size: tuple[float, ...]
    since: float


def server_constants(router: Router) -> ServerConstants | None:
    """Return the constants of a router of model servers; None for any other router."""
    if isinstance(router.scorer, NetworkScorer):
        return router.scorer.servers
    return router.scorer.server if type(router.scorer) is ServerScorer else None


def limits_apis(constants: ServerConstants) -> bool:
    """Return whether a router was trained on rate-limited APIs: its buckets refill. Engines have none."""
    return all(seconds > 0.0 for seconds in constants.refill_s)


def usual_answer(constants: ServerConstants, expert: int) -> float:
    """Return the mean tokens of an expert's answers in the training.

    Args:
        constants: of the router.
        expert: id of the expert.
    """
    seconds = constants.service[expert] - constants.first[expert]
    return 1.0 + seconds / constants.token_s[expert]


def full_buckets(per_minute: Sequence[float | None], burst_s: float, now: float) -> Buckets:
    """Return the full buckets of an API.

    Args:
        per_minute: [K] limits; None for none.
        burst_s: seconds of its rate that a bucket holds, `ServerConstants.refill_s`.
        now: seconds on a monotonic clock.
    """
    rate = tuple(_NONE if limit is None else limit / 60.0 for limit in per_minute)
    size = tuple(each * burst_s for each in rate)
    return Buckets(size, rate, size, now)


def seconds_until_room(buckets: Buckets, need: Sequence[float], now: float) -> float:
    """Return the seconds until an API's buckets have room for a request, after all that reserved before.

    A request that is larger than a bucket waits until the bucket is full.

    Args:
        buckets: of the API.
        need: [K] amounts that the request takes.
        now: seconds on a monotonic clock.
    """
    rows = zip(_levels(buckets, now), need, buckets.rate, buckets.size, strict=True)
    waits = [(min(amount, size) - level) / rate for level, amount, rate, size in rows if rate < _NONE]
    return max([0.0, *waits])


def with_taken(buckets: Buckets, need: Sequence[float], now: float) -> Buckets:
    """Return an API's buckets after a request was sent or reserved.

    Args:
        buckets: before it.
        need: [K] amounts that the request takes; negative amounts are given back.
        now: seconds on a monotonic clock.
    """
    pairs = zip(_levels(buckets, now), need, strict=True)
    return buckets._replace(level=tuple(level - amount for level, amount in pairs), since=now)


def used_share(buckets: Buckets, now: float) -> float:
    """Return the used share of an API's fullest limit; above 1 where it is reserved, and 0 without a limit.

    Args:
        buckets: of the API.
        now: seconds on a monotonic clock.
    """
    pairs = zip(_levels(buckets, now), buckets.size, strict=True)
    return max([0.0, *(1.0 - level / size for level, size in pairs if size < _NONE)])


def updated_means(means: Sequence[float], times: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the running means, of rate 1/8, after requests finished between two arrivals.

    Args:
        means: [2] seconds to the first token, and per further token.
        times: [M, 2] of the requests that finished.
    """
    if not times:
        return tuple(means)
    weight = 1.0 - (1.0 - _RECENT) ** len(times)
    columns = zip(means, zip(*times, strict=True), strict=True)
    return tuple(mean + weight * (sum(column) / len(times) - mean) for mean, column in columns)


def times_of_answer(seconds: float, tokens: float, first_s: float, token_s: float) -> tuple[float, float]:
    """Return the seconds to the first token, and per further token, of an answer that was not streamed.

    They have the ratio of usual times, because such an answer shows the time of its last token alone.

    Args:
        seconds: from sending the request to the whole answer.
        tokens: of the answer.
        first_s, token_s: usual seconds to the first token, and per further token.
    """
    factor = seconds / (first_s + token_s * max(tokens - 1.0, 0.0))
    return factor * first_s, factor * token_s


def server_state(
    experts: Sequence[str],
    queues: Tensor,
    *,
    used: Sequence[float],
    ahead: Sequence[float],
    recent_first: Sequence[float],
    recent_token: Sequence[float],
    tokens: float,
    first_deadline_s: float | None = None,
) -> Tensor:
    """Return the second input of a router of model servers, [1, 7 N + 8] float32, as `server_state_inputs`.

    Args:
        experts: names of the N experts.
        queues: [1, 3 N + 6] float32, `queue_state`; `taken` are the requests at work.
        used: [N] used share of each KV cache, or of each API's fullest limit.
        ahead: [N] tokens of prompts that each server has not computed yet; 0 for APIs.
        recent_first, recent_token: [N] running means of the seconds to the first token, and per further one.
        tokens: of the request's prompt.
        first_deadline_s: seconds until the first token is late; None for no deadline.

    Raises:
        RouterError: a sequence does not have one number per expert.
    """
    each = {"used": used, "ahead": ahead, "recent_first": recent_first, "recent_token": recent_token}
    for name, given in each.items():
        if len(given) != len(experts):
            raise RouterError(f"{name} has {len(given)} numbers; give one for each of {', '.join(experts)}")
    numbers = [*used, *ahead, *recent_first, *recent_token, tokens, first_deadline_s or 0.0]
    return torch.cat([queues, torch.tensor([numbers], dtype=torch.float64).float()], dim=-1)


def _levels(buckets: Buckets, now: float) -> list[float]:
    """Return what the buckets hold now, [K]; infinite without a limit."""
    passed = now - buckets.since
    rows = zip(buckets.level, buckets.rate, buckets.size, strict=True)
    return [size if rate == _NONE else min(level + passed * rate, size) for level, rate, size in rows]
