"""One fit of one method, measured and kept on disk: the unit that a comparison is made of.

A cell's folder is named by a digest of all it depends on. Its `cell.json` is written last, so a kill at any
moment loses only the cell under way, and that one goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from experts import OutcomeTable
from experts.io.atomic import replacing, write_json

from ..exports import export
from ..exports.safetensors import write as write_router
from ..methods.budget import fit_method
from ..methods.checkpoint import Checkpoint
from ..methods.method import Run
from ..methods.registry import find_method
from ..methods.training_loop import CurvePoint, Snapshot, Watch
from ..problems.objective import Objective
from ..problems.routing.problem import Task
from ..problems.routing.router_measurement import Measurement, measure
from ..routing import Router, load
from .collapse import JUDGED, Facts
from .tracking import TensorBoard

__all__ = ["Cell", "CellResult", "run_cell", "table_digest"]

_SCHEMA_VERSION = 5
_ARRAYS = ("quality", "compute", "utility", "share")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit: a method with its settings and seed, under an objective."""

    method: str
    settings: Any
    objective: Objective
    seed: int

    def identity(self, task: Task, digest: str) -> dict[str, Any]:
        """All that the fit's result depends on, as JSON."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "method": self.method,
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "objective": {
                name: value
                for name, value in asdict(self.objective).items()
                if value is not None  # no budget and no limit
            },
            "seed": self.seed,
            "select": task.rule.spec(),
            "scorer": json.loads(json.dumps(asdict(task.scorer))),
            "observe_load": task.observe_load,
            "feedback": task.feedback,
            "log": None if task.log is None else asdict(task.log),
            "table": digest,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class CellResult:
    """What a cell gave.

    Attributes:
        cell: which fit.
        folder: where it is kept; its `router/` can be loaded or exported.
        validation: means on the validation rows.
        validation_utility: [V] float32, what it earned on each of them.
        facts: how it went, to tell a collapse by; None for methods that are not judged.
        test: measured on the test rows, query by query.
        seconds: the fit took.
        remarks: of the method on what it made.
    """

    cell: Cell
    folder: Path
    validation: dict[str, float]
    validation_utility: np.ndarray
    facts: Facts | None
    test: Measurement
    seconds: float
    remarks: list[str]

    def router(self) -> Router:
        """Load the trained router."""
        return load(self.folder / "router")


def run_cell(
    cell: Cell,
    task: Task,
    test: OutcomeTable,
    folder: Path,
    *,
    digest: str,
    tensorboard: Path | None = None,
    watch: Watch | None = None,
) -> CellResult:
    """Fit, measure and keep a cell, or read it if it is there already.

    Args:
        cell: which fit.
        task: its rows and form; the cell's objective replaces the task's.
        test: rows to measure on.
        folder: the cells' common folder.
        digest: `table_digest` of the whole table.
        tensorboard: where its curves go, or None.
        watch: is told of every validation measurement.
    """
    identity = cell.identity(task, digest)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    home = folder / f"{cell.method}-{key}"
    if not (home / "cell.json").exists():
        _fit(cell, task.with_objective(cell.objective), test, home, identity, tensorboard, watch)
    return _read(cell, home)


def table_digest(table: OutcomeTable) -> str:
    """A digest of what training and measuring read of a table."""
    digest = hashlib.sha256(json.dumps([*table.experts, table.cost_unit]).encode())
    for array in (table.features, table.quality, table.cost, table.probabilities, table.label):
        digest.update(b"\0" if array is None else np.ascontiguousarray(array).data)
    for labels in (table.split, table.group):
        digest.update(b"\0" if labels is None else "\0".join(map(str, labels)).encode())
    return digest.hexdigest()[:16]


def _fit(
    cell: Cell,
    task: Task,
    test: OutcomeTable,
    home: Path,
    identity: dict[str, Any],
    tensorboard: Path | None,
    watch: Watch | None,
) -> None:
    method = find_method(cell.method)
    home.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(home / "checkpoint.safetensors", identity)
    board = None if tensorboard is None or not method.space else TensorBoard(tensorboard / home.name)
    watches = [item for item in (board, watch) if item is not None]
    curve: tuple[CurvePoint, ...] = ()

    def tell(snapshot: Snapshot) -> None:
        nonlocal curve
        curve = snapshot.curve
        for item in watches:
            item(snapshot)

    began = time.perf_counter()
    run = Run(seed=cell.seed, watch=tell, checkpoint=checkpoint)
    router = fit_method(method, task, cell.settings, run)
    seconds = time.perf_counter() - began
    validation = measure(router, task.validation, task.objective, task.scale, seed=cell.seed)
    train_utility = None
    if method.family in JUDGED:
        train = measure(router, task.train, task.objective, task.scale, seed=cell.seed)
        train_utility = train.means()["utility"]
    result = measure(router, test, task.objective, task.scale, seed=cell.seed)
    if router.rule.causal:
        export(router, home / "router", table=task.validation)
    else:  # kept to be read again, not to be served
        write_router(router, home / "router")
    arrays = {name: getattr(result, name) for name in _ARRAYS}
    arrays["validation_utility"] = validation.utility
    with replacing(home / "measured.safetensors") as temporary:
        save_file(arrays, temporary)
    if board is not None:
        with board:
            values = {"method": cell.method, "seed": cell.seed, **asdict(task.objective)}
            board.finish(cell.settings, values, result.means())
    write_json(
        home / "cell.json",
        {
            **identity,
            "validation": validation.means(),
            "validation_shares": [float(share) for share in validation.shares],
            "train_utility": train_utility,
            "curve": [list(point) for point in curve],
            "entropy": result.entropy,
            "fallbacks": result.fallbacks,
            "seconds": seconds,
            "threads": torch.get_num_threads(),
            "remarks": run.remarks[-1:],
        },
    )
    checkpoint.clear()


def _read(cell: Cell, home: Path) -> CellResult:
    kept = json.loads((home / "cell.json").read_text(encoding="utf-8"))
    arrays = load_file(home / "measured.safetensors")
    test = Measurement(
        **{name: arrays[name] for name in _ARRAYS},
        window=cell.objective.window,
        entropy=kept["entropy"],
        fallbacks=kept["fallbacks"],
    )
    facts = None
    if kept["train_utility"] is not None:
        facts = Facts(
            method=cell.method,
            settings=asdict(cell.settings),
            shares=np.array(kept["validation_shares"]),
            utility=kept["validation"]["utility"],
            train_utility=kept["train_utility"],
            curve=[CurvePoint(*point) for point in kept["curve"]],
        )
    return CellResult(
        cell=cell,
        folder=home,
        validation=kept["validation"],
        validation_utility=arrays["validation_utility"],
        facts=facts,
        test=test,
        seconds=kept["seconds"],
        remarks=kept.get("remarks", []),  # cells of earlier versions have none
    )
