"""Route requests to experts that do not all fit in GPU memory: each choice can load one and evict another.

## Description
Requests arrive every `gap` seconds. Each is answered by one expert. If that expert is not in GPU memory, its
weights are loaded, from host memory or from disk through it, and the request waits. Where the load needs
room, experts are evicted. Loads run one after another on one bus, and continue between requests. The topics
of requests persist, so an expert that suits the current topic is likely to be used again.

Weights are read-only, so an evicted expert is dropped and not written back. Host memory keeps copies of the
most recently used experts that fit. The outcomes come from an `OutcomeTable`; its groups are the topics.

Legend: B lanes, N experts, D features, W requests of an episode, G topics.

## Action space
`MultiDiscrete([N, N])`: (e, v). Expert e answers. If it must be loaded and needs room, v is evicted first,
then the least recently used experts, and those still being loaded last. v has no effect if it is not
resident.

## Observation space
`Box((D + 5 N,), float32)`:

| part | size | values |
|---|---|---|
| features of the query | D | |
| resident | N | 1 if the expert is in GPU memory or is being loaded |
| wait | N | seconds that the request would wait for the expert |
| on host | N | 1 if host memory has a copy |
| recency | N | 1 / (requests since it was used, 1 for the last one); 0 if never used |
| frequency | N | discounted count of its uses (factor 0.95), over the largest possible count |

## Rewards
    quality - compute_weight * compute - wait_weight * wait_s

`quality` is the expert's quality on the query, `compute` its cost over `scale`, `wait_s` the seconds that the
request waits. `info` holds these, `loaded_bytes` (moved to GPU memory), `disk_bytes` (read from disk) and
`share` [N], 1 for the expert that answers.

## Starting state
The first experts that fit, in table order, are in each memory; nothing is being loaded. The first topic is
drawn uniformly. `reset(seed=s)` restarts the random stream; `reset()` keeps the request that was drawn last.

## Episode end
The episode terminates after W requests. It is never truncated.

## Arguments
- `table`: an `OutcomeTable` with features, a Parquet path or the name of a source. Default `"digits"`.
- `split`: rows to draw from: `"train"` (default), `"validation"`, `"test"`, or None for all.
- `scale`: the unit of compute, in the table's cost unit. Default: the mean cost of the most expensive expert
  on these rows.
- `profile`: a `MemoryProfile`, or the path of its YAML file. Default: PCIe 4.0 x16 and a fast NVMe drive.
- `device`: where the tensors live. Default `"cpu"`.
- the other fields of `CachingConfig`: `compute_weight`, `wait_weight`, `gpu_share`, `host_share`,
  `expert_bytes`, `gap`, `persistence`, `window`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import OutcomeTable

from .adapters import environment_classes
from .arguments import config_from
from .caching_config import CachingConfig
from .caching_table import CachingTable
from .core import ActionSpace, BatchedCore, Step, float_box, replace_lanes
from .memory import MemoryProfile, evicted
from .outcomes import open_rows
from .reward import utility

__all__ = [
    "CachingConfig",
    "CachingCore",
    "CachingEnv",
    "CachingState",
    "CachingTable",
    "CachingVectorEnv",
    "build_caching",
    "memories",
    "observe",
    "transition",
    "wait_seconds",
]

_FADE = 0.95  # discount of the use counts, per request


class CachingState(NamedTuple):
    """The state of B lanes.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, requests that the lane drew before this one.
        topic: [B] int64, of the current request.
        row: [B] int64, the current query.
        resident: [B, N] bool, in GPU memory or being loaded.
        ready: [B, N] float32, seconds until it is loaded; 0 where it is, or is not resident.
        host: [B, N] bool, has a copy in host memory.
        used: [B, N] float32, the decision that used it last; -1 - id before any.
        uses: [B, N] float32, discounted count of its uses.
        bus: [B] float32, seconds until all loads are finished.
        decisions: [B] float32, in this window.
    """

    seed: Tensor
    drawn: Tensor
    topic: Tensor
    row: Tensor
    resident: Tensor
    ready: Tensor
    host: Tensor
    used: Tensor
    uses: Tensor
    bus: Tensor
    decisions: Tensor


def wait_seconds(table: CachingTable, config: CachingConfig, state: CachingState) -> Tensor:
    """Return the seconds that the request would wait for each expert, [B, N] float32."""
    to_gpu, to_host = config.profile.seconds(table.size)
    load = state.bus.unsqueeze(-1) + to_gpu + torch.where(state.host, 0.0, to_host)
    return torch.where(state.resident, state.ready, load)


def transition(
    table: CachingTable, config: CachingConfig, state: CachingState, actions: Tensor
) -> tuple[CachingState, Step]:
    """Answer one request in every lane; pure.

    Args:
        table: the data.
        config: the options.
        state: the lanes.
        actions: [B, 2] int64, the expert that answers and the expert to evict.

    Returns:
        the state with the next request drawn (a full window is not cleared), and the step.
    """
    expert, victim = actions.unbind(dim=-1)
    place = expert.unsqueeze(-1)
    answers = torch.zeros_like(state.resident).scatter(-1, place, True)
    wait = wait_seconds(table, config, state).gather(-1, place).squeeze(-1)
    loads = answers & ~state.resident
    from_disk = loads & ~state.host

    # Room in GPU memory: the victim is evicted first, experts that are being loaded last.
    room = table.gpu_bytes - (state.resident * table.size).sum(dim=-1)
    need = (loads * table.size).sum(dim=-1) - room
    need = torch.where(loads.any(dim=-1), need, 0.0)
    named = torch.zeros_like(state.resident).scatter(-1, victim.unsqueeze(-1), True)
    order = state.used + 1e6 * (state.ready > 0) - 1e9 * named
    resident = (state.resident & ~evicted(state.resident, table.size, order, need)) | loads

    # Host memory keeps the most recently used experts, and what passed through it.
    used = torch.where(answers, state.decisions.unsqueeze(-1), state.used)
    excess = (state.host * table.size).sum(dim=-1) + (from_disk * table.size).sum(dim=-1) - table.host_bytes
    excess = torch.where(from_disk.any(dim=-1), excess, 0.0)
    host = state.host & ~evicted(state.host, table.size, used, excess)
    host = host | (from_disk & (table.size <= table.host_bytes))

    ready = torch.where(answers, wait.unsqueeze(-1), state.ready) * resident
    bus = torch.where(loads.any(dim=-1), wait, state.bus)
    columns = (table.outcomes.quality, table.outcomes.compute)
    quality, compute = (column[state.row].gather(-1, place).squeeze(-1) for column in columns)
    parts = {
        "quality": quality,
        "compute": compute,
        "wait_s": wait,
        "loaded_bytes": (loads * table.size).sum(dim=-1),
        "disk_bytes": (from_disk * table.size).sum(dim=-1),
        "share": answers.float(),
    }
    reward = utility(parts, {"compute": config.compute_weight, "wait_s": config.wait_weight})
    drawn = state.drawn + 1
    topic = table.next_topic(state.seed, drawn, state.topic, config.persistence)
    decisions = state.decisions + 1
    after = CachingState(
        seed=state.seed,
        drawn=drawn,
        topic=topic,
        row=table.topics.row_of(state.seed, drawn, topic),
        resident=resident,
        ready=(ready - config.gap).clamp(min=0.0),
        host=host,
        used=used,
        uses=_FADE * state.uses + answers,
        bus=(bus - config.gap).clamp(min=0.0),
        decisions=decisions,
    )
    return after, Step(reward, decisions >= config.window, parts)


def observe(table: CachingTable, config: CachingConfig, state: CachingState) -> Tensor:
    """Return the observations, [B, D + 5 N] float32: the features of the query, then `memories`."""
    return torch.cat([table.outcomes.features[state.row], *memories(table, config, state)], dim=-1)


def memories(table: CachingTable, config: CachingConfig, state: CachingState) -> tuple[Tensor, ...]:
    """Return resident, wait, on host, recency and frequency of each expert, [B, N] float32 each."""
    age = state.decisions.unsqueeze(-1) - state.used
    recency = torch.where(state.used < 0, 0.0, 1.0 / age.clamp(min=1.0))
    frequency = state.uses * (1.0 - _FADE)
    return (
        state.resident.float(),
        wait_seconds(table, config, state),
        state.host.float(),
        recency,
        frequency,
    )


class CachingCore(BatchedCore[CachingState]):
    """B lanes of the caching environment on one table.

    Args:
        table: the data, on the device to use.
        config: the options.
        lanes: B.
        seed: lane i uses the random stream `seed + i // group`.
        group: consecutive lanes that share a random stream, so that policies get the same requests.

    Raises:
        InputError: `lanes` or `group` is less than 1.
    """

    def __init__(
        self, table: CachingTable, config: CachingConfig, lanes: int, seed: int = 0, group: int = 1
    ) -> None:
        super().__init__(table.outcomes.experts, table.size.device, lanes, group)
        self.table = table
        self.config = config
        self.observation_space = _observation_space(table, config)
        self.action_space: ActionSpace = spaces.MultiDiscrete([self.experts, self.experts])
        self.state = self._initial_state(self._lane_seeds(seed))

    def clear(self, finished: Tensor) -> None:
        """Start a window with the first memories where `finished` [B] bool is True; the request stays."""
        first = self._initial_memories()
        replaced = {
            name: replace_lanes(finished, new, getattr(self.state, name)) for name, new in first.items()
        }
        self.state = self.state._replace(**replaced)

    def step(self, actions: Tensor) -> Step:
        """Answer one request in every lane: [B, 2] int64, the expert that answers and the expert to evict."""
        self.state, step = transition(self.table, self.config, self.state, actions.reshape(self.lanes, 2))
        return step

    def observation(self) -> Tensor:
        """Return the current observations, [B, D + 5 N] float32."""
        return observe(self.table, self.config, self.state)

    def requests(self) -> Tensor:
        """Return the next queries of the window, [B, W] int64, for bounds; policies cannot observe them."""
        state, rows = self.state, [self.state.row]
        drawn, topic = state.drawn, state.topic
        for _ in range(self.config.window - 1):
            drawn = drawn + 1
            topic = self.table.next_topic(state.seed, drawn, topic, self.config.persistence)
            rows.append(self.table.topics.row_of(state.seed, drawn, topic))
        return torch.stack(rows, dim=-1)

    def _initial_memories(self) -> dict[str, Tensor]:
        """Return the fields of the state that a new window resets, by name."""
        size, lanes = self.table.size, self.lanes
        zeros = torch.zeros((lanes, self.experts), device=self.device)
        total = size.cumsum(0).expand(lanes, -1)
        each = torch.arange(self.experts, device=self.device)
        return {
            "resident": total <= self.table.gpu_bytes,
            "ready": zeros,
            "host": total <= self.table.host_bytes,
            "used": (-1.0 - each).expand(lanes, -1).clone(),
            "uses": zeros.clone(),
            "bus": zeros[:, 0].clone(),
            "decisions": zeros[:, 0].clone(),
        }

    def _initial_state(self, seeds: Tensor) -> CachingState:
        drawn = torch.zeros_like(seeds)
        topic = self.table.next_topic(seeds, drawn, drawn, self.config.persistence)
        row = self.table.topics.row_of(seeds, drawn, topic)
        return CachingState(seed=seeds, drawn=drawn, topic=topic, row=row, **self._initial_memories())


def build_caching(
    table: OutcomeTable | Path | str = "digits",
    lanes: int = 1,
    *,
    split: str | None = "train",
    scale: float | None = None,
    profile: MemoryProfile | Path | str | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> CachingCore:
    """Build a core from a table; the arguments are those of the environment.

    Args:
        table: an outcome table, a Parquet path or the name of a source.
        lanes: B.
        split: the rows to draw from; None for all.
        scale: the unit of compute, in the table's cost unit; the mean cost of the most expensive expert on
            these rows if None.
        profile: of the memories, or the path of its YAML file.
        device: where the tensors live.
        options: the other fields of `CachingConfig`.

    Raises:
        InputError: an argument is unknown or out of range, the table has no features, or an expert does not
            fit in GPU memory.
    """
    if profile is not None:
        options["profile"] = profile if isinstance(profile, MemoryProfile) else MemoryProfile.read(profile)
    config = config_from(CachingConfig, build_caching, options)
    rows, scale = open_rows(table, split, scale)
    return CachingCore(CachingTable.of(rows, scale, config, device), config, lanes)


CachingEnv, CachingVectorEnv = environment_classes("Caching", build_caching, __doc__)


def _observation_space(table: CachingTable, config: CachingConfig) -> spaces.Box:
    """Return the bounds of the features, [0, 1] for the flags, and the longest wait."""
    experts = table.outcomes.experts
    to_gpu, to_host = config.profile.seconds(table.size)
    # The longest wait: after every other load that the bus can hold.
    longest = np.full(experts, 1.0 + (to_gpu + to_host).cpu().numpy().sum() * config.window)
    low, high = table.outcomes.feature_bounds()
    return float_box(
        [low, np.zeros(5 * experts)],
        [high, np.ones(experts), longest, np.ones(3 * experts)],
    )
