"""The state of the queueing environment, what late requests cost, and the interface of the servers.

`Servers` is all that the environment knows of how experts work: it sends a request, advances to the next
arrival, and reads counts. `queue_servers`, `continuous_servers` and `api_servers` implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .queue_episodes import Episodes

__all__ = [
    "RECENT",
    "Charges",
    "QueueState",
    "Servers",
    "at",
    "empty_state",
    "first_charges",
    "flat",
    "late_charges",
    "mapped",
    "request_place",
]


RECENT = 1 / 8  # rate of the servers' running means of the times of tokens


class QueueState(NamedTuple):
    """The state of B lanes. Times are float64 seconds since the episode began; `up` marks seconds of uptime.

    Attributes:
        seed, episode: [B] int64, the random stream of each lane, and the episodes that it has begun.
        step: [B] int64, requests sent in this episode.
        episodes: W + 1 requests and the outages of the episode.
        up: [B, N], uptime of the experts now.
        first: [B, W + 1], when the first token of each request comes; NaN where it has not, and for queues.
        finish: [B, W + 1], when each request finishes; the last column is for no request.
        gaps: [B, 2], running means of the time between arrivals, fast and slow.
        spent: [B], compute used in the episode.
        servers: a named tuple of tensors, whose first axis is the lane.
    """

    seed: Tensor
    episode: Tensor
    step: Tensor
    episodes: Episodes
    up: Tensor
    first: Tensor
    finish: Tensor
    gaps: Tensor
    spent: Tensor
    servers: Any


class Charges(NamedTuple):
    """What requests cost because they are late, [B] float64 each: see `Rewards` of the environment."""

    lateness: Tensor
    missed: Tensor


class Servers(Protocol):
    """How the experts work on requests.

    Attributes:
        busy: [N] int64, requests or replicas that an expert works on at once, at most.
        extras: numbers that observations hold beside those of queues.
    """

    busy: Tensor
    extras: int

    def fitted(self, tokens: Tensor) -> Tensor:
        """Return tokens of prompts and answers [..., N, 2] float64 that the servers can hold."""
        ...

    def empty(self, lanes: int) -> Any:
        """Return the state of idle servers, a named tuple of tensors."""
        ...

    def send(self, state: QueueState, actions: Tensor, row: Tensor) -> Charges:
        """Send the requests, of queries [B] int64, to experts [B] int64; return what is paid at once."""
        ...

    def advance(self, state: QueueState) -> Charges:
        """Advance to the uptimes `state.up`, or to the end if the episode ended; return what is paid."""
        ...

    def counts(self, state: QueueState) -> tuple[Tensor, Tensor]:
        """Return the requests waiting, and those at work, [B, N] int64 each."""
        ...

    def observed(self, state: QueueState) -> list[Tensor]:
        """Return the extra parts of observations, [B, X] each, `extras` columns together."""
        ...

    def settle(self, state: QueueState) -> Charges:
        """Return what the requests in flight will pay if no other request follows; the state stays."""
        ...


def empty_state(
    seed: Tensor, episode: Tensor, episodes: Episodes, experts: int, gap: float, servers: Any
) -> QueueState:
    """The state at the start of episodes.

    Args:
        seed, episode: [B] int64.
        episodes: their requests and outages.
        experts: N.
        gap: mean seconds between arrivals, the initial running means.
        servers: the state of idle servers.
    """
    lanes = len(seed)
    times = torch.zeros((lanes, experts), dtype=torch.float64, device=seed.device)
    finish = times.new_full(episodes.arrival.shape, float("nan"))
    finish[:, -1] = 0.0  # no request is never late
    return QueueState(
        seed=seed.clone(),
        episode=episode.clone(),
        step=torch.zeros_like(seed),
        episodes=episodes,
        up=times,
        first=finish.clone(),
        finish=finish,
        gaps=times.new_full((lanes, 2), gap),
        spent=times.new_zeros(lanes),
        servers=servers,
    )


def request_place(state: QueueState, request: Tensor) -> Tensor:
    """Indices into [B, W + 1], flattened, of requests [B, ...] int64."""
    lanes, columns = state.finish.shape
    lane = torch.arange(lanes, device=request.device) * columns
    return lane.reshape(-1, *[1] * (request.dim() - 1)) + request


def late_charges(state: QueueState, place: Tensor, finish: Tensor) -> Charges:
    """Lateness and misses times value of requests that finish, in the shape of `place`.

    Args:
        state: of the lanes.
        place: [B, ...] int64, of `request_place`.
        finish: [B, ...] float64 seconds.
    """
    return _charges(state, place, finish, state.episodes.deadline)


def first_charges(state: QueueState, place: Tensor, first: Tensor) -> Charges:
    """Lateness and misses times value of first tokens, in the shape of `place`; 0 without a deadline.

    Args:
        state: of the lanes.
        place: [B, ...] int64, of `request_place`.
        first: [B, ...] float64 seconds.
    """
    return _charges(state, place, first, state.episodes.first_deadline)


def at(values: Tensor, place: Tensor) -> Tensor:
    """The values at flat indices, in the shape of `place`; much faster than indexing by columns."""
    return values.reshape(-1).index_select(0, place.reshape(-1)).reshape(place.shape)


def flat(state: Any) -> Sequence[Tensor]:
    """The tensors of nested tuples, in order."""
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in flat(part)]


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested named tuples with `change` applied to every tensor."""
    if isinstance(state, Tensor):
        return change(state)
    return type(state)(*(mapped(part, change) for part in state))


def _charges(state: QueueState, place: Tensor, times: Tensor, deadlines: Tensor) -> Charges:
    """What times beyond deadlines [B, W + 1] after the arrivals cost, in the shape of `place`."""
    deadline, value = at(deadlines, place), at(state.episodes.value, place)
    over = (times - at(state.episodes.arrival, place) - deadline).clamp(min=0.0)
    return Charges(value * over / deadline, value * (over > 0))
