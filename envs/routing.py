"""`RouterRL/Routing-v0`: a query arrives, the agent chooses its experts, and is paid

    quality - compute_weight * compute - load_weight * (what the choice adds to the window's load).

The observation is the query's features and, if asked for, the window's counts over W. An episode is one
window of W decisions; it ends there because the load is settled there, so the end is a termination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError, OutcomeTable

from .adapters import ScalarEnv, VectorizedEnv
from .core import ActionSpace, Step
from .outcomes import Outcomes, compute_scale, rows_of
from .reward import load_charge, mixture, shares
from .stream import query_rows

__all__ = [
    "SHARPNESS",
    "RoutingConfig",
    "RoutingCore",
    "RoutingEnv",
    "RoutingState",
    "RoutingVectorEnv",
    "build_core",
    "observe",
    "transition",
]

Weigh = Callable[[Tensor, Tensor], Tensor]

SHARPNESS = 10.0  # of the weights that numbers in [-1, 1] stand for: from even to e^20 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingConfig:
    """What the environment charges for and shows.

    Attributes:
        compute_weight: utility per unit of compute, at least 0.
        load_weight: utility per unit of load, at least 0.
        window: W, decisions over which load is settled; also the length of an episode.
        k: experts a decision runs.
        observe_load: whether the window's counts are part of the observation.
        choose: what an action is: `experts`, k ids; `some`, up to k ids, the id N being nobody; `weights`,
            N numbers in [-1, 1], every expert running with weight `softmax(SHARPNESS * a)`.
    """

    compute_weight: float = 0.1
    load_weight: float = 0.0
    window: int = 256
    k: int = 1
    observe_load: bool = True
    choose: Literal["experts", "some", "weights"] = "experts"

    def __post_init__(self) -> None:
        for name in ("compute_weight", "load_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "not a weight", "use a number of at least 0")
        for name in ("window", "k"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "not positive", "use 1 or more")
        if self.choose not in ("experts", "some", "weights"):
            raise InputError("choose", self.choose, "unknown", "use experts, some or weights")


class RoutingState(NamedTuple):
    """Where B lanes stand.

    Attributes:
        seed: [B] int64, each lane's stream.
        drawn: [B] int64, queries the lane has drawn from it.
        row: [B] int64, the query being asked.
        counts: [B, N] float32, decisions each expert took in the window.
        decisions: [B] float32, their number.
    """

    seed: Tensor
    drawn: Tensor
    row: Tensor
    counts: Tensor
    decisions: Tensor


def transition(
    outcomes: Outcomes, config: RoutingConfig, state: RoutingState, experts: Tensor, weights: Tensor
) -> tuple[RoutingState, Step]:
    """Play one decision in every lane; pure.

    Args:
        outcomes: the table.
        config: what is charged.
        state: where the lanes stand.
        experts: [B, k] int64, the experts chosen; the id N is nobody.
        weights: [B, k] float32, rows sum to 1; 0 for nobody.

    Returns:
        the state with the next query drawn (the finished window is not cleared), and the step.
    """
    quality, compute = mixture(outcomes, state.row, experts, weights)
    share = shares(experts, outcomes.experts)
    load = load_charge(state.counts, state.decisions, share, config.window)
    reward = quality - config.compute_weight * compute - config.load_weight * load
    decisions = state.decisions + 1.0
    after = RoutingState(
        seed=state.seed,
        drawn=state.drawn + 1,
        row=query_rows(state.seed, state.drawn + 1, outcomes.queries),
        counts=state.counts + share,
        decisions=decisions,
    )
    parts = {"quality": quality, "compute": compute, "load": load, "share": share}
    return after, Step(reward, decisions >= config.window, parts)


def observe(outcomes: Outcomes, config: RoutingConfig, state: RoutingState) -> Tensor:
    """What the lanes see: [B, D] float32, or [B, D + N] with the window's counts over W."""
    features = outcomes.features[state.row]
    return torch.cat([features, state.counts / config.window], dim=-1) if config.observe_load else features


