"""The methods of `--env token_moe` by name. A new one is a line here.

All learn from the same closed-form start, without labels, on the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from experts.moe.token_pool import TokenPool

from ...problems.problem import Case, EnvMethod, Tell
from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, MixtureProblem, rule_of
from ...problems.token_moe.token_measurement import measure
from . import token_bounds as bounds
from .backprop import GATES, Gate, joint, train_gate
from .counterfactual import OUTCOME_TABLE, train_counterfactual
from .token_reinforce import TokenReinforceHyperparameters, train_reinforce
from .token_training import Training

__all__ = ["METHODS"]

_RATES = (1e-2, 3e-2, 3e-3, 1e-1)  # learning rates tried; the first is the default

_Learn = Callable[[MixtureProblem, int, Training], LayerRouters]
_Fit = Callable[[MixtureProblem, Sequence[Case], int, int, Tell], Sequence[LayerPolicy]]


def _gate(count: int) -> Gate:
    """The softmax gate that runs so many experts."""
    return GATES["soft_gate" if count == 1 else "mixtral_top2"]


def _joint(problem: MixtureProblem, count: int, training: Training) -> LayerRouters:
    return train_gate(problem.pool, problem.start, joint(_gate(count)), training)[0].routers


def _softmax_gate(problem: MixtureProblem, count: int, training: Training) -> LayerRouters:
    return train_gate(problem.pool, problem.start, _gate(count), training)[0].routers


def _straight_through(problem: MixtureProblem, count: int, training: Training) -> LayerRouters:
    return train_gate(problem.pool, problem.start, GATES["straight_through"], training)[0].routers


def _outcome_table(problem: MixtureProblem, count: int, training: Training) -> LayerRouters:
    return train_counterfactual(problem.pool, problem.start, training, OUTCOME_TABLE).routers


def _reinforce(problem: MixtureProblem, count: int, training: Training) -> LayerRouters:
    start = problem.start.copy(rule_of(count))
    return train_reinforce(problem.pool, start, training, TokenReinforceHyperparameters()).routers


def _trained(learn: _Learn) -> _Fit:
    """A learner for each case, at the learning rate that validation picks among those tried."""

    def fit(
        problem: MixtureProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[LayerPolicy]:
        policies: list[LayerPolicy] = []
        total = len(cases) * len(_RATES[:tries])
        for case in cases:
            count = int(case.values["experts_per_token"])
            found: list[tuple[float, LayerRouters]] = []
            for rate in _RATES[:tries]:
                tell(len(policies) * tries + len(found), total, f"{case.label}, learning rate {rate:g}")
                training = replace(problem.training, learning_rate=rate, seed=seed)
                routers = learn(problem, count, training).copy(rule_of(count))
                part = problem.pool.parts["validation"]
                found.append((float(measure(problem.pool.tail, part, routers.choose).loss.mean()), routers))
            best = min(found, key=lambda each: each[0])[1]
            policies.append(LayerPolicy(choose=best.choose, routers=best))
        return policies

    return fit


def _untrained(policy: Callable[[MixtureProblem, int, int], LayerPolicy]) -> _Fit:
    """A policy of problem, experts a token and seed, for each case."""

    def fit(
        problem: MixtureProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[LayerPolicy]:
        return [policy(problem, int(case.values["experts_per_token"]), seed) for case in cases]

    return fit


def _closed_form(problem: MixtureProblem, count: int, seed: int) -> LayerPolicy:
    routers = problem.start.copy(rule_of(count))
    return LayerPolicy(choose=routers.choose, routers=routers)


def _random(problem: MixtureProblem, count: int, seed: int) -> LayerPolicy:
    return LayerPolicy(choose=bounds.random_choice(problem.pool, seed))


def _uniform(problem: MixtureProblem, count: int, seed: int) -> LayerPolicy:
    return LayerPolicy(choose=bounds.uniform(problem.pool))


def _known(loss: Callable[[TokenPool, str], np.ndarray]) -> _Fit:
    """A path whose losses were measured with the text."""
    return _untrained(lambda problem, _, __: LayerPolicy(known=lambda split: loss(problem.pool, split)))


METHODS: dict[str, EnvMethod] = {
    method.name: method
    for method in (
        EnvMethod(
            name="joint",
            family="rl",
            about="policy gradient on the outcome table, with the gradient of the mixture's loss",
            fit=_trained(_joint),
        ),
        EnvMethod(
            name="outcome_table",
            family="rl",
            about="exact policy gradient on each expert's loss along its own path; forward passes only",
            fit=_trained(_outcome_table),
        ),
        EnvMethod(
            name="reinforce",
            family="rl",
            about="sampled whole paths (Williams 1992), each against the mean of the others",
            fit=_trained(_reinforce),
        ),
        EnvMethod(
            name="softmax_gate",
            family="gate",
            about="backpropagation through the experts: all of them, or Mixtral's two",
            fit=_trained(_softmax_gate),
        ),
        EnvMethod(
            name="straight_through",
            family="gate",
            about="the chosen ones run, the gradient is the mixture's (Bengio et al. 2013)",
            fit=_trained(_straight_through),
        ),
        EnvMethod(
            name="ridge",
            family="gate",
            about="closed form: where all of these start",
            fit=_untrained(_closed_form),
        ),
        EnvMethod(
            name="uniform", family="baseline", about="all experts, equal weights", fit=_untrained(_uniform)
        ),
        EnvMethod(
            name="average",
            family="baseline",
            about="the plain mean of the experts' weights",
            fit=_known(bounds.average),
        ),
        EnvMethod(name="dense", family="baseline", about="the base itself", fit=_known(bounds.dense)),
        EnvMethod(
            name="best_single",
            family="baseline",
            about="the expert that is best on validation, for every token",
            fit=_known(bounds.best_single),
        ),
        EnvMethod(name="random", family="baseline", about="one expert by chance", fit=_untrained(_random)),
        EnvMethod(
            name="oracle",
            family="bound",
            about="the expert whose path turns out best, token by token",
            fit=_known(bounds.hindsight),
        ),
    )
}
