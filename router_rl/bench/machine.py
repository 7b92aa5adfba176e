"""The machine that a timing is taken on, and a context that restores torch's number of threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["machine", "threads_restored"]


def machine() -> dict[str, Any]:
    """Processor, number of cores, and versions of Python and torch."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@contextmanager
def threads_restored() -> Generator[None, None, None]:
    """Restore torch's number of threads on exit."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
