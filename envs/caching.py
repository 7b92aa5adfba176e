"""`RouterRL/Caching-v0`: not all experts fit in memory; whom to ask is also whom to load, and who makes room.

An action is (e, v): expert e answers the request; if it is not in GPU memory it is loaded, and where that
needs room v goes first, then the least recently used (v also if it is not there). A load comes from host
memory or, through it, from disk, after the loads before it; the request waits until its expert is there:

    reward = quality - compute_weight * compute - wait_weight * (seconds waited).

Weights are only read, so what goes from GPU memory is dropped; host memory keeps copies of the most recently
used that fit. Requests come every `gap` seconds, and meanwhile loads go on. Their topics persist: with chance
`persistence` a request is of the group of the one before, else of any group alike. An episode is a window of
W requests and begins with the first experts that fit in each memory.

Legend: B lanes, N experts, D features, W requests of an episode, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError, OutcomeTable

from .adapters import ScalarEnv, VectorizedEnv
from .caching_config import CachingConfig
from .core import ActionSpace, Step
from .memory import MemoryProfile, evicted
from .outcomes import Outcomes, compute_scale, rows_of
from .stream import query_rows

__all__ = [
    "CachingConfig",
    "CachingCore",
    "CachingEnv",
    "CachingState",
    "CachingTable",
    "CachingVectorEnv",
    "build_caching",
]

_STAYS, _TOPICS = 1 << 40, 1 << 41  # offsets of a lane's further streams from its queries'
_PARTS = 1 << 20  # a chance is drawn in so many parts
_FADE = 0.95  # of the counts of use, a request


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CachingTable:
    """Outcomes, with the rows of each topic.

    Attributes:
        outcomes: features, quality and compute.
        rows: [T] int64, the rows by topic.
        first, count: [G] int64, where a topic's rows begin in `rows` and how many there are.
        size: [N] float32 bytes.
        gpu_bytes, host_bytes: of the memories.
    """

    outcomes: Outcomes
    rows: Tensor
    first: Tensor
    count: Tensor
    size: Tensor
    gpu_bytes: float
    host_bytes: float

    @classmethod
    def of(
        cls, table: OutcomeTable, scale: float, config: CachingConfig, device: torch.device | str = "cpu"
    ) -> CachingTable:
        """Move a table to a device; its groups are the topics, one where it has none.

        Raises:
            InputError: the table has no features, a size is missing, or an expert does not fit at all.
        """
        outcomes = Outcomes.of(table, scale, device)
        experts = outcomes.experts
        sizes = config.expert_bytes * experts if len(config.expert_bytes) == 1 else config.expert_bytes
        if len(sizes) != experts:
            fix = f"give one number, or {experts}"
            raise InputError("expert_bytes", list(sizes), f"there are {experts} experts", fix)
        # A little more than the share, so that a share of m equal experts holds m of them.
        gpu, host = ((share + 1e-6) * sum(sizes) for share in (config.gpu_share, config.host_share))
        if max(sizes) > gpu:
            problem = f"is {gpu:.4g} bytes, and an expert has {max(sizes):.4g}"
            raise InputError("gpu_share", config.gpu_share, problem, "use a larger share")
        group = np.zeros(len(table)) if table.group is None else table.group
        _, codes, count = np.unique(group, return_inverse=True, return_counts=True)
        rows = torch.from_numpy(np.argsort(codes.reshape(-1), kind="stable"))
        many = torch.from_numpy(count)
        return cls(
            outcomes=outcomes,
            rows=rows.to(device),
            first=(many.cumsum(0) - many).to(device),
            count=many.to(device),
            size=torch.tensor(sizes, dtype=torch.float32, device=device),
            gpu_bytes=float(gpu),
            host_bytes=float(host),
        )

    def next_topic(self, seed: Tensor, drawn: Tensor, topic: Tensor, persistence: float) -> Tensor:
        """The topic [B] of the request that lanes draw next; a lane's first is drawn afresh."""
        stays = query_rows(seed + _STAYS, drawn, _PARTS) < persistence * _PARTS
        other = query_rows(seed + _TOPICS, drawn, len(self.count))
        return torch.where(stays & (drawn > 0), topic, other)

    def row_of(self, seed: Tensor, drawn: Tensor, topic: Tensor) -> Tensor:
        """The query [B] of that topic."""
        place = query_rows(seed, drawn, 1 << 62) % self.count[topic]
        return self.rows[self.first[topic] + place]


