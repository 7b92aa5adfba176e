"""Hash routing: a fixed pseudo-random expert for every query, balanced and without training.

Equal features always go to the same expert. Over frozen experts this is a balanced baseline without cost.
The hash reads every bit of the features, so it needs features that are equal at every call. Features of
prompts are not always: their last bits can depend on the number of prompts in a call (with torch 2.15).

Source: Roller et al. 2021, Hash Layers for Large Sparse Models, https://arxiv.org/abs/2106.04426.
"""

from __future__ import annotations

import torch

from ...problems.routing.problem import RoutingProblem
from ...routing import HashScorer, Router
from ..method import Method, NoHyperparameters, Run

__all__ = ["METHOD", "fit"]


def fit(problem: RoutingProblem, hyperparameters: NoHyperparameters, run: Run) -> Router:
    """Seed the hash; the top k of a pseudo-random order are k different experts."""
    assert problem.train.features is not None
    count = len(problem.train.experts)
    scorer = HashScorer(problem.train.features.shape[1], problem.rule.outputs(count), pool=count)
    scorer.draw(run.seed)
    with torch.no_grad():
        # The score of a group of experts is the maximum of their hashes, which are at least 0, times 0 or 1.
        scorer.lift.copy_(problem.rule.lift(torch.eye(count), temperature=0.0))
    return problem.wrap(scorer).eval()


METHOD = Method(
    name="hash",
    family="baseline",
    fit=fit,
    about="a fixed random expert per query (Roller et al. 2021)",
    sparse=True,
    holds_budget=True,
    starts=False,
)
