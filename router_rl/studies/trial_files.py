"""The files of a finished trial: `trial.json` and `measured.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from experts import InputError
from experts.io.atomic import replacing, write_json
from experts.io.json_file import read_json, sealed

__all__ = ["TRIAL_FILE", "read_trial_files", "write_trial_files"]

TRIAL_FILE = "trial.json"
"""The file that is written last: a folder with it holds a finished trial."""

_ARRAYS = "measured.safetensors"


class _Result(TypedDict):
    """A case."""

    label: str
    validation: dict[str, float]
    validation_shares: list[float] | None
    train_utility: float | None
    facts: dict[str, Any]


class _TrialFile(TypedDict):
    """`trial.json`."""

    results: list[_Result]
    curve: list[tuple[float, float, float, float]]
    seconds: float
    messages: list[str]
    figures: list[dict[str, Any]]


class _TrialFields(_TrialFile, total=False):
    """With the fields that earlier releases did not write."""

    facts: dict[str, Any]
    measured: str


def write_trial_files(home: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the files of a trial; `trial.json`, which marks the end, is the last.

    Args:
        home: the trial's folder.
        facts: content of `trial.json`.
        arrays: measurements by name.
    """
    measured = save(dict(arrays))
    with replacing(home / _ARRAYS) as temporary:
        temporary.write_bytes(measured)
    write_json(home / TRIAL_FILE, sealed({**facts, "measured": _digest(measured)}))


def read_trial_files(home: Path, cases: Sequence[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of `trial.json` and the measurements.

    Args:
        home: the trial's folder.
        cases: labels of the cases that the trial serves.

    Raises:
        InputError: a file is missing, damaged, was changed after it was written, or is of other cases.
    """
    fix = f"delete {home} and run the same command again"
    facts = read_json("trial", home / TRIAL_FILE, _TrialFields, fix=fix)
    stored = home / _ARRAYS
    try:
        if stored.exists() and not stored.is_file():  # a pipe would be read for ever
            raise ValueError("it is not a file")
        content = stored.read_bytes()
        if facts.get("measured", _digest(content)) != _digest(content):
            raise ValueError(f"it was changed after {TRIAL_FILE} was written")
        arrays = load(content)
        if [result["label"] for result in facts["results"]] != list(cases):
            raise ValueError(f"it is not of the cases {', '.join(cases)}")
        if not all("utility" in result["validation"] for result in facts["results"]):
            raise ValueError(f"{TRIAL_FILE} lacks a validation utility")
        for index in range(len(cases)):
            utility = arrays.get(f"{index}/utility")
            if utility is None or utility.ndim != 1 or not np.isfinite(utility).all():
                raise ValueError(f"it holds no finite {index}/utility [T]")
        for name, array in arrays.items():
            if len(array) != len(arrays[f"{name.partition('/')[0]}/utility"]):
                raise ValueError(f"{name} is not of as many rows as the utility")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError("trial", str(stored), f"cannot be used: {error}", fix) from error
    return facts, arrays


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
