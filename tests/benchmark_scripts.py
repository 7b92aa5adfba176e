"""Imports the scripts of `benchmarks/`, which import each other by their plain names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["benchmark"]

_FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str) -> Any:
    """Return the module of a script.

    Args:
        name: file name without `.py`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(_FOLDER)])
        return importlib.import_module(name)