class RoutingCore:
    """B lanes of the routing process on one table; holds the state and nothing else.

    Args:
        outcomes: the table, on the device to play on.
        config: what is charged and shown.
        lanes: B.
        seed: the first lane's stream; lane i uses seed + i.
        weigh: weights [B, k] of chosen experts, given the observation and the experts; equal weights if
            None. A policy whose mixture weights come from its own logits sets it.

    Raises:
        InputError: fewer than one lane, or k above the number of experts.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        config: RoutingConfig,
        lanes: int,
        seed: int = 0,
        weigh: Weigh | None = None,
    ) -> None:
        experts = outcomes.experts
        if lanes < 1:
            raise InputError("lanes", lanes, "not positive", "use 1 or more")
        if config.k > experts:
            raise InputError("k", config.k, f"exceeds {experts} experts", f"use 1 to {experts}")
        self.outcomes = outcomes
        self.config = config
        self.lanes = lanes
        self.weigh = weigh
        self.experts = experts
        self.device = outcomes.quality.device
        self.observation_space = _observation_space(outcomes, config)
        self.action_space = _action_space(experts, config)
        self.state = self._fresh(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a window in every lane, with new streams if a seed is given; the observation."""
        if seed is not None:
            self.state = self._fresh(seed)
        else:
            self.clear(torch.ones(self.lanes, dtype=torch.bool, device=self.device))
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Start a new window where `finished` [B] bool; the query already drawn stays the next one."""
        keep = (~finished).float()
        self.state = self.state._replace(
            counts=self.state.counts * keep.unsqueeze(-1), decisions=self.state.decisions * keep
        )

    def step(self, actions: Tensor) -> Step:
        """Play one decision in every lane: expert ids [B] or [B, k] int64, or numbers [B, N] float32."""
        if self.config.choose == "weights":
            weights = (SHARPNESS * actions).softmax(dim=-1)
            experts = torch.arange(self.experts, device=self.device).expand(self.lanes, -1)
            self.state, step = transition(self.outcomes, self.config, self.state, experts, weights)
            return step
        experts = actions.reshape(self.lanes, self.config.k)
        if self.weigh is None:
            works = (experts < self.experts).float()
            weights = works / works.sum(dim=-1, keepdim=True).clamp(min=1.0)
        else:
            weights = self.weigh(self.observation(), experts)
        self.state, step = transition(self.outcomes, self.config, self.state, experts, weights)
        return step

    def observation(self) -> Tensor:
        """What the lanes see now."""
        return observe(self.outcomes, self.config, self.state)

    def state_dict(self) -> dict[str, Any]:
        """The lanes' state as tensors by name."""
        return self.state._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        self.state = RoutingState(**state)

    def _fresh(self, seed: int) -> RoutingState:
        seeds = torch.arange(self.lanes, dtype=torch.int64, device=self.device) + seed
        drawn = torch.zeros(self.lanes, dtype=torch.int64, device=self.device)
        return RoutingState(
            seed=seeds,
            drawn=drawn,
            row=query_rows(seeds, drawn, self.outcomes.queries),
            counts=torch.zeros((self.lanes, self.outcomes.experts), device=self.device),
            decisions=torch.zeros(self.lanes, device=self.device),
        )


def build_core(
    table: OutcomeTable | Path | str,
    lanes: int,
    *,
    split: str | None = "train",
    scale: float | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> RoutingCore:
    """Build a core from what a user has at hand.

    Args:
        table: an outcome table, a Parquet path or an embedded source's name.
        lanes: B.
        split: the rows to play on, or None for all.
        scale: the unit of compute, in the table's cost unit; the dearest expert's mean cost on the rows
            played if None.
        device: where the tensors live.
        settings: fields of `RoutingConfig`.
    """
    rows = rows_of(table, split)
    outcomes = Outcomes.of(rows, compute_scale(rows) if scale is None else scale, device)
    return RoutingCore(outcomes, RoutingConfig(**settings), lanes)


class RoutingEnv(ScalarEnv):
    """One lane, an ordinary Gymnasium environment; arguments as for `build_core`."""

    def __init__(self, table: OutcomeTable | Path | str = "digits", **settings: Any) -> None:
        super().__init__(build_core(table, 1, **settings))


class RoutingVectorEnv(VectorizedEnv):
    """B lanes at once, a Gymnasium vector environment; arguments as for `build_core`."""

    def __init__(
        self, num_envs: int = 1, table: OutcomeTable | Path | str = "digits", **settings: Any
    ) -> None:
        super().__init__(build_core(table, num_envs, **settings))


def _observation_space(outcomes: Outcomes, config: RoutingConfig) -> spaces.Box:
    """The features' range in the table and [0, 1] for each expert's count over W, as one float32 Box."""
    low = outcomes.features.amin(dim=0).cpu().numpy() - 1.0  # a margin: a constant feature has no range
    high = outcomes.features.amax(dim=0).cpu().numpy() + 1.0
    if config.observe_load:
        low = np.concatenate([low, np.zeros(outcomes.experts)])
        high = np.concatenate([high, np.ones(outcomes.experts)])
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _action_space(experts: int, config: RoutingConfig) -> ActionSpace:
    """One expert id, k ids (an id given twice runs once), k ids or nobody, or a number an expert."""
    if config.choose == "weights":
        return spaces.Box(-1.0, 1.0, (experts,), dtype=np.float32)
    if config.choose == "some":
        return spaces.MultiDiscrete([experts + 1] * config.k)
    return spaces.Discrete(experts) if config.k == 1 else spaces.MultiDiscrete([experts] * config.k)
