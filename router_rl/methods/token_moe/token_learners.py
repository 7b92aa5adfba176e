"""Reinforcement learning of token-level routing, by the loss of the language model."""

from __future__ import annotations

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from .backprop import joint, train_gate
from .path_outcomes import train_outcome_table
from .refusals import needs_fixed_paths
from .token_fit import trained
from .token_gates import gate_of
from .token_ppo import TokenPPOHyperparameters, train_ppo
from .token_reinforce import TokenReinforceHyperparameters, train_reinforce
from .token_training import Training, mean_loss

__all__ = ["METHODS"]


def _joint(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_gate(problem.pool, start, joint(gate_of(problem)), training)[0].routers
    return routers.copy(problem.selections)


def _outcome_table(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_outcome_table(problem.pool, start, training).routers
    return routers.copy(problem.selections)


def _reinforce(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    start, score = start.copy(problem.selections), mean_loss(problem.pool, price=problem.options.expert_price)
    settings, config = TokenReinforceHyperparameters(), problem.config(problem.case)
    return train_reinforce(problem.pool, start, training, settings, config, score=score).routers


def _router_ppo(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    start, score = start.copy(problem.selections), mean_loss(problem.pool, price=problem.options.expert_price)
    settings, config = TokenPPOHyperparameters(), problem.config(problem.case)
    return train_ppo(problem.pool, start, training, settings, config, score).routers


METHODS = (
    trained(
        "joint",
        "rl",
        _joint,
        "outcome-table policy gradient plus the mixture loss",
        full_information=True,
        refuses=needs_fixed_paths,
    ),
    trained(
        "outcome_table",
        "rl",
        _outcome_table,
        "exact policy gradient on measured losses of expert paths",
        full_information=True,
        refuses=needs_fixed_paths,
    ),
    trained("reinforce", "rl", _reinforce, "REINFORCE on whole paths, leave-one-out baseline"),
    trained("router_ppo", "rl", _router_ppo, "PPO with a linear critic, one policy for all tokens"),
)
