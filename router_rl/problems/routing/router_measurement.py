"""Play a router on rows of a table and measure what it earns: one way for every method."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Outcomes
from envs.reward import mixture, shares
from envs.window import penalties_in_order
from experts import OutcomeTable

from ...routing import Router
from ..load import CAPACITY_FACTOR, drops, load_cv, max_over_mean
from ..measure import Measurement
from ..objective import Objective
from .router_state import state_of

__all__ = ["RouterMeasurement", "Rows", "charges", "measure", "measure_rows", "window_drops"]

StateOf = Callable[[Tensor, Tensor], Tensor | None]

_CHUNK = 65_536  # rows routed together, so that the hidden layer of many never stands in memory whole
_ORDER_SEED = 20_000  # the order of evaluation is the same for every method


@dataclass(frozen=True, eq=False, kw_only=True)
class RouterMeasurement(Measurement):
    """What a router earned on each of T queries; `parts` are quality and compute, [T] float32 each.

    Attributes:
        window: W, decisions over which load is charged.
        entropy: mean entropy of the policy, nats.
        fallbacks: rows that took the fallback expert.
    """

    window: int
    entropy: float
    fallbacks: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", _LoadFacts(self))

    @property
    def quality(self) -> np.ndarray:
        """[T] float32."""
        return self.parts["quality"]

    @property
    def compute(self) -> np.ndarray:
        """[T] float32, in units of the most expensive expert's mean cost."""
        return self.parts["compute"]

    # Computed on demand: a learner measures often and reads the utility only.
    @cached_property
    def load(self) -> np.ndarray:
        """[T] float32, the load charge of each decision."""
        return charges(self._share(), self.window).numpy()

    @cached_property
    def drops(self) -> float:
        """Fraction of expert calls over capacity (capacity factor 1.25), window by window."""
        return window_drops(self._share(), self.window)

    def _share(self) -> Tensor:
        assert self.share is not None
        return torch.from_numpy(self.share)


class _LoadFacts(Mapping[str, float]):
    """How evenly the experts were used, by name; each number is computed when it is read."""

    def __init__(self, measurement: RouterMeasurement) -> None:
        self._measurement = measurement

    def __getitem__(self, name: str) -> float:
        return _FACTS[name](self._measurement)

    def __iter__(self) -> Iterator[str]:
        return iter(_FACTS)

    def __len__(self) -> int:
        return len(_FACTS)


_FACTS: dict[str, Callable[[RouterMeasurement], float]] = {
    "load": lambda found: float(found.load.mean(dtype=np.float64)),
    "load_cv": lambda found: load_cv(found.shares),
    "max_over_mean": lambda found: max_over_mean(found.shares),
    "drops": lambda found: found.drops,
    "entropy": lambda found: found.entropy,
}


class Rows(NamedTuple):
    """Rows made ready to be measured on, once for many measurements.

    Attributes:
        table: the rows.
        outcomes: they on a device.
        order: [T] int64, the order in which they are played.
    """

    table: OutcomeTable
    outcomes: Outcomes
    order: Tensor

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device) -> Rows:
        """Make a table ready; `scale` is the unit of compute, in its cost unit."""
        return cls(table, Outcomes.of(table, scale, device), _order(len(table), device))


def measure(
    router: Router, table: OutcomeTable, objective: Objective, scale: float, seed: int = 0
) -> RouterMeasurement:
    """Route every row of a table once, greedily, and charge what the environment would.

    Rows are played in one fixed random order, in windows of the objective's W side by side; the last
    window is shorter. A router that reads the load sees its window fill; others are measured in one pass.

    Args:
        router: the router; a stochastic one draws from the policy, seeded.
        table: the rows.
        objective: what to charge.
        scale: the unit of compute, in the table's cost unit.
        seed: of a stochastic router's draws.

    Raises:
        RouterError: the table's experts or feature size are not the router's.
        InputError: the table lacks the groups that the router reads.
    """
    features = 0 if table.features is None else table.features.shape[1]
    router.check_pool(table.experts, features)
    return measure_rows(router, Rows.of(table, scale, next(router.parameters()).device), objective, seed)


