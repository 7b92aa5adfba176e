"""`RouterRL/Cascade-v0`: ask an expert, see how sure it is and whether answers agree, ask another or stop.

With N experts an action is one of

    e            ask expert e                       reward  -compute_weight * compute of e on this query
    N + e        stop with the answer of expert e   reward  its quality
    2 N          stop with the vote of those asked  reward  its quality

The vote is the answer that most of the asked experts gave; ties go to the greatest confidence, then to the
lowest expert. Nobody is asked twice, at most `limit` are asked, a dead expert cannot be asked, nor one whose
mean compute would break the budget; only an asked expert's answer can be given. An action that the mask
forbids gives no answer: the episode ends with reward 0. One episode is one query.
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
from .core import ActionSpace, Step
from .outcomes import Outcomes, compute_scale, rows_of
from .stream import query_rows

__all__ = [
    "CascadeConfig",
    "CascadeCore",
    "CascadeEnv",
    "CascadeState",
    "CascadeTable",
    "CascadeVectorEnv",
    "build_cascade",
]

_WEIGHTS, _LIVES = 1 << 40, 1 << 41  # offsets of a lane's further streams from its queries'
_PARTS = 1 << 20  # a chance is drawn in so many parts


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """What a question costs and which ones may be asked.

    Attributes:
        compute_weights: utility per unit of compute, at least 0; an episode draws one of them and sees it.
        limit: the most experts that an episode asks.
        budget: the most compute that an episode spends; None: no bound. Where it leaves nobody to ask, the
            cheapest expert that is alive may be asked all the same.
        failure: the chance that an expert is dead in an episode; one at least is alive.
    """

    compute_weights: tuple[float, ...] = (0.1,)
    limit: int = 3
    budget: float | None = None
    failure: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_weights", tuple(self.compute_weights))
        if not self.compute_weights or not all(0.0 <= w < float("inf") for w in self.compute_weights):
            fix = "give numbers of at least 0"
            raise InputError("compute_weights", list(self.compute_weights), "not weights", fix)
        if self.limit < 1:
            raise InputError("limit", self.limit, "not positive", "use 1 or more")
        if self.budget is not None and not 0.0 < self.budget < float("inf"):
            raise InputError("budget", self.budget, "is no compute", "use a number above 0")
        if not 0.0 <= self.failure < 1.0:
            raise InputError("failure", self.failure, "not a chance", "use at least 0 and less than 1")


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CascadeTable:
    """What every expert would answer, and how sure it would be.

    Attributes:
        outcomes: features, quality and compute.
        confidence: [T, N] float32 in [0, 1].
        same: [T, N, N] bool, whether two experts give the same answer; None where answers are unknown.
        price: [N] float32, mean compute of each expert, what a budget is held to.
    """

    outcomes: Outcomes
    confidence: Tensor
    same: Tensor | None
    price: Tensor

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device | str = "cpu") -> CascadeTable:
        """Move a table to a device.

        Confidence is the column of that name, or else the probability of the likeliest class; answers are
        the likeliest classes.

        Raises:
            InputError: the table has neither confidence nor probabilities, or lacks some, or has no features.
        """
        outcomes = Outcomes.of(table, scale, device)
        confidence = table.confidence
        if confidence is None and table.probabilities is not None:
            confidence = table.probabilities.max(axis=2)
        if confidence is None:
            problem = "has neither `confidence` nor `probabilities`, so a cascade has nothing to look at"
            raise InputError("table", table.source, problem, "add confidence/<expert> columns to it")
        unsure = np.argwhere(~((confidence >= 0.0) & (confidence <= 1.0)))
        if len(unsure):
            row, expert = (int(place) for place in unsure[0])
            problem = f"row {row}, expert {table.experts[expert]!r} is not in [0, 1]"
            raise InputError(
                "confidence", float(confidence[row, expert]), problem, "fill it in or drop the row"
            )
        same = None
        if table.probabilities is not None:
            answer = torch.from_numpy(table.probabilities.argmax(axis=2)).to(device)
            same = answer.unsqueeze(-1) == answer.unsqueeze(-2)
        return cls(
            outcomes=outcomes,
            confidence=torch.from_numpy(np.array(confidence, dtype=np.float32)).to(device),
            same=same,
            price=outcomes.compute.mean(dim=0),
        )


class CascadeState(NamedTuple):
    """Where B lanes stand.

    Attributes:
        seed: [B] int64, each lane's stream.
        drawn: [B] int64, queries the lane has finished.
        row: [B] int64, the query being asked.
        weight: [B] float32, the compute weight.
        asked: [B, N] bool.
        alive: [B, N] bool.
        spent: [B] float32, compute of those asked.
    """

    seed: Tensor
    drawn: Tensor
    row: Tensor
    weight: Tensor
    asked: Tensor
    alive: Tensor
    spent: Tensor


def askable(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """Whom the lanes may ask next, [B, N] bool."""
    free = state.alive & ~state.asked
    within = free
    if config.budget is not None:
        within = free & (state.spent.unsqueeze(-1) + table.price <= config.budget)
        nobody = ~state.asked.any(dim=-1, keepdim=True) & ~within.any(dim=-1, keepdim=True)
        price = torch.where(free, table.price, float("inf"))
        cheapest = torch.zeros_like(free).scatter(-1, price.argmin(dim=-1, keepdim=True), True)
        within = within | (nobody & cheapest)
    return within & (state.asked.sum(dim=-1, keepdim=True) < config.limit)


def vote(table: CascadeTable, state: CascadeState) -> Tensor:
    """The expert whose answer the asked ones vote for, [B] int64; of no meaning where nobody was asked."""
    assert table.same is not None
    both = table.same[state.row] & state.asked.unsqueeze(-1) & state.asked.unsqueeze(-2)
    supporters = both.sum(dim=-1).float()
    # Confidence is at most 1, so half of it orders equal votes and never overrules one.
    score = torch.where(state.asked, supporters + 0.5 * table.confidence[state.row], -1.0)
    best = score.amax(dim=-1, keepdim=True)
    return (score == best).float().argmax(dim=-1)


def transition(
    table: CascadeTable, config: CascadeConfig, state: CascadeState, actions: Tensor, mask: Tensor
) -> tuple[CascadeState, Step]:
    """Play one action in every lane; pure.

    Args:
        table: the outcomes.
        config: what is charged.
        state: where the lanes stand.
        actions: [B] int64 in 0 .. 2 N.
        mask: [B, 2 N + 1] bool, which actions are allowed.
    """
    experts = table.outcomes.experts
    legal = mask.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    asks = actions < experts
    one = torch.where(asks, actions, actions - experts)
    if table.same is not None:
        one = torch.where(actions == 2 * experts, vote(table, state), one)
    one = one.clamp(max=experts - 1)
    place = one.unsqueeze(-1)
    share = torch.zeros_like(state.asked, dtype=torch.float32)
    share = share.scatter(-1, place, (asks & legal).float().unsqueeze(-1))
    compute = (share * table.outcomes.compute[state.row]).sum(dim=-1)
    quality = table.outcomes.quality[state.row].gather(-1, place).squeeze(-1) * (~asks & legal)
    reward = quality - state.weight * compute
    state = state._replace(asked=state.asked | (share > 0), spent=state.spent + compute)
    return state, Step(reward, ~(asks & legal), {"quality": quality, "compute": compute, "share": share})


def allowed(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """Which actions the lanes may take, [B, 2 N + 1] bool."""
    started = state.asked.any(dim=-1, keepdim=True)
    votes = started if table.same is not None else torch.zeros_like(started)
    return torch.cat([askable(table, config, state), state.asked, votes], dim=-1)


def observe(table: CascadeTable, config: CascadeConfig, state: CascadeState) -> Tensor:
    """What the lanes see, [B, D + 3 N + N (N - 1) / 2 + 1] float32.

    The query's features; for each expert whether it was asked, its confidence (0 if not asked) and whether
    it may be asked; for each pair of experts 1 where both were asked and agree, -1 where they differ, else
    0; the compute weight.
    """
    asked = state.asked.float()
    parts = [
        table.outcomes.features[state.row],
        asked,
        table.confidence[state.row] * asked,
        askable(table, config, state).float(),
        _pairs(table, state),
        state.weight.unsqueeze(-1),
    ]
    return torch.cat(parts, dim=-1)


def _pairs(table: CascadeTable, state: CascadeState) -> Tensor:
    experts = table.outcomes.experts
    first, second = torch.triu_indices(experts, experts, 1, device=state.row.device)
    both = (state.asked[:, first] & state.asked[:, second]).float()
    if table.same is None:
        return torch.zeros_like(both)
    return both * (2.0 * table.same[state.row][:, first, second] - 1.0)


class CascadeCore:
    """B lanes of the cascade on one table; holds the state and nothing else.

    Args:
        table: outcomes and confidences, on the device to play on.
        config: what is charged and allowed.
        lanes: B.
        seed: the first lane's stream; lane i uses seed + i.

    Raises:
        InputError: fewer than one lane.
    """

    def __init__(self, table: CascadeTable, config: CascadeConfig, lanes: int, seed: int = 0) -> None:
        if lanes < 1:
            raise InputError("lanes", lanes, "not positive", "use 1 or more")
        self.table = table
        self.config = config
        self.lanes = lanes
        self.experts = table.outcomes.experts
        self.device = table.confidence.device
        self.observation_space = _observation_space(table, config)
        self.action_space: ActionSpace = spaces.Discrete(2 * self.experts + 1)
        self._weights = torch.tensor(config.compute_weights, device=self.device)
        self.state = self._drawn(torch.arange(lanes, device=self.device) + seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a query in every lane, with new streams if a seed is given; the observation."""
        if seed is not None:
            self.state = self._drawn(torch.arange(self.lanes, device=self.device) + seed)
        else:
            self.clear(torch.ones(self.lanes, dtype=torch.bool, device=self.device))
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Draw the next query where `finished` [B] bool."""
        fresh = self._drawn(self.state.seed, self.state.drawn + finished)
        kept = [
            torch.where(finished.reshape(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(fresh, self.state, strict=True)
        ]
        self.state = CascadeState(*kept)

    def begin(self, rows: Tensor, weight: float) -> Tensor:
        """Start on given queries at one compute weight with everybody alive; the observation.

        Args:
            rows: [B] int64.
            weight: utility per unit of compute.
        """
        self.state = self.state._replace(
            row=rows,
            weight=torch.full_like(self.state.weight, weight),
            asked=torch.zeros_like(self.state.asked),
            alive=torch.ones_like(self.state.alive),
            spent=torch.zeros_like(self.state.spent),
        )
        return self.observation()

    def step(self, actions: Tensor) -> Step:
        """Play one action [B] int64 in every lane."""
        self.state, step = transition(
            self.table, self.config, self.state, actions.reshape(self.lanes), self.action_mask()
        )
        return step

    def action_mask(self) -> Tensor:
        """Which actions the lanes may take, [B, 2 N + 1] bool."""
        return allowed(self.table, self.config, self.state)

    def observation(self) -> Tensor:
        """What the lanes see now."""
        return observe(self.table, self.config, self.state)

    def state_dict(self) -> dict[str, Any]:
        """The lanes' state as tensors by name."""
        return self.state._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        self.state = CascadeState(**state)

    def _drawn(self, seed: Tensor, drawn: Tensor | None = None) -> CascadeState:
        """Lanes that have just drawn a query, its compute weight and who is alive."""
        drawn = torch.zeros_like(seed) if drawn is None else drawn
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
            asked=torch.zeros_like(alive),
            alive=alive,
            spent=torch.zeros(lanes, device=self.device),
        )


