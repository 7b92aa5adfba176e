"""Registry of experiment trackers: module, class, and the library that must be installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from experts import InputError
from experts.io.errors import unknown_name

from .tracker import Tracker, Trackers

__all__ = ["TRACKERS", "check_trackers", "new_trackers"]

TRACKERS: dict[str, tuple[str, str, str]] = {
    "tensorboard": ("tensorboard_tracker", "TensorBoardTracker", "tensorboard"),
    "mlflow": ("mlflow_tracker", "MLflowTracker", "mlflow"),
    "wandb": ("wandb_tracker", "WandbTracker", "wandb"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers exist and that their libraries are installed; none is imported.

    Args:
        names: names in `TRACKERS`.

    Raises:
        InputError: a name is unknown, or its library is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("track", name, TRACKERS)
        if find_spec(TRACKERS[name][2]) is None:
            problem, fix = f"{TRACKERS[name][2]} is not installed", "pip install 'router-rl[track]'"
            raise InputError("track", name, problem, fix)


def new_trackers(names: Sequence[str]) -> Tracker:
    """Return trackers as one.

    Args:
        names: names in `TRACKERS`.
    """
    trackers: list[Tracker] = []
    for name in names:
        module, kind, _ = TRACKERS[name]
        trackers.append(getattr(import_module(f"{__package__}.{module}"), kind)())
    return Trackers(trackers)
