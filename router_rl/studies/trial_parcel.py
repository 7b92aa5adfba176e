"""A trial that is fitted on another machine: its files travel, and the process that wants it stores them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from experts.io.atomic import replacing

from ..problems.problem import Problem
from .tracking.recorded import Call, Recorded, log_recorded
from .tracking.tracked import Tracked
from .trial import Trial, TrialResult, read_trial, run_trial, trial_folder
from .trial_files import TRIAL_FILE

__all__ = ["TrialParcel", "packed_trial", "store_parcel"]

_LEFT_BEHIND = ("checkpoint.safetensors", "logged.jsonl", "router")  # by an interrupted fit in this folder


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialParcel:
    """A finished trial on its way.

    Attributes:
        name: of the trial's folder, which holds the digest of all that the result depends on.
        files: content by path in the folder.
        calls: of trackers.
    """

    name: str
    files: dict[str, bytes]
    calls: list[Call] = field(default_factory=list)


def packed_trial(trial: Trial, problem: Problem, digest: str, folder: str | None) -> TrialParcel:
    """Fit, evaluate and pack a trial, in a temporary folder of this machine.

    Args:
        trial: the trial.
        problem: the problem, with all its cases.
        digest: `problem.digest()`.
        folder: folder of its run in trackers, on the machine that stores it; None: it is not tracked.
    """
    recorded = None if folder is None else Recorded(folder)
    with tempfile.TemporaryDirectory(prefix="router-rl-trial-") as place:
        home = run_trial(trial, problem, Path(place), digest=digest, tracked=recorded).folder
        files = {
            path.relative_to(home).as_posix(): path.read_bytes()
            for path in sorted(home.rglob("*"))
            if path.is_file()
        }
    return TrialParcel(name=home.name, files=files, calls=[] if recorded is None else recorded.calls)


def store_parcel(
    parcel: TrialParcel,
    trial: Trial,
    problem: Problem,
    folder: Path,
    *,
    digest: str,
    tracked: Tracked | None = None,
) -> TrialResult:
    """Log and store a trial that was fitted elsewhere, and read it; `trial.json` is written last.

    Args:
        parcel: the trial's files.
        trial: the trial.
        problem: the problem, with all its cases.
        folder: common folder of all trials.
        digest: `problem.digest()`.
        tracked: where it is logged; None: nowhere.
    """
    home = trial_folder(trial, problem, folder, digest)
    assert parcel.name == home.name, f"the files of {parcel.name} came for {home.name}"
    log_recorded(parcel.calls, tracked)
    for name in _LEFT_BEHIND:
        left = home / name
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    for name in sorted(parcel.files, key=lambda name: (name == TRIAL_FILE, name)):
        with replacing(home / name) as temporary:
            temporary.write_bytes(parcel.files[name])
    return read_trial(trial, problem, home, reused=False)
