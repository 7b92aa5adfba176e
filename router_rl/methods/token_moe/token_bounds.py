"""Token-level baselines and bounds without training.

Each is a function from a pool and a split to the loss of every token [S, T]. Most losses are looked up,
because the paths of frozen experts are measured once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from experts.moe.token_pool import TokenPool

from ...problems.measure import Measurement
from ...problems.problem import Case
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...problems.token_moe.token_measurement import Choose
from ..method import Bound, Fit, Method, NoHyperparameters, Run
from .answer_bounds import answers_by_label, constant, needs_text, right_single
from .closed_form_start import closed_form_start
from .refusals import needs_paths

__all__ = [
    "METHODS",
    "average",
    "best_single",
    "dense",
    "hindsight",
    "label",
    "random_choice",
    "uniform",
]


def dense(pool: TokenPool, part: str) -> np.ndarray:
    """Return the losses of the base model, which has as many active parameters as one expert per layer."""
    return pool.parts[part].dense_loss


def best_single(pool: TokenPool, part: str) -> np.ndarray:
    """Return the losses of the best domain expert on validation (of any expert, without domains)."""
    of_domains = pool.parts["validation"].path_loss[:, : len(pool.domains) or None]
    best = int(of_domains.mean(axis=(0, 2)).argmin())
    return pool.parts[part].path_loss[:, best]


def label(pool: TokenPool, part: str) -> np.ndarray:
    """Return the losses with the expert of each token's own domain, which changes within mixed sequences."""
    s, losses = pool.parts[part], []
    labels = torch.from_numpy(np.array(s.domain, dtype=np.int64)).unsqueeze(-1)
    with torch.no_grad():
        for rows in torch.arange(len(s)).split(16):
            labelled = (labels[rows], torch.ones(labels[rows].shape))
            hidden = pool.tail(s.states(rows), lambda layer, x, labelled=labelled: labelled)
            losses.append(pool.tail.loss(hidden, s.targets(rows)).numpy())
    return np.concatenate(losses)


def hindsight(pool: TokenPool, part: str) -> np.ndarray:
    """Return the loss of the best path for each token, an upper bound."""
    return pool.parts[part].path_loss.min(axis=1)


def average(pool: TokenPool, part: str) -> np.ndarray:
    """Return the losses of the model with averaged expert weights, one FFN per layer."""
    assert pool.average is not None
    s, losses = pool.parts[part], []
    with torch.no_grad():
        for rows in torch.arange(len(s)).split(16):
            hidden = pool.average.along(s.states(rows), 0)
            losses.append(pool.average.loss(hidden, s.targets(rows)).numpy())
    return np.concatenate(losses)


def uniform(pool: TokenPool) -> Choose:
    """Return a choice of all experts with equal weights."""
    experts = pool.tail.experts

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.arange(experts).expand(*x.shape[:-1], -1)
        return ids, torch.full(ids.shape, 1.0 / experts)

    return choose


def random_choice(pool: TokenPool, seed: int) -> Choose:
    """Return a choice of one random expert per token and layer."""
    generator = torch.Generator().manual_seed(seed)

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.randint(0, pool.tail.experts, (*x.shape[:-1], 1), generator=generator)
        return ids, torch.ones(ids.shape)

    return choose


def _known(loss: Callable[[TokenPool, str], np.ndarray]) -> Fit:
    """Return the fit of a path whose losses are already measured."""

    def fit(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
        return LayerPolicy(known=lambda split: loss(problem.pool, split))

    return fit


def _needs_losses(problem: TokenMoEProblem) -> str | None:
    return needs_paths(problem) or needs_text(problem)


def _fit_best_single(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    if problem.pool.problems:
        return LayerPolicy(choose=constant(right_single(problem.pool)))
    return _known(best_single)(problem, hyperparameters, run)


def _fit_ridge(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    routers = closed_form_start(problem).copy(problem.selections)
    return LayerPolicy(choose=routers.choose, routers=routers)


def _fit_random(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    return LayerPolicy(choose=random_choice(problem.pool, run.seed))


def _fit_uniform(problem: TokenMoEProblem, hyperparameters: NoHyperparameters, run: Run) -> LayerPolicy:
    return LayerPolicy(choose=uniform(problem.pool))


def _needs_labels(problem: TokenMoEProblem) -> str | None:
    if problem.labelled:
        return None
    if problem.pool.problems:
        return "needs problems whose groups are names of experts"
    return needs_paths(problem) or "needs texts whose names are those of experts"


def _measure_label(problem: TokenMoEProblem, case: Case, split: str) -> Measurement:
    if problem.pool.problems:
        return Measurement(utility=answers_by_label(problem.pool, split), parts={})
    return problem.evaluate(LayerPolicy(known=lambda part: label(problem.pool, part)), split, case)


def _measure_oracle(problem: TokenMoEProblem, case: Case, split: str) -> Measurement:
    return problem.evaluate(LayerPolicy(known=lambda part: hindsight(problem.pool, part)), split, case)


METHODS = (
    Method(
        name="ridge",
        family="gate",
        fit=_fit_ridge,
        refuses=needs_paths,
        about="ridge regression; warm start of the other methods",
    ),
    Method(name="uniform", family="baseline", fit=_fit_uniform, about="all experts, equal weights"),
    Method(
        name="average",
        family="baseline",
        fit=_known(average),
        refuses=_needs_losses,
        about="the mean of the experts' weights",
    ),
    Method(
        name="dense",
        family="baseline",
        fit=_known(dense),
        refuses=_needs_losses,
        about="the base model without experts",
    ),
    Method(
        name="best_single",
        family="baseline",
        fit=_fit_best_single,
        refuses=needs_paths,
        about="the expert that is best on validation, for every token",
    ),
    Method(name="random", family="baseline", fit=_fit_random, about="a uniformly random expert"),
    Bound(
        name="label",
        measure=_measure_label,
        refuses=_needs_labels,
        about="the expert of each token's own text or problem's task",
    ),
    Bound(
        name="oracle",
        measure=_measure_oracle,
        refuses=_needs_losses,
        about="the expert path with the lowest loss of each token",
    ),
)
