"""What commands print at the terminal: progress, facts, paths; and the views of results and evaluations."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from experts.io.printable import printable

from .evaluation_view import evaluation_view
from .results_view import results_view

__all__ = ["evaluation_view", "facts_view", "paths_of", "progress_of", "results_view"]

_PATHS = ("router", "policy", "out", "run")  # printed by `paths_of`, whole


def paths_of(result: dict[str, Any]) -> list[str]:
    """The paths of what a command wrote, one a line.

    Args:
        result: what the command returned: `out` is the folder of a comparison, `run` of a run, `tuning` of a
            search for hyperparameters.
    """
    paths: list[tuple[str, str]] = []
    if "out" in result:
        out = result["out"]
        paths += [("report", f"{out}/report.html"), *_curves(out), ("trials", f"{out}/trials")]
    if "run" in result:
        run = result["run"]
        paths += [("run", run), *_curves(run)]
    if "tuning" in result:
        out = result["tuning"]
        charts = sorted(str(path) for path in Path(out).glob("*.svg"))
        paths += [*(("chart", path) for path in charts), *_curves(out), ("best", f"{out}/best.yaml")]
        words = shlex.join(["--config", f"{out}/best.yaml", "--out", f"{out}/run"])
        paths.append(("next", f"train_router.py train {words}"))
    for name in ("router", "policy"):
        place = result.get(name)
        if isinstance(place, str):
            inside = "run" in result and place == name  # run.json names its router relative to itself
            paths.append((name, f"{result['run']}/{place}" if inside else place))
    return [printable(f"{name:<7}{path}") for name, path in paths]


def _curves(folder: str) -> list[tuple[str, str]]:
    """The commands that show the curves of trackers whose files are in a folder."""
    curves: list[tuple[str, str]] = []
    if (Path(folder) / "tensorboard").exists():
        curves.append(("curves", f"tensorboard --logdir {folder}/tensorboard"))
    if any(Path(folder).glob("wandb/offline-run-*")):
        curves.append(("curves", f"wandb sync {folder}/wandb/offline-run-*"))
    return curves


def facts_view(result: dict[str, Any]) -> Table:
    """Names and values, one a line; paths are left to `paths_of`.

    Args:
        result: values by name; a mapping or a list takes several lines.
    """
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for name, value in result.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key} {_short(item)}" for key, item in value.items())
        elif isinstance(value, list):
            value = ("\n" if name == "notes" else ", ").join(map(str, value))
        if value not in ("", None) and name not in _PATHS:
            table.add_row(Text(name.replace("_", " ")), Text(_short(value)))
    return table


@contextmanager
def progress_of(doing: str, console: Console) -> Generator[Callable[[int, int, str], None], None, None]:
    """Yield a function (done, total, what) that updates a bar, or prints lines where there is no terminal.

    Args:
        doing: what is counted, such as `trials`.
        console: where to print.
    """
    if not console.is_terminal:
        yield _lines(doing, console)
        return
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + doing),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=printable(what), visible=True
        )


def _lines(doing: str, console: Console) -> Callable[[int, int, str], None]:
    """Print a line at every further tenth."""
    printed = -1

    def update(done: int, total: int, what: str) -> None:
        nonlocal printed
        tenth = 10 * done // max(total, 1)
        if tenth > printed:
            printed = tenth
            line = printable(f"{done}/{total} {doing}: {what}")
            console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    return update


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
