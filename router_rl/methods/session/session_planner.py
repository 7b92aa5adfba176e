"""Dynamic programming over conversations that are known in advance: bounds.

The state at a turn is when each expert answered last, which decides what its cache holds. Forward induction
keeps the states that can be reached. A state is dropped where another one has used every expert as recently
and has earned as much, which loses nothing: a more recent prompt shares more with the next ones and expires
later. Above `_MOST` states, those that earned least are merged into one that has the most recent use of each
expert and the highest earnings of them. So the earnings are exact up to `_MOST` states, and never below the
optimum.

Source: Bellman 1957, Dynamic Programming, chapter III.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from envs import Core
from envs.session import SessionCore

from ...problems.measure import Measurement
from ...problems.problem import Case
from ...problems.session.problem import SessionProblem
from ...routing.policies.session_policy import INPUTS
from ..method import Bound
from .session_rules import strongest_rule

__all__ = ["BOUNDS", "measure_plan", "plan"]

_MOST = 256
_NEVER = -1


def plan(worth: np.ndarray, costs: Callable[[int, np.ndarray], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the highest earnings of a conversation, and the experts that earn it.

    Args:
        worth: [L, N] float64, what each expert earns at each turn, before the costs.
        costs: maps a turn and the last turn [P, N] int64 at which each expert answered (-1: never) to the
            cost [P, N] of each expert.

    Returns:
        the earnings, and experts [L] int64; with merged states, the earnings are a bound of them.
    """
    turns, experts = worth.shape
    used = np.full((1, experts), _NEVER)
    earned = np.zeros(1)
    path = np.zeros((1, 0), dtype=np.int64)
    for turn in range(turns):
        total = earned[:, None] + worth[turn] - costs(turn, used)
        parent, expert = np.divmod(np.arange(total.size), experts)
        used = used[parent]
        used[np.arange(len(used)), expert] = turn
        path = np.concatenate([path[parent], expert[:, None]], axis=1)
        earned = total.reshape(-1)
        used, earned, path = _pruned(used, earned, path)
    best = int(earned.argmax())
    return float(earned[best]), path[best]


def _pruned(
    used: np.ndarray, earned: np.ndarray, path: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop states that another one dominates, and merge the least of too many."""
    order = np.argsort(-earned, kind="stable")
    used, earned, path = used[order], earned[order], path[order]
    kept: list[int] = []
    for at in range(len(used)):
        if not kept or not (used[kept] >= used[at]).all(axis=1).any():
            kept.append(at)
    used, earned, path = used[kept], earned[kept], path[kept]
    if len(used) > _MOST:
        merged = used[_MOST - 1 :].max(axis=0, keepdims=True)
        used = np.concatenate([used[: _MOST - 1], merged])
        earned, path = earned[:_MOST], path[:_MOST]
    return used, earned, path


def measure_plan(problem: SessionProblem, case: Case, split: str, *, outcomes: bool) -> Measurement:
    """Return the measurement of the best plan of each conversation.

    Args:
        problem: the problem.
        case: its compute weight.
        split: `validation`, `tuning` or `test`.
        outcomes: plan with the outcomes of the queries, else with the predictions of the strongest rule.
    """
    if outcomes:
        worth = problem.rows(split).outcomes.quality
    else:
        share = float(strongest_rule(problem.at(case)).weights[INPUTS.index("later")])
        worth = torch.lerp(problem.chance[split], problem.later[split], min(max(share, 0.0), 1.0))
    planner = _Planner(worth, problem.options.window)
    measured = problem.evaluate(planner, split, case)
    # Where states were merged, the plan that is played can earn less than the bound.
    return replace(measured, utility=planner.earned / problem.options.window) if outcomes else measured


class _Planner:
    """Plays the best plan of every conversation, whose queries, tokens and length it knows."""

    def __init__(self, worth: torch.Tensor, window: int) -> None:
        self._worth = worth.double().numpy()
        self._window = window

    def start(self, core: Core) -> None:
        """Record the turns of every lane, which do not depend on the actions, and plan them."""
        assert isinstance(core, SessionCore)
        state = core.state
        rows, places, ends = [], [], []
        stay = torch.zeros(core.lanes, dtype=torch.int64)
        for _ in range(self._window):
            rows.append(core.state.row)
            places.append(core.state.place)
            step = core.step(stay)
            ends.append(step.terminated)
            core.clear(step.terminated)
        core.state = state
        columns = (torch.stack(column, dim=1).numpy() for column in (rows, places, ends))
        row, place, end = columns
        self._plan, self.earned = np.zeros_like(row), np.zeros(core.lanes)
        for lane in range(core.lanes):
            bounds = sorted({0, *(np.flatnonzero(end[lane]) + 1).tolist(), self._window})
            for low, high in itertools.pairwise(bounds):
                costs = _costs(core, place[lane, low:high])
                earned, self._plan[lane, low:high] = plan(self._worth[row[lane, low:high]], costs)
                self.earned[lane] += earned
        self._turn = 0

    def act(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the planned experts [B] int64."""
        self._turn += 1
        return torch.from_numpy(self._plan[:, self._turn - 1])


def _costs(core: SessionCore, places: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """The weighted compute of a conversation's turns, by when each expert answered last."""
    table = core.table
    context, shared, output, gap = (
        getattr(table, name).double().numpy()[places] for name in ("context", "shared", "output", "gap_s")
    )
    _, hit, missed, written = table.prices.double().numpy()
    life, clock = table.expiry_s.double().numpy(), gap.cumsum()

    def costs(turn: int, used: np.ndarray) -> np.ndarray:
        # Tokens that a prompt of an earlier turn has in common with this one: the least shared since.
        common = np.minimum.accumulate(shared[1 : turn + 1][::-1])[::-1] if turn else np.zeros(0)
        held = np.append(np.minimum(context[:turn], common), 0.0)[used]  # the last entry: never used
        idle = clock[turn] - np.append(clock[:turn], -np.inf)[used]
        held = np.where(idle <= life, held, 0.0)
        cost = (context[turn] - held) * missed + held * hit + output[turn] * written
        weighted: np.ndarray = core.config.compute_weight * cost
        return weighted

    return costs


BOUNDS = (
    Bound(
        name="dynamic_programming",
        measure=lambda problem, case, split: measure_plan(problem, case, split, outcomes=True),
        about="the best plan where every outcome and the length are known",
    ),
    Bound(
        name="planner",
        measure=lambda problem, case, split: measure_plan(problem, case, split, outcomes=False),
        about="the best plan, with all predictions and the length known",
    ),
)