class CachingState(NamedTuple):
    """Where B lanes stand.

    Attributes:
        seed: [B] int64, each lane's stream.
        drawn: [B] int64, requests the lane has drawn before this one.
        topic: [B] int64.
        row: [B] int64, the query being asked.
        resident: [B, N] bool, in GPU memory or on the way there.
        ready: [B, N] float32, seconds until it is there; 0 where it is, or is not resident.
        host: [B, N] bool, has a copy in host memory.
        used: [B, N] float32, the decision that used it last, -1 - id before.
        uses: [B, N] float32, how often each was used, fading.
        bus: [B] float32, seconds until all loads are done.
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


def waits(table: CachingTable, config: CachingConfig, state: CachingState) -> Tensor:
    """Seconds that the request would wait for each expert, [B, N]."""
    to_gpu, to_host = config.profile.seconds(table.size)
    load = state.bus.unsqueeze(-1) + to_gpu + torch.where(state.host, 0.0, to_host)
    return torch.where(state.resident, state.ready, load)


def transition(
    table: CachingTable, config: CachingConfig, state: CachingState, actions: Tensor
) -> tuple[CachingState, Step]:
    """Answer one request in every lane; pure. The finished window is not cleared.

    Args:
        table: the outcomes.
        config: what is charged.
        state: where the lanes stand.
        actions: [B, 2] int64, who answers and who makes room.
    """
    answers, victim = actions.unbind(dim=-1)
    place = answers.unsqueeze(-1)
    chosen = torch.zeros_like(state.resident).scatter(-1, place, True)
    wait = waits(table, config, state).gather(-1, place).squeeze(-1)
    loads = chosen & ~state.resident
    from_disk = loads & ~state.host

    # Room in GPU memory: the one named goes first; those on the way go last.
    room = table.gpu_bytes - (state.resident * table.size).sum(dim=-1)
    need = (loads * table.size).sum(dim=-1) - room
    need = torch.where(loads.any(dim=-1), need, 0.0)
    named = torch.zeros_like(state.resident).scatter(-1, victim.unsqueeze(-1), True)
    order = state.used + 1e6 * (state.ready > 0) - 1e9 * named
    resident = (state.resident & ~evicted(state.resident, table.size, order, need)) | loads

    # Host memory keeps what was used last, and what passed through it.
    used = torch.where(chosen, state.decisions.unsqueeze(-1), state.used)
    crowd = (state.host * table.size).sum(dim=-1) + (from_disk * table.size).sum(dim=-1) - table.host_bytes
    crowd = torch.where(from_disk.any(dim=-1), crowd, 0.0)
    host = state.host & ~evicted(state.host, table.size, used, crowd)
    host = host | (from_disk & (table.size <= table.host_bytes))

    ready = torch.where(chosen, wait.unsqueeze(-1), state.ready) * resident
    bus = torch.where(loads.any(dim=-1), wait, state.bus)
    paid = (table.outcomes.quality, table.outcomes.compute)
    quality, compute = (part[state.row].gather(-1, place).squeeze(-1) for part in paid)
    reward = quality - config.compute_weight * compute - config.wait_weight * wait
    drawn = state.drawn + 1
    topic = table.next_topic(state.seed, drawn, state.topic, config.persistence)
    decisions = state.decisions + 1
    parts = {
        "quality": quality,
        "compute": compute,
        "wait_s": wait,
        "loaded_bytes": (loads * table.size).sum(dim=-1),
        "disk_bytes": (from_disk * table.size).sum(dim=-1),
        "share": chosen.float(),
    }
    after = CachingState(
        seed=state.seed,
        drawn=drawn,
        topic=topic,
        row=table.row_of(state.seed, drawn, topic),
        resident=resident,
        ready=(ready - config.gap).clamp(min=0.0),
        host=host,
        used=used,
        uses=_FADE * state.uses + chosen,
        bus=(bus - config.gap).clamp(min=0.0),
        decisions=decisions,
    )
    return after, Step(reward, decisions >= config.window, parts)


def observe(table: CachingTable, config: CachingConfig, state: CachingState) -> Tensor:
    """What the lanes see, [B, D + 5 N] float32.

    The query's features; for each expert whether it is resident, the seconds to wait for it, whether the host
    has it, 1 / (requests since it was used, 1 for the last one) or 0 if never, and the fading count of its
    uses over the largest that can be.
    """
    return torch.cat([table.outcomes.features[state.row], *memories(table, config, state)], dim=-1)


def memories(table: CachingTable, config: CachingConfig, state: CachingState) -> tuple[Tensor, ...]:
    """The five parts of an observation after the features, [B, N] float32 each."""
    age = state.decisions.unsqueeze(-1) - state.used
    recent = torch.where(state.used < 0, 0.0, 1.0 / age.clamp(min=1.0))
    uses = state.uses * (1.0 - _FADE)
    return state.resident.float(), waits(table, config, state), state.host.float(), recent, uses


class CachingCore:
    """B lanes of the caching process on one table; holds the state and nothing else.

    Args:
        table: outcomes, topics and memories, on the device to play on.
        config: what is charged.
        lanes: B.
        seed: the first lane's stream; lane i uses seed + i // group.
        group: lanes that share a stream, so that policies meet the same requests.

    Raises:
        InputError: fewer than one lane.
    """

    def __init__(
        self, table: CachingTable, config: CachingConfig, lanes: int, seed: int = 0, group: int = 1
    ) -> None:
        if lanes < 1:
            raise InputError("lanes", lanes, "not positive", "use 1 or more")
        self.group = group
        self.table = table
        self.config = config
        self.lanes = lanes
        self.experts = table.outcomes.experts
        self.device = table.size.device
        self.observation_space = _observation_space(table, config)
        self.action_space: ActionSpace = spaces.MultiDiscrete([self.experts, self.experts])
        self.state = self._fresh(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a window in every lane, with new streams if a seed is given; the observation."""
        if seed is not None:
            self.state = self._fresh(seed)
        else:
            self.clear(torch.ones(self.lanes, dtype=torch.bool, device=self.device))
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Empty the memories where `finished` [B] bool; the request already drawn stays the next one."""
        state, fresh = self.state, self._memories()
        kept = {
            name: torch.where(finished.reshape(-1, *[1] * (new.dim() - 1)), new, getattr(state, name))
            for name, new in fresh.items()
        }
        self.state = state._replace(**kept)

    def step(self, actions: Tensor) -> Step:
        """Answer one request in every lane: [B, 2] int64, who answers and who makes room."""
        self.state, step = transition(self.table, self.config, self.state, actions.reshape(self.lanes, 2))
        return step

    def observation(self) -> Tensor:
        """What the lanes see now."""
        return observe(self.table, self.config, self.state)

    def state_dict(self) -> dict[str, Any]:
        """The lanes' state as tensors by name."""
        return self.state._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        self.state = CachingState(**state)

    def requests(self) -> Tensor:
        """The queries of the window from now on, [B, W] int64: what no policy may know, for bounds."""
        state, rows = self.state, [self.state.row]
        drawn, topic = state.drawn, state.topic
        for _ in range(self.config.window - 1):
            drawn = drawn + 1
            topic = self.table.next_topic(state.seed, drawn, topic, self.config.persistence)
            rows.append(self.table.row_of(state.seed, drawn, topic))
        return torch.stack(rows, dim=-1)

    def _memories(self) -> dict[str, Tensor]:
        """The memories as a window begins, by name."""
        size, lanes = self.table.size, self.lanes
        nothing = torch.zeros((lanes, self.experts), device=self.device)
        before = size.cumsum(0).expand(lanes, -1)
        each = torch.arange(self.experts, device=self.device)
        return {
            "resident": before <= self.table.gpu_bytes,
            "ready": nothing,
            "host": before <= self.table.host_bytes,
            "used": (-1.0 - each).expand(lanes, -1).clone(),
            "uses": nothing.clone(),
            "bus": nothing[:, 0].clone(),
            "decisions": nothing[:, 0].clone(),
        }

    def _fresh(self, seed: int) -> CachingState:
        seeds = torch.arange(self.lanes, device=self.device) // self.group + seed
        drawn = torch.zeros_like(seeds)
        topic = self.table.next_topic(seeds, drawn, drawn, self.config.persistence)
        row = self.table.row_of(seeds, drawn, topic)
        return CachingState(seed=seeds, drawn=drawn, topic=topic, row=row, **self._memories())


