"""What a folder of `train` or `compare` says about itself: what was run, on which data, and how it did."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypedDict

from experts import InputError
from experts.io.json_file import read_json
from experts.io.owned_folder import owner_of

from .results_reader import read_results
from .run_file import RUN_SCHEMA, read_run_file

__all__ = ["Outcome", "RunEntry", "kind_of", "read_entry"]

Kind = Literal["run", "comparison"]
State = Literal["finished", "running", "interrupted", "unreadable"]

_NOT_MEANS = ("utility_iqm", "validation_utility", "fit_seconds")


class _IdentityCase(TypedDict):
    values: dict[str, float]


class _Identity(TypedDict):
    """Of a trial, and of an unfinished run."""

    problem: str
    digest: str
    method: str
    cases: list[_IdentityCase]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Mean results of one method in one case.

    Attributes:
        method: name of the method.
        case: label of the case.
        validation: means by name on the tuning rows: utility, its parts, and `cost` in the table's unit.
        test: the same on the test rows or episodes.
        fits: `seed` and `hyperparameters` of each fit that the means are of.
    """

    method: str
    case: str
    validation: Mapping[str, float]
    test: Mapping[str, float]
    fits: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One training run or comparison.

    Attributes:
        folder: its folder.
        kind: `run` or `comparison`.
        state: whether it is finished; `unreadable` if its files cannot be read.
        when: when it was finished, or began if it is not finished; ISO 8601, UTC.
        problem: name of the problem.
        table: name of its data.
        digest: of its data and options.
        test_rows: digest of its test rows.
        methods: names of the methods.
        cases: labels of the cases.
        utility: formula of the utility.
        options: every option by name: of the problem, hyperparameters, seeds, trials.
        versions: version of each package by name.
        cost_unit: unit of `cost` in the outcomes, as the table names it.
        compute_unit: cost of a compute of 1, in this unit.
        outcomes: of each method and case; of a comparison's bounds too.
        recommended: method and case that a comparison recommends.
        trials: number of finished trials of an unfinished comparison.
        error: why it cannot be read.
    """

    folder: Path
    kind: Kind
    state: State
    when: str | None = None
    problem: str | None = None
    table: str | None = None
    digest: str | None = None
    test_rows: str | None = None
    methods: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    utility: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    cost_unit: str | None = None
    compute_unit: float | None = None
    outcomes: tuple[Outcome, ...] = ()
    recommended: tuple[str, str] | None = None
    trials: int | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def kind_of(folder: Path) -> Kind | None:
    """Return what a folder is: of a training run, of a comparison, or of neither.

    Args:
        folder: any folder. One of an earlier release has no marker, and is known by its files.
    """
    owner = owner_of(folder)
    if owner == "run" or owner == "comparison":
        return owner
    if (folder / "run.json").exists() or (folder / "identity.json").exists():
        return "run"
    return "comparison" if (folder / "results.json").exists() else None


def read_entry(folder: Path, kind: Kind) -> RunEntry:
    """Return what is known of a training run or comparison; files that cannot be read are its `error`.

    Args:
        folder: its folder.
        kind: as `kind_of` returns it.
    """
    try:
        if kind == "run":
            path = folder / "run.json"
            return _run(folder, path) if path.exists() else _unfinished_run(folder)
        path = folder / "results.json"
        return _comparison(folder, path) if path.exists() else _unfinished_comparison(folder)
    except (InputError, OSError) as error:
        return RunEntry(folder=folder, kind=kind, state="unreadable", error=str(error))


def _run(folder: Path, path: Path) -> RunEntry:
    facts = read_run_file(path)
    card: dict[str, Any] = facts["problem"]
    scale = facts.get("compute_unit")
    # Version 1 kept the results of the only case beside the other facts, or no results.
    version1 = [{**facts, "label": _label(facts.get("objective") or {})}] if "test" in facts else []
    cases: list[dict[str, Any]] = facts["cases"] if facts.get("schema_version") == RUN_SCHEMA else version1
    named = ("hyperparameters", "n_trials", "seed")
    return RunEntry(
        folder=folder,
        kind="run",
        state="finished",
        when=_modified(path),
        problem=card["name"],
        table=card.get("source") or facts.get("table"),
        digest=facts.get("digest"),
        test_rows=facts.get("test_rows"),
        methods=(facts["method"],),
        cases=tuple(case["label"] for case in cases),
        utility=card.get("utility") or None,
        options={"problem": card.get("options") or {}} | {name: facts.get(name) for name in named},
        versions=facts.get("versions") or {},
        cost_unit=(card.get("facts") or {}).get("cost_unit"),
        compute_unit=scale,
        outcomes=tuple(
            Outcome(
                method=facts["method"],
                case=case["label"],
                validation=_means(case.get("validation") or {}, scale),
                test=_means(case.get("test") or {}, scale),
                fits=(_fit(facts),),
            )
            for case in cases
        ),
    )


def _unfinished_run(folder: Path) -> RunEntry:
    path = folder / "identity.json"
    if not path.exists():  # killed before its first trial
        return RunEntry(folder=folder, kind="run", state="interrupted", when=_modified(folder))
    return _unfinished(folder, "run", [read_json("run", path, _Identity, fix="train again")], path)


def _comparison(folder: Path, path: Path) -> RunEntry:
    results = read_results(path)
    card = results["problem"]
    rows: list[dict[str, Any]] = results["rows"]
    recommendation: Mapping[str, Any] = results.get("recommendation") or {}
    recommended: tuple[Any, Any] = (recommendation.get("method"), recommendation.get("case"))
    facts = {**(card.get("facts") or {}), **(results.get("table_facts") or {})}
    named = ("seeds", "n_trials")
    return RunEntry(
        folder=folder,
        kind="comparison",
        state="finished",
        when=results.get("created") or _modified(path),
        problem=card["name"],
        table=card.get("source"),
        digest=results.get("digest"),
        test_rows=results.get("test_rows"),
        methods=tuple(dict.fromkeys(row["method"] for row in results["summary"])),
        cases=tuple(case["label"] for case in results["cases"]),
        utility=card.get("utility") or None,
        options={"problem": card.get("options") or {}} | {name: results.get(name) for name in named},
        versions=_versions(results),
        cost_unit=facts.get("cost_unit"),
        compute_unit=facts.get("compute_unit"),
        outcomes=tuple(_outcome(row, rows) for row in results["summary"]),
        recommended=recommended if None not in recommended else None,
    )


def _versions(results: Mapping[str, Any]) -> dict[str, str]:
    commit = results.get("commit")
    return {**results.get("versions", {}), **({} if commit is None else {"commit": commit})}


def _outcome(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Return the outcome of a row of the summary: the means over seeds of the rows of its method and case."""
    means = (name.removesuffix("_mean") for name in summary if name.endswith("_mean"))
    names = [*(name for name in means if name not in _NOT_MEANS), "cost"]
    own = [row for row in rows if (row["method"], row["case"]) == (summary["method"], summary["case"])]

    def means_of(split: str) -> dict[str, float]:
        of_split = [row for row in own if row["split"] == split]
        known = [name for name in names if of_split and all(_is_number(row.get(name)) for row in of_split)]
        return {name: fmean(row[name] for row in of_split) for name in known}

    return Outcome(
        method=summary["method"],
        case=summary["case"],
        validation=means_of("validation"),
        test={"utility": summary["utility_mean"]} | means_of("test"),
        fits=tuple(_fit(row) for row in own if row["split"] == "test"),
    )


