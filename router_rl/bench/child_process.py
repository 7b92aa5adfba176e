"""Measurements in a child process of their own: the time limit, running out of memory, and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["in_child", "peak_mib", "status_mib"]


def in_child(words: Sequence[str], limit: float) -> dict[str, Any] | None:
    """Run Python in a child process and return what it prints last, a JSON object.

    Args:
        words: arguments of Python.
        limit: seconds; a child that takes longer is stopped.

    Returns:
        the object; None if the child ran into the limit or out of memory.

    Raises:
        RuntimeError: the child failed.
    """
    command = [sys.executable, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == -9:  # the operating system kills a process when memory runs out
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def status_mib(name: str) -> float | None:
    """Return a field of /proc/self/status, such as `RssAnon`, in MiB; None where there is none.

    Args:
        name: of the field.
    """
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def peak_mib() -> float:
    """Return the peak resident memory of this process, MiB."""
    peak = status_mib("VmHWM")  # getrusage's maximum outlives exec, so a child would inherit its parent's
    if peak is not None:
        return peak
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)
