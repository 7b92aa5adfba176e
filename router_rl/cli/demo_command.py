"""`demo`: train, compare and export routers over digit classifiers, then over two language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from experts.io.value_range import Count

from ..reports.terminal import paths_of, progress_of, results_view
from ..studies.operating_target import Target
from .command import Command

__all__ = ["COMMAND", "demo"]

err = Console(stderr=True)

_TITLES = {
    "digits": "Seven digit classifiers: which should read which scan?",
    "language_models": "GPT-4 and Mixtral: which should answer which problem of GSM8K?",
}
_METHODS = {
    "digits": ("ppo", "exact_pg", "warm_exact_pg", "softmax_gate", "switch_gate"),
    "language_models": ("priced_pg", "softmax_gate"),
}
_MAX_QUALITY_LOSS = 0.02


def demo(
    *, out: Path = Path("demo"), seeds: Count = 3, n_trials: Count = 2, jobs: Count = 2
) -> dict[str, Any]:
    """Route between seven digit classifiers, then between two language models: train, compare, export.

    The classifiers are trained here. The language models' answers are a packaged table, `routellm_gsm8k`; the
    recommended router loses at most 0.02 of quality on validation rows.

    Args:
        out: folder for results.json, report.html, TensorBoard logs and the exported router of the digit
            classifiers; those of the language models are in its folder language_models.
        seeds: number of training seeds per method.
        n_trials: number of hyperparameter settings per method, selected on validation; the language models
            have one.
        jobs: number of processes.
    """
    from experts import open_table
    from experts.io.atomic import writable_folder

    from ..problems.objective import Objective
    from ..problems.routing.problem import RoutingProblem

    writable_folder("out", out)
    objectives = [Objective(compute_weight=weight) for weight in (0.02, 0.1, 0.4)]
    err.print(_TITLES["digits"])
    digits = _compared(
        RoutingProblem(open_table("digits"), objectives),
        _METHODS["digits"],
        out,
        {"seeds": seeds, "n_trials": n_trials, "jobs": jobs},
    )
    err.print(_TITLES["language_models"])
    language_models = _compared(
        RoutingProblem(open_table("routellm_gsm8k"), objectives),
        _METHODS["language_models"],
        out / "language_models",
        {"seeds": seeds, "n_trials": 1, "jobs": jobs},
        target=Target(max_quality_loss=_MAX_QUALITY_LOSS),
    )
    return {"digits": digits, "language_models": language_models}


def _compared(
    problem: Any,  # its type imports torch, and the parser executes imports for types
    methods: Sequence[str],
    out: Path,
    size: dict[str, int],
    target: Target | None = None,
) -> dict[str, Any]:
    """Compare methods, export the recommended router to `out/router`, and return the results."""
    from ..exports import export
    from ..studies.compare import compare
    from ..studies.recommended_run import read_recommended

    with progress_of("trials", err) as progress:
        study = compare(problem, methods, **size, out=out, target=target, progress=progress)
    results = {**study.results, "out": str(out), "reused": study.reused}
    if study.results["recommendation"]["expert"] is not None:  # one model answers every query
        return results
    parity = export(read_recommended(out).router, out / "router", rows=problem)
    return {**results, "router": str(out / "router"), "parity": parity.to_json()}


def demo_view(result: dict[str, Any]) -> Group:
    """Return the table of each comparison at its middle compute weight, then what each recommends.

    Args:
        result: `results.json` of each comparison, by name.
    """
    lines: list[Any] = []
    for name, results in result.items():
        lines += [Text(""), Text(_TITLES[name], style="bold"), results_view(_middle(results))]
    for name, results in result.items():
        lines += [
            Text(""),
            Text(_TITLES[name], style="bold underline"),
            Text(results["recommendation"]["sentence"], style="bold"),
            *(Text(line, no_wrap=True, overflow="ignore") for line in paths_of(results)),
        ]
    return Group(*lines)


def _middle(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results of one case, without the sentences that are about all of them."""
    cases = results["cases"]
    label = cases[(len(cases) - 1) // 2]["label"]
    summary = [row for row in results["summary"] if row["case"] == label]
    left_out: dict[str, Any] = {"recommendation": None, "verdict": [], "warnings": [], "notes": []}
    return {**results, **left_out, "summary": summary}


COMMAND = Command(run=demo, view=demo_view)
