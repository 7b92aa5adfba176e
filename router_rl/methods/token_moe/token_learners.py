"""Trained methods of token-level routing: all start from the same routers, and see the same text.

The start is a closed form on the text, without labels, or the gates of an existing mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experts.io.value_range import Positive

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing import ScoredTopK, TopK, UnnormalisedTopK
from ..hyperparameters import Hyperparameters
from ..method import Fit, Method, Run
from .backprop import GATES, Gate, gate_of_rule, joint, train_gate
from .closed_form_start import closed_form_start
from .counterfactual import OUTCOME_TABLE, train_counterfactual
from .own_gates import needs_paths, own_gates
from .token_ppo import TokenPPOHyperparameters, train_ppo
from .token_reinforce import TokenReinforceHyperparameters, train_reinforce
from .token_training import Training

__all__ = ["METHODS", "LearningRate", "gate_of"]

_CHECKS = 2


@dataclass(frozen=True, kw_only=True)
class LearningRate(Hyperparameters):
    """The hyperparameter of every token-level method.

    Attributes:
        learning_rate: initial learning rate of AdamW; decays to zero (cosine).
    """

    learning_rate: Positive = 1e-2


_SPACE = {"learning_rate": (1e-2, 3e-2, 3e-3, 1e-1)}

Learn = Callable[[TokenMoEProblem, LayerRouters, Training], LayerRouters]


def _fit(learn: Learn) -> Fit:
    """Return a method's fit from a function that trains routers."""

    def fit(problem: TokenMoEProblem, hyperparameters: LearningRate, run: Run) -> LayerPolicy:
        options = problem.options
        training = Training(
            epochs=options.epochs,
            batch=options.batch,
            checks=_CHECKS,
            learning_rate=hyperparameters.learning_rate,
            seed=run.seed,
            report=run.report,
            checkpoint=run.checkpoint,
        )
        start = closed_form_start(problem) if problem.pool.gates is None else own_gates(problem)
        learned = learn(problem, start, training)
        routers = learned.copy(problem.selections)
        return LayerPolicy(choose=routers.choose, routers=routers)

    return fit


def gate_of(problem: TokenMoEProblem) -> Gate:
    """Return the gate whose mixture has the weights of the case's selection rule (dense for one expert).

    Args:
        problem: the problem, at one case.
    """
    rule = problem.selection
    if isinstance(rule, ScoredTopK | UnnormalisedTopK) or (isinstance(rule, TopK) and rule.k > 1):
        return gate_of_rule(rule)
    return GATES["soft_gate"]


def _joint(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    return train_gate(problem.pool, start, joint(gate_of(problem)), training)[0].routers


def _softmax_gate(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    return train_gate(problem.pool, start, gate_of(problem), training)[0].routers


def _straight_through(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    return train_gate(problem.pool, start, GATES["straight_through"], training)[0].routers


def _outcome_table(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    return train_counterfactual(problem.pool, start, training, OUTCOME_TABLE).routers


def _reinforce(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    start = start.copy(problem.selections)
    return train_reinforce(problem.pool, start, training, TokenReinforceHyperparameters()).routers


def _router_ppo(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    start = start.copy(problem.selections)
    return train_ppo(problem.pool, start, training, TokenPPOHyperparameters()).routers


METHODS = (
    Method(
        name="joint",
        family="rl",
        full_information=True,
        fit=_fit(_joint),
        hyperparameters=LearningRate,
        space=_SPACE,
        refuses=needs_paths,
        about="outcome-table policy gradient plus the mixture loss",
    ),
    Method(
        name="outcome_table",
        family="rl",
        full_information=True,
        fit=_fit(_outcome_table),
        hyperparameters=LearningRate,
        space=_SPACE,
        refuses=needs_paths,
        about="exact policy gradient on measured losses of expert paths",
    ),
    Method(
        name="reinforce",
        family="rl",
        fit=_fit(_reinforce),
        hyperparameters=LearningRate,
        space=_SPACE,
        about="REINFORCE on whole paths, leave-one-out baseline",
    ),
    Method(
        name="router_ppo",
        family="rl",
        fit=_fit(_router_ppo),
        hyperparameters=LearningRate,
        space=_SPACE,
        about="PPO with a linear critic, one policy for all tokens",
    ),
    Method(
        name="softmax_gate",
        family="gate",
        fit=_fit(_softmax_gate),
        hyperparameters=LearningRate,
        space=_SPACE,
        about="backpropagation through all experts, or the two best",
    ),
    Method(
        name="straight_through",
        family="gate",
        fit=_fit(_straight_through),
        hyperparameters=LearningRate,
        space=_SPACE,
        about="sparse selection, dense gradient (Bengio et al. 2013)",
    ),
)
