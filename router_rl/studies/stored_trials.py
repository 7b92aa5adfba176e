"""The finished trials in the folder of a run or comparison, and what each measured on every test row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from experts.io.json_file import read_json

from .trial_files import read_trial_files

__all__ = ["StoredTrial", "stored_trials"]


class _Labelled(TypedDict):
    label: str


class _Identity(TypedDict):
    digest: str
    method: str
    seed: int
    hyperparameters: dict[str, Any]
    results: list[_Labelled]


@dataclass(frozen=True, kw_only=True)
class StoredTrial:
    """One finished trial.

    Attributes:
        folder: its folder.
        digest: of its data and options.
        method: name of the method.
        seed: random seed.
        hyperparameters: as JSON.
        cases: labels of the cases that it serves.
    """

    folder: Path
    digest: str
    method: str
    seed: int
    hyperparameters: Mapping[str, Any]
    cases: tuple[str, ...]

    def measured(self, case: str) -> dict[str, np.ndarray]:
        """Return the utility and its parts on the test rows or episodes of a case, [T] float each, by name.

        Args:
            case: label of one of its cases.

        Raises:
            InputError: a file of the trial is missing or damaged.
        """
        _, arrays = read_trial_files(self.folder, self.cases)
        prefix = f"{self.cases.index(case)}/"
        own = {name.removeprefix(prefix): part for name, part in arrays.items() if name.startswith(prefix)}
        return {name.removeprefix("parts/"): part for name, part in own.items() if part.ndim == 1}

    def is_of(self, method: str, case: str, digest: str | None) -> bool:
        """Return whether it is a fit of a method in a case, on data with a digest; None: on any data.

        Args:
            method: name of the method.
            case: label of the case.
            digest: of data and options.
        """
        return self.method == method and case in self.cases and digest in (None, self.digest)

    def uses(self, hyperparameters: Mapping[str, Any] | None) -> bool:
        """Return whether it was fitted with these hyperparameters.

        Args:
            hyperparameters: as JSON; None where they are not known.
        """
        return _text(self.hyperparameters) == _text(hyperparameters)


def stored_trials(folder: Path) -> list[StoredTrial]:
    """Return the finished trials of a run or comparison.

    Args:
        folder: folder of the run or comparison.

    Raises:
        InputError: a `trial.json` is damaged.
    """
    trials: list[StoredTrial] = []
    for path in sorted(folder.glob("trials/*/trial.json")):
        facts = read_json("trial", path, _Identity, fix=f"delete {path.parent} and run the command again")
        trials.append(
            StoredTrial(
                folder=path.parent,
                digest=facts["digest"],
                method=facts["method"],
                seed=facts["seed"],
                hyperparameters=facts["hyperparameters"],
                cases=tuple(result["label"] for result in facts["results"]),
            )
        )
    return trials


def _text(hyperparameters: Mapping[str, Any] | None) -> str:
    return json.dumps(hyperparameters, sort_keys=True)
