"""Reinforcement learning of token-level routing, by the loss of the language model."""

from __future__ import annotations

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ..method import Method
from .backprop import joint, train_gate
from .counterfactual import OUTCOME_TABLE, train_counterfactual
from .own_gates import needs_paths
from .token_fit import SPACE, LearningRate, fit_of
from .token_gates import gate_of
from .token_ppo import TokenPPOHyperparameters, train_ppo
from .token_reinforce import TokenReinforceHyperparameters, train_reinforce
from .token_training import Training

__all__ = ["METHODS"]


def _joint(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_gate(problem.pool, start, joint(gate_of(problem)), training)[0].routers
    return routers.copy(problem.selections)


def _outcome_table(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_counterfactual(problem.pool, start, training, OUTCOME_TABLE).routers
    return routers.copy(problem.selections)


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
        fit=fit_of(_joint),
        hyperparameters=LearningRate,
        space=SPACE,
        refuses=needs_paths,
        about="outcome-table policy gradient plus the mixture loss",
    ),
    Method(
        name="outcome_table",
        family="rl",
        full_information=True,
        fit=fit_of(_outcome_table),
        hyperparameters=LearningRate,
        space=SPACE,
        refuses=needs_paths,
        about="exact policy gradient on measured losses of expert paths",
    ),
    Method(
        name="reinforce",
        family="rl",
        fit=fit_of(_reinforce),
        hyperparameters=LearningRate,
        space=SPACE,
        about="REINFORCE on whole paths, leave-one-out baseline",
    ),
    Method(
        name="router_ppo",
        family="rl",
        fit=fit_of(_router_ppo),
        hyperparameters=LearningRate,
        space=SPACE,
        about="PPO with a linear critic, one policy for all tokens",
    ),
)
