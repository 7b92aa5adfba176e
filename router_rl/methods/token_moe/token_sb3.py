"""PPO of Stable-Baselines3 in `RouterRL/TokenMoE-v0`: an MLP reads a sequence and selects all its experts.

The gate inputs of all tokens are one observation and the experts of all tokens one action, so that the
network grows with the sequence: it is for short sequences. `router_ppo` shares one policy among the tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...problems.problem import Policy
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing import Hard
from ..method import Run
from ..sb3_any_env import METHOD as ANY
from ..sb3_any_env import PPOHyperparameters, first_seed, train_validated

__all__ = ["LONGEST", "METHOD", "fit"]

LONGEST = 32
"""The most tokens of a sequence."""

_LANES = 64


def fit(problem: TokenMoEProblem, hyperparameters: PPOHyperparameters, run: Run) -> LayerPolicy:
    """Train PPO on 64 sequences at once.

    Args:
        problem: with one expert per token and sequences of at most `LONGEST` tokens.
        hyperparameters: of PPO.
        run: seed and callback.
    """
    core = problem.core("train", problem.case, lanes=_LANES, seed=first_seed(run))
    return _of_sequences(train_validated(problem, core, hyperparameters, run, _of_sequences))


def _of_sequences(policy: Policy) -> LayerPolicy:
    """Return the policy of layers that a policy of whole sequences is."""

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        experts = policy.act(x).unsqueeze(-1)
        return experts, torch.ones(experts.shape)

    return LayerPolicy(choose=choose)


def _refuses(problem: Any) -> str | None:
    if problem.pool.problems:
        return "its network reads whole sequences, and answers grow token by token"
    if not isinstance(problem.selection, Hard):
        return "selects one expert per token"
    length = problem.pool.parts["train"].length
    if length > LONGEST:
        return f"its network reads at most {LONGEST} tokens, not {length}; set problem.length"
    return None


METHOD = replace(ANY, fit=fit, refuses=_refuses, about="PPO (Stable-Baselines3) on whole short sequences")
