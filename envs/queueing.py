"""Route requests to experts with queues: each request is sent to one expert as it arrives.

## Description
Requests arrive one after another. The agent sends each to one expert at once. The request waits there, first
come first served, for one of the expert's replicas. A decision delays the requests behind it, so a good agent
trades quality and compute against queues, deadlines, outages and a budget.

A replica that becomes free takes up to `batch` waiting requests. A batch of n takes the time of its longest
request times `1 + batch_slope * (n - 1)`. While an expert is down, its work stops. Quality, cost and
service times come from an `OutcomeTable` (service times from `latency_s`, else `tokens_out`, else cost).

Legend: B lanes, N experts, D features, C replicas, W requests of an episode.

## Action space
`Discrete(N)`: the expert that the request is sent to.

## Observation space
`Box((D + 3 N + 6,), float32)`:

| part | size | values |
|---|---|---|
| features of the query | D | |
| waiting | N | requests waiting at the expert |
| busy | N | replicas at work; all of them where a request waits |
| down | N | 1 if the expert is down |
| deadline | 1 | seconds from arrival |
| value | 1 | of the request |
| gaps | 2 | running means of the time between arrivals, fast and slow, seconds |
| budget | 2 | compute left per request left, and the fraction of requests left; 0 without a budget |

## Rewards
    value * quality - lateness_weight * lateness - miss_weight * missed
        - compute_weight * compute - overspend_weight * overspend

- `quality`: of the expert on the query, in [0, 1]; `compute`: its cost over the unit of compute.
- `lateness`: value times the time from arrival to finish beyond the deadline, in deadlines. `missed`: value,
  if the deadline is missed. Both are paid when the request is sent, as what the request adds to the lateness
  of all requests if no other request followed. So the rewards of an episode sum to the utility of its
  requests, and no reward is delayed.
- `overspend`: compute that the request adds above the episode's budget.

`info` holds these and `share` [N], 1 for the expert.

## Starting state
Empty queues, all experts up, and a random stretch of the arrivals. `reset(seed=s)` restarts the random
stream; `reset()` draws the next episode.

## Episode end
The episode terminates after W requests. It is never truncated.

## Arguments
- `table`: an `OutcomeTable` with features, a Parquet path or the name of a source. Default `"digits"`.
- `split`: rows to draw from: `"train"` (default), `"validation"`, `"test"`, or None for all. It also selects
  the part of a recorded trace: the first half, the next quarter, the last quarter.
- `arrivals`: `"poisson"` (default), `"bursts"`, an `Arrivals`, or the Parquet path of a trace.
- `units`: `QueueUnits`. Default: of these rows.
- `device`: where the tensors live. Default `"cpu"`.
- `seed`, `group`: lane i uses the random stream `seed + i // group`.
- the fields of `QueueingConfig`: `load`, `compute_weight`, `lateness_weight`, `miss_weight`, `window`,
  `replicas`, `batch`, `batch_slope`, `deadlines`, `values`, `shares`, `mean_up`, `mean_repair`, `budget`,
  `overspend_weight`.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import OutcomeTable

from .adapters import environment_classes
from .arguments import config_from
from .core import ActionSpace, BatchedCore, Step, float_box
from .outages import Outages, is_down, uptime, wall_time
from .outcomes import Outcomes, open_rows
from .queue_episodes import draw_episodes
from .queue_state import QueueState, empty_queues, flat, mapped
from .queue_units import QueueUnits
from .queueing_config import QueueingConfig
from .reward import utility
from .service_time import service_times
from .traces import ARRIVALS, Arrivals, open_arrivals

__all__ = [
    "QueueUnits",
    "QueueingConfig",
    "QueueingCore",
    "QueueingEnv",
    "QueueingVectorEnv",
    "build_queueing",
]

_LOOK = 4  # starts that are compared together when counting the requests that began
_FAST, _SLOW = 1 / 8, 1 / 64  # rates of the two running means of the gaps
_PARTS = {"train": (0.0, 0.5), "validation": (0.5, 0.625), "test": (0.75, 1.0), "tuning": (0.625, 0.75)}


class QueueingCore(BatchedCore[QueueState]):
    """B lanes of the queueing environment on one table.

    Args:
        outcomes: the table, on the device to use.
        service: [T, N] float64, seconds.
        gaps: [M] float64, gaps between arrivals with mean 1; an episode uses a random stretch of them.
        config: the options.
        units: of compute, deadlines and load.
        lanes: B.
        seed: lane i uses the random stream `seed + i // group`.
        group: consecutive lanes that share a random stream, so that they get the same requests, outages and
            arrivals.

    Raises:
        InputError: `lanes` or `group` is less than 1, or a list does not have length N.
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
        super().__init__(outcomes.experts, outcomes.quality.device, lanes, group)
        self.outcomes = outcomes
        self.service = service
        self.config = config
        self.units = units
        self.replicas = config.replicas_of(self.experts).to(self.device)
        self._width = int(self.replicas.max())  # C
        self.gap = config.gap(units.batch_service)
        self.gaps = gaps.to(self.device) * self.gap
        self.observation_space = self._space()
        self.action_space: ActionSpace = spaces.Discrete(self.experts)
        self._lane = torch.arange(lanes, device=self.device)
        self._rates = torch.tensor([_FAST, _SLOW], dtype=torch.float64, device=self.device)
        self._ahead = torch.arange(_LOOK, device=self.device)
        self.state = self._initial_state(self._lane_seeds(seed))

    @property
    def now(self) -> Tensor:
        """Arrival time of the current request, [B] float64 seconds."""
        place = self._lane * (self.config.window + 1) + self.state.step
        return _at(self.state.episodes.arrival, place)

    def clear(self, finished: Tensor) -> None:
        """Start a new episode, with empty queues, where `finished` [B] bool is True."""
        if not bool(finished.any()):
            return
        state = self.state
        first = self._begin(state.seed[finished], state.episode[finished] + 1)
        for old, new in zip(flat(state), flat(first), strict=True):
            old[finished] = new

    def fork(self, lane: Tensor) -> QueueingCore:
        """Return a core whose lanes are copies of lanes [M] int64, to simulate ahead; lanes may repeat."""
        fork = copy(self)
        fork.lanes = len(lane)
        fork._lane = torch.arange(len(lane), device=self.device)
        fork.state = mapped(self.state, lambda value: value[lane])
        return fork

    def step(self, actions: Tensor) -> Step:
        """Send the requests to experts [B] int64, and advance to the next arrivals."""
        state, config, episodes = self.state, self.config, self.state.episodes
        request = self._lane * (config.window + 1) + state.step  # index into [B, W + 1], flattened
        expert = self._lane * self.experts + actions  # index into [B, N], flattened
        row = _at(episodes.row, request)
        up, work = _at(state.up, expert), _at(self.service, row * self.experts + actions)
        free, slot = state.free.flatten(0, 1).index_select(0, expert).min(dim=-1)
        outages = Outages(*(part.flatten(0, 1).index_select(0, expert) for part in episodes.outages))
        start = torch.maximum(up, free)  # also the start of an open batch, which has not begun
        if config.batch > 1:
            size = _at(state.open_size, expert)
            work = torch.maximum(work, torch.where(size > 0, _at(state.open_work, expert), work))
            end = start + work * (1.0 + config.batch_slope * size)
            closed = (size + 1 == config.batch) | (start <= up)
        else:
            size, end, closed = torch.zeros_like(expert), start + work, None
        finish = wall_time(outages, end)
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
        costs = {"lateness": lateness, "missed": missed, "compute": compute, "overspend": overspend}
        reward = utility({"quality": _at(episodes.value, request) * quality, **costs}, self._cost_weights)
        self._advance()
        share = torch.zeros(self.lanes * self.experts, device=self.device)
        share[expert] = 1.0
        parts = {name: part.float() for name, part in {"quality": quality, **costs}.items()}
        parts["share"] = share.reshape(self.lanes, self.experts)
        return Step(reward.float(), self.state.step >= config.window, parts)

    def observation(self) -> Tensor:
        """Return the current observations, [B, D + 3 N + 6] float32; the module docstring lists the parts."""
        state, episodes = self.state, self.state.episodes
        waiting = state.sent - state.begun
        busy = (state.free > state.up.unsqueeze(-1)).sum(dim=-1) - (self._width - self.replicas)
        busy = torch.where(waiting > 0, self.replicas, busy)
        request = self._lane * (self.config.window + 1) + state.step
        parts = [
            self.outcomes.features.index_select(0, _at(episodes.row, request)),
            waiting,
            busy,
            is_down(episodes.outages, self.now.unsqueeze(-1)),
            _at(episodes.deadline, request).unsqueeze(-1),
            _at(episodes.value, request).unsqueeze(-1),
            state.gaps,
            self._budget_left(),
        ]
        return torch.cat([part.float() for part in parts], dim=-1)

    def responses(self) -> Tensor:
        """Return the response times in seconds, [B, W] float64; NaN for requests that are not sent yet."""
        window = self.config.window
        return self.state.finish[:, :window] - self.state.episodes.arrival[:, :window]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the lanes as tensors by position."""
        return {str(index): value.clone() for index, value in enumerate(flat(self.state))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        for index, value in enumerate(flat(self.state)):
            value.copy_(state[str(index)])

    def _late(self, request: Tensor, finish: Tensor) -> tuple[Tensor, Tensor]:
        """Return lateness and misses times value, [B], summed over requests with finish times [B, M]."""
        episodes = self.state.episodes
        deadline, value = _at(episodes.deadline, request), _at(episodes.value, request)
        over = (finish - _at(episodes.arrival, request) - deadline).clamp(min=0.0)
        return (value * over / deadline).sum(dim=-1), (value * (over > 0)).sum(dim=-1)

    def _with_members(
        self, expert: Tensor, size: Tensor, finish: Tensor, lateness: Tensor, missed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the delay of the requests whose batch the request joins, and update their finish times."""
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
        """Return the compute that the request adds above the episode's budget, [B]."""
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
        """Advance to the next arrival, and start the requests that begin before it."""
        state = self.state
        before = self.now
        state.step.add_(1)
        now = self.now
        state.gaps.lerp_((now - before).unsqueeze(-1), self._rates)
        state.up.copy_(uptime(state.episodes.outages, now.unsqueeze(-1).expand(-1, self.experts)))
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

    def _initial_state(self, seeds: Tensor) -> QueueState:
        return self._begin(seeds, torch.zeros_like(seeds))

    def _begin(self, seed: Tensor, episode: Tensor) -> QueueState:
        """Return lanes at the start of an episode."""
        config, unit = self.config, self.units.mean_service
        episodes = draw_episodes(seed, episode, self.gaps, self.outcomes.queries, self.experts, config, unit)
        return empty_queues(seed, episode, episodes, self.replicas, config, self.gap, room=_LOOK)

    def _space(self) -> spaces.Box:
        """Return the bounds of the features, counts, times and flags."""
        config, experts = self.config, self.experts
        low, high = self.outcomes.feature_bounds()
        gap = max(float(self.gaps.max()), self.gap)
        spent = config.window * float(self.outcomes.compute.max())
        most_left = 1.0 if config.budget is None else config.budget * config.window
        least_left = 0.0 if config.budget is None else -spent
        counts = [np.full(experts, config.window), self.replicas.cpu().numpy(), np.ones(experts)]
        rest = [config.max_deadline * self.units.mean_service, max(config.values), gap, gap, most_left, 1.0]
        return float_box(
            [low, np.zeros(3 * experts), np.array([0.0, 0.0, 0.0, 0.0, least_left, 0.0])],
            [high, *counts, np.array(rest) * 1.001],
        )

    @property
    def _cost_weights(self) -> dict[str, float]:
        """Utility per unit of each cost."""
        config = self.config
        return {
            "lateness": config.lateness_weight,
            "missed": config.miss_weight,
            "compute": config.compute_weight,
            "overspend": config.overspend_weight,
        }


