"""Route each query to frozen experts: one decision per query, rewarded for quality, compute and load.

## Description
Queries arrive one after another. For each query the agent chooses the experts that answer it. The load term
couples the decisions of a window: an expert that was used often in the window costs more to use again.
Without a load weight the environment is a contextual bandit. The outcomes come from an `OutcomeTable`, so a
step is a lookup and calls no model.

Legend: B lanes, N experts, D features, k experts a decision, W decisions a window.

## Action space
Depends on `choose`.

| `choose` | action space | meaning |
|---|---|---|
| `experts`, `k=1` | `Discrete(N)` | the expert |
| `experts`, `k>1` | `MultiDiscrete([N] * k)` | k experts; an id given twice runs once |
| `some` | `MultiDiscrete([N + 1] * k)` | up to k experts; the id N stands for no expert |
| `weights` | `Box(-1, 1, (N,), float32)` | all experts run, with weights `softmax(SHARPNESS * action)` |

## Observation space
`Box((D,), float32)`: the features of the query. With `observe_load` it is `Box((D + N,), float32)`: the
features, then the decisions that each expert took in the current window, over W.

## Rewards
    quality - compute_weight * compute - load_weight * load

- `quality`, in [0, 1]: the table's quality of the expert. For several experts it is the quality of their
  mixture, with equal weights unless the action gives weights (see `envs.reward.mixture`).
- `compute`: the cost of the experts that run, over `scale`.
- `load`: what the decision adds to the load of the window (see `envs.window.load_penalty`). Its mean over a
  full window is the squared coefficient of variation of the experts' shares.

`info` holds `quality`, `compute`, `load` and `share` [N], how the decision divides among the experts.

## Starting state
A query drawn uniformly from the rows of `split`, and an empty window. `reset(seed=s)` restarts the random
stream of queries; `reset()` continues it.

## Episode end
The episode terminates after W decisions, where the load of the window is complete. It is never truncated.

## Arguments
- `table`: an `OutcomeTable` with features, a Parquet path or the name of a source. Default `"digits"`.
- `split`: rows to draw from: `"train"` (default), `"validation"`, `"test"`, or None for all.
- `scale`: the unit of compute, in the table's cost unit. Default: the mean cost of the most expensive expert
  on these rows.
- `device`: where the tensors live. Default `"cpu"`.
- the fields of `RoutingConfig`: `compute_weight`, `load_weight`, `window`, `k`, `observe_load`, `choose`.
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
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, NonNegative, Size

from .adapters import environment_classes
from .arguments import config_from
from .core import ActionSpace, BatchedCore, Step, float_box
from .outcomes import Outcomes, open_rows
from .reward import mixture, shares, utility
from .stream import query_rows
from .window import clear_windows, count_decision, load_penalty

__all__ = [
    "SHARPNESS",
    "RoutingConfig",
    "RoutingCore",
    "RoutingEnv",
    "RoutingState",
    "RoutingVectorEnv",
    "build_routing",
    "initial_state",
    "next_query",
    "observe",
    "start_windows",
    "transition",
]

# Observations [B, D or D + N] and experts [B, k] to weights [B, k].
Weigh = Callable[[Tensor, Tensor], Tensor]

SHARPNESS = 10.0  # scales an action in [-1, 1] to logits: weights from equal to a ratio of e^20


@dataclass(frozen=True, kw_only=True)
class RoutingConfig(CheckedOptions):
    """The reward, observation and action of the routing environment.

    Attributes:
        compute_weight: utility per unit of compute, at least 0.
        load_weight: utility per unit of load, at least 0.
        window: W, decisions over which load is measured; also the length of an episode.
        k: experts a decision runs.
        observe_load: whether the window's counts are part of the observation.
        choose: what an action is: `experts`, k ids; `some`, up to k ids, the id N standing for no expert;
            `weights`, N numbers in [-1, 1], where every expert runs with weight `softmax(SHARPNESS * a)`.

    Raises:
        InputError: a value is out of range.
    """

    compute_weight: NonNegative = 0.1
    load_weight: NonNegative = 0.0
    window: Size = 256
    k: Count = 1
    observe_load: bool = True
    choose: Literal["experts", "some", "weights"] = "experts"


class RoutingState(NamedTuple):
    """The state of B lanes.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, queries that the lane drew from its stream before this one.
        row: [B] int64, the current query.
        counts: [B, N] float32, decisions that each expert took in the window.
        decisions: [B] float32, their number.
    """

    seed: Tensor
    drawn: Tensor
    row: Tensor
    counts: Tensor
    decisions: Tensor


def initial_state(outcomes: Outcomes, seeds: Tensor) -> RoutingState:
    """The first query and an empty window of random streams `seeds` [B] int64."""
    drawn = torch.zeros_like(seeds)
    return RoutingState(
        seed=seeds,
        drawn=drawn,
        row=query_rows(seeds, drawn, outcomes.queries),
        counts=torch.zeros((len(seeds), outcomes.experts), device=seeds.device),
        decisions=torch.zeros(len(seeds), device=seeds.device),
    )


def next_query(outcomes: Outcomes, state: RoutingState, share: Tensor) -> RoutingState:
    """The state after a decision of share [B, N]: counted in its window, and the next query drawn."""
    counts, decisions = count_decision(state.counts, state.decisions, share)
    drawn = state.drawn + 1
    row = query_rows(state.seed, drawn, outcomes.queries)
    return RoutingState(seed=state.seed, drawn=drawn, row=row, counts=counts, decisions=decisions)


def start_windows(state: RoutingState, finished: Tensor) -> RoutingState:
    """The state with an empty window where `finished` [B] bool is True; the drawn query stays."""
    counts, decisions = clear_windows(state.counts, state.decisions, finished)
    return state._replace(counts=counts, decisions=decisions)


def transition(
    outcomes: Outcomes, config: RoutingConfig, state: RoutingState, experts: Tensor, weights: Tensor
) -> tuple[RoutingState, Step]:
    """Apply one decision in every lane; pure.

    Args:
        outcomes: the table.
        config: the weights and the window.
        state: the lanes.
        experts: [B, k] int64; the id N stands for no expert.
        weights: [B, k] float32, rows sum to 1; 0 where there is no expert.

    Returns:
        the state with the next query drawn (a full window is not cleared), and the step.
    """
    quality, compute = mixture(outcomes, state.row, experts, weights)
    share = shares(experts, outcomes.experts)
    load = load_penalty(state.counts, state.decisions, share, config.window)
    parts = {"quality": quality, "compute": compute, "load": load, "share": share}
    reward = utility(parts, {"compute": config.compute_weight, "load": config.load_weight})
    after = next_query(outcomes, state, share)
    return after, Step(reward, after.decisions >= config.window, parts)


def observe(outcomes: Outcomes, config: RoutingConfig, state: RoutingState) -> Tensor:
    """The observations: [B, D] float32, or [B, D + N] with the window's counts over W."""
    features = outcomes.features[state.row]
    return torch.cat([features, state.counts / config.window], dim=-1) if config.observe_load else features


