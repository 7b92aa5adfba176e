"""An outcome table from a decision log alone: the outcomes of experts that were not chosen are estimated.

Each outcome is estimated by doubly robust imputation (`logged_feedback.py`): the prediction of an outcome
model, plus for the logged expert its error, divided by the propensity. The estimates are unbiased over the
log's randomness, on every split, so the mean over test rows is the doubly robust estimate of a router. Single
estimates are noisy and can be outside the range of an outcome.
"""

from __future__ import annotations

import numpy as np
import torch

from experts import InputError, OutcomeTable
from experts.table.decision_log import DecisionLog
from experts.table.splitting import split_by_key

from ..routing import RouterError, TextFeatures, load_router
from ..routing.storage import stored_text_digest
from .logged_feedback import imputed
from .outcome_model import cross_fitted, predicted
from .tuning_rows import with_tuning_rows

__all__ = ["estimated_table", "features_for", "logged_text"]

_MIN_EXPLORED = 0.01  # probability of the other experts from which a decision counts as explored


def logged_text(log: DecisionLog) -> TextFeatures | None:
    """Return the text pipeline of the router that served, if it made the log's features.

    Args:
        log: the decisions; None is returned where the router is not known, or its folder is gone.
    """
    if log.router is None or log.features is None:
        return None
    try:
        text = load_router(log.router).text
        if log.pipeline is not None and stored_text_digest(log.router) != log.pipeline:
            return None
    except (OSError, RouterError):
        return None
    return text if text is not None and text.size == log.features.shape[1] else None


def features_for(text: TextFeatures | None, log: DecisionLog) -> np.ndarray | None:
    """Return the features of the logged queries as a router reads them, [T, D] float32; None if unknown.

    Args:
        text: the router's text pipeline; None for a router that reads features.
        log: a log with prompts, or with features that the same pipeline computed. If the router that served
            cannot be loaded, the log's pipeline digest must equal the digest of `text`.

    Raises:
        InputError: the log has no prompts, and its features are those of another or an unknown pipeline.
    """
    if text is None or (log.features is None and log.prompt is None):
        return log.features
    prompts = [] if log.prompt is None else [prompt for prompt in log.prompt if prompt is not None]
    if len(prompts) == len(log) and text.inputs == ("prompt",):
        with torch.inference_mode():
            return text(prompts).numpy()
    if not _computed(text, log):
        problem = "has features that the router that served made of its prompts; this router makes others"
        fix = "serve with --log-prompts true, or with --shadow for this router"
        raise InputError("log", f"{len(log)} decisions", problem, fix)
    return log.features


def _computed(text: TextFeatures, log: DecisionLog) -> bool:
    """Return whether a pipeline computed the log's features; True if the log does not name its pipeline."""
    served = logged_text(log)
    if served is not None:
        return _same(served, text)
    return log.pipeline is None or text.digest == log.pipeline


def _same(one: TextFeatures, other: TextFeatures) -> bool:
    """Return whether two pipelines make the same features."""
    first, second = one.tensors(), other.tensors()
    if one.spec() != other.spec() or first.keys() != second.keys():
        return False
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def estimated_table(log: DecisionLog, *, clip: float | None = 20.0, seed: int = 0) -> OutcomeTable:
    """Return the queries of a log with estimates of every expert's quality and cost.

    Args:
        log: with features; its T decisions with a propensity and a score are the queries, the others are left
            out.
        clip: maximum importance weight of training rows; other rows are not clipped. None: no clipping.
        seed: random seed of the split into training, validation and test rows.

    Raises:
        InputError: the log has no propensities, scores or features, or an expert was never chosen, or nothing
            was explored.
    """
    log = log.scored()
    if log.features is None:
        fix = "export it with features, or train on a table"
        raise InputError("log", len(log), "has no features", fix)
    counts = np.bincount(log.action, minlength=len(log.experts))
    for expert in np.flatnonzero(counts == 0):
        problem = f"never chose {log.experts[int(expert)]}, so its outcomes are unknown"
        raise InputError("log", len(log), problem, "serve with --explore, or leave the expert out")
    if (log.propensity > 1.0 - _MIN_EXPLORED).all():
        problem = "explored nothing: every decision has the propensity 1"
        raise InputError("log", len(log), problem, "serve with --explore 0.1 for a while")
    ids = np.array([f"{name}#{row}" for row, name in enumerate(log.query_id)], dtype=object)
    split = split_by_key([str(name) for name in log.query_id], seed)
    outcome = np.stack([log.quality, log.cost], axis=1)
    shape = (len(log), len(log.experts))
    queries = OutcomeTable(
        experts=log.experts,
        query_id=ids,
        features=log.features,
        quality=np.zeros(shape, dtype=np.float32),
        cost=np.zeros(shape, dtype=np.float32),
        cost_unit=log.cost_unit,
        split=split,
        source=f"a decision log of {len(log)} decisions; outcomes of other experts are estimated",
    )
    table = with_tuning_rows(queries)  # before the estimates, whose range is not checked
    train = np.flatnonzero(table.split == "train")
    rest = np.flatnonzero(table.split != "train")
    model = np.empty((*shape, 2))
    model[train] = cross_fitted(log.features[train], log.action[train], outcome[train], len(log.experts))
    model[rest] = predicted(
        log.features[train], log.action[train], outcome[train], len(log.experts), log.features[rest]
    )
    quality, cost = np.empty(shape), np.empty(shape)
    for rows, limit in ((train, clip), (rest, None)):
        quality[rows], cost[rows] = imputed(log.take(rows), model[rows], limit)
    return table.with_estimates(quality, cost)