def build_queueing(
    table: OutcomeTable | Path | str = "digits",
    lanes: int = 1,
    *,
    split: str | None = "train",
    arrivals: Arrivals | Path | str = "poisson",
    units: QueueUnits | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    group: int = 1,
    **options: Any,
) -> QueueingCore:
    """Build a core from a table; the arguments are those of the environment.

    Args:
        table: an outcome table, a Parquet path or the name of a source.
        lanes: B.
        split: the rows to draw from; None for all. It also selects the part of a recorded trace: the first
            half for training, the next quarter for validation, the last for test.
        arrivals: a trace, `poisson`, `bursts`, or the path of a trace.
        units: of the training rows; of these rows if None.
        device: where the tensors live.
        seed, group: lane i uses the random stream `seed + i // group`.
        options: fields of `QueueingConfig`.

    Raises:
        InputError: an argument is unknown or out of range, the table has no features, or a service time is
            missing.
    """
    config = config_from(QueueingConfig, build_queueing, options)
    rows, _ = open_rows(table, split)
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


QueueingEnv, QueueingVectorEnv = environment_classes("Queueing", build_queueing, __doc__)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """Return the values at flat indices, in the shape of `place`; much faster than indexing by columns."""
    return values.reshape(-1).index_select(0, place.reshape(-1)).reshape(place.shape)
