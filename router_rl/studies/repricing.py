"""Evaluate a finished run at other prices: costs are recomputed, and the router is repriced if it can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experts import InputError, OutcomeTable, reprice
from experts.table.missing_outcomes import require_complete
from experts.table.prices import PriceTable

from .runs import TrainedRun

__all__ = ["reprice_run"]


def reprice_run(run: TrainedRun, table: OutcomeTable, prices: PriceTable) -> tuple[TrainedRun, OutcomeTable]:
    """Return a run and its table at other prices; compute keeps the unit that the run was trained in.

    A router of `priced_pg` gets the new mean cost of each expert on the training rows. Other routers decide
    as before and pay the new prices.

    Args:
        run: a finished run.
        table: its table, with token counts.
        prices: prices of its experts, in US dollars.

    Raises:
        InputError: outcomes are missing, an expert lacks token counts that its price needs, or the table's
            costs are not dollars.
    """
    if table.cost_unit not in ("usd", "unknown"):
        problem = (
            f"are US dollars, and the table's costs, by which the run was trained, are {table.cost_unit}"
        )
        raise InputError("prices", prices.source, problem, "train on a table with costs in dollars")
    require_complete(table, "repricing")
    repriced = reprice(table, prices)
    if run.router.scorer.repriceable:
        trained = repriced.split == "train"
        cost = repriced.cost[trained if trained.any() else slice(None)].mean(axis=0, dtype=np.float64)
        run = replace(run, policy=run.router.repriced((cost / run.scale).tolist()))
        note = "the router uses the new prices without retraining"
    else:
        note = (
            "the router does not use prices, so its decisions do not change; priced_pg trains one that does"
        )
    return run, replace(repriced, notes=(*repriced.notes, note))
