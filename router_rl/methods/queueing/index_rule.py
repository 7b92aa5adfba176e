"""Index rules: the expert with the best weighted sum of predictions and expected waits, weights tuned.

`router_rl.routing.QueueScorer` defines the terms of the index, `weight_search` the search.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ...problems.queueing.problem import QueueingProblem
from ...problems.queueing.queue_measurement import measure_queues
from ...routing import Router
from ..method import Fit, Method, Run
from .index_router import index_router, scorer_of, with_weights
from .learned_latency import learned_router
from .server_rules import needs_model_servers
from .weight_search import IndexHyperparameters, candidate_utility, search_weights

__all__ = ["ALL_TERMS", "METHODS", "fit_index", "strongest_index", "tuned_index"]

ALL_TERMS = ("compute", "lateness", "first", "wait", "jobs", "pace")


def tuned_index(
    problem: QueueingProblem,
    hyperparameters: IndexHyperparameters,
    seed: int,
    terms: Sequence[str],
    *,
    learned: bool = False,
) -> Router:
    """Return a copy of the tuned index, which is tuned once in this process.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the search.
        terms, learned: as for `fit_index`.
    """
    # Without a budget `pace` is not searched, so the index is the same with and without it.
    paced = problem.config.budget is not None
    terms = tuple(name for name in terms if paced or name != "pace")
    key = ("index", problem.case.values["load"], terms, hyperparameters, seed, learned)
    return copy.deepcopy(
        problem.cached(key, lambda: fit_index(problem, hyperparameters, seed, terms, learned=learned))
    )


def strongest_index(
    problem: QueueingProblem, hyperparameters: IndexHyperparameters, seed: int, lanes: int
) -> Router:
    """Return the tuned index of all terms; of model servers with learned times where validation is better.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the search.
        lanes: number of validation episodes.
    """
    plain = tuned_index(problem, hyperparameters, seed, ALL_TERMS)
    if problem.lengths is None:
        return plain
    learned = tuned_index(problem, hyperparameters, seed, ALL_TERMS, learned=True)

    def utility(router: Router) -> float:
        core = problem.core("validation", problem.case, lanes=lanes, seed=500_000)
        return float(measure_queues(core, router).utility.mean())

    return learned if utility(learned) > utility(plain) else plain


def fit_index(
    problem: QueueingProblem,
    hyperparameters: IndexHyperparameters,
    seed: int = 0,
    terms: Sequence[str] = ALL_TERMS,
    *,
    learned: bool = False,
) -> Router:
    """Draw weights log-uniformly, search around the best, and keep the best on validation.

    Args:
        problem: with one case.
        hyperparameters: of the search.
        seed: of the candidates and of the training episodes.
        terms: whose weights are searched, `pace` only under a budget. The weight of quality is 1, and of
            terms that are not searched 0.
        learned: correct the expected times of model servers by a network (`learned_router`).
    """
    router = learned_router(problem, seed) if learned else index_router(problem)
    every = scorer_of(router).term_names
    known = every if problem.config.budget is not None else every[:-1]  # without a budget there is no pace
    if not problem.config.first_deadlines:
        known = tuple(name for name in known if name != "first")
    names = [name for name in terms if name in known]
    centre = torch.tensor([_first_guess(problem, name) for name in names])

    def utility(draws: Tensor, split: str, lanes: int, seed: int) -> Tensor:
        return _utility(problem, router, _all_weights(draws, names, every), split, lanes, seed)

    places = [known.index(name) for name in names]
    best = search_weights(centre, hyperparameters, seed, utility, columns=len(known), places=places)
    return with_weights(router, {"quality": 1.0, **dict(zip(names, best.tolist(), strict=True))})


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
    scorer, weights = scorer_of(router), draws.repeat(lanes, 1).unsqueeze(-1)

    def actions(observation: Tensor) -> Tensor:
        return (scorer.terms(observation) @ weights).squeeze(-1).argmax(dim=-1)

    return candidate_utility(problem, len(draws), actions, split, lanes=lanes, seed=seed)


def _fit_of(terms: tuple[str, ...], *, learned: bool = False) -> Fit:
    """Return the fit of the index rule of some terms."""

    def fit(problem: QueueingProblem, hyperparameters: IndexHyperparameters, run: Run) -> Router:
        return tuned_index(problem, hyperparameters, run.seed, terms, learned=learned)

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
        name="index_rule_learned",
        family="baseline",
        fit=_fit_of(("compute", "lateness", "first", "wait", "jobs"), learned=True),
        hyperparameters=IndexHyperparameters,
        about="index_rule_late with learned times of model servers",
        refuses=needs_model_servers,
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
