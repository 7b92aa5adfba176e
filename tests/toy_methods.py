"""Toy methods of the routing problem: a hyperparameter names the expert that answers every query.

In `disagreeing_table`, tuning rows rank the experts in the opposite order to validation and test rows. So a
choice that reads other rows than the tuning rows, or that takes the worst, has another outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl.methods.method import Method, Run
from router_rl.methods.registry import METHODS as METHODS_BY_NAME
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import LinearScorer, Router

__all__ = ["FITS", "METHODS", "SKILL", "ToyHyperparameters", "disagreeing_table", "installed", "skill"]

SKILL = {
    "train": (0.3, 0.1, 0.7, 0.5, 0.4, 0.2),
    "validation": (0.7, 0.25, 0.5, 0.4, 0.45, 0.3),
    "tuning": (0.2, 0.8, 0.4, 0.6, 0.5, 0.7),
    "test": (0.75, 0.15, 0.55, 0.35, 0.45, 0.2),
}
"""Mean quality of the experts a to f on the rows of each split."""

ROWS = 20  # of each split
FITS: list[tuple[str, Any, int]] = []
"""Name, hyperparameters and seed of every fit since `installed`."""


@dataclass(frozen=True, kw_only=True)
class ToyHyperparameters:
    """Hyperparameters of a toy method.

    Attributes:
        expert: the expert that answers.
        gate: name of the gate to start from.
        gate_hyperparameters: hyperparameters of that gate.
    """

    expert: int = 0
    gate: str = ""
    gate_hyperparameters: Any = None


def disagreeing_table(cost: tuple[float, ...] = (1.0,) * 6) -> OutcomeTable:
    """Return a table of six experts; the features of a row are its split, one-hot."""
    noise = np.tile([0.05, -0.05], ROWS // 2)[:, None] * np.array([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    rows = len(SKILL) * ROWS
    return OutcomeTable(
        experts=tuple("abcdef"),
        query_id=range(rows),
        features=np.repeat(np.eye(len(SKILL)), ROWS, axis=0),
        quality=np.concatenate([np.array(SKILL[split]) + noise for split in SKILL]),
        cost=np.tile(cost, (rows, 1)),
        split=np.repeat(list(SKILL), ROWS),
    )


def skill(split: str, expert: int, compute_weight: float) -> float:
    """Return the mean utility on the rows of a split of an expert that costs 1 unit of compute."""
    return SKILL[split][expert] - compute_weight


def _router(problem: RoutingProblem, experts: dict[str, int]) -> Router:
    """Return a router that sends the rows of each split to one expert."""
    router = problem.new_router(0, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    with torch.no_grad():
        scorer.weight.zero_()
        scorer.bias.zero_()
        scorer.shift.zero_()
        scorer.scale.fill_(1.0)
        for column, split in enumerate(SKILL):
            scorer.weight[experts[split], column] = 1.0
    return router.eval()


def _method(name: str, family: Any, *experts: int, **fields: Any) -> Method:
    """Return a method whose trials are experts, the first one by default."""

    @dataclass(frozen=True, kw_only=True)
    class Hyperparameters(ToyHyperparameters):
        expert: int = experts[0]

    def fit(problem: RoutingProblem, hyperparameters: ToyHyperparameters, run: Run) -> Router:
        FITS.append((name, hyperparameters, run.seed))
        return _router(problem, dict.fromkeys(SKILL, hyperparameters.expert))

    return Method(
        name=name,
        family=family,
        fit=fit,
        hyperparameters=Hyperparameters,
        space={"expert": experts} if len(experts) > 1 else {},
        **fields,
    )


def _fit_by_seed(problem: RoutingProblem, hyperparameters: ToyHyperparameters, run: Run) -> Router:
    FITS.append(("by seed", hyperparameters, run.seed))
    return _router(problem, dict.fromkeys(SKILL, run.seed % 4))


def _fit_by_split(problem: RoutingProblem, hyperparameters: ToyHyperparameters, run: Run) -> Router:
    return _router(problem, {"train": 0, "validation": 1, "tuning": 2, "test": 3})


def _fit_ranking(problem: RoutingProblem, hyperparameters: ToyHyperparameters, run: Run) -> Router:
    """Return a router between two experts whose preference for the second is the first feature."""
    router = problem.new_router(0, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    with torch.no_grad():
        scorer.weight.zero_()
        scorer.bias.zero_()
        scorer.weight[1, 0] = 1.0
    return router.eval()


def _from_gate(hyperparameters: Any, gate: str, gate_hyperparameters: Any) -> Any:
    expert = gate_hyperparameters.expert
    return replace(hyperparameters, expert=expert, gate=gate, gate_hyperparameters=gate_hyperparameters)


METHODS = (
    _method("toy_gate_one", "gate", 0, 1),
    _method("toy_gate_two", "gate", 3, 2),
    _method("toy_rl_one", "rl", 4),
    _method("toy_rl_two", "rl", 5),
    _method("toy_warm", "rl", 0, warm_starts_from=_from_gate),
    Method(name="toy_seeded", family="baseline", fit=_fit_by_seed, hyperparameters=ToyHyperparameters),
    Method(name="toy_seeded_gate", family="gate", fit=_fit_by_seed, hyperparameters=ToyHyperparameters),
    Method(name="toy_ranking", family="gate", fit=_fit_ranking, hyperparameters=ToyHyperparameters),
    Method(name="toy_by_split", family="gate", fit=_fit_by_split, hyperparameters=ToyHyperparameters),
)


@contextmanager
def installed() -> Iterator[None]:
    """Add the toy methods to those of the routing problem, and forget earlier fits.

    Comparisons include a few constant routers and the oracle besides, for speed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoutingProblem, "always", ("random", "best_single", "zero_router", "oracle"))
        for method in METHODS:
            patch.setitem(METHODS_BY_NAME.own, f"routing.{method.name}", "toy_methods:METHODS")
        FITS.clear()
        yield
