"""The run or the exported router that a positional argument names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experts import InputError

if TYPE_CHECKING:
    from ..routing import Router
    from ..studies.runs import TrainedRun

__all__ = ["run_or_router"]


def run_or_router(folder: Path) -> TrainedRun | Router:
    """Return a finished run, or the router of an export.

    Args:
        folder: a run folder of `train`, or a folder of `export`.

    Raises:
        InputError: it is neither, or the run is not finished.
        RouterError: the router cannot be read.
    """
    from ..routing import load_router
    from ..studies.runs import read_run

    if any((folder / name).exists() for name in ("run.json", "identity.json")):
        return read_run(folder)
    if any((folder / name).exists() for name in ("router.json", "policy.json")):
        return load_router(folder)
    problem = "is not a run folder, nor an exported router"
    raise InputError("run", str(folder), problem, "give the --out folder of `train` or `export`")
