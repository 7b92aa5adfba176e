"""What differs between two runs or comparisons: options, data, versions, and results with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experts import InputError

from ..problems.statistics import paired_difference
from .run_entry import Outcome, RunEntry
from .stored_trials import StoredTrial, stored_trials

__all__ = ["difference_of_runs"]

_COMPARED = ("utility", "quality", "compute", "cost")
_FACTS = ("kind", "state", "problem", "table", "digest", "test_rows", "methods", "cases", "utility")

Measured = dict[str, np.ndarray]


def difference_of_runs(a: RunEntry, b: RunEntry) -> dict[str, Any]:
    """Return what differs between two entries, as JSON; differences are b - a.

    Results are paired by query if both were measured on the same test rows and their trials are stored.

    Args:
        a: a run or a comparison.
        b: another one.

    Returns:
        `facts`: name and both values of everything that differs; `results`: method, case and means of each
        outcome that both have, with difference and 95% CI; `notes`: what is not compared, and why.
    """
    pairs, notes = _pairs(a, b)
    unpaired = _unpaired(a, b)
    trials: list[list[StoredTrial]] = [[], []]
    if unpaired is None and pairs:
        try:
            trials = [stored_trials(entry.folder) for entry in (a, b)]
        except InputError as error:
            unpaired = str(error)
    results = [_result(one, two, (a, b), trials, unpaired) for one, two in pairs]
    return {
        "a": str(a.folder),
        "b": str(b.folder),
        "facts": [{"name": name, "a": one, "b": two} for name, one, two in _facts(a, b) if one != two],
        "results": results,
        "notes": notes,
    }


def _facts(a: RunEntry, b: RunEntry) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each fact, and its value in both entries."""
    for name in _FACTS:
        one, two = getattr(a, name), getattr(b, name)
        yield name, _listed(one), _listed(two)
    for group in ("options", "versions"):
        one, two = (dict(_flat(getattr(entry, group))) for entry in (a, b))
        for name in {**one, **two}:
            yield name, one.get(name), two.get(name)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of nested groups, with names as on the command line."""
    for name, value in options.items():
        whole = f"{prefix}{'method' if name == 'hyperparameters' else name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{whole}.")
        else:
            yield whole, value


def _pairs(a: RunEntry, b: RunEntry) -> tuple[list[tuple[Outcome, Outcome]], list[str]]:
    """Return the outcomes that are compared, and notes on the others.

    Two runs are compared in each common case, whatever their methods; otherwise the method must be the same.
    """
    for entry in (a, b):
        if not entry.outcomes:
            return [], [f"{entry.folder} has no results: {_why_none(entry)}"]
    runs = a.kind == b.kind == "run"
    if runs and len(a.outcomes) == len(b.outcomes) == 1:
        return [(a.outcomes[0], b.outcomes[0])], []  # in different cases too

    def key(outcome: Outcome) -> tuple[str, ...]:
        return (outcome.case,) if runs else (outcome.method, outcome.case)

    known = {key(outcome): outcome for outcome in b.outcomes}
    pairs = [(outcome, known[key(outcome)]) for outcome in a.outcomes if key(outcome) in known]
    notes: list[str] = []
    for entry, other in ((a, b), (b, a)):
        there = {key(outcome) for outcome in other.outcomes}
        missing = Counter(key(outcome)[0] for outcome in entry.outcomes if key(outcome) not in there)
        if missing and not (entry.kind == "comparison" and other.kind == "run"):
            names = (f"{name} ({count} case{'s' * (count > 1)})" for name, count in missing.items())
            notes.append(f"only in {entry.folder}: {', '.join(missing if runs else names)}")
    return pairs, notes


def _why_none(entry: RunEntry) -> str:
    return "it is not finished" if entry.state != "finished" else "version 1 did not keep them"


def _unpaired(a: RunEntry, b: RunEntry) -> str | None:
    """Return why results cannot be paired by query, or None if they can."""
    same = (each for each in ("digest", "test_rows") if getattr(a, each) is not None)
    if any(getattr(a, each) == getattr(b, each) for each in same):
        return None
    for entry in (a, b):
        if entry.digest is None:
            return f"an earlier release wrote {entry.folder}, without the digest of its data"
    if None in (a.test_rows, b.test_rows):
        return "the data or the options differ, so the test rows or episodes may differ"
    return "the test rows differ"


def _result(
    one: Outcome,
    two: Outcome,
    entries: tuple[RunEntry, RunEntry],
    trials: Sequence[Sequence[StoredTrial]],
    unpaired: str | None,
) -> dict[str, Any]:
    """Return the comparison of two outcomes, as JSON."""
    stacks: tuple[Measured, Measured] | None = None
    if unpaired is None:
        pair = _paired(one, two, entries, trials)
        stacks, unpaired = (None, pair) if isinstance(pair, str) else (pair, None)
    a, b = entries
    known = [name for name in _COMPARED if name in one.test and name in two.test]
    units = {a.cost_unit, b.cost_unit} - {"unknown", None}
    rows: list[dict[str, Any]] = []
    for name in known if len(units) == 1 else [name for name in known if name != "cost"]:
        row: dict[str, Any] = {"name": name, "a": one.test[name], "b": two.test[name]}
        row |= {"difference": two.test[name] - one.test[name], "ci95": None}
        if name == "utility" and (one.case, a.utility) != (two.case, b.utility):
            row["difference"] = None  # of another objective
        elif stacks is not None and all(name in stack for stack in stacks):
            first, second = (stack[name] for stack in stacks)
            paired = paired_difference(second, first)
            row |= {"a": float(first.mean()), "b": float(second.mean())}  # over the seeds that are paired
            row |= {"difference": paired.mean, "ci95": [paired.low, paired.high]}
        rows.append(row)
    return {
        "methods": [one.method, two.method],
        "cases": [one.case, two.case],
        "means": rows,
        "cost_unit": units.pop() if len(units) == 1 else None,
        "paired_seeds": None if stacks is None else len(stacks[0]["utility"]),
        "unpaired": unpaired,
    }


def _paired(
    one: Outcome,
    two: Outcome,
    entries: tuple[RunEntry, RunEntry],
    trials: Sequence[Sequence[StoredTrial]],
) -> tuple[Measured, Measured] | str:
    """Return what both outcomes measured, [S, T] each by name, with equal seeds and rows; or why not."""
    by_seed: list[dict[int, Measured]] = []
    for outcome, entry, stored in zip((one, two), entries, trials, strict=True):
        try:
            by_seed.append(_by_seed(outcome, entry, stored))
        except InputError as error:
            return str(error)
        if not by_seed[-1]:
            return f"{entry.folder} has no finished trial of {outcome.method}"
    first, second = by_seed
    seeds = [sorted(first), sorted(second)]
    if len(first) != len(second):
        seeds = [sorted(first.keys() & second.keys())] * 2
    if not seeds[0]:
        return "they have no seed in common"
    rows = {len(each["utility"]) for stored in by_seed for each in stored.values()}
    if len(rows) > 1:
        return "they measured different numbers of rows or episodes"
    return _stacked(first, seeds[0]), _stacked(second, seeds[1])


def _by_seed(outcome: Outcome, entry: RunEntry, trials: Sequence[StoredTrial]) -> dict[int, Measured]:
    """Return what the fits of an outcome measured, by seed, with the cost in the table's unit."""
    known: dict[int, Measured] = {}
    for fit in outcome.fits:
        for trial in trials:
            same = trial.is_of(outcome.method, outcome.case, entry.digest) and trial.seed == fit["seed"]
            if same and trial.uses(fit["hyperparameters"]):
                measured = trial.measured(outcome.case)
                if entry.compute_unit is not None and "compute" in measured:
                    measured["cost"] = measured["compute"] * entry.compute_unit
                known[trial.seed] = measured
    return known


def _stacked(by_seed: Mapping[int, Measured], seeds: Sequence[int]) -> Measured:
    """Return [S, T] arrays of the parts that all seeds have."""
    names = set.intersection(*(set(by_seed[seed]) for seed in seeds))
    return {name: np.stack([by_seed[seed][name] for seed in seeds]) for name in names}
