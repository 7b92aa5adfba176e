"""An outcome table from a decision log alone: the outcomes of experts that were not chosen are estimated.

Each outcome is estimated by doubly robust imputation (`logged_feedback.py`): the prediction of an outcome
model, plus for the logged expert its error, divided by the propensity. The estimates are unbiased over the
log's randomness, on every split, so the mean over test rows is the doubly robust estimate of a router. Single
estimates are noisy and can be outside the range of an outcome.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np

from experts import InputError, OutcomeTable
from experts.io.json_types import check_type, parse_json
from experts.table.decision_log import DecisionLog
from experts.table.parquet_file import opened_parquet
from experts.table.splitting import split_by_key

from ..routing import RouterError, TextFeatures, load_router
from ..routing.storage import stored_text_digest
from .logged_feedback import imputed
from .outcome_model import cross_fitted, predicted
from .tuning_rows import with_tuning_rows

__all__ = ["estimated_table", "read_logged"]

_MIN_EXPLORED = 0.01  # probability of the other experts from which a decision counts as explored


class _Facts(TypedDict):
    """The metadata of a log: names of the experts, and the folder of the router that served."""

    experts: list[str]
    router: str | None


class _ServedFacts(_Facts, total=False):
    """The metadata of a log, with the digest of the text pipeline that made the features."""

    pipeline: str | None


def read_logged(path: Path | str) -> tuple[OutcomeTable, TextFeatures | None]:
    """Read a log of `log export` as a table with estimates, and the text pipeline of its features.

    Args:
        path: Parquet file of decisions; its metadata name the experts and the router that served.

    Returns:
        the table; and the pipeline that made its features of prompts, None if the router that served is gone.

    Raises:
        InputError: the file is no decision log, or nothing can be learned from it.
    """
    fix = "give the Parquet file of `log export`"
    with opened_parquet("log", Path(path), fix) as file:
        facts = _facts((file.schema_arrow.metadata or {}).get(b"router_rl"))
        names = [] if "expert" not in file.schema_arrow.names else file.read(["expert"])["expert"].to_pylist()
    experts = facts["experts"] or sorted({str(name) for name in names if name is not None})
    if not experts:
        raise InputError("log", str(path), "has no column `expert`", fix)
    log = DecisionLog.read(path, experts)
    table = estimated_table(log)
    return table, _pipeline(facts, table)


def _facts(metadata: bytes | None) -> _ServedFacts:
    """Return the metadata of a log; no experts if it is of another origin."""
    try:
        facts = parse_json(metadata or b"{}")
        check_type(facts, _ServedFacts, "")
    except ValueError:
        return {"experts": [], "router": None}
    return facts


def _pipeline(facts: _ServedFacts, table: OutcomeTable) -> TextFeatures | None:
    """Return the text pipeline of the router that served, if it made the table's features."""
    folder, made_by = facts["router"], facts.get("pipeline")
    if folder is None or table.features is None:
        return None
    try:
        text = load_router(folder).text
        if made_by is not None and stored_text_digest(folder) != made_by:
            return None
    except (OSError, RouterError):
        return None
    return text if text is not None and text.size == table.features.shape[1] else None


def estimated_table(
    log: DecisionLog, *, cost_unit: str = "usd", clip: float | None = 20.0, seed: int = 0
) -> OutcomeTable:
    """Return the queries of a log with estimates of every expert's quality and cost.

    Args:
        log: T decisions with features; its decisions are the queries.
        cost_unit: unit of the costs.
        clip: maximum importance weight of training rows; other rows are not clipped. None: no clipping.
        seed: random seed of the split into training, validation and test rows.

    Raises:
        InputError: the log has no features, or an expert was never chosen, or nothing was explored.
    """
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
        cost_unit=cost_unit,
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
