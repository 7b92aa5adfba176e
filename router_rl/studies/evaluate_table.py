"""Measure a finished run beside random, the best single expert and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experts import OutcomeTable

from ..methods.baselines.oracle import measure_oracle
from ..problems.load import check_placement, load_report
from ..problems.prompt_features import featurised
from ..problems.routing.router_measurement import measure
from .results import budget_facts
from .runs import TrainedRun

__all__ = ["evaluate_run"]


def evaluate_run(
    run: TrainedRun, table: OutcomeTable, split: str, placement: Sequence[int] | None = None
) -> dict[str, Any]:
    """Measure a run's router on the rows of one split.

    Args:
        run: the run; its objective and unit of compute are used.
        table: rows with the run's experts and features.
        split: train, validation or test.
        placement: the device of each expert, for load by device; or None.

    Raises:
        RouterError: the experts or the feature size are not the router's.
        InputError: the split is unknown or empty, or the placement does not fit the experts.
    """
    if placement is not None:
        check_placement(placement, len(table.experts))
    if table.features is None and run.router.text is not None:
        table = featurised(table, run.router.text)
    features = 0 if table.features is None else table.features.shape[1]
    run.router.check_pool(table.experts, features)
    rows = table.part(split)
    objective = run.objective
    found = measure(run.router, rows, objective, run.scale, seed=run.facts["seed"])
    can = run.router.allowed
    allowed = np.ones(len(rows.experts), dtype=bool) if can is None else can.cpu().numpy()
    sizes = run.router.rule.sizes(len(rows.experts))
    oracle = measure_oracle(rows, objective, run.scale, sizes, allowed)
    alone = objective.utility(rows.quality, rows.cost / run.scale, np.zeros_like(rows.cost))
    single = alone.mean(axis=0, dtype=np.float64)
    alone_within = rows.cost.mean(axis=0, dtype=np.float64) / run.scale <= (objective.budget or np.inf)
    best = int(np.where(allowed & alone_within, single, -np.inf).argmax())
    return {
        "run": str(run.folder),
        "method": run.facts["method"],
        "objective": run.facts["objective"],
        "split": split,
        "queries": len(rows),
        "experts": list(table.experts),
        split: {**found.means(), "shares": [float(share) for share in found.shares]},
        "load": load_report(found.share, found.drops, objective.window, placement),
        **budget_facts(objective, found.means()["compute"]),
        "fallbacks": found.fallbacks,
        "random_utility": float(single[allowed].mean()),
        "best_single_utility": float(single[best]),
        "best_single_expert": table.experts[best],
        "oracle_utility": oracle.means()["utility"],
        "notes": list(table.notes),
    }
