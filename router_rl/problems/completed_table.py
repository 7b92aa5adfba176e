"""Estimates of the missing outcomes of a sparse table, from the features and the other experts' outcomes.

The estimate of expert e's outcome on query t has two parts:

    y_te = q_e(x_t) + s_e c S_t / (1 + c (n_t - 1))

- q_e is a ridge regression on the features, fitted to the queries that e answered (`outcome_model.py`);
- the other part is what the answers of the other experts to the same query say: a query on which they did
  worse than predicted is a hard one. S_t is the sum of the n_t known residuals of the query, each divided by
  its expert's deviation s_e, and c the mean correlation of such residuals between two experts. This is the
  best linear prediction if all pairs of experts have the correlation c (Henderson 1975,
  https://doi.org/10.2307/2529430).

Residuals are leave-one-out, so a row's own outcome never is in its residual's regression. Quality and cost
are estimated separately, and estimates are clipped to the range of the expert's known outcomes. Known
outcomes are kept. The estimates are unbiased as far as the regressions hold, if whether an expert answered
depends on the features and the known outcomes alone: not if experts skip the queries that they would fail.
"""

from __future__ import annotations

import numpy as np

from experts import InputError, OutcomeTable

from .outcome_model import MIN_ROWS, fit_ridge, standardised

__all__ = ["completed"]


def completed(table: OutcomeTable) -> OutcomeTable:
    """Return the rows of a table with estimates of the missing outcomes.

    Args:
        table: training rows with features. A table without missing outcomes is returned unchanged.

    Raises:
        InputError: an expert answered none of the rows.
    """
    if not table.missing:
        return table
    assert table.features is not None
    answered = table.answered
    never = np.flatnonzero(~answered.any(axis=0))
    if len(never):
        problem = f"answered none of the {len(table)} training queries"
        raise InputError("table", table.experts[int(never[0])], problem, "leave the expert out of the table")
    (x,) = standardised(table.features, table.features)
    return table.with_estimates(_completed(x, table.quality, answered), _completed(x, table.cost, answered))


def _completed(x: np.ndarray, values: np.ndarray, answered: np.ndarray) -> np.ndarray:
    """Return values [T, N] float32 without missing ones, given x [T, D] float64 and which are known."""
    predicted = np.empty(values.shape, dtype=np.float32)
    residual = np.zeros(values.shape, dtype=np.float32)  # in deviations; 0 where there is none
    deviation = np.zeros(values.shape[1])
    for expert in range(values.shape[1]):
        rows = np.flatnonzero(answered[:, expert])
        known = values[rows, expert].astype(np.float64)
        predicted[:, expert], left_out = _predicted(x, rows, known)
        deviation[expert] = np.sqrt(np.mean(left_out**2))
        if deviation[expert] > 0:
            residual[rows, expert] = left_out / deviation[expert]
    varies = answered & (deviation > 0)
    total, count = residual.sum(axis=1, dtype=np.float64), varies.sum(axis=1)
    pairs = float((count * (count - 1)).sum())
    together = float((total**2 - (residual**2).sum(axis=1, dtype=np.float64)).sum())
    correlation = min(max(together / pairs, 0.0), 1.0) if pairs else 0.0
    shared = correlation * total / (1.0 + correlation * np.maximum(count - 1, 0))
    complete = np.array(values)
    for expert in range(values.shape[1]):
        own = answered[:, expert]
        low, high = values[own, expert].min(), values[own, expert].max()
        estimate = predicted[~own, expert] + deviation[expert] * shared[~own]
        complete[~own, expert] = estimate.clip(low, high)
    return complete


def _predicted(x: np.ndarray, rows: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions of all T rows, and the leave-one-out residuals of those with a known outcome."""
    if len(rows) < MIN_ROWS:
        level = float(known.mean())
        return np.full(len(x), level), (known - level) * len(rows) / max(len(rows) - 1, 1)
    fit = fit_ridge(x[rows], known[:, None])
    return fit.level[0] + (x - fit.centre) @ fit.weight[:, 0], fit.residual[:, 0]