class RoutingCore(BatchedCore[RoutingState]):
    """B lanes of the routing environment on one table.

    Args:
        outcomes: the table, on the device to use.
        config: the reward, observation and action.
        lanes: B.
        seed: lane i uses the random stream `seed + i // group`.
        weigh: weights [B, k] of the experts, given the observation and the experts; equal weights if None. A
            policy whose mixture weights come from its own logits sets it.
        group: consecutive lanes that share a random stream, so that they get the same queries.

    Raises:
        InputError: `lanes` or `group` is less than 1, or k above the number of experts.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        config: RoutingConfig,
        lanes: int,
        seed: int = 0,
        weigh: Weigh | None = None,
        group: int = 1,
    ) -> None:
        super().__init__(outcomes.experts, outcomes.quality.device, lanes, group)
        if config.k > self.experts:
            fix = f"use 1 to {self.experts}"
            raise InputError("k", config.k, f"exceeds {self.experts} experts", fix)
        self.outcomes = outcomes
        self.config = config
        self.weigh = weigh
        self.observation_space = _observation_space(outcomes, config)
        self.action_space: ActionSpace = _action_space(self.experts, config)
        self.state = self._initial_state(self._lane_seeds(seed))

    def clear(self, finished: Tensor) -> None:
        """Start a new window where `finished` [B] bool is True; the drawn query stays the next one."""
        self.state = start_windows(self.state, finished)

    def step(self, actions: Tensor) -> Step:
        """Apply one decision in every lane: expert ids [B] or [B, k] int64, or numbers [B, N] float32."""
        if self.config.choose == "weights":
            weights = (SHARPNESS * actions).softmax(dim=-1)
            experts = torch.arange(self.experts, device=self.device).expand(self.lanes, -1)
            return self.decide(experts, weights)
        experts = actions.reshape(self.lanes, self.config.k)
        if self.weigh is None:
            works = (experts < self.experts).float()
            weights = works / works.sum(dim=-1, keepdim=True).clamp(min=1.0)
        else:
            weights = self.weigh(self.observation(), experts)
        return self.decide(experts, weights)

    def decide(self, experts: Tensor, weights: Tensor) -> Step:
        """Apply one decision in every lane whose mixture weights are known.

        Args:
            experts: [B, k] int64; the id N stands for no expert.
            weights: [B, k] float32, rows sum to 1; 0 where there is no expert.
        """
        self.state, step = transition(self.outcomes, self.config, self.state, experts, weights)
        return step

    def observation(self) -> Tensor:
        """The current observations, [B, D] or [B, D + N] float32."""
        return observe(self.outcomes, self.config, self.state)

    def _initial_state(self, seeds: Tensor) -> RoutingState:
        return initial_state(self.outcomes, seeds)


def build_routing(
    table: OutcomeTable | Path | str = "digits",
    lanes: int = 1,
    *,
    split: str | None = "train",
    scale: float | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> RoutingCore:
    """Build a core from a table; the arguments are those of the environment.

    Args:
        table: an outcome table, a Parquet path or the name of a source.
        lanes: B.
        split: the rows to draw from; None for all.
        scale: the unit of compute, in the table's cost unit; the mean cost of the most expensive expert on
            these rows if None.
        device: where the tensors live.
        options: fields of `RoutingConfig`.

    Raises:
        InputError: an argument is unknown or out of range, or the table has no features.
    """
    config = config_from(RoutingConfig, build_routing, options)
    rows, scale = open_rows(table, split, scale)
    return RoutingCore(Outcomes.of(rows, scale, device), config, lanes)


RoutingEnv, RoutingVectorEnv = environment_classes("Routing", build_routing, __doc__)


def _observation_space(outcomes: Outcomes, config: RoutingConfig) -> spaces.Box:
    """The bounds of the features, and [0, 1] for each expert's count over W."""
    low, high = outcomes.feature_bounds()
    experts = outcomes.experts if config.observe_load else 0
    return float_box([low, np.zeros(experts)], [high, np.ones(experts)])


def _action_space(experts: int, config: RoutingConfig) -> ActionSpace:
    if config.choose == "weights":
        return spaces.Box(-1.0, 1.0, (experts,), dtype=np.float32)
    if config.choose == "some":
        return spaces.MultiDiscrete([experts + 1] * config.k)
    return spaces.Discrete(experts) if config.k == 1 else spaces.MultiDiscrete([experts] * config.k)
