"""Every command by its name. A new one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reports.env_view import env_view
from ..reports.terminal import evaluation_view, facts_view, results_view
from .assemble_command import assemble
from .bench_command import Subject, bench, bench_any_view
from .collect_command import collect, collect_view
from .compare_command import compare
from .demo_command import demo
from .evaluate_command import evaluate
from .export_command import export
from .handover_command import handover
from .import_command import import_, import_view
from .list_command import list_names
from .monitor_command import monitor, monitor_view
from .patch_command import patch
from .profile_command import profile, profile_view
from .train_command import train

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the command line.

    Attributes:
        run: its keyword arguments are the options, its docstring their help; what it returns is what
            `--json` prints. Progress goes to stderr.
        view: what is printed otherwise.
        positional: arguments that stand without their name, and their help; one with a default in `run` may
            be left out.
        switches: options that take no value, and their help.
        keeps_config: whether the options are kept as config.yaml in its `out` folder.
    """

    run: Callable[..., dict[str, Any]]
    view: Callable[[dict[str, Any]], Any] = facts_view
    positional: tuple[tuple[str, Any, str], ...] = ()
    switches: tuple[tuple[str, str], ...] = ()
    keeps_config: bool = False


_RUN = ("run", Path, "a run folder of `train`")
_RESULTS = ("source", Path, "results: a Parquet, CSV, JSON Lines or JSON file, or a folder of them")
_MODEL = ("model", str, "a model's folder, its config.json, or a published model's name")
_PATCH = ("patch", Path, "a patch's folder, as `handover` writes it")
_SUBJECT = ("subject", Subject, "learners, or router: a gate against a bare linear layer with top-k")
_DISTIL = ("distil", "write a linear router that imitates this one, and print what it loses; needs --table")
_QUICK = ("quick", "seconds instead of many minutes, to see that it runs; other numbers are ignored")


def _train_view(found: dict[str, Any]) -> Any:
    return facts_view(found) if "env" in found else evaluation_view(found)


def _compare_view(found: dict[str, Any]) -> Any:
    return env_view(found) if "env" in found else results_view(found)


COMMANDS: dict[str, Command] = {
    "demo": Command(run=demo, view=results_view),
    "collect": Command(run=collect, view=collect_view),
    "import": Command(run=import_, view=import_view, positional=(_RESULTS,)),
    "train": Command(run=train, view=_train_view, keeps_config=True),
    "compare": Command(run=compare, view=_compare_view, keeps_config=True),
    "evaluate": Command(run=evaluate, view=evaluation_view, positional=(_RUN,)),
    "monitor": Command(run=monitor, view=monitor_view, positional=(_RUN,)),
    "export": Command(run=export, positional=(_RUN,), switches=(_DISTIL,)),
    "bench": Command(run=bench, view=bench_any_view, positional=(_SUBJECT,), switches=(_QUICK,)),
    "profile": Command(run=profile, view=profile_view, positional=(_MODEL,)),
    "assemble": Command(run=assemble),
    "handover": Command(run=handover),
    "patch": Command(run=patch, positional=(_PATCH,)),
    "list": Command(run=list_names),
}
