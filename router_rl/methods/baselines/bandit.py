"""Training loop of linear contextual bandits: one ridge posterior per expert, updated query by query.

Unlike the other methods, a bandit does not use all outcomes. It processes the training queries in a seeded
random order, selects experts, and observes the utility of the selected experts only. Posteriors are updated
in batches: all decisions of a batch use the posterior before it, so feedback is delayed by less than one
batch. Under bandit feedback a bandit still makes its own selections, once per query, so it observes as many
outcomes as other methods get from the log; only its validation uses the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from envs.reward import expert_utility

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, Router
from ...routing.selection.topk import largest
from ..method import Run
from .ridge import lifted_weights

__all__ = ["BanditHyperparameters", "Explore", "Posterior", "run_bandit", "train_bandit"]

# Mean and standard deviation [B, N] of each expert's utility, and a generator, to selection scores [B, N].
Explore = Callable[[Tensor, Tensor, torch.Generator], Tensor]


class BanditHyperparameters(Protocol):
    """The hyperparameters that the training loop reads."""

    @property
    def penalty(self) -> float: ...
    @property
    def passes(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Posterior:
    """Bayesian ridge regression of each expert's utility: `A_e = penalty I + sum x x^T`.

    Args:
        experts: N.
        inputs: D.
        penalty: L2 penalty, above 0.
        device: device of the tensors, which are float64.

    Attributes:
        covariance: [N, D, D] float64, inverse of A_e.
        mean: [N, D] float64, `A_e^-1 sum x u`.
    """

    def __init__(self, experts: int, inputs: int, penalty: float, device: torch.device) -> None:
        identity = torch.eye(inputs, dtype=torch.float64, device=device)
        self.covariance = (identity / penalty).repeat(experts, 1, 1)
        self.mean = torch.zeros(experts, inputs, dtype=torch.float64, device=device)

    def update(self, x: Tensor, observed: Tensor, utility: Tensor) -> None:
        """Update with a batch, equal to updating with its rows one by one (Woodbury's identity).

        Args:
            x: [B, D] float64.
            observed: [B, N] bool, which utilities were observed.
            utility: [B, N] float64; entries that were not observed are ignored.
        """
        rows = x * observed.T.unsqueeze(-1)  # [N, B, D]; rows of zeros have no effect
        error = torch.where(observed, utility - x @ self.mean.T, 0.0).T.unsqueeze(-1)  # [N, B, 1]
        spread = rows @ self.covariance  # [N, B, D]
        inner = spread @ rows.mT + torch.eye(len(x), dtype=x.dtype, device=x.device)
        root = torch.linalg.cholesky(inner)
        self.mean = self.mean + (spread.mT @ torch.cholesky_solve(error, root)).squeeze(-1)
        half = torch.linalg.solve_triangular(root, spread, upper=False)
        self.covariance = self.covariance - half.mT @ half

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [B, N] of `theta_e . x` for x [B, D], with noise variance 1."""
        spread = x @ self.covariance  # [N, B, D]
        variance = (spread * x).sum(dim=-1).T
        return x @ self.mean.T, variance.clamp(min=0.0).sqrt()


def run_bandit(
    x: Tensor,
    utility: Tensor,
    k: int,
    hyperparameters: BanditHyperparameters,
    explore: Explore,
    seed: int,
    *,
    once: bool = False,
) -> tuple[Posterior, Tensor]:
    """Run the bandit over all queries, `passes` times in a new random order, and update from its selections.

    Args:
        x: [T, D] float64.
        utility: [T, N] float64; only the entries of the k selected experts are read.
        k: experts per query, those with the highest scores; ties go to the lowest id.
        hyperparameters: penalty, passes, batch.
        explore: computes the selection scores.
        seed: random seed of the order and the exploration.
        once: run one pass, whatever `passes` is.

    Returns:
        the posterior, and how often each expert was selected, [N] int64.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    posterior = Posterior(utility.shape[1], x.shape[1], hyperparameters.penalty, x.device)
    counts = torch.zeros(utility.shape[1], dtype=torch.int64, device=x.device)
    for _ in range(1 if once else hyperparameters.passes):
        order = torch.randperm(len(x), generator=generator, device=x.device)
        for rows in order.split(hyperparameters.batch):
            experts = largest(explore(*posterior.predict(x[rows]), generator), k)
            observed = torch.zeros_like(utility[rows], dtype=torch.bool).scatter(1, experts, True)
            posterior.update(x[rows], observed, utility[rows])
            counts += observed.sum(dim=0)
    return posterior, counts


def train_bandit(
    problem: RoutingProblem, hyperparameters: BanditHyperparameters, run: Run, explore: Explore
) -> Router:
    """Run the bandit on the training rows and return the greedy linear router of its posterior means.

    Under a rule with a variable number of experts, the minimum number is selected in training.

    Args:
        problem: training rows, objective and selection rule.
        hyperparameters: penalty, passes, batch.
        run: seed.
        explore: computes the selection scores.
    """
    router = problem.new_router(run.seed, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    outcomes = problem.logged_outcomes()
    features = ((outcomes.features - scorer.shift) * scorer.scale).double()
    x = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)  # with an intercept
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    k = problem.rule.sizes(outcomes.experts).start
    once = problem.feedback == "bandit"  # a second pass could observe a second outcome of a row
    posterior, _ = run_bandit(x, utility, k, hyperparameters, explore, run.seed, once=once)
    weight, bias = lifted_weights(
        problem.rule, features, posterior.mean[:, :-1], posterior.mean[:, -1], temperature=0.0
    )
    with torch.no_grad():
        scorer.weight.copy_(weight)
        scorer.bias.copy_(bias)
    return router.eval()
