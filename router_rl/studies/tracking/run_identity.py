"""Names of runs in stores that several folders share: distinct for each folder, equal after a restart."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import TypedDict

from experts.io.atomic import write_json
from experts.io.json_file import read_json

from .tracker import TrackedRun

__all__ = ["TRACKING_FILE", "folder_id", "run_id"]

TRACKING_FILE = "tracking.json"


class _Identity(TypedDict):
    id: str


def folder_id(folder: Path) -> str:
    """Return the identity of a run or comparison, drawn once and kept in its folder; 16 hexadecimal digits.

    A folder that is deleted and written again is another run.

    Args:
        folder: of the run or comparison.
    """
    path = folder / TRACKING_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"id": uuid.uuid4().hex[:16]})
    return str(read_json("track", path, _Identity, fix=f"delete {path}")["id"])


def run_id(run: TrackedRun) -> str:
    """Return the identity of a run, 16 hexadecimal digits; that of the whole is the folder's.

    Args:
        run: a trial, or the whole.
    """
    whole = folder_id(run.folder)
    return whole if not run.key else hashlib.sha256(f"{whole} {run.key}".encode()).hexdigest()[:16]
