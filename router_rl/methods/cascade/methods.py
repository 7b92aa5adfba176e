"""The methods of the cascade: each fits a policy for every compute weight, or one for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...problems.cascade.cascade_episodes import play
from ...problems.cascade.problem import CascadeProblem
from ...problems.objective import Objective
from ...problems.problem import Case, EnvMethod, Tell
from ...routing import Router
from ...routing.policies.cascade_policy import CascadePolicy, CascadeView
from ..fit import fit
from .automix import fit_automix
from .cascade_training import CascadeHyperparameters, fit_cascade
from .lookahead import candidates
from .thresholds import best_thresholds, threshold_tables

__all__ = ["METHODS", "Policy"]

_GROUPS, _BINS = (1, 6, 16), (4, 7)

# The first is the default; the others are tried in order.
_TRIES = (
    CascadeHyperparameters(),
    CascadeHyperparameters(regression=0.3),
    CascadeHyperparameters(weight_decay=0.3),
    CascadeHyperparameters(hidden=32, learning_rate=0.01),
)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A fitted method: observations to actions, and the module that is exported, if there is one."""

    actions: Callable[[Tensor], Tensor]
    module: CascadePolicy | None = None


def _learned(learner: Literal["gradient", "regression"]) -> Callable[..., Sequence[Policy]]:
    """Fit the network, once for all cases."""

    def fit_once(
        problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[Policy]:
        data = problem.data(seed)
        found = [
            fit_cascade(
                data, problem.config.limit, problem.weights, replace(settings, learner=learner), seed, tell
            )
            for settings in _TRIES[:tries]
        ]
        best, _ = max(found, key=lambda one: one[1])
        policy = Policy(actions=lambda seen: best.actions(seen)[0], module=best)
        return [policy] * len(cases)

    return fit_once


def _thresholds(
    problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[Policy]:
    data = problem.data(seed)
    score, quality, compute = (
        part.double().numpy() for part in (data.fitted.posterior, data.quality, data.compute)
    )
    tables, grid = threshold_tables(score, quality, compute)
    found = [
        best_thresholds(tables, grid, data.fitted.beliefs, case.values["compute_weight"]) for case in cases
    ]
    return [Policy(actions=one.actions) for one in found]


def _lookahead(
    problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[Policy]:
    data = problem.data(seed)
    tried = candidates(data.fitted.beliefs, data.table.price, data.fitted.prior, data.fitted.posterior)
    return [_best(problem, tried, case, seed) for case in cases]


def _automix(
    problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[Policy]:
    data = problem.data(seed)
    fitted, found = data.fitted, []
    for case in cases:
        tried = [
            fit_automix(
                fitted.beliefs,
                fitted.prior,
                fitted.posterior,
                data.quality,
                data.table.price,
                case.values["compute_weight"],
                limit=problem.config.limit,
                groups=groups,
                bins=bins,
                seed=seed,
            )
            for groups, bins in product(_GROUPS, _BINS)
        ]
        found.append(_best(problem, tried, case, seed))
    return found


def _best(problem: CascadeProblem, tried: Sequence[Any], case: Case, seed: int) -> Policy:
    """The best candidate on training and validation rows, by beliefs that have not seen them."""
    weight = case.values["compute_weight"]
    found = [float(_out_of_fold(problem, one, weight, seed).mean()) for one in tried]
    return Policy(actions=tried[int(np.argmax(found))].actions)


def _out_of_fold(problem: CascadeProblem, policy: Any, weight: float, seed: int) -> np.ndarray:
    data = problem.data(seed)

    def actions(seen: Tensor) -> Tensor:
        view = CascadeView.of(seen, len(data.names))
        return policy.choose(view, data.fitted.prior, data.fitted.posterior)

    return play(actions, data.table, problem.config, weight).utility


def _router(name: str) -> Callable[..., Sequence[Policy]]:
    """A router of the query alone: ask the one it picks, give that answer."""

    def fit_each(
        problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[Policy]:
        found: list[Policy] = []
        for case in cases:
            objective = Objective(compute_weight=case.values["compute_weight"])
            router = fit(name, problem.table, objective, seed=seed, tries=tries)
            found.append(Policy(actions=_asks_once(router, len(problem.table.experts))))
        return found

    return fit_each


def _asks_once(router: Router, experts: int) -> Callable[[Tensor], Tensor]:
    def actions(seen: Tensor) -> Tensor:
        view = CascadeView.of(seen, experts)
        pick = router(view.features).experts[:, 0]
        # A router that draws would draw anew: whoever was asked answers.
        answer = view.asked.float().argmax(dim=-1)
        return torch.where(view.asked.any(dim=-1), answer + experts, pick)

    return actions


METHODS: dict[str, EnvMethod] = {
    method.name: method
    for method in (
        EnvMethod(
            name="exact_pg",
            family="rl",
            about="exact policy gradient over all sets of asked experts, one policy for all weights",
            fit=_learned("gradient"),
        ),
        EnvMethod(
            name="fitted_q",
            family="rl",
            about="fitted Q over all sets of asked experts, one policy for all weights",
            fit=_learned("regression"),
        ),
        EnvMethod(
            name="thresholds",
            family="baseline",
            about="all orders of three with tuned thresholds (FrugalGPT, Chen et al. 2023)",
            fit=_thresholds,
        ),
        EnvMethod(
            name="automix",
            family="baseline",
            about="partially observed process, solved exactly (AutoMix, Aggarwal et al. 2024)",
            fit=_automix,
        ),
        EnvMethod(
            name="lookahead",
            family="baseline",
            about="one step of value of information on calibrated beliefs",
            fit=_lookahead,
        ),
        EnvMethod(
            name="softmax_gate",
            family="gate",
            about="softmax gate of the query alone",
            fit=_router("softmax_gate"),
        ),
        EnvMethod(
            name="warm_exact_pg",
            family="rl",
            about="router of the query alone, by the exact policy gradient from the gate",
            fit=_router("warm_exact_pg"),
        ),
        EnvMethod(
            name="best_single",
            family="baseline",
            about="one expert for every query",
            fit=_router("best_single"),
        ),
        EnvMethod(
            name="random",
            family="baseline",
            about="an expert drawn evenly",
            fit=_router("random"),
        ),
    )
}
