"""Index rules: the expert with the best weighted sum of predictions and expected waits, weights tuned.

`router_rl.routing.QueueScorer` defines the terms of the index. The candidate weights of an iteration run on
the same requests, arrivals and outages, each in lanes of its own, so that they differ by more than noise
(common random numbers).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experts.io.value_range import Count, Size

from ...problems.problem import ActionPolicy
from ...problems.queueing.problem import QueueingProblem
from ...problems.queueing.queue_measurement import measure_queues
from ...routing import Router
from ..hyperparameters import Hyperparameters
from ..method import Fit, Method, Run
from .index_router import index_router, scorer_of, with_weights

__all__ = ["ALL_TERMS", "METHODS", "IndexHyperparameters", "fit_index", "tuned_index"]

ALL_TERMS = ("compute", "lateness", "first", "wait", "jobs", "pace")


@dataclass(frozen=True, kw_only=True)
class IndexHyperparameters(Hyperparameters):
    """Hyperparameters of the search for the weights of an index.

    Attributes:
        candidates: number of weights tried per iteration.
        lanes: number of training episodes of each candidate.
        validation_lanes: number of validation episodes that select among the best eighth.
        iterations: number of searches around the best candidates, each half as wide as the one before.
    """

    candidates: Count = 48
    lanes: Size = 6
    validation_lanes: Size = 96
    iterations: Count = 2


def tuned_index(
    problem: QueueingProblem, hyperparameters: IndexHyperparameters, seed: int, terms: Sequence[str]
) -> Router:
    """Return a copy of the tuned index, which is tuned once in this process.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the search.
        terms: as for `fit_index`.
    """
    # Without a budget `pace` is not searched, so the index is the same with and without it.
    paced = problem.config.budget is not None
    terms = tuple(name for name in terms if paced or name != "pace")
    key = ("index", problem.case.values["load"], terms, hyperparameters, seed)
    return copy.deepcopy(problem.cached(key, lambda: fit_index(problem, hyperparameters, seed, terms)))


def fit_index(
    problem: QueueingProblem,
    hyperparameters: IndexHyperparameters,
    seed: int = 0,
    terms: Sequence[str] = ALL_TERMS,
) -> Router:
    """Draw weights log-uniformly, search around the best, and keep the best on validation.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the candidates and of the training episodes.
        terms: whose weights are searched, `pace` only under a budget. The weight of quality is 1, and of
            terms that are not searched 0.
    """
    router = index_router(problem)
    every = scorer_of(router).term_names
    known = every if problem.config.budget is not None else every[:-1]  # without a budget there is no pace
    if not problem.config.first_deadlines:
        known = tuple(name for name in known if name != "first")
    names = [name for name in terms if name in known]
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor([_first_guess(problem, name) for name in names])
    count = hyperparameters.candidates
    draws = centre * 10.0 ** (3.0 * torch.rand(count, len(centre), generator=generator) - 1.5)
    draws[torch.rand(draws.shape, generator=generator) < 0.15] = 0.0  # the best index may lack a term
    draws[0] = centre
    draws = _all_weights(draws, names, every)
    best = draws
    for iteration in range(hyperparameters.iterations + 1):
        if iteration:
            near = best.repeat(count // len(best) - 1, 1)
            width = 0.5**iteration
            noise = torch.randn(len(near), len(known), generator=generator)
            near[:, [every.index(name) for name in known]] *= 10.0 ** (width * noise)
            near = near[:, [every.index(name) for name in names]]
            draws = torch.cat([best, _all_weights(near, names, every)])
        utility = _utility(problem, router, draws, "train", hyperparameters.lanes, seed + iteration)
        best = draws[utility.argsort(descending=True)[: max(4, count // 8)]]
    utility = _utility(problem, router, best, "validation", hyperparameters.validation_lanes, seed)
    return with_weights(router, dict(zip(every, best[utility.argmax()].tolist(), strict=True)))


def _first_guess(problem: QueueingProblem, name: str) -> float:
    if name == "compute":
        return problem.config.compute_weight or 0.1
    late = problem.config.lateness_weight + problem.config.miss_weight
    first = {"lateness": late or 0.1, "first": late or 0.1, "wait": 0.1, "jobs": 0.01, "pace": 0.3}
    return first[name]


def _all_weights(draws: Tensor, names: Sequence[str], every: Sequence[str]) -> Tensor:
    """Return the weights [M, K] of all terms from those of some [M, k]; the weight of quality is 1."""
    weights = torch.zeros(len(draws), len(every))
    weights[:, 0] = 1.0
    weights[:, [every.index(name) for name in names]] = draws
    return weights


def _utility(
    problem: QueueingProblem, router: Router, draws: Tensor, split: str, lanes: int, seed: int
) -> Tensor:
    """Return the mean utility [M] float64 of candidate weights [M, K], on the same episodes for all."""
    scorer, count = scorer_of(router), len(draws)
    core = problem.core(split, problem.case, lanes=lanes * count, seed=1_000 * seed, group=count)
    weights = draws.repeat(lanes, 1).unsqueeze(-1)

    def actions(observation: Tensor) -> Tensor:
        return (scorer.terms(observation) @ weights).squeeze(-1).argmax(dim=-1)

    measured = measure_queues(core, ActionPolicy(actions=actions))
    return torch.from_numpy(measured.utility).reshape(lanes, count).mean(dim=0)


def _fit_of(terms: tuple[str, ...]) -> Fit:
    """Return the fit of the index rule of some terms."""

    def fit(problem: QueueingProblem, hyperparameters: IndexHyperparameters, run: Run) -> Router:
        return tuned_index(problem, hyperparameters, run.seed, terms)

    return fit


METHODS = (
    Method(
        name="index_rule_late",
        family="baseline",
        fit=_fit_of(("compute", "lateness", "first", "wait", "jobs")),
        hyperparameters=IndexHyperparameters,
        about="index_rule plus expected lateness and queue lengths",
    ),
    Method(
        name="index_rule_paced",
        family="baseline",
        fit=_fit_of(ALL_TERMS),
        hyperparameters=IndexHyperparameters,
        about="index_rule_late, compute priced by the remaining budget",
    ),
    Method(
        name="index_rule",
        family="baseline",
        fit=_fit_of(("compute", "wait")),
        hyperparameters=IndexHyperparameters,
        about="predicted quality - compute - expected wait, tuned weights",
    ),
)
