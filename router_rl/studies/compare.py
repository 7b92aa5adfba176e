"""Compare methods on one table: same rows, same tries, same seeds, intervals always."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experts import InputError, OutcomeTable
from experts.io.atomic import writable_folder, write_json

from ..methods.baselines.oracle import measure_oracle
from ..methods.budget import check_budget
from ..methods.registry import METHODS, ORACLE, find_method
from ..problems.logged_feedback import LogConfig
from ..problems.objective import Objective
from ..problems.out_of_fold import Readouts
from ..problems.routing.problem import ScorerConfig, Task
from ..problems.routing.router_measurement import Measurement
from ..problems.selection_rules import selection
from ..reports.html_report import write_report
from ..routing import Selection
from .collapse import Reference, diagnose
from .results import Entry, assemble
from .sweep import Progress, Work, fit_all, serves_all
from .trial import CellResult, table_digest

__all__ = ["Progress", "compare"]


def compare(
    table: OutcomeTable,
    methods: Sequence[str],
    *,
    objectives: Sequence[Objective],
    seeds: int = 5,
    tries: int = 4,
    select: str | Selection = "hard",
    k: int = 2,
    tree: Mapping[str, Any] | None = None,
    scorer: ScorerConfig | None = None,
    observe_load: bool | None = None,
    feedback: str = "full",
    log: LogConfig | None = None,
    readouts: Readouts | None = None,
    out: Path | str | None = None,
    jobs: int = 1,
    device: torch.device | str = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit every method under every objective with every seed, and measure them on the test rows.

    Settings are chosen once per method and objective, by validation utility with the first seed, among
    the same number of tries for every method. `random`, `best_single`, `zero_router` and `oracle` are
    always in the table.

    Args:
        table: outcomes with features and a split.
        methods: names in `METHODS`, or "oracle".
        objectives: what to maximise; one row group each.
        seeds: training seeds 0, 1, ...
        tries: settings tried for each method and objective.
        select, k, tree: the selection rule, by name or itself, and what it takes.
        scorer: the shape of the scorer.
        observe_load: whether stateful learners see the window's load; None: where it is charged for.
        feedback: `full`, or `bandit`: methods learn from one expert's outcome a query; test rows are full.
        log: how that expert was chosen.
        readouts: which of the features estimate the experts' quality.
        out: a folder for `results.json`, `report.html`, TensorBoard curves and the finished fits, from
            which an interrupted comparison goes on; None keeps nothing.
        jobs: processes.
        device: where training happens.
        command: what the user typed, for the report.
        progress: is told (fits done, fits in all, what was done last).

    Returns:
        the content of `results.json`.

    Raises:
        InputError: a name is unknown, a value does not fit, or the folder cannot be written.
        RouterError: the rule needs more experts than the table has.
    """
    names = _with_bounds(methods)
    if seeds < 1:
        raise InputError("seeds", seeds, "not positive", "use 1 or more")
    if tries < 1:
        raise InputError("tries", tries, "not positive", "use 1 or more")
    if not objectives:
        raise InputError("objectives", [], "there is nothing to compare under", "give at least one")
    rule = selection(select, table, k=k, tree=tree, feedback=feedback)
    _check_objectives(names, objectives)
    task = Task.of(
        table,
        objectives[0],
        rule,
        scorer=scorer,
        observe_load=observe_load,
        device=device,
        feedback=feedback,
        log=log,
        readouts=readouts,
    )
    left_out = _left_out(names, rule, table)
    names = [name for name in names if name not in left_out]
    notes = [*left_out.values(), *_said_of(names, objectives)]
    table = replace(table, notes=(*table.notes, *dict.fromkeys(notes)))
    test = table.part("test")
    folder = None if out is None else writable_folder("out", out)
    with TemporaryDirectory() as nowhere:
        work = Work(
            task=task,
            test=test,
            folder=(folder or Path(nowhere)) / "cells",
            digest=table_digest(table),
            tensorboard=None if folder is None else folder / "tensorboard",
            jobs=jobs,
        )
        chosen = fit_all(work, [name for name in names if name != ORACLE], objectives, seeds, tries, progress)
        references = {objective: Reference.of(task.with_objective(objective)) for objective in objectives}
        entries = [_entry(result, references[result.cell.objective]) for result in chosen]
        for objective in objectives:
            bound = measure_oracle(
                test, objective, task.scale, rule.sizes(len(table.experts)), task.affordable
            )
            entries += [_oracle_entry(objective, seed, bound) for seed in range(seeds)]
        results = assemble(entries, table, task, tries=tries, command=command)
        if folder is not None:
            write_json(folder / "results.json", results)
            write_report(results, folder / "report.html")
    return results


def _with_bounds(methods: Iterable[str]) -> list[str]:
    """The methods asked for, each once, and the four that stand in every table."""
    names = list(dict.fromkeys([*methods, "random", "best_single", "zero_router", ORACLE]))
    for name in names:
        if name != ORACLE:
            find_method(name)
    return names


def _left_out(names: Sequence[str], rule: Selection, table: OutcomeTable) -> dict[str, str]:
    """Methods that cannot take part, and the note that says why."""
    methods = [METHODS[name] for name in names if name != ORACLE]
    cannot = [method.name for method in methods if not method.learns(rule)]
    why = f"{rule.name} selection cannot be learned by {', '.join(cannot)}: left out"
    lacking = {
        method.name: f"{method.name} needs a column the table lacks ({', '.join(found)}): left out"
        for method in methods
        if (found := method.missing(table))
    }
    return lacking | dict.fromkeys(cannot, why)


def _said_of(names: Sequence[str], objectives: Sequence[Objective]) -> list[str]:
    """What a reader of the results must know of the objectives."""
    first = objectives[0]
    shared = [name for name in names if name != ORACLE and serves_all(name, objectives)]
    found: list[str] = []
    if first.budget is not None:
        found.append(
            f"compute is free up to a budget of {first.budget:g} a decision on average: utility is quality "
            "less load, and every method found its own compute weight"
        )
    if first.limit is not None:
        found.append(f"experts that take more than {first.limit:g} compute on average are never chosen")
    if shared and len(objectives) > 1:
        found.append(
            f"{', '.join(shared)} was fitted once a seed for all compute weights; its seconds are shared out"
        )
    return found


def _check_objectives(names: Sequence[str], objectives: Sequence[Objective]) -> None:
    """Raise InputError unless results can tell the objectives apart and every method can be held to them."""
    weights = [objective.compute_weight for objective in objectives]
    for objective in objectives:
        check_budget([METHODS[name] for name in names if name != ORACLE], objective)
        if objective.budget is not None and len(objectives) > 1:
            raise InputError(
                "objectives",
                weights,
                "results tell objectives apart by compute weight, which a budget replaces",
                "compare one budget at a time",
            )


def _entry(result: CellResult, reference: Reference) -> Entry:
    return Entry(
        method=result.cell.method,
        family=METHODS[result.cell.method].family,
        objective=result.cell.objective,
        seed=result.cell.seed,
        settings=result.cell.settings,
        validation=result.validation,
        validation_utility=result.validation_utility,
        test=result.test,
        seconds=result.seconds,
        folder=result.folder,
        sees=METHODS[result.cell.method].needs,
        collapse=None if result.facts is None else diagnose(result.facts, reference),
    )


def _oracle_entry(objective: Objective, seed: int, bound: Measurement) -> Entry:
    return Entry(
        method=ORACLE,
        family="bound",
        objective=objective,
        seed=seed,
        settings=None,
        validation=None,
        validation_utility=None,
        test=bound,
        seconds=0.0,
        folder=None,
    )
