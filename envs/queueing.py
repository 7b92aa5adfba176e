"""Send each request to an expert's queue: the MDP of routing under load.

Requests arrive one after another; each is sent to one expert at once, waits there first come first served for
one of the expert's replicas, is worked on, and earns

    value * (quality - lateness_weight * lateness - miss_weight * missed)
        - compute_weight * compute - overspend_weight * overspend

`lateness` is the time from arrival to finish beyond the deadline, counted in deadlines. It is charged when
the request is sent, as what it adds to the lateness of all requests if nobody came after it, so that an
episode's rewards sum to what its requests suffered and no reward is put off. Legend: B lanes, N experts,
C replicas, W requests an episode, D features.

A replica takes up to `batch` waiting requests when it becomes free; a batch of n works for its longest
request's time times `1 + batch_slope * (n - 1)`. While an expert is down its work stands still.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.service_time import service_times
from envs.traces import ARRIVALS, Arrivals, open_arrivals
from experts import InputError, OutcomeTable

from .adapters import ScalarEnv, VectorizedEnv
from .core import ActionSpace, Step
from .outages import Outages, clock, is_down, wall
from .outcomes import Outcomes, compute_scale, rows_of
from .queue_episodes import draw_episodes
from .queue_state import QueueState, empty_queues, flat, mapped
from .queueing_config import QueueingConfig

__all__ = [
    "QueueUnits",
    "QueueingConfig",
    "QueueingCore",
    "QueueingEnv",
    "QueueingVectorEnv",
    "build_queueing",
]

_LOOK = 4  # starts looked at together when counting who has begun
_FAST, _SLOW = 1 / 8, 1 / 64  # of the two running means of the gaps
_PARTS = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}


class QueueUnits(NamedTuple):
    """What is counted in what, measured on the training rows.

    Attributes:
        compute: cost of one unit of compute.
        service: [N] each expert's mean service time, seconds.
        batch_service: [N] mean seconds of a full batch, whose longest request decides.
    """

    compute: float
    service: tuple[float, ...]
    batch_service: tuple[float, ...]

    @classmethod
    def of(cls, table: OutcomeTable, config: QueueingConfig) -> QueueUnits:
        """The units of a table's rows."""
        times = np.sort(service_times(table), axis=0)
        below = np.linspace(0.0, 1.0, len(times) + 1) ** config.batch  # of the longest of a batch's draws
        longest = np.diff(below) @ times * (1.0 + config.batch_slope * (config.batch - 1))
        return cls(compute_scale(table), tuple(times.mean(axis=0).tolist()), tuple(longest.tolist()))

    @property
    def second(self) -> float:
        """Mean service time over the experts, seconds: deadlines and outages are counted in it."""
        return float(np.mean(self.service))