def build_cascade(
    table: OutcomeTable | Path | str,
    lanes: int,
    *,
    split: str | None = "train",
    scale: float | None = None,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> CascadeCore:
    """Build a core from what a user has at hand.

    Args:
        table: an outcome table, a Parquet path or an embedded source's name.
        lanes: B.
        split: the rows to play on, or None for all.
        scale: the unit of compute, in the table's cost unit; the dearest expert's mean cost on the rows
            played if None.
        device: where the tensors live.
        settings: fields of `CascadeConfig`.
    """
    rows = rows_of(table, split)
    unit = compute_scale(rows) if scale is None else scale
    return CascadeCore(CascadeTable.of(rows, unit, device), CascadeConfig(**settings), lanes)


class CascadeEnv(ScalarEnv):
    """One lane, an ordinary Gymnasium environment; arguments as for `build_cascade`."""

    def __init__(self, table: OutcomeTable | Path | str = "digits", **settings: Any) -> None:
        super().__init__(build_cascade(table, 1, **settings))

    def action_masks(self) -> np.ndarray:
        """Which actions are allowed now, [2 N + 1] bool, where sb3-contrib's MaskablePPO looks for them."""
        core = self.core
        assert isinstance(core, CascadeCore)
        return core.action_mask()[0].cpu().numpy()


class CascadeVectorEnv(VectorizedEnv):
    """B lanes at once, a Gymnasium vector environment; arguments as for `build_cascade`."""

    def __init__(
        self, num_envs: int = 1, table: OutcomeTable | Path | str = "digits", **settings: Any
    ) -> None:
        super().__init__(build_cascade(table, num_envs, **settings))


def _observation_space(table: CascadeTable, config: CascadeConfig) -> spaces.Box:
    """The features' range, [0, 1] for what is known of each expert, [-1, 1] for pairs, and the weights."""
    features, experts = table.outcomes.features, table.outcomes.experts
    pairs = experts * (experts - 1) // 2
    low = [
        features.amin(dim=0).cpu().numpy() - 1.0,  # a margin: a constant feature has no range
        np.zeros(3 * experts),
        -np.ones(pairs),
        np.zeros(1),
    ]
    most = max(1.0, *config.compute_weights)
    high = [features.amax(dim=0).cpu().numpy() + 1.0, np.ones(3 * experts + pairs), np.array([most])]
    return spaces.Box(
        np.concatenate(low).astype(np.float32), np.concatenate(high).astype(np.float32), dtype=np.float32
    )
