"""Compare methods on one environment: same episodes, same seeds, paired intervals; finished fits are kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from experts.io.atomic import replacing, writable_folder, write_json

from ..methods.environments import find_kind, methods_of, problem_of
from ..problems.problem import Case, EnvKind, EnvMethod, Played, Tell
from ..problems.statistics import interval, paired_difference
from ..reports.env_report import write_env_report

__all__ = ["compare_env", "train_env"]

SCHEMA_VERSION = 1
_SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cell:
    """One method with one seed: what it earned in every case, by split."""

    method: EnvMethod
    seed: int
    seconds: float
    played: Mapping[str, Sequence[Played]]
    trace: dict[str, Any] | None


def compare_env(
    env: str,
    methods: list[str] | None = None,
    *,
    table: str | None = None,
    options: Mapping[str, Any] | None = None,
    seeds: int = 5,
    tries: int = 4,
    out: Path,
    command: str = "",
    progress: Tell = lambda done, total, what: None,
) -> dict[str, Any]:
    """Compare methods on an environment and write `results.json` and `report.html`.

    Args:
        env: name of the environment.
        methods: names; all if None.
        table: a Parquet path or an embedded source's name; None: the environment's own.
        options: of the environment, in place of its defaults.
        seeds: training seeds 0, 1, ...
        tries: settings tried for each method, chosen on validation.
        out: folder; finished fits in it are not repeated.
        command: what the user typed.
        progress: is told of every finished fit.

    Raises:
        InputError: a name or an option is unknown, or the table does not serve.
    """
    kind = find_kind(env)
    chosen = methods_of(kind, methods)
    problem = problem_of(kind, table, options)
    cases = kind.cases(problem)
    writable_folder("out", out)
    identity: dict[str, Any] = {
        "env": env,
        "table": table,
        "options": _plain(kind, options),
        "tries": tries,
        "cases": [dict(case.values) for case in cases],
    }
    cells: list[_Cell] = []
    total = len(chosen) * seeds
    for seed in range(seeds):
        for method in chosen:
            done = len(cells)

            def told(step: int, steps: int, what: str, done: int = done, name: str = method.name) -> None:
                progress(done, total, f"{name}: {what} ({step}/{steps})")

            cells.append(_run(kind, problem, method, cases, seed, tries, identity, out / "cells", told))
            progress(len(cells), total, f"{method.name}, seed {seed}")
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "env": env,
        "environment": kind.environment,
        "table": table,
        "options": _plain(kind, options),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "seeds": list(range(seeds)),
        "tries": tries,
        "cases": [{"label": case.label, **case.values} for case in cases],
        "rows": [
            _row(cell, split, place, case)
            for cell in cells
            for split in _SPLITS
            for place, case in enumerate(cases)
        ],
        "summary": [row for place, case in enumerate(cases) for row in _summary(kind, cells, place, case)],
    }
    traces = {cell.method.name: cell.trace for cell in cells if cell.trace is not None}
    figures = kind.figures(traces, results["summary"]) if traces else ()
    write_json(out / "results.json", results)
    write_env_report(results, figures, out / "report.html")
    return results


def train_env(
    env: str,
    method: str | None = None,
    *,
    table: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    tries: int = 1,
    out: Path,
    progress: Tell = lambda done, total, what: None,
) -> dict[str, Any]:
    """Fit one method on an environment: what it earned, and its policy in `out/policy` where there is one.

    Raises:
        InputError: a name or an option is unknown, or the table does not serve.
    """
    kind = find_kind(env)
    chosen = methods_of(kind, None if method is None else [method])[0]
    problem = problem_of(kind, table, options)
    cases = kind.cases(problem)
    writable_folder("out", out)
    began = time.perf_counter()
    policies = chosen.fit(problem, cases, seed, tries, progress)
    facts: dict[str, Any] = {"env": env, "method": chosen.name, "seconds": time.perf_counter() - began}
    for case, policy in zip(cases, policies, strict=True):
        means = kind.play(problem, policy, case, "test").means()
        facts[case.label] = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    if kind.write(policies[0], out / "policy"):
        facts["policy"] = str(out / "policy")
    write_json(out / "run.json", facts)
    return {"run": str(out), **facts}


def _run(
    kind: EnvKind,
    problem: Any,
    method: EnvMethod,
    cases: Sequence[Case],
    seed: int,
    tries: int,
    identity: Mapping[str, Any],
    folder: Path,
    told: Tell,
) -> _Cell:
    """Fit, play and keep a cell, or read it if it is there."""
    key = json.dumps({**identity, "method": method.name, "seed": seed}, sort_keys=True)
    home = folder / f"{method.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    note = home / "cell.json"
    if note.exists():
        return _read(method, seed, home, len(cases))
    began = time.perf_counter()
    policies = method.fit(problem, cases, seed, tries, told)
    seconds = time.perf_counter() - began
    played = {
        split: [kind.play(problem, policy, case, split) for policy, case in zip(policies, cases, strict=True)]
        for split in _SPLITS
    }
    home.mkdir(parents=True, exist_ok=True)
    kind.write(policies[0], home / "policy")
    arrays = {
        f"{split}/{place}/{name}": np.ascontiguousarray(part, dtype=np.float32)
        for split, each in played.items()
        for place, one in enumerate(each)
        for name, part in {"utility": one.utility, **one.parts}.items()
    }
    with replacing(home / "played.safetensors") as temporary:
        save_file(arrays, temporary)
    facts = {split: [dict(one.facts) for one in each] for split, each in played.items()}
    middle = (len(cases) - 1) // 2
    trace = kind.trace(problem, policies[middle], cases[middle]) if seed == 0 else None
    write_json(note, {"seconds": seconds, "facts": facts, "trace": trace})
    return _Cell(method=method, seed=seed, seconds=seconds, played=played, trace=trace)


def _read(method: EnvMethod, seed: int, home: Path, cases: int) -> _Cell:
    kept = json.loads((home / "cell.json").read_text(encoding="utf-8"))
    arrays = load_file(home / "played.safetensors")
    played: dict[str, list[Played]] = {}
    for split in _SPLITS:
        for place in range(cases):
            start = f"{split}/{place}/"
            parts = {name[len(start) :]: part for name, part in arrays.items() if name.startswith(start)}
            utility = parts.pop("utility")
            one = Played(utility=utility, parts=parts, facts=kept["facts"][split][place])
            played.setdefault(split, []).append(one)
    return _Cell(method=method, seed=seed, seconds=kept["seconds"], played=played, trace=kept["trace"])


def _row(cell: _Cell, split: str, place: int, case: Case) -> dict[str, Any]:
    return {
        "method": cell.method.name,
        "family": cell.method.family,
        **case.values,
        "seed": cell.seed,
        "split": split,
        **cell.played[split][place].means(),
        "fit_seconds": cell.seconds,
    }


def _summary(kind: EnvKind, cells: Sequence[_Cell], place: int, case: Case) -> list[dict[str, Any]]:
    """A row for each method in one case, with the paired difference to the rival on test."""
    groups: dict[str, list[_Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.method.name, []).append(cell)
    validation = {
        name: float(np.mean([cell.played["validation"][place].means()["utility"] for cell in group]))
        for name, group in groups.items()
    }
    rivals = [name for name, group in groups.items() if group[0].method.family in ("gate", "baseline")]
    named = [kind.rival] if kind.rival in groups else []
    best = [max(rivals, key=lambda name: validation[name])] if rivals else []
    rows: list[dict[str, Any]] = []
    for name, group in groups.items():
        utility = interval(_stack(group, place))
        means = [cell.played["test"][place].means() for cell in group]
        row: dict[str, Any] = {
            "method": name,
            "family": group[0].method.family,
            "case": case.label,
            **case.values,
            "utility_mean": utility.mean,
            "utility_ci95": [utility.low, utility.high],
            "validation_utility_mean": validation[name],
            "fit_seconds_mean": float(np.mean([cell.seconds for cell in group])),
        }
        parts = [part for part in means[0] if part != "utility"]
        row |= {f"{part}_mean": float(np.mean([each[part] for each in means])) for part in parts}
        for field, rival in (("rival", named), ("best_rival", best)):
            row[f"paired_difference_to_{field}"] = None
            if rival and rival[0] != name:
                found = paired_difference(_stack(group, place), _stack(groups[rival[0]], place))
                ci95 = [found.low, found.high]
                row[f"paired_difference_to_{field}"] = {"method": rival[0], "mean": found.mean, "ci95": ci95}
        rows.append(row)
    return rows


def _stack(group: Sequence[_Cell], place: int) -> np.ndarray:
    return np.stack([cell.played["test"][place].utility for cell in group])


def _plain(kind: EnvKind, options: Mapping[str, Any] | None) -> dict[str, Any]:
    return json.loads(json.dumps(dict(kind.options) | dict(options or {})))
