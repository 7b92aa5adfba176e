"""Ask the expert with the highest believed utility, and return its answer.

The utility of expert e is the probability that it is right, from the beliefs that all cascade methods share,
minus the compute weight times its mean compute. So a cascade's gain over this rule is the worth of a second
question, not of the beliefs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs import Core

from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHOD", "AskByBelief", "fit"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AskByBelief:
    """Asks one expert for each query, by the beliefs.

    Attributes:
        beliefs: the probability that each expert is right.
        price: [N] mean compute.
    """

    beliefs: Beliefs
    price: Tensor

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment, for observations [T, O] float32."""
        experts = len(self.price)
        view = CascadeView.of(observation, experts)
        utility = self.beliefs.prior(view.features).sigmoid() - view.weight.unsqueeze(-1) * self.price
        ask = utility.masked_fill(~view.askable, -torch.inf).argmax(dim=-1)
        answer = view.asked.float().argmax(dim=-1) + experts
        return torch.where(view.asked.any(dim=-1), answer, ask)


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters, run: Run) -> AskByBelief:
    """Return the rule with the beliefs of the run's seed."""
    data = problem.data(run.seed)
    return AskByBelief(beliefs=data.fitted.beliefs, price=data.table.price)


METHOD = Method(
    name="beliefs",
    family="baseline",
    fit=fit,
    about="asks the expert with the highest believed utility, once",
    amortizes=True,
)
