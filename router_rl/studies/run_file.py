"""Read `run.json`, of this version or of version 1, checked field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from experts import InputError
from experts.io.json_file import read_json
from experts.io.json_types import check_type

from ..problems.objective import Objective
from ..problems.registry import PROBLEMS

__all__ = ["RUN_SCHEMA", "read_run_file"]

RUN_SCHEMA = 2
_READABLE = (1, RUN_SCHEMA)


class _Named(TypedDict):
    name: str


class _Card(_Named, total=False):
    """The problem: `ProblemCard` as JSON; version 1 had its name only."""

    source: str
    experts: list[str]
    options: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str]
    utility: str


class _Case(TypedDict):
    label: str
    values: dict[str, float]
    validation: dict[str, Any]
    test: dict[str, Any]


class _AnyRun(TypedDict):
    """Fields of the runs of every version, after the conversion to this one."""

    problem: _Card
    method: str


class _WithDigests(_AnyRun, total=False):
    """Digests that earlier releases did not write."""

    digest: str
    test_rows: str | None


class _Run(_WithDigests, total=False):
    """Fields that a run of version 1 may lack."""

    seed: int
    objective: Objective | None
    compute_unit: float | None
    experts: list[str]
    notes: list[str]
    hyperparameters: dict[str, Any]
    n_trials: int
    table: str
    validation: dict[str, Any]
    test: dict[str, Any]
    versions: dict[str, str]


class _CompleteRun(_WithDigests):
    """Fields of a run of this version."""

    schema_version: int
    family: str
    seed: int
    objective: Objective | None
    compute_unit: float | None
    experts: list[str]
    inputs: list[str]
    cases: list[_Case]
    notes: list[str]
    hyperparameters: dict[str, Any]
    n_trials: int
    table: str
    validation: dict[str, Any]
    test: dict[str, Any]
    router: str | None
    fit_seconds: float
    versions: dict[str, str]


def read_run_file(path: Path) -> dict[str, Any]:
    """Return the content of a `run.json`; that of version 1 is converted to this version.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be read, has an unknown schema version, or a field is missing, of another
            type or out of range.
    """
    facts = read_json("run", path, dict[str, Any], fix="train again")
    schema = facts.get("schema_version", 1)
    if type(schema) is not int or schema not in _READABLE:
        raise InputError(
            "run",
            str(path.parent),
            f"has schema version {schema}, this release reads {', '.join(map(str, _READABLE))}",
            "train again, or use the release that wrote it",
        )
    try:
        facts = _upgraded(facts)
        check_type(facts, _CompleteRun if schema == RUN_SCHEMA else _Run, "")
        unit, seed = facts.get("compute_unit"), facts.get("seed", 0)
        if unit is not None and not unit > 0:
            raise ValueError(f"compute_unit is {unit}, not above 0")
        name = facts["problem"]["name"]
        if name not in PROBLEMS:
            raise ValueError(f"problem.name is {name!r}, not one of {', '.join(sorted(PROBLEMS))}")
        if seed < 0:
            raise ValueError(f"seed is {seed}, below 0")
        if facts.get("objective") is not None:
            Objective(**facts["objective"])
    except ValueError as error:
        raise InputError("run", str(path), f"cannot be used: {error}", "train again") from error
    return facts


def _upgraded(facts: dict[str, Any]) -> dict[str, Any]:
    """Convert the facts of a version 1 run to this version."""
    if facts.get("schema_version") == RUN_SCHEMA:
        return facts
    upgraded = dict(facts)
    if isinstance(upgraded.get("objective"), dict):
        objective = dict(upgraded["objective"])
        if "limit" in objective:
            objective["max_cost"] = objective.pop("limit")
        upgraded["objective"] = objective
    for old, new in (("tries", "n_trials"), ("settings", "hyperparameters")):
        if old in upgraded:
            upgraded[new] = upgraded.pop(old)
    name = upgraded.pop("env", "routing")
    return upgraded | {"problem": {"name": name}}
