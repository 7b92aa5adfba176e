"""Learn from a decision log (bandit feedback): estimate the outcomes of experts that were not selected.

The utility of expert e on query t is estimated by doubly robust imputation (Dudik et al. 2011, eq. 5,
https://arxiv.org/abs/1103.4601):

    u_te = q_e(x_t) + 1[a_t = e] min(1 / p_t, clip) (r_t - q_e(x_t))

with q the cross-fitted outcome model (`outcome_model.py`), applied to quality and cost separately. Without
clipping, `u_te` is unbiased over the randomness of the log, so the mean over validation rows is the doubly
robust estimate of a router. Clipping trades bias for variance.
"""

from __future__ import annotations

import numpy as np

from experts import OutcomeTable
from experts.table.decision_log import DecisionLog, epsilon_greedy, log_decisions

from .log_config import LogConfig
from .outcome_model import cross_fitted, predicted

__all__ = ["LogConfig", "impute", "imputed"]


def impute(train: OutcomeTable, *others: OutcomeTable, config: LogConfig) -> tuple[OutcomeTable, ...]:
    """Hide all but one outcome of each row, and impute the others.

    Args:
        train: training rows with features and all outcomes.
        others: validation and tuning rows with features and all outcomes.
        config: how the log is simulated and used.

    Returns:
        the same rows with estimates in place of outcomes; the models for the other rows are fitted to the
        training rows only.
    """
    assert train.features is not None
    count = len(train.experts)
    default = int(train.quality.mean(axis=0, dtype=np.float64).argmax())

    def logged(rows: OutcomeTable, part: int) -> DecisionLog:
        policy = epsilon_greedy(np.full(len(rows), default), count, config.epsilon)
        return log_decisions(rows, policy, seed=(1 + len(others)) * config.seed + part)

    train_log = logged(train, 0)
    outcome = np.stack([train_log.quality, train_log.cost], axis=1)
    within = cross_fitted(train.features, train_log.action, outcome, count)
    estimated = [train.with_estimates(*imputed(train_log, within, config.clip))]
    for part, rows in enumerate(others, start=1):
        assert rows.features is not None
        beyond = predicted(train.features, train_log.action, outcome, count, rows.features)
        estimated.append(rows.with_estimates(*imputed(logged(rows, part), beyond, None)))
    return tuple(estimated)


def imputed(log: DecisionLog, model: np.ndarray, clip: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the doubly robust estimates of quality and cost [T, N] float64 of every expert.

    Args:
        log: T decisions.
        model: [T, N, 2] float, predicted quality and cost.
        clip: maximum importance weight, or None.
    """
    row = np.arange(len(log))
    observed = np.stack([log.quality, log.cost], axis=1).astype(np.float64)
    weight = np.minimum(1.0 / log.propensity.astype(np.float64), np.inf if clip is None else clip)
    estimates = model.copy()
    estimates[row, log.action] += weight[:, None] * (observed - model[row, log.action])
    return estimates[:, :, 0], estimates[:, :, 1]