def _fit(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"seed": row.get("seed"), "hyperparameters": row.get("hyperparameters")}


def _unfinished_comparison(folder: Path) -> RunEntry:
    paths = sorted(folder.glob("trials/*/trial.json"))
    trials = [read_json("trial", path, _Identity, fix="run compare again") for path in paths]
    return _unfinished(folder, "comparison", trials, folder)


def _unfinished(folder: Path, kind: Kind, trials: Sequence[_Identity], began: Path) -> RunEntry:
    """Return the entry of a run or comparison that has no result yet.

    Args:
        folder: its folder.
        kind: what it is.
        trials: identities of its trials, as far as there are files of them.
        began: a file or folder whose time is its beginning.
    """
    last = trials[-1] if trials else None
    labels = (_label(case["values"]) for trial in trials for case in trial["cases"])
    return RunEntry(
        folder=folder,
        kind=kind,
        state="interrupted",
        when=_modified(began),
        problem=None if last is None else last["problem"],
        digest=None if last is None else last["digest"],
        methods=tuple(dict.fromkeys(trial["method"] for trial in trials)),
        cases=tuple(dict.fromkeys(labels)),
        trials=len(trials) if kind == "comparison" else None,
    )


def _label(values: Mapping[str, Any]) -> str:
    """Return a case by its values, for files that have no label."""
    numbers = {name: value for name, value in values.items() if _is_number(value) and name != "window"}
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items() if value)


def _means(values: Mapping[str, Any], scale: float | None) -> dict[str, float]:
    """Return the numbers of a split's results, and the cost where compute has a unit."""
    means = {name: float(value) for name, value in values.items() if _is_number(value)}
    return means if scale is None or "compute" not in means else {**means, "cost": means["compute"] * scale}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _modified(path: Path) -> str:
    at = datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
    return at.isoformat(timespec="seconds")
