"""Evaluate a router on the rows of a table, in the same way for every method."""

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

_CHUNK = 65_536  # rows routed at once, which bounds the memory of hidden layers
_ORDER_SEED = 20_000  # every method is evaluated in the same order


@dataclass(frozen=True, eq=False, kw_only=True)
class RouterMeasurement(Measurement):
    """Measurement of a router on T queries; `parts` are quality and compute, [T] float32 each.

    Attributes:
        window: W, decisions per window of the load penalty.
        entropy: mean entropy of the policy, in nats.
        fallbacks: number of rows routed to the fallback expert.
    """

    window: int
    entropy: float
    fallbacks: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", _LoadFacts(self))

    @property
    def quality(self) -> np.ndarray:
        """Quality of each decision, [T] float32."""
        return self.parts["quality"]

    @property
    def compute(self) -> np.ndarray:
        """Compute of each decision, [T] float32, in units of the most expensive expert's mean cost."""
        return self.parts["compute"]

    # Computed on demand: training validates often and reads only the utility.
    @cached_property
    def load(self) -> np.ndarray:
        """Load penalty of each decision, [T] float32."""
        return charges(self._share(), self.window).numpy()

    @cached_property
    def drops(self) -> float:
        """Fraction of selections beyond an expert's capacity (capacity factor 1.25), by window."""
        return window_drops(self._share(), self.window)

    def _share(self) -> Tensor:
        assert self.share is not None
        return torch.from_numpy(self.share)


class _LoadFacts(Mapping[str, float]):
    """Load statistics by name, computed on access."""

    def __init__(self, measurement: RouterMeasurement) -> None:
        self._measurement = measurement

    def __getitem__(self, name: str) -> float:
        return _FACTS[name](self._measurement)

    def __iter__(self) -> Iterator[str]:
        return iter(_FACTS)

    def __len__(self) -> int:
        return len(_FACTS)


_FACTS: dict[str, Callable[[RouterMeasurement], float]] = {
    "load": lambda each: float(each.load.mean(dtype=np.float64)),
    "load_cv": lambda each: load_cv(each.shares),
    "max_over_mean": lambda each: max_over_mean(each.shares),
    "drops": lambda each: each.drops,
    "entropy": lambda each: each.entropy,
}


class Rows(NamedTuple):
    """Rows prepared for repeated measurements.

    Attributes:
        table: the rows.
        outcomes: their outcomes on a device.
        order: [T] int64, order of evaluation.
    """

    table: OutcomeTable
    outcomes: Outcomes
    order: Tensor

    @classmethod
    def of(cls, table: OutcomeTable, scale: float, device: torch.device) -> Rows:
        """Prepare a table; `scale` is the unit of compute, in the table's cost unit."""
        return cls(table, Outcomes.of(table, scale, device), _order(len(table), device))


def measure(
    router: Router, table: OutcomeTable, objective: Objective, scale: float, seed: int = 0
) -> RouterMeasurement:
    """Route every row of a table once, greedily, and score it like the environment.

    Rows are evaluated in a fixed random order, in parallel windows of the objective's W; the last window is
    shorter. A router that observes the load is evaluated step by step, others in one batch.

    Args:
        router: the router; a stochastic one samples its policy.
        table: the rows.
        objective: the objective.
        scale: unit of compute, in the table's cost unit.
        seed: random seed of a stochastic router.

    Raises:
        RouterError: the table has other experts or another feature size than the router.
        InputError: the table lacks the groups that the router needs.
    """
    features = 0 if table.features is None else table.features.shape[1]
    router.check_pool(table.experts, features)
    return measure_rows(router, Rows.of(table, scale, next(router.parameters()).device), objective, seed)


def measure_rows(router: Router, rows: Rows, objective: Objective, seed: int = 0) -> RouterMeasurement:
    """Evaluate a router on prepared rows; see `measure` for the arguments."""
    outcomes, order = rows.outcomes, rows.order
    state = state_of(router.state, rows.table, objective, order.device)
    observes_load = any(part.name == "load" for part in router.state)
    route = _route_windows if observes_load else _route_at_once
    with torch.inference_mode(), _seeded(seed) if router.stochastic else nullcontext():
        experts, weights, entropy, fallback = route(router, outcomes, objective, order, state)
        all_rows = torch.arange(len(order), device=order.device)
        quality, compute = mixture(outcomes, all_rows, experts, weights)
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
    """Return the load penalty [T] of each decision in the evaluation order, given their shares [T, N]."""
    order = _order(len(share), share.device)
    penalty = torch.empty(len(share), device=share.device)
    penalty[order] = penalties_in_order(share[order], window)
    return penalty


def window_drops(share: Tensor, window: int) -> float:
    """Return `drops` at the reported capacity factor, given shares [T, N], in the evaluation order."""
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


def _route_at_once(
    router: Router, outcomes: Outcomes, objective: Objective, order: Tensor, state: StateOf
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    chunk = _CHUNK if router.rule.causal else max(len(order), 1)
    for first in range(0, max(len(order), 1), chunk):  # no rows are one part, too
        features = outcomes.features[first : first + chunk]
        rows = torch.arange(first, first + len(features), device=order.device)
        no_load = torch.zeros(len(rows), outcomes.experts, device=order.device)
        routing = router(features, state(rows, no_load))
        entropy = router.rule.entropy(routing.logits)
        parts.append((routing.experts, routing.weights, entropy, routing.fallback))
    if len(parts) == 1:
        return parts[0]
    experts, weights, entropy, fallback = (torch.cat(column) for column in zip(*parts, strict=True))
    return experts, weights, entropy, fallback


def _route_windows(
    router: Router, outcomes: Outcomes, objective: Objective, order: Tensor, state: StateOf
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Route parallel windows: lane l gets the queries order[l W], order[l W + 1], ..."""
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
