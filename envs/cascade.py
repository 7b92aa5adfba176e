"""Answer a query with a cascade: call experts one after another, then give one answer.

## Description
One episode is one query. The agent calls an expert, observes its confidence and whether its answer agrees
with the earlier ones, and then calls another expert or gives an answer. Every call costs compute; only the
answer that is given earns quality.

Legend: B lanes, N experts, D features.

## Action space
`Discrete(2 N + 1)`.

| action | meaning | reward |
|---|---|---|
| `e` | call expert e | `-compute_weight * compute` of e on this query |
| `N + e` | end with the answer of expert e | its quality |
| `2 N` | end with the majority answer of the called experts | its quality |

The majority answer is the answer that most called experts gave. Ties go to the highest confidence, then to
the lowest expert id.

An expert is called at most once, and at most `max_experts` experts are called. A call is invalid if the
expert is down, or if its mean compute would exceed the budget. Only a called expert's answer can be given.

Asking again and asking a verifier are calls, too: of the columns `a#2` (another sample of the expert `a`) and
`a?v` (the verifier `v` is asked about the answer of `a`), each with its own compute. Such a follow-up can be
called only after the column that it follows. A verifier's answer is that of `a`, and its confidence is what
`v` thinks of it. A table without such columns has no such actions.
`CascadeEnv.action_masks()` returns the valid actions. An invalid action gives no answer: the episode
terminates with reward 0.

## Observation space
`Box((D + 3 N + N (N - 1) / 2 + 1,), float32)`:

| part | size | values |
|---|---|---|
| features of the query | D | |
| called | N | 1 if the expert was called |
| confidence | N | in [0, 1]; 0 if the expert was not called |
| available | N | 1 if the expert can be called now |
| agreement of each pair | N (N - 1) / 2 | 1 if both were called and agree, -1 if they differ, else 0 |
| compute weight | 1 | of this episode |

## Rewards
    quality - compute_weight * compute

per step: a call has quality 0, and an answer has compute 0. `info` holds `quality`, `compute` and `share`
[N], 1 for the called expert.

## Starting state
A query drawn uniformly from the rows of `split`, a compute weight drawn uniformly from `compute_weights`, and
the experts that are up: each is down with probability `failure`. `reset(seed=s)` restarts the random stream;
`reset()` draws the next query.

## Episode end
The episode terminates when an answer is given, or after an invalid action. It is never truncated.

## Arguments
- `table`: an `OutcomeTable` with features and with confidences, class probabilities or answers, a Parquet
  path or the name of a source. Without confidences and probabilities every confidence is 0.5. Default
  `"digits"`.
- `split`: rows to draw from: `"train"` (default), `"validation"`, `"test"`, or None for all.
- `scale`: the unit of compute, in the table's cost unit. Default: the mean cost of the most expensive expert
  on these rows.
- `device`: where the tensors live. Default `"cpu"`.
- the fields of `CascadeConfig`: `compute_weights`, `max_experts`, `budget`, `failure`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import OutcomeTable

from .adapters import MaskedEnv, environment_classes
from .arguments import config_from
from .cascade_config import CascadeConfig
from .cascade_table import CascadeTable
from .core import ActionSpace, BatchedCore, Step, float_box, replace_lanes
from .outcomes import open_rows
from .reward import utility
from .stream import query_rows

__all__ = [
    "CascadeConfig",
    "CascadeCore",
    "CascadeEnv",
    "CascadeState",
    "CascadeTable",
    "CascadeVectorEnv",
    "action_mask",
    "available",
    "build_cascade",
    "majority",
    "observe",
    "transition",
]

_WEIGHTS, _LIVES = 1 << 40, 1 << 41  # offsets of a lane's further random streams from that of its queries
_PARTS = 1 << 20  # the resolution of a drawn probability


class CascadeState(NamedTuple):
    """The state of B lanes.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, queries that the lane has finished.
        row: [B] int64, the current query.
        weight: [B] float32, the compute weight.
        called: [B, N] bool, the experts that were called.
        alive: [B, N] bool, the experts that are up.
        spent: [B] float32, compute of the called experts.
    """

    seed: Tensor
    drawn: Tensor
    row: Tensor
    weight: Tensor
    called: Tensor
    alive: Tensor
    spent: Tensor


def available(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """Return the experts that each lane can call next, [B, N] bool."""
    free = state.alive & ~state.called
    if table.after is not None:
        free = free & ((table.after < 0) | state.called[:, table.after.clamp(min=0)])
    within = free
    if config.budget is not None:
        within = free & (state.spent.unsqueeze(-1) + table.price <= config.budget)
        stuck = ~state.called.any(dim=-1, keepdim=True) & ~within.any(dim=-1, keepdim=True)
        price = torch.where(free, table.price, float("inf"))
        cheapest = torch.zeros_like(free).scatter(-1, price.argmin(dim=-1, keepdim=True), True)
        within = within | (stuck & cheapest)
    return within & (state.called.sum(dim=-1, keepdim=True) < config.max_experts)


def majority(table: CascadeTable, state: CascadeState) -> Tensor:
    """Return an expert that gave the majority answer, [B] int64; undefined where no expert was called."""
    assert table.same is not None
    both = table.same[state.row] & state.called.unsqueeze(-1) & state.called.unsqueeze(-2)
    supporters = both.sum(dim=-1).float()
    # Confidence is at most 1, so half of it breaks ties and never changes a majority.
    score = torch.where(state.called, supporters + 0.5 * table.confidence[state.row], -1.0)
    best = score.amax(dim=-1, keepdim=True)
    return (score == best).float().argmax(dim=-1)


def transition(
    table: CascadeTable, config: CascadeConfig, state: CascadeState, actions: Tensor, mask: Tensor
) -> tuple[CascadeState, Step]:
    """Apply one action in every lane; pure.

    Args:
        table: the data.
        config: the options.
        state: the lanes.
        actions: [B] int64 in 0 .. 2 N.
        mask: [B, 2 N + 1] bool, the valid actions.

    Returns:
        the state after the actions (finished lanes are not cleared), and the step.
    """
    experts = table.outcomes.experts
    valid = mask.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    calls = actions < experts
    expert = torch.where(calls, actions, actions - experts)
    if table.same is not None:
        expert = torch.where(actions == 2 * experts, majority(table, state), expert)
    place = expert.clamp(max=experts - 1).unsqueeze(-1)
    share = torch.zeros_like(state.called, dtype=torch.float32)
    share = share.scatter(-1, place, (calls & valid).float().unsqueeze(-1))
    compute = (share * table.outcomes.compute[state.row]).sum(dim=-1)
    quality = table.outcomes.quality[state.row].gather(-1, place).squeeze(-1) * (~calls & valid)
    parts = {"quality": quality, "compute": compute, "share": share}
    reward = utility(parts, {"compute": state.weight})
    state = state._replace(called=state.called | (share > 0), spent=state.spent + compute)
    return state, Step(reward, ~(calls & valid), parts)


def action_mask(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """Return the valid actions, [B, 2 N + 1] bool."""
    started = state.called.any(dim=-1, keepdim=True)
    votes = started if table.same is not None else torch.zeros_like(started)
    return torch.cat([available(table, config, state), state.called, votes], dim=-1)


def observe(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """Return the observations, [B, D + 3 N + N (N - 1) / 2 + 1] float32; see the module docstring."""
    called = state.called.float()
    parts = [
        table.outcomes.features[state.row],
        called,
        table.confidence[state.row] * called,
        available(table, config, state).float(),
        _agreement(table, state),
        state.weight.unsqueeze(-1),
    ]
    return torch.cat(parts, dim=-1)


def _agreement(table: CascadeTable, state: CascadeState) -> Tensor:
    """1 for each pair of called experts that agree, -1 for each that differs, else 0; [B, N (N - 1) / 2]."""
    experts = table.outcomes.experts
    first, second = torch.triu_indices(experts, experts, 1, device=state.row.device)
    both = (state.called[:, first] & state.called[:, second]).float()
    if table.same is None:
        return torch.zeros_like(both)
    return both * (2.0 * table.same[state.row][:, first, second] - 1.0)


class CascadeCore(BatchedCore[CascadeState]):
    """B lanes of the cascade environment on one table.

    Args:
        table: the data, on the device to use.
        config: the options.
        lanes: B.
        seed: lane i uses the random stream `seed + i`.

    Raises:
        InputError: fewer than one lane.
    """

    def __init__(self, table: CascadeTable, config: CascadeConfig, lanes: int, seed: int = 0) -> None:
        super().__init__(table.outcomes.experts, table.confidence.device, lanes)
        self.table = table
        self.config = config
        self.observation_space = _observation_space(table, config)
        self.action_space: ActionSpace = spaces.Discrete(2 * self.experts + 1)
        self._weights = torch.tensor(config.compute_weights, device=self.device)
        self.state = self._initial_state(self._lane_seeds(seed))

    def clear(self, finished: Tensor) -> None:
        """Draw the next query where `finished` [B] bool is True."""
        new_state = self._drawn(self.state.seed, self.state.drawn + finished)
        self.state = CascadeState(
            *(replace_lanes(finished, new, old) for new, old in zip(new_state, self.state, strict=True))
        )

    def begin(self, rows: Tensor, weight: float) -> Tensor:
        """Start on given queries at one compute weight with all experts up; returns the observations.

        Args:
            rows: [B] int64.
            weight: utility per unit of compute.
        """
        self.state = self.state._replace(
            row=rows,
            weight=torch.full_like(self.state.weight, weight),
            called=torch.zeros_like(self.state.called),
            alive=torch.ones_like(self.state.alive),
            spent=torch.zeros_like(self.state.spent),
        )
        return self.observation()

    def step(self, actions: Tensor) -> Step:
        """Apply one action [B] int64 in every lane."""
        self.state, step = transition(
            self.table, self.config, self.state, actions.reshape(self.lanes), self.action_mask()
        )
        return step

    def action_mask(self) -> Tensor:
        """The valid actions, [B, 2 N + 1] bool."""
        return action_mask(self.table, self.config, self.state)

    def mask_columns(self) -> Tensor:
        """The columns of an observation that make each action valid, [O, 2 N + 1] bool."""
        experts, size = self.experts, self.observation_space.shape[0]
        features = self.table.outcomes.features.shape[1]
        each = torch.arange(experts, device=self.device)
        called = features + each
        columns = torch.zeros((size, 2 * experts + 1), dtype=torch.bool, device=self.device)
        columns[called + 2 * experts, each] = True  # an expert that is available can be called
        columns[called, experts + each] = True
        columns[called, 2 * experts] = self.table.same is not None
        return columns

    def observation(self) -> Tensor:
        """The current observations, [B, D + 3 N + N (N - 1) / 2 + 1] float32."""
        return observe(self.table, self.config, self.state)

    def _initial_state(self, seeds: Tensor) -> CascadeState:
        return self._drawn(seeds, torch.zeros_like(seeds))

    def _drawn(self, seed: Tensor, drawn: Tensor) -> CascadeState:
        """Lanes that have drawn a query, its compute weight and the experts that are up."""
        lanes, experts = len(seed), self.experts
        weight = self._weights[query_rows(seed + _WEIGHTS, drawn, len(self._weights))]
        alive = torch.ones((lanes, experts), dtype=torch.bool, device=self.device)
        if self.config.failure > 0.0:
            each = torch.arange(experts, device=self.device)
            streams = (seed.unsqueeze(-1) + _LIVES) * experts + each
            chance = query_rows(streams, drawn.unsqueeze(-1), _PARTS)
            alive = chance >= self.config.failure * _PARTS
            alive |= (chance == chance.amax(dim=-1, keepdim=True)) & ~alive.any(dim=-1, keepdim=True)
        return CascadeState(
            seed=seed,
            drawn=drawn,
            row=query_rows(seed, drawn, self.table.outcomes.queries),
            weight=weight,
            called=torch.zeros_like(alive),
            alive=alive,
            spent=torch.zeros(lanes, device=self.device),
        )


def build_cascade(
    table: OutcomeTable | Path | str = "digits",
    lanes: int = 1,
    *,
    split: str | None = "train",
    scale: float | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> CascadeCore:
    """Build a core from a table; the arguments are those of the environment.

    Args:
        table: an outcome table, a Parquet path or the name of a source.
        lanes: B.
        split: the rows to draw from; None for all.
        scale: the unit of compute, in the table's cost unit; the mean cost of the most expensive expert on
            these rows if None.
        device: where the tensors live.
        options: fields of `CascadeConfig`.

    Raises:
        InputError: an argument is unknown or out of range, or the table has no features or no confidences.
    """
    config = config_from(CascadeConfig, build_cascade, options)
    rows, scale = open_rows(table, split, scale)
    return CascadeCore(CascadeTable.of(rows, scale, device), config, lanes)


CascadeEnv, CascadeVectorEnv = environment_classes("Cascade", build_cascade, __doc__, MaskedEnv)


def _observation_space(table: CascadeTable, config: CascadeConfig) -> spaces.Box:
    """Return the bounds of the features, [0, 1] for each expert, [-1, 1] for pairs, and the weights."""
    experts = table.outcomes.experts
    pairs = experts * (experts - 1) // 2
    low, high = table.outcomes.feature_bounds()
    most = max(1.0, *config.compute_weights)
    return float_box(
        [low, np.zeros(3 * experts), -np.ones(pairs), np.zeros(1)],
        [high, np.ones(3 * experts + pairs), np.array([most])],
    )