class QueueingCore:
    """B lanes of the queueing process on one table.

    Args:
        outcomes: the table, on the device to play on.
        service: [T, N] float64, seconds.
        gaps: [M] float64, gaps between arrivals with mean 1, of which each episode plays a stretch.
        config: the process.
        units: what compute, deadlines and load are counted in.
        lanes: B.
        seed: the first lane's stream.
        group: lanes that share a stream, so that they meet the same requests, outages and arrivals.

    Raises:
        InputError: fewer than one lane, or lists whose length is not N.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        service: Tensor,
        gaps: Tensor,
        config: QueueingConfig,
        units: QueueUnits,
        lanes: int,
        seed: int = 0,
        group: int = 1,
    ) -> None:
        if lanes < 1:
            raise InputError("lanes", lanes, "not positive", "use 1 or more")
        self.outcomes = outcomes
        self.service = service
        self.config = config
        self.units = units
        self.lanes = lanes
        self.group = group
        self.experts = outcomes.experts
        self.device = outcomes.quality.device
        self.replicas = config.replicas_of(self.experts).to(self.device)
        self._width = int(self.replicas.max())  # C
        self.gap = config.gap(units.batch_service)
        self.gaps = gaps.to(self.device) * self.gap
        self.observation_space = self._space()
        self.action_space: ActionSpace = spaces.Discrete(self.experts)
        self._lane = torch.arange(lanes, device=self.device)
        self.state = self._fresh(seed)

    @property
    def now(self) -> Tensor:
        """[B] float64 seconds, when the request to be sent arrives."""
        place = self._lane * (self.config.window + 1) + self.state.step
        return _at(self.state.episodes.arrival, place)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start an episode in every lane, with new streams if a seed is given; the observation."""
        if seed is not None:
            self.state = self._fresh(seed)
        else:
            self.clear(torch.ones(self.lanes, dtype=torch.bool, device=self.device))
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Start a new episode, with empty queues, where `finished` [B] bool."""
        if not bool(finished.any()):
            return
        state = self.state
        fresh = self._begin(state.seed[finished], state.episode[finished] + 1)
        for old, new in zip(flat(state), flat(fresh), strict=True):
            old[finished] = new

    def fork(self, lane: Tensor) -> QueueingCore:
        """A core whose lanes are copies of these, [M] int64, to play on from here; lanes may repeat."""
        twin = object.__new__(QueueingCore)
        twin.__dict__.update(self.__dict__)
        twin.lanes = len(lane)
        twin._lane = torch.arange(len(lane), device=self.device)
        twin.state = mapped(self.state, lambda value: value[lane])
        return twin

    def step(self, actions: Tensor) -> Step:
        """Send the requests to experts [B] int64, and go on to the next arrivals."""
        state, config, episodes = self.state, self.config, self.state.episodes
        request = self._lane * (config.window + 1) + state.step  # places in [B, W + 1], laid flat
        expert = self._lane * self.experts + actions  # places in [B, N], laid flat
        row = _at(episodes.row, request)
        up, work = _at(state.up, expert), _at(self.service, row * self.experts + actions)
        free, slot = state.free.flatten(0, 1).index_select(0, expert).min(dim=-1)
        outages = Outages(*(part.flatten(0, 1).index_select(0, expert) for part in episodes.outages))
        start = torch.maximum(up, free)  # an open batch has not begun, so this is its start too
        if config.batch > 1:
            size = _at(state.open_size, expert)
            work = torch.maximum(work, torch.where(size > 0, _at(state.open_work, expert), work))
            end = start + work * (1.0 + config.batch_slope * size)
            closed = (size + 1 == config.batch) | (start <= up)
        else:
            size, end, closed = torch.zeros_like(expert), start + work, None
        finish = wall(outages, end)
        lateness, missed = self._late(request.unsqueeze(-1), finish.unsqueeze(-1))
        if closed is not None:
            lateness, missed = self._with_members(expert, size, finish, lateness, missed)
            state.open_size.view(-1)[expert] = torch.where(closed, 0, size + 1)
            state.open_work.view(-1)[expert] = work
            state.open_finish.view(-1)[expert] = end
            state.members.view(-1)[expert * config.batch + size] = state.step
        state.finish.view(-1)[request] = finish
        state.free.view(-1)[expert * self._width + slot] = (
            end if closed is None else torch.where(closed, end, free)
        )
        count = _at(state.sent, expert)
        state.starts.view(-1)[expert * (config.window + _LOOK) + count] = start
        state.sent.view(-1)[expert] = count + 1

        quality = _at(self.outcomes.quality, row * self.experts + actions).double()
        compute = _at(self.outcomes.compute, row * self.experts + actions).double()
        overspend = self._overspend(compute)
        suffered = config.lateness_weight * lateness + config.miss_weight * missed
        reward = _at(episodes.value, request) * quality - suffered - config.compute_weight * compute
        reward = reward - config.overspend_weight * overspend
        self._advance()
        parts = {"quality": quality, "compute": compute, "lateness": lateness, "missed": missed}
        parts |= {"overspend": overspend}
        share = torch.zeros(self.lanes * self.experts, device=self.device)
        share[expert] = 1.0
        return Step(
            reward.float(),
            self.state.step >= config.window,
            {name: part.float() for name, part in parts.items()}
            | {"share": share.reshape(self.lanes, self.experts)},
        )

    def observation(self) -> Tensor:
        """What the lanes see, [B, D + 3 N + 6] float32.

        After the query's features: for each expert the requests waiting, the replicas taken and whether it is
        down; then the seconds to the deadline, the request's value, the two running means of the gaps
        (seconds), and under a budget the compute left for each request left, and the share of requests left.
        """
        state, episodes = self.state, self.state.episodes
        waiting = state.sent - state.begun
        taken = (state.free > state.up.unsqueeze(-1)).sum(dim=-1) - (self._width - self.replicas)
        taken = torch.where(waiting > 0, self.replicas, taken)
        request = self._lane * (self.config.window + 1) + state.step
        told = [
            self.outcomes.features.index_select(0, _at(episodes.row, request)),
            waiting,
            taken,
            is_down(episodes.outages, self.now.unsqueeze(-1)),
            _at(episodes.deadline, request).unsqueeze(-1),
            _at(episodes.value, request).unsqueeze(-1),
            state.gaps,
            self._budget_left(),
        ]
        return torch.cat([part.float() for part in told], dim=-1)

    def responses(self) -> Tensor:
        """[B, W] float64 seconds from arrival to finish of the requests sent; NaN for those to come."""
        window = self.config.window
        return self.state.finish[:, :window] - self.state.episodes.arrival[:, :window]

    def state_dict(self) -> dict[str, Any]:
        """The lanes' state as tensors by position."""
        return {str(index): value.clone() for index, value in enumerate(flat(self.state))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        for index, value in enumerate(flat(self.state)):
            value.copy_(state[str(index)])

    def _late(self, request: Tensor, finish: Tensor) -> tuple[Tensor, Tensor]:
        """Lateness and missed deadlines times value, summed over requests [B, M] that end then [B, M]."""
        episodes = self.state.episodes
        deadline, value = _at(episodes.deadline, request), _at(episodes.value, request)
        over = (finish - _at(episodes.arrival, request) - deadline).clamp(min=0.0)
        return (value * over / deadline).sum(dim=-1), (value * (over > 0)).sum(dim=-1)

    def _with_members(
        self, expert: Tensor, size: Tensor, finish: Tensor, lateness: Tensor, missed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add what those suffer whose batch the request joins, and note when they will be done."""
        state, batch, window = self.state, self.config.batch, self.config.window
        there = torch.arange(batch, device=self.device) < size.unsqueeze(-1)
        joined = state.members.flatten(0, 1).index_select(0, expert)
        members = (self._lane * (window + 1)).unsqueeze(-1) + torch.where(there, joined, window)
        before = _at(state.finish, members)
        after = torch.where(there, finish.unsqueeze(-1), before)
        old, new = self._late(members, before), self._late(members, after)
        state.finish.view(-1)[members] = after
        return lateness + new[0] - old[0], missed + new[1] - old[1]

    def _overspend(self, compute: Tensor) -> Tensor:
        """How far the request takes the episode's compute over the budget."""
        spent = self.state.spent.clone()
        self.state.spent.add_(compute)
        if self.config.budget is None:
            return torch.zeros_like(spent)
        allowed = self.config.budget * self.config.window
        return (self.state.spent - allowed).clamp(min=0.0) - (spent - allowed).clamp(min=0.0)

    def _budget_left(self) -> Tensor:
        if self.config.budget is None:
            return torch.zeros((self.lanes, 2), device=self.device)
        left = (self.config.window - self.state.step).double()
        allowed = self.config.budget * self.config.window - self.state.spent
        return torch.stack([allowed / left.clamp(min=1.0), left / self.config.window], dim=-1)

    def _advance(self) -> None:
        """Go on to the next arrival: begin what begins before it."""
        state = self.state
        before = self.now
        state.step.add_(1)
        now = self.now
        state.gaps.lerp_((now - before).unsqueeze(-1), self._rates)
        state.up.copy_(clock(state.episodes.outages, now.unsqueeze(-1).expand(-1, self.experts)))
        if self.config.batch > 1:
            free, slot = state.free.min(dim=-1, keepdim=True)
            begins = (state.open_size > 0).unsqueeze(-1) & (free <= state.up.unsqueeze(-1))
            state.free.scatter_(-1, slot, torch.where(begins, state.open_finish.unsqueeze(-1), free))
            state.open_size.masked_fill_(begins.squeeze(-1), 0)
        while True:
            ahead = state.begun.unsqueeze(-1) + self._ahead
            more = (state.starts.gather(-1, ahead) <= state.up.unsqueeze(-1)).sum(dim=-1)
            state.begun.add_(more)
            if not bool((more == _LOOK).any()):
                return

    def _fresh(self, seed: int) -> QueueState:
        self._rates = torch.tensor([_FAST, _SLOW], dtype=torch.float64, device=self.device)
        self._ahead = torch.arange(_LOOK, device=self.device)
        seeds = self._lane // self.group + seed
        return self._begin(seeds, torch.zeros_like(seeds))

    def _begin(self, seed: Tensor, episode: Tensor) -> QueueState:
        """Lanes at the start of an episode."""
        config, unit = self.config, self.units.second
        episodes = draw_episodes(seed, episode, self.gaps, self.outcomes.queries, self.experts, config, unit)
        return empty_queues(seed, episode, episodes, self.replicas, config, self.gap, room=_LOOK)

    def _space(self) -> spaces.Box:
        """The features' range and what the counts, times and flags may be, as one float32 Box."""
        config, features = self.config, self.outcomes.features
        low = features.amin(dim=0).cpu().numpy() - 1.0  # a margin: a constant feature has no range
        high = features.amax(dim=0).cpu().numpy() + 1.0
        experts = self.experts
        most = np.concatenate(
            [np.full(experts, config.window), self.replicas.cpu().numpy(), np.ones(experts)]
        )
        gap = max(float(self.gaps.max()), self.gap)
        spent = config.window * float(self.outcomes.compute.max())
        most_left = 1.0 if config.budget is None else config.budget * config.window
        rest = [config.longest * self.units.second, max(config.values), gap, gap, most_left, 1.0]
        least = [0.0, 0.0, 0.0, 0.0, 0.0 if config.budget is None else -spent, 0.0]
        low = np.concatenate([low, np.zeros(3 * experts), least])
        high = np.concatenate([high, most, np.array(rest) * 1.001])
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def build_queueing(
    table: OutcomeTable | Path | str,
    lanes: int,
    *,
    split: str | None = "train",
    arrivals: Arrivals | Path | str = "poisson",
    units: QueueUnits | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    group: int = 1,
    **settings: Any,
) -> QueueingCore:
    """Build a core from what a user has at hand.

    Args:
        table: an outcome table, a Parquet path or an embedded source's name.
        lanes: B.
        split: the rows to play on, or None for all. A recorded trace is divided too: training plays its first
            half, validation the next quarter, test the last.
        arrivals: a trace, `poisson`, `bursts`, or the path of a trace.
        units: of the training rows; of the rows played if None.
        device: where the tensors live.
        seed: the first lane's stream.
        group: lanes that share a stream.
        settings: fields of `QueueingConfig`.
    """
    rows = rows_of(table, split)
    config = QueueingConfig(**settings)
    units = QueueUnits.of(rows, config) if units is None else units
    if isinstance(arrivals, str) and arrivals in ARRIVALS:
        trace = open_arrivals(arrivals, seed=0 if split is None else 1 + list(_PARTS).index(split))
    else:
        trace = arrivals if isinstance(arrivals, Arrivals) else open_arrivals(arrivals)
        trace = trace if split is None else trace.part(*_PARTS[split])
    return QueueingCore(
        Outcomes.of(rows, units.compute, device),
        torch.from_numpy(service_times(rows)).to(device),
        torch.from_numpy(trace.gaps()),
        config,
        units,
        lanes,
        seed=seed,
        group=group,
    )


class QueueingEnv(ScalarEnv):
    """One lane, an ordinary Gymnasium environment; arguments as for `build_queueing`."""

    def __init__(self, table: OutcomeTable | Path | str = "digits", **settings: Any) -> None:
        super().__init__(build_queueing(table, 1, **settings))


class QueueingVectorEnv(VectorizedEnv):
    """B lanes at once, a Gymnasium vector environment; arguments as for `build_queueing`."""

    def __init__(
        self, num_envs: int = 1, table: OutcomeTable | Path | str = "digits", **settings: Any
    ) -> None:
        super().__init__(build_queueing(table, num_envs, **settings))


def _at(values: Tensor, place: Tensor) -> Tensor:
    """Values at places of the tensor laid flat, in the places' shape; far faster than indexing by columns."""
    return values.reshape(-1).index_select(0, place.reshape(-1)).reshape(place.shape)
