"""The router of all index rules: predictions of the training rows, expected waits, and weights to be set."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from envs.service_time import service_times
from experts import OutcomeTable

from ...problems.queueing.problem import QueueingProblem
from ...routing import (
    Hard,
    QueueConstants,
    QueueScorer,
    Router,
    ServerScorer,
    queue_state_inputs,
    server_state_inputs,
)
from ..baselines.ridge import solve_ridge

__all__ = ["index_router", "scorer_of", "with_weights"]

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LONGEST = 10.0  # mean service times


def index_router(problem: QueueingProblem) -> Router:
    """Return a router by index whose predictions are fitted; every weight and price is 0.

    Args:
        problem: with one case. The predictions are fitted once for a case.

    Returns:
        A router of features [T, D] and of the queues' state [T, 3 N + 6], or of the state of model servers
        [T, 7 N + 8], in evaluation mode.
    """
    key = ("index_router", problem.case.values["load"])
    return copy.deepcopy(problem.cached(key, lambda: _fitted(problem)))


def scorer_of(router: Router) -> QueueScorer:
    """Return the scorer of a router by index."""
    return cast(QueueScorer, router.scorer)


def with_weights(router: Router, weights: Mapping[str, float]) -> Router:
    """Set the weights of a router's index, in place.

    Args:
        router: by index.
        weights: by term, such as `quality` or `wait`; 0 for terms that are not named.

    Returns:
        The same router.
    """
    scorer = scorer_of(router)
    scorer.weights.copy_(torch.tensor([weights.get(name, 0.0) for name in scorer.term_names]))
    return router


def _fitted(problem: QueueingProblem) -> Router:
    train = problem.table.part("train")
    assert train.features is not None
    scorer = _scorer(problem, train.features.shape[1])
    features = torch.from_numpy(train.features).double()
    spread = features.std(dim=0, correction=0)
    scorer.shift.copy_(features.mean(dim=0))
    scorer.scale.copy_(torch.where(spread > 1e-6, 1.0 / spread.clamp(min=1e-6), 0.0))
    with torch.no_grad():
        weight, bias = _predictions(problem, scorer)
        scorer.estimate.weight.copy_(weight)
        scorer.estimate.bias.copy_(bias)
    inputs = queue_state_inputs if problem.lengths is None else server_state_inputs
    return Router(scorer, Hard(), problem.experts, state=inputs(problem.experts)).eval()


def _scorer(problem: QueueingProblem, features: int) -> QueueScorer:
    """Return an untrained scorer with the constants of the problem's queues, or of its model servers."""
    constants, experts = problem.constants(), len(problem.experts)
    if isinstance(constants, QueueConstants):
        return QueueScorer(features + 3 * experts + 6, experts, constants)
    return ServerScorer(features + 7 * experts + 8, experts, constants)


def _predictions(problem: QueueingProblem, scorer: QueueScorer) -> tuple[Tensor, Tensor]:
    """Ridge regressions of quality, compute and service time, each with its best penalty on validation."""
    x, y = _regression_rows(problem, "train", scorer)
    x_validation, y_validation = _regression_rows(problem, "validation", scorer)
    chosen: list[tuple[Tensor, Tensor]] = []
    for target, truth in zip(y.chunk(3, dim=1), y_validation.chunk(3, dim=1), strict=True):
        fits = [solve_ridge(x, target, penalty) for penalty in _PENALTIES]
        errors = [float((x_validation @ weight.T + bias - truth).square().mean()) for weight, bias in fits]
        chosen.append(fits[errors.index(min(errors))])
    return torch.cat([weight for weight, _ in chosen]), torch.cat([bias for _, bias in chosen])


def _regression_rows(problem: QueueingProblem, split: str, scorer: QueueScorer) -> tuple[Tensor, Tensor]:
    """Standardised features [T, D], and quality, compute and service seconds [T, 3 N], float64."""
    rows = problem.table.part(split)
    assert rows.features is not None
    x = (torch.from_numpy(rows.features) - scorer.shift) * scorer.scale
    compute = torch.from_numpy(rows.cost).double() / problem.units.compute
    # A few service times are very long: uncapped, they would decide the penalty.
    longest = _LONGEST * torch.tensor(problem.units.service, dtype=torch.float64)
    service = torch.minimum(torch.from_numpy(_service(problem, rows)), longest)
    return x.double(), torch.cat([torch.from_numpy(rows.quality).double(), compute, service], dim=1)


def _service(problem: QueueingProblem, rows: OutcomeTable) -> np.ndarray:
    """Seconds [T, N] that each expert works on each query, with nothing else to do."""
    if problem.lengths is None:
        return service_times(rows)
    if problem.lengths.by_trace:  # the query does not decide the length
        return np.tile(np.array(problem.units.service), (len(rows), 1))
    assert rows.tokens_in is not None
    assert rows.tokens_out is not None
    first, token, _, _, _, prompt_s = np.array(problem.units.servers).T
    more = prompt_s * (rows.tokens_in - problem.lengths.means()[:, 0])
    return np.maximum(first + more, 0.0) + token * (rows.tokens_out - 1.0)
