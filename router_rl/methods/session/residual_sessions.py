"""PPO that corrects the strongest rule of sessions, the best on validation rows."""

from __future__ import annotations

import copy

from torch import nn

from ...problems.session.problem import SessionProblem
from ..agents.residual_ppo import ResidualPPOHyperparameters, residual_ppo
from .session_rules import RULES, strongest_rule, tuned_rule

__all__ = ["METHOD"]


def _rule(
    problem: SessionProblem, hyperparameters: ResidualPPOHyperparameters, seed: int
) -> tuple[nn.Module, str]:
    rule = strongest_rule(problem)
    name = next(each for each in RULES if tuned_rule(problem, each) is rule)
    return copy.deepcopy(rule), name


METHOD = residual_ppo(_rule, "the strongest rule")
