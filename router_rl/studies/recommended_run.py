"""The recommended router of a comparison, read as a run that can be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import InputError

from ..problems.routing.folding import for_objective
from ..routing import Router, load
from .results_reader import read_results
from .runs import TrainedRun

__all__ = ["is_comparison", "read_recommended"]


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is the output of a comparison, not of a run."""
    return (folder / "results.json").exists() and not (folder / "run.json").exists()


def read_recommended(folder: Path) -> TrainedRun:
    """Read the router that a comparison recommends.

    A router that was trained for several compute weights is fixed at the recommended one.

    Args:
        folder: output folder of a comparison.

    Raises:
        InputError: the comparison recommends one expert for every query, or nothing that was saved.
        RouterError: the saved router cannot be read.
    """
    results = read_results(folder)
    recommendation: dict[str, Any] = results.get("recommendation") or {}
    router = recommendation.get("router")
    if recommendation.get("expert") is not None:
        fix = f"call {recommendation['expert']} without a router, or export one of the folders in trials/"
        raise InputError("run", str(folder), "recommends one expert for every query", fix)
    if router is None:
        raise InputError("run", str(folder), "recommends no saved router", "run compare again with --out")
    values: dict[str, float] = recommendation.get("weights") or {}
    weights = {name: values[name] for name in ("compute_weight", "load_weight") if name in values}
    facts = {
        "problem": results["problem"],
        "objective": weights or None,
        "compute_unit": (results.get("table_facts") or {}).get("compute_unit"),
    }
    run = TrainedRun(folder=folder, facts=facts, policy=load(folder / router["folder"]))
    if isinstance(run.policy, Router) and weights:
        fixed = for_objective(run.policy, run.objective)
        return TrainedRun(folder=folder, facts=facts, policy=fixed)
    return run