def measure_rows(router: Router, rows: Rows, objective: Objective, seed: int = 0) -> RouterMeasurement:
    """`measure` on rows that are ready; the arguments are its own."""
    outcomes, order = rows.outcomes, rows.order
    state = state_of(router.state, rows.table, objective, order.device)
    sees_load = any(part.name == "load" for part in router.state)
    play = _play_windows if sees_load else _play_at_once
    with torch.inference_mode(), _seeded(seed) if router.stochastic else nullcontext():
        experts, weights, entropy, fallback = play(router, outcomes, objective, order, state)
        everyone = torch.arange(len(order), device=order.device)
        quality, compute = mixture(outcomes, everyone, experts, weights)
        share = shares(experts, outcomes.experts)
        load = charges(share, objective.window) if objective.load_weight else torch.zeros(())
        utility = objective.utility(quality, compute, load)
    return RouterMeasurement(
        parts={"quality": quality.cpu().numpy(), "compute": compute.cpu().numpy()},
        utility=utility.cpu().numpy(),
        share=share.cpu().numpy(),
        window=objective.window,
        entropy=float(entropy.mean()),
        fallbacks=int(fallback.sum()),
    )


def charges(share: Tensor, window: int) -> Tensor:
    """Load charge [T] of each decision, played in the evaluation order, given their shares [T, N]."""
    order = _order(len(share), share.device)
    penalty = torch.empty(len(share), device=share.device)
    penalty[order] = penalties_in_order(share[order], window)
    return penalty


def window_drops(share: Tensor, window: int) -> float:
    """`drops` at the reported capacity factor of decisions with shares [T, N], in the evaluation order."""
    order = _order(len(share), share.device)
    return drops((share > 0)[order].cpu().numpy(), CAPACITY_FACTOR, window)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _order(queries: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    return torch.randperm(queries, generator=generator).to(device)


def _play_at_once(
    router: Router, outcomes: Outcomes, objective: Objective, order: Tensor, state: StateOf
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    together = _CHUNK if router.rule.causal else len(order)
    for rows in torch.arange(len(order), device=order.device).split(together):
        unseen = torch.zeros(len(rows), outcomes.experts, device=order.device)
        features = outcomes.features[int(rows[0]) : int(rows[-1]) + 1]
        routing = router(features, state(rows, unseen))
        entropy = router.rule.entropy(routing.logits)
        parts.append((routing.experts, routing.weights, entropy, routing.fallback))
    experts, weights, entropy, fallback = (torch.cat(column) for column in zip(*parts, strict=True))
    return experts, weights, entropy, fallback


def _play_windows(
    router: Router, outcomes: Outcomes, objective: Objective, order: Tensor, state: StateOf
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Play windows side by side: lane l takes the queries order[l W], order[l W + 1], ..."""
    queries, device = len(order), order.device
    window = min(objective.window, queries)
    lanes = -(-queries // window)
    slots = torch.arange(lanes * window, device=device).reshape(lanes, window)
    counts = torch.zeros(lanes, outcomes.experts, device=device)
    experts = torch.empty((queries, router.rule.k), dtype=torch.int64, device=device)
    weights = torch.empty((queries, router.rule.k), device=device)
    entropy = torch.empty(queries, device=device)
    fallback = torch.empty(queries, dtype=torch.bool, device=device)
    for step in range(window):
        live = slots[:, step] < queries
        row = order[slots[live, step]]
        routing = router(outcomes.features[row], state(row, counts[live] / window))
        experts[row], weights[row], fallback[row] = routing.experts, routing.weights, routing.fallback
        entropy[row] = router.rule.entropy(routing.logits)
        counts[live] += shares(routing.experts, outcomes.experts)
    return experts, weights, entropy, fallback
