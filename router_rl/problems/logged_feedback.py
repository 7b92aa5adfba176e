"""Learn from a log: what every expert would have done, estimated from the one that was asked.

The utility of expert e on query t is estimated by doubly robust imputation (Dudik et al. 2011, eq. 5,
https://arxiv.org/abs/1103.4601):

    u_te = q_e(x_t) + 1[a_t = e] min(1 / p_t, clip) (r_t - q_e(x_t))

q being the cross-fitted model of the outcomes (`outcome_model.py`), and quality and cost standing for u in
turn. Without a clip the mean of `u_te` over the draws of the log is what e would have done, so a mean over
validation rows is the doubly robust estimate of a router; a lower clip trades bias for variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog, epsilon_greedy, log_decisions

from .outcome_model import cross_fitted, predicted

__all__ = ["LogConfig", "impute", "imputed"]


@dataclass(frozen=True, kw_only=True)  # no slots: the command line reads its fields
class LogConfig:
    """How the log was made that a router learns from, and how it is read.

    Attributes:
        epsilon: probability that a query's expert was drawn evenly; otherwise it was the expert of the
            highest mean quality on the training rows.
        clip: the largest weight of an outcome while learning; validation is never clipped. None: no limit.
        seed: of the draws.
    """

    epsilon: float = 1.0
    clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon <= 1.0:
            fix = "use more than 0, to 1: a log that never tries an expert teaches nothing about it"
            raise InputError("log.epsilon", self.epsilon, "leaves experts untried", fix)
        if self.clip is not None and not self.clip >= 0.0:
            raise InputError("log.clip", self.clip, "is no weight", "use 0 or more, or null")


def impute(
    train: OutcomeTable, validation: OutcomeTable, config: LogConfig
) -> tuple[OutcomeTable, OutcomeTable]:
    """Hide all but one outcome of each row, and estimate the others from those that are left.

    Args:
        train, validation: rows with features and all their outcomes.
        config: how the log is made and read.

    Returns:
        the same rows with estimates in place of outcomes; models of the validation rows have seen the
        training rows alone.
    """
    assert train.features is not None
    assert validation.features is not None
    count = len(train.experts)
    usual = int(train.quality.mean(axis=0, dtype=np.float64).argmax())

    def logged(rows: OutcomeTable, part: int) -> DecisionLog:
        policy = epsilon_greedy(np.full(len(rows), usual), count, config.epsilon)
        return log_decisions(rows, policy, seed=2 * config.seed + part)

    learned, judged = logged(train, 0), logged(validation, 1)
    seen = np.stack([learned.quality, learned.cost], axis=1)
    within = cross_fitted(train.features, learned.action, seen, count)
    beyond = predicted(train.features, learned.action, seen, count, validation.features)
    return (
        train.with_estimates(*imputed(learned, within, config.clip)),
        validation.with_estimates(*imputed(judged, beyond, None)),
    )


def imputed(log: DecisionLog, model: np.ndarray, clip: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Estimated quality and cost [T, N] float64 of every expert.

    Args:
        log: T decisions.
        model: [T, N, 2] float, predicted quality and cost.
        clip: the largest weight, or None.
    """
    row = np.arange(len(log))
    seen = np.stack([log.quality, log.cost], axis=1).astype(np.float64)
    weight = np.minimum(1.0 / log.propensity.astype(np.float64), np.inf if clip is None else clip)
    found = model.copy()
    found[row, log.action] += weight[:, None] * (seen - model[row, log.action])
    return found[:, :, 0], found[:, :, 1]