def build_caching(
    table: OutcomeTable | Path | str,
    lanes: int,
    *,
    split: str | None = "train",
    scale: float | None = None,
    profile: MemoryProfile | Path | str | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> CachingCore:
    """Build a core from what a user has at hand.

    Args:
        table: an outcome table, a Parquet path or an embedded source's name.
        lanes: B.
        split: the rows to play on, or None for all.
        scale: the unit of compute, in the table's cost unit; the dearest expert's mean cost on the rows
            played if None.
        profile: of the memories, or the path of its YAML.
        device: where the tensors live.
        settings: the other fields of `CachingConfig`.
    """
    rows = rows_of(table, split)
    if profile is not None:
        settings["profile"] = profile if isinstance(profile, MemoryProfile) else MemoryProfile.read(profile)
    config = CachingConfig(**settings)
    unit = compute_scale(rows) if scale is None else scale
    return CachingCore(CachingTable.of(rows, unit, config, device), config, lanes)


class CachingEnv(ScalarEnv):
    """One lane, an ordinary Gymnasium environment; arguments as for `build_caching`."""

    def __init__(self, table: OutcomeTable | Path | str = "digits", **settings: Any) -> None:
        super().__init__(build_caching(table, 1, **settings))


class CachingVectorEnv(VectorizedEnv):
    """B lanes at once, a Gymnasium vector environment; arguments as for `build_caching`."""

    def __init__(
        self, num_envs: int = 1, table: OutcomeTable | Path | str = "digits", **settings: Any
    ) -> None:
        super().__init__(build_caching(table, num_envs, **settings))


def _observation_space(table: CachingTable, config: CachingConfig) -> spaces.Box:
    """The features' range, [0, 1] for what is known of each expert, and the longest wait."""
    features, experts = table.outcomes.features, table.outcomes.experts
    to_gpu, to_host = config.profile.seconds(table.size)
    longest = (to_gpu + to_host).cpu().numpy()
    # Behind every other load that the bus may hold.
    most = np.full(experts, 1.0 + longest.sum() * config.window)
    low = [features.amin(dim=0).cpu().numpy() - 1.0, np.zeros(5 * experts)]
    high = [features.amax(dim=0).cpu().numpy() + 1.0, np.ones(experts), most, np.ones(3 * experts)]
    return spaces.Box(
        np.concatenate(low).astype(np.float32), np.concatenate(high).astype(np.float32), dtype=np.float32
    )
