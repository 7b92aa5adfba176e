"""A finished run at other prices: the table's costs anew, and the router told of them where it can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experts import InputError, OutcomeTable, reprice
from experts.table.prices import PriceTable

from ..routing import PricedScorer
from .runs import TrainedRun

__all__ = ["priced"]


def priced(run: TrainedRun, table: OutcomeTable, prices: PriceTable) -> tuple[TrainedRun, OutcomeTable]:
    """The run and its table at other prices; compute keeps the unit that the run was trained in.

    A router of `priced_pg` is told what its experts now take on average on the training rows. Any other
    decides as before, and pays the new prices.

    Args:
        run: a finished run.
        table: its table, with token counts.
        prices: of its experts.

    Raises:
        InputError: an expert has no token counts where its price needs them, or the run counts compute in
            something else than dollars.
    """
    if table.cost_unit not in ("usd", "unknown"):
        problem = (
            f"are US dollars, and the table's costs, by which the run was trained, are {table.cost_unit}"
        )
        raise InputError("prices", prices.source, problem, "train on a table with costs in dollars")
    fresh = reprice(table, prices)
    scorer = run.router.scorer
    if isinstance(scorer, PricedScorer):
        trained = fresh.split == "train"
        cost = fresh.cost[trained if trained.any() else slice(None)].mean(axis=0, dtype=np.float64)
        run = replace(run, router=run.router.repriced((cost / run.scale).tolist()))
        note = "the router was told the new prices; it was not trained again"
    else:
        note = "the router does not know prices and decides as before; priced_pg trains one that does"
    return run, replace(fresh, notes=(*fresh.notes, note))
