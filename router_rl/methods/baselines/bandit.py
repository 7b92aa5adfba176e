"""What linear contextual bandits share: a ridge posterior an expert, and one pass over a stream of queries.

Unlike every other method here a bandit does not know all outcomes: in a seeded random order it meets each
training query, chooses, and learns the utility of the experts it chose, no others. Decisions are taken in
batches that all see the posterior as it was before them: feedback is delayed by less than one batch, which
is how logs arrive in practice and lets a batch be one matrix product. Under bandit feedback a bandit still
chooses for itself, one query once, so it learns from as many outcomes as others from the log; only its
validation is the log's.
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

__all__ = ["BanditHyperparameters", "Explore", "Posterior", "play", "train_bandit"]

# Mean and deviation [B, N] of each expert's utility, and a generator, to the scores [B, N] chosen by.
Explore = Callable[[Tensor, Tensor, torch.Generator], Tensor]


class BanditHyperparameters(Protocol):
    """The part of a bandit's settings that the loop reads."""

    @property
    def penalty(self) -> float: ...
    @property
    def passes(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Posterior:
    """A ridge regression an expert, of the utilities seen so far: `A_e = penalty I + sum x x^T`.

    Args:
        experts: N.
        inputs: D.
        penalty: above 0.
        device: where it lives; float64 throughout.

    Attributes:
        covariance: [N, D, D], the inverse of A_e.
        mean: [N, D], `A_e^-1 sum x u`.
    """

    def __init__(self, experts: int, inputs: int, penalty: float, device: torch.device) -> None:
        identity = torch.eye(inputs, dtype=torch.float64, device=device)
        self.covariance = (identity / penalty).repeat(experts, 1, 1)
        self.mean = torch.zeros(experts, inputs, dtype=torch.float64, device=device)

    def update(self, x: Tensor, seen: Tensor, utility: Tensor) -> None:
        """Learn a batch, exactly as if its rows had come one by one (Woodbury's identity).

        Args:
            x: [B, D] float64.
            seen: [B, N] bool, which utilities were observed.
            utility: [B, N] float64; what was not seen is not read.
        """
        rows = x * seen.T.unsqueeze(-1)  # [N, B, D]; a row of zeros teaches nothing
        error = torch.where(seen, utility - x @ self.mean.T, 0.0).T.unsqueeze(-1)  # [N, B, 1]
        spread = rows @ self.covariance  # [N, B, D]
        inner = spread @ rows.mT + torch.eye(len(x), dtype=x.dtype, device=x.device)
        root = torch.linalg.cholesky(inner)
        self.mean = self.mean + (spread.mT @ torch.cholesky_solve(error, root)).squeeze(-1)
        half = torch.linalg.solve_triangular(root, spread, upper=False)
        self.covariance = self.covariance - half.mT @ half

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [B, N] of `theta_e . x` for x [B, D], the noise of a utility taken as 1."""
        spread = x @ self.covariance  # [N, B, D]
        variance = (spread * x).sum(dim=-1).T
        return x @ self.mean.T, variance.clamp(min=0.0).sqrt()


def play(
    x: Tensor,
    utility: Tensor,
    k: int,
    hyperparameters: BanditHyperparameters,
    explore: Explore,
    seed: int,
    *,
    once: bool = False,
) -> tuple[Posterior, Tensor]:
    """Meet every query `passes` times, in a new random order each time, and learn from what was chosen.

    Args:
        x: [T, D] float64.
        utility: [T, N] float64; of each row only the k chosen experts' are read.
        k: experts chosen for each query, the k best scores; ties go to the lowest id.
        hyperparameters: penalty, passes, batch.
        explore: the scores chosen by.
        seed: of the order and of the exploration.
        once: whether there is one pass, whatever the settings say.

    Returns:
        the posterior, and how often each expert was chosen [N] int64.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    posterior = Posterior(utility.shape[1], x.shape[1], hyperparameters.penalty, x.device)
    chosen = torch.zeros(utility.shape[1], dtype=torch.int64, device=x.device)
    for _ in range(1 if once else hyperparameters.passes):
        order = torch.randperm(len(x), generator=generator, device=x.device)
        for rows in order.split(hyperparameters.batch):
            experts = largest(explore(*posterior.predict(x[rows]), generator), k)
            seen = torch.zeros_like(utility[rows], dtype=torch.bool).scatter(1, experts, True)
            posterior.update(x[rows], seen, utility[rows])
            chosen += seen.sum(dim=0)
    return posterior, chosen


def train_bandit(
    problem: RoutingProblem, hyperparameters: BanditHyperparameters, run: Run, explore: Explore
) -> Router:
    """Play the training rows and return the greedy router of the posterior means, a linear one.

    A rule that may run several experts learns from as many as it must run.
    """
    router = problem.new_router(run.seed, kind="linear")
    scorer = router.scorer
    assert isinstance(scorer, LinearScorer)
    outcomes = problem.logged_outcomes()
    features = ((outcomes.features - scorer.shift) * scorer.scale).double()
    x = torch.cat(
        [features, torch.ones_like(features[:, :1])], dim=1
    )  # the intercept is a feature like others
    utility = expert_utility(outcomes, problem.objective.compute_weight).double()
    k = problem.rule.sizes(outcomes.experts).start
    once = problem.feedback == "bandit"  # a second meeting could show a second expert's outcome
    posterior, _ = play(x, utility, k, hyperparameters, explore, run.seed, once=once)
    weight, bias = lifted_weights(
        problem.rule, features, posterior.mean[:, :-1], posterior.mean[:, -1], temperature=0.0
    )
    with torch.no_grad():
        scorer.weight.copy_(weight)
        scorer.bias.copy_(bias)
    return router.eval()
