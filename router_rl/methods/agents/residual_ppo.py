"""PPO that starts from a rule: the policy's logits are the rule's scores and a network's correction of them.

The logits are `b * rule(observation) + network(observation)`. The network starts at 0, so the first policy is
the rule, and training keeps the policy that is best on validation, the rule included. It learns from the
rewards of its own decisions and needs no copies of the environment.

Source: residual policy learning, Silver et al. 2018, https://arxiv.org/abs/1812.06298.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from experts.io.value_range import Positive

from ...problems.problem import ActionPolicy
from ...routing.policies.network_policy import NetworkPolicy
from ..method import Method, Run
from .env_ppo import METHOD as PPO
from .env_ppo import EnvPPOHyperparameters, ppo_ascent
from .env_training import Rule, learn_env

__all__ = ["ResidualPPOHyperparameters", "RuleOf", "residual_ppo"]


@dataclass(frozen=True, kw_only=True)
class ResidualPPOHyperparameters(EnvPPOHyperparameters):
    """Hyperparameters of PPO from a rule.

    Attributes:
        inverse_temperature: b, scale of the rule's scores, which are in units of utility.
    """

    inverse_temperature: Positive = 10.0
    learning_rate: Positive = 3e-4


RuleOf = Callable[[Any, Any, int], tuple[nn.Module, str]]
"""Maps problem, hyperparameters and seed to a rule and the name of its method.

The rule is a module from observations [T, O] to scores [T, sum A_i] in units of utility."""


def residual_ppo(
    rule_of: RuleOf, rule: str, hyperparameters: type[ResidualPPOHyperparameters] = ResidualPPOHyperparameters
) -> Method:
    """Return the method that corrects a rule.

    Args:
        rule_of: finds the rule on training and validation rows.
        rule: what it is, for `list`.
        hyperparameters: of the method; those of the rule may be among them.
    """

    def fit(problem: Any, chosen: ResidualPPOHyperparameters, run: Run) -> ActionPolicy:
        # An interrupted fit finds the rule again, and resumes the training.
        scorer, start = rule_of(problem, chosen, run.seed)
        scaled = Rule(scorer, chosen.inverse_temperature)
        ascent = partial(ppo_ascent, chosen)
        policy = learn_env(problem, problem.case, chosen, run, ascent, scaled)
        assert isinstance(policy.module, NetworkPolicy)
        if not policy.module.corrects:
            run.facts["equals_start"] = start
        return policy

    return Method(
        name="residual_ppo",
        family="rl",
        fit=fit,
        hyperparameters=hyperparameters,
        space={**PPO.space, "inverse_temperature": (10.0, 30.0, 100.0)},
        about=f"PPO that corrects {rule} (Silver et al. 2018)",
    )
