"""Route requests to experts with queues: each request is sent to one expert as it arrives.

## Description
Requests arrive one after another. The agent sends each to one expert at once. The request waits there, first
come first served, for one of the expert's replicas. A decision delays the requests behind it, so a good agent
trades quality and compute against queues, deadlines, outages and a budget.

A replica that becomes free takes up to `batch` waiting requests. A batch of n takes the time of its longest
request times `1 + batch_slope * (n - 1)`. While an expert is down, its work stops. Quality, cost and
service times come from an `OutcomeTable` (service times from `latency_s`, else `tokens_out`, else cost).

`servers="continuous"` has an engine with continuous batching for each expert, and `servers="api"` a
rate-limited API; `envs/continuous_servers.py` and `envs/api_servers.py` specify them. Both take the lengths
of prompts and answers from the trace if it has `tokens_in` and `tokens_out`, else from the table.

Legend: B lanes, N experts, D features, C replicas, W requests of an episode.

## Action space
`Discrete(N)`: the expert that the request is sent to.

## Observation space
`Box((D + 3 N + 6,), float32)`, and `Box((D + 7 N + 8,), float32)` for model servers:

| part | size | values |
|---|---|---|
| features of the query | D | |
| waiting | N | requests waiting at the expert |
| busy | N | replicas at work; all of them where a request waits. Model servers: requests at work |
| down | N | 1 if the expert is down |
| deadline | 1 | seconds from arrival |
| value | 1 | of the request |
| gaps | 2 | running means of the time between arrivals, fast and slow, seconds |
| budget | 2 | compute left per request left, and the fraction of requests left; 0 without a budget |
| used | N | model servers: used share of the KV cache, or of the fullest rate limit (above 1: reserved) |
| ahead | N | model servers: tokens of prompts that are not computed yet; 0 for APIs |
| recent_first | N | model servers: running mean of the seconds to the first token, rate 1/8 |
| recent_token | N | model servers: running mean of the seconds per further token, rate 1/8 |
| tokens | 1 | model servers: tokens of the request's prompt |
| first_deadline | 1 | model servers: seconds from arrival to the first token; 0 for none |

## Rewards
    value * quality - lateness_weight * lateness - miss_weight * missed
        - compute_weight * compute - overspend_weight * overspend

- `quality`: of the expert on the query, in [0, 1]; `compute`: its cost over the unit of compute.
- `lateness`: value times the time from arrival to finish beyond the deadline, in deadlines. `missed`: value,
  if the deadline is missed. Both are paid when the request is sent, as what the request adds to the lateness
  of all requests if no other request followed. So the rewards of an episode sum to the utility of its
  requests, and no reward is delayed.
- Model servers add the lateness of the first token over its deadline, and `missed` counts a request once.
  APIs pay when a request is sent, engines when the tokens come; the last step pays for all that is left.
  With `core.immediate()`, engines pay when a request is sent, too.
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
  `overspend_weight`, `servers`, `first_deadlines`, `continuous`, `api`.
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
from .api_servers import ApiServers
from .arguments import config_from
from .continuous_servers import ContinuousServers
from .core import ActionSpace, BatchedCore, Step, float_box
from .outages import is_down, uptime
from .outcomes import Outcomes, open_rows
from .queue_episodes import Traffic, draw_episodes
from .queue_servers import QueueServers
from .queue_state import Charges, QueueState, Servers, at, empty_state, flat, mapped, request_place
from .queue_units import QueueUnits
from .queueing_config import QueueingConfig
from .request_lengths import request_lengths
from .reward import utility
from .service_time import service_times
from .traces import Arrivals, split_arrivals

__all__ = [
    "QueueUnits",
    "QueueingConfig",
    "QueueingCore",
    "QueueingEnv",
    "QueueingVectorEnv",
    "build_queueing",
]

_LARGEST = 1e9
_FAST, _SLOW = 1 / 8, 1 / 64  # rates of the two running means of the gaps


class QueueingCore(BatchedCore[QueueState]):
    """B lanes of the queueing environment on one table.

    Args:
        outcomes: the table, on the device to use.
        servers: how the experts work.
        traffic: gaps between arrivals in seconds, and lengths; an episode uses a random stretch of them.
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
        servers: Servers,
        traffic: Traffic,
        config: QueueingConfig,
        units: QueueUnits,
        lanes: int,
        seed: int = 0,
        group: int = 1,
    ) -> None:
        super().__init__(outcomes.experts, outcomes.quality.device, lanes, group)
        self.outcomes = outcomes
        self.servers = servers
        self.config = config
        self.units = units
        self.replicas = servers.busy
        self.gap = config.gap(units.batch_service)
        self.traffic = traffic
        self.observation_space = self._space()
        self.action_space: ActionSpace = spaces.Discrete(self.experts)
        self._lane = torch.arange(lanes, device=self.device)
        self._rates = torch.tensor([_FAST, _SLOW], dtype=torch.float64, device=self.device)
        self._pending: Tensor | None = None  # [B] float64: `settle`, where rewards are immediate
        self.state = self._initial_state(self._lane_seeds(seed))

    def immediate(self) -> QueueingCore:
        """Charge every request when it is sent for what it adds to all requests' costs if no other follows.

        Queues and APIs always do so. Engines pay when the tokens come; with immediate rewards they simulate
        their work to the end after every step, which takes longer. An episode's rewards have the same sum.

        Source: potential-based shaping, Ng, Harada and Russell 1999 (ICML), theorem 1, with minus `settle` as
        the potential and without a discount.
        """
        if self.config.servers == "continuous":
            self._pending = self.settle()
        return self

    @property
    def now(self) -> Tensor:
        """Arrival time of the current request, [B] float64 seconds."""
        return at(self.state.episodes.arrival, request_place(self.state, self.state.step))

    def reset(self, seed: int | None = None) -> Tensor:
        """Start an episode in every lane; see `BatchedCore.reset`."""
        if self._pending is not None:
            self._pending.zero_()
        return super().reset(seed)

    def clear(self, finished: Tensor) -> None:
        """Start a new episode, with empty queues, where `finished` [B] bool is True."""
        if not bool(finished.any()):
            return
        state = self.state
        first = self._begin(state.seed[finished], state.episode[finished] + 1)
        for old, new in zip(flat(state), flat(first), strict=True):
            old[finished] = new
        if self._pending is not None:
            self._pending[finished] = 0.0

    def fork(self, lane: Tensor) -> QueueingCore:
        """Return a core whose lanes are copies of lanes [M] int64, to simulate ahead; lanes may repeat."""
        fork = copy(self)
        fork.lanes = len(lane)
        fork._lane = torch.arange(len(lane), device=self.device)
        fork.state = mapped(self.state, lambda value: value[lane])
        fork._pending = None if self._pending is None else self._pending[lane]
        return fork

    def step(self, actions: Tensor) -> Step:
        """Send the requests to experts [B] int64, and advance to the next arrivals."""
        state, episodes = self.state, self.state.episodes
        request = request_place(state, state.step)
        row = at(episodes.row, request)
        sent = self.servers.send(state, actions, row)
        quality = at(self.outcomes.quality, row * self.experts + actions).double()
        compute = at(self.outcomes.compute, row * self.experts + actions).double()
        value, overspend = at(episodes.value, request), self._overspend(compute)
        later = self._advance()
        costs = {
            "lateness": sent.lateness + later.lateness,
            "missed": sent.missed + later.missed,
            "compute": compute,
            "overspend": overspend,
        }
        reward = utility({"quality": value * quality, **costs}, self._cost_weights)
        if self._pending is not None:
            before, self._pending = self._pending, self.settle()
            reward = reward + before - self._pending
        share = torch.zeros(self.lanes * self.experts, device=self.device)
        share[self._lane * self.experts + actions] = 1.0
        parts = {name: part.float() for name, part in {"quality": quality, **costs}.items()}
        parts["share"] = share.reshape(self.lanes, self.experts)
        return Step(reward.float(), self.state.step >= self.config.window, parts)

    def observation(self) -> Tensor:
        """Return the current observations, [B, O] float32; the module docstring lists the parts."""
        state, episodes = self.state, self.state.episodes
        waiting, busy = self.servers.counts(state)
        request = request_place(state, state.step)
        parts = [
            self.outcomes.features.index_select(0, at(episodes.row, request)),
            waiting,
            busy,
            is_down(episodes.outages, self.now.unsqueeze(-1)),
            at(episodes.deadline, request).unsqueeze(-1),
            at(episodes.value, request).unsqueeze(-1),
            state.gaps,
            self._budget_left(),
            *self.servers.observed(state),
        ]
        return torch.cat([part.float() for part in parts], dim=-1)

    def settle(self) -> Tensor:
        """Return the utility that requests in flight still cost if no other request follows, [B] float64."""
        charges = self.servers.settle(self.state)
        late = self.config.lateness_weight * charges.lateness
        return late + self.config.miss_weight * charges.missed

    def responses(self) -> Tensor:
        """Return the response times in seconds, [B, W] float64; NaN for requests that are not sent yet."""
        window = self.config.window
        return self.state.finish[:, :window] - self.state.episodes.arrival[:, :window]

    def first_tokens(self) -> Tensor:
        """Return the times to the first token in seconds, [B, W] float64; NaN for servers of queues."""
        window = self.config.window
        return self.state.first[:, :window] - self.state.episodes.arrival[:, :window]

    def missed(self) -> Tensor:
        """Return whether a deadline of each request was missed, [B, W] bool."""
        window, episodes = self.config.window, self.state.episodes
        late = self.responses() > episodes.deadline[:, :window]
        return late | (self.first_tokens() > episodes.first_deadline[:, :window])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the lanes as tensors by position."""
        return {str(index): value.clone() for index, value in enumerate(flat(self.state))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        for index, value in enumerate(flat(self.state)):
            value.copy_(state[str(index)])
        self._pending = None if self._pending is None else self.settle()

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

    def _advance(self) -> Charges:
        """Advance to the next arrival; return what is paid until then."""
        state = self.state
        before = self.now
        state.step.add_(1)
        now = self.now
        state.gaps.lerp_((now - before).unsqueeze(-1), self._rates)
        state.up.copy_(uptime(state.episodes.outages, now.unsqueeze(-1).expand(-1, self.experts)))
        return self.servers.advance(state)

    def _initial_state(self, seeds: Tensor) -> QueueState:
        return self._begin(seeds, torch.zeros_like(seeds))

    def _begin(self, seed: Tensor, episode: Tensor) -> QueueState:
        """Return lanes at the start of an episode."""
        config, unit = self.config, self.units.mean_service
        queries, experts = self.outcomes.queries, self.experts
        episodes = draw_episodes(seed, episode, self.traffic, queries, experts, config, unit)
        return empty_state(seed, episode, episodes, experts, self.gap, self.servers.empty(len(seed)))

    def _space(self) -> spaces.Box:
        """Return the bounds of the features, counts, times and flags."""
        config, experts = self.config, self.experts
        low, high = self.outcomes.feature_bounds()
        gap = max(float(self.traffic.gaps.max()), self.gap)
        spent = config.window * float(self.outcomes.compute.max())
        most_left = 1.0 if config.budget is None else config.budget * config.window
        least_left = 0.0 if config.budget is None else -spent
        counts = [np.full(experts, config.window), self.replicas.cpu().numpy(), np.ones(experts)]
        rest = [config.max_deadline * self.units.mean_service, max(config.values), gap, gap, most_left, 1.0]
        # Of the numbers of model servers only the sign is known.
        extras = self.servers.extras
        least = [low, np.zeros(3 * experts), np.array([0.0, 0.0, 0.0, 0.0, least_left, 0.0])]
        return float_box(
            [*least, np.full(extras, -_LARGEST)],
            [high, *counts, np.array(rest) * 1.001, np.full(extras, _LARGEST)],
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
    trace = split_arrivals(arrivals, split)
    lengths = None if config.servers == "queue" else request_lengths(rows, trace)
    units = QueueUnits.of(rows, config, lengths) if units is None else units
    outcomes = Outcomes.of(rows, units.compute, device)
    if lengths is None:
        replicas = config.replicas_of(outcomes.experts).to(device)
        servers = QueueServers(torch.from_numpy(service_times(rows)).to(device), replicas, config)
    else:
        usual = torch.tensor([each[:2] for each in units.servers], dtype=torch.float64, device=device)
        kind = ContinuousServers if config.servers == "continuous" else ApiServers
        servers = kind(outcomes.experts, config, usual)
        lengths = lengths._replace(tokens=servers.fitted(lengths.tokens.to(device)))
    # The load is relative to the capacity for the lengths of these requests.
    pace = units if lengths is None else QueueUnits.of(rows, config, lengths)
    gaps = torch.from_numpy(trace.gaps()).to(device) * config.gap(pace.batch_service)
    return QueueingCore(outcomes, servers, Traffic(gaps, lengths), config, units, lanes, seed, group)


QueueingEnv, QueueingVectorEnv = environment_classes("Queueing", build_queueing, __doc__)
