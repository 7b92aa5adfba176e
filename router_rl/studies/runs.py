"""A run folder: what `train` leaves and `evaluate` and `export` read.

run.json          what was trained on what, and how it did; written last
config.yaml       the resolved configuration
router/           the trained router, as `router_rl.routing.load` reads it
tensorboard/      curves
cells/            finished tries and the checkpoint of the one under way
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experts import InputError, OutcomeTable
from experts.io.atomic import writable_folder, write_json

from ..exports.safetensors import write
from ..methods.registry import ORACLE, find_method
from ..methods.training_loop import Watch
from ..problems.objective import Objective
from ..problems.routing.problem import Task
from ..routing import Router, TextFeatures, load
from .collapse import Reference, diagnose
from .trial import Cell, CellResult, run_cell, table_digest

__all__ = ["SCHEMA_VERSION", "TrainedRun", "read_run", "train_run"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: where it is.
        facts: the content of `run.json`.
        router: the trained router.
    """

    folder: Path
    facts: dict[str, Any]
    router: Router

    @property
    def objective(self) -> Objective:
        """What it was trained to maximise."""
        return Objective(**self.facts["objective"])

    @property
    def scale(self) -> float:
        """The unit of compute, in the table's cost unit."""
        return float(self.facts["compute_unit"])


def train_run(
    table: OutcomeTable,
    task: Task,
    method: str,
    out: Path | str,
    *,
    seed: int = 0,
    tries: int = 1,
    settings: dict[str, Any] | None = None,
    watch: Watch | None = None,
    text: TextFeatures | None = None,
) -> TrainedRun:
    """Train one method and leave a run folder; a run that was stopped goes on where it was.

    Args:
        table: the whole table.
        task: its rows, the objective and the router's form.
        method: a name in `METHODS`.
        out: the run folder.
        seed: of everything random.
        tries: settings tried; the best on validation wins.
        settings: values for some of the method's settings; then there is one try.
        watch: is told of every validation measurement.
        text: what made the table's features of its prompts; the router keeps it.

    Raises:
        InputError: the method cannot be fitted, or the folder cannot be written or holds another run.
    """
    if method == ORACLE:
        raise InputError("method", method, "knows the outcomes and cannot be fitted", "choose another")
    found = find_method(method)
    found.require(task.rule)
    candidates = found.candidates(tries) if settings is None else [found.configure(settings)]
    cells = [
        Cell(method=method, settings=candidate, objective=task.objective, seed=seed)
        for candidate in candidates
    ]
    folder = writable_folder("out", out)
    digest = table_digest(table)
    identity = cells[0].identity(task, digest) | {"tries": len(cells)}
    _check_same_run(folder, identity)
    write_json(folder / "identity.json", identity)
    test = table.part("test")
    results = [
        run_cell(
            cell,
            task,
            test,
            folder / "cells",
            digest=digest,
            tensorboard=folder / "tensorboard",
            watch=watch,
        )
        for cell in cells
    ]
    best = max(results, key=lambda result: result.validation["utility"])
    _keep(best.folder / "router", folder / "router")
    router = best.router()
    if text is not None:
        router.text = text
        write(router, folder / "router")
    facts = _facts(best, table, task, len(cells))
    write_json(folder / "run.json", facts)
    return TrainedRun(folder=folder, facts=facts, router=router)


def read_run(folder: Path | str) -> TrainedRun:
    """Read a finished run.

    Raises:
        InputError: it is no run folder, is not finished, or is of another schema version.
        RouterError: its router cannot be read.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.exists():
        if (folder / "identity.json").exists():
            raise InputError("run", str(folder), "is not finished", "run the same train command again")
        raise InputError("run", str(folder), "is not a run folder", "give the --out folder of `train`")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("run", str(path), f"cannot be read ({error})", "train again") from error
    if found != SCHEMA_VERSION:
        raise InputError(
            "run",
            str(folder),
            f"has schema version {found}, this release reads {SCHEMA_VERSION}",
            "train again, or use the release that wrote it",
        )
    return TrainedRun(folder=folder, facts=facts, router=load(folder / "router"))


def _check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "identity.json"
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(name for name in {*identity, *before} if identity.get(name) != before.get(name))
    if changed:
        raise InputError(
            "out",
            str(folder),
            f"holds a run with another {', '.join(changed)}",
            "use another --out, or the same settings as before",
        )


def _keep(router: Path, target: Path) -> None:
    """Copy an exported router, with its parity record, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        fresh = shutil.copytree(router, Path(temporary) / "export")
        if target.exists():
            target.rename(Path(temporary) / "before")
        fresh.rename(target)


def _facts(result: CellResult, table: OutcomeTable, task: Task, tries: int) -> dict[str, Any]:
    assert table.features is not None
    return {
        "schema_version": SCHEMA_VERSION,
        "method": result.cell.method,
        "settings": asdict(result.cell.settings),
        "tries": tries,
        "seed": result.cell.seed,
        "objective": asdict(result.cell.objective),
        "select": task.rule.spec(),
        "scorer": asdict(task.scorer),
        "feedback": task.feedback,
        "log": None if task.log is None else asdict(task.log),
        "table": table.source,
        "table_digest": table_digest(table),
        "experts": list(table.experts),
        "features": int(table.features.shape[1]),
        "compute_unit": task.scale,
        "cost_unit": table.cost_unit,
        "validation": result.validation,
        "collapse": None if result.facts is None else diagnose(result.facts, Reference.of(task)).to_json(),
        "test": {**result.test.means(), "shares": [float(share) for share in result.test.shares]},
        "fit_seconds": result.seconds,
        "notes": [*table.notes, *task.notes, *result.remarks],
        "versions": {
            "router-rl": version("router-rl"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
