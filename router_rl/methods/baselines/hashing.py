"""Hash routing: a fixed pseudo-random expert for every query, balanced, and nothing to learn.

The same query always meets the same expert, which is all that `random` lacks for experts that are trained
on what they are sent; over frozen experts it is a floor that is balanced and costs nothing.

Source: Roller et al. 2021, Hash Layers for Large Sparse Models, https://arxiv.org/abs/2106.04426.
"""

from __future__ import annotations

import torch

from ...problems.routing.problem import Task
from ...routing import HashScorer, Router
from ..method import Run
from .constants import NoSettings

__all__ = ["fit"]


def fit(task: Task, settings: NoSettings, run: Run) -> Router:
    """Draw the hash by the seed; the k best of a pseudo-random order are k different experts."""
    assert task.train.features is not None
    count = len(task.train.experts)
    scorer = HashScorer(task.train.features.shape[1], task.rule.outputs(count), pool=count)
    scorer.draw(run.seed)
    with torch.no_grad():
        # A group of experts scores as its best: of hashes of at least 0, times 0 or 1, the maximum.
        scorer.lift.copy_(task.rule.lift(torch.eye(count), temperature=0.0))
    return task.wrap(scorer).eval()
