"""Hash routing: a fixed pseudo-random expert for every query, balanced, and nothing to learn.

The same query always meets the same expert, which is all that `random` lacks for experts that are trained
on what they are sent; over frozen experts it is a floor that is balanced and costs nothing.

Source: Roller et al. 2021, Hash Layers for Large Sparse Models, https://arxiv.org/abs/2106.04426.
"""

from __future__ import annotations

import torch

from ...problems.routing.problem import RoutingProblem
from ...routing import HashScorer, Router
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHOD", "fit"]


def fit(problem: RoutingProblem, hyperparameters: NoHyperparameters, run: Run) -> Router:
    """Draw the hash by the seed; the k best of a pseudo-random order are k different experts."""
    assert problem.train.features is not None
    count = len(problem.train.experts)
    scorer = HashScorer(problem.train.features.shape[1], problem.rule.outputs(count), pool=count)
    scorer.draw(run.seed)
    with torch.no_grad():
        # A group of experts scores as its best: of hashes of at least 0, times 0 or 1, the maximum.
        scorer.lift.copy_(problem.rule.lift(torch.eye(count), temperature=0.0))
    return problem.wrap(scorer).eval()


METHOD = Method(
    name="hash",
    family="baseline",
    fit=fit,
    about="a fixed pseudo-random expert a query (Roller et al. 2021)",
    holds_budget=True,
)
