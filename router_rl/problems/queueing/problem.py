"""The queueing environment on one table: what `--options` may hold, and the loads that are compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from envs import QueueingConfig
from experts import InputError, open_table

from ...methods.queueing.index_rule import IndexHyperparameters, fit_index
from ...routing import Router
from ..problem import Case
from .queue_task import QueueTask

__all__ = ["DEFAULTS", "QueueProblem", "cases_of", "prepare"]

_CONFIG = {one.name: one.default for one in fields(QueueingConfig) if one.name != "load"}
DEFAULTS: Mapping[str, Any] = {
    "arrivals": "poisson",
    "test_arrivals": None,
    "loads": (0.5, 0.8, 0.95),
    "episodes": 128,
    **_CONFIG,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class QueueProblem:
    """What every method is given.

    Attributes:
        tasks: one for each load.
        episodes: played on validation and on test.
        rules: policies that know no seed, by name and load, made once.
    """

    tasks: Mapping[float, QueueTask]
    episodes: int
    rules: dict[tuple[str, float], Any] = field(default_factory=dict)
    _tuned: dict[tuple[float, tuple[str, ...], int], Router] = field(default_factory=dict)

    def index(self, load: float, terms: tuple[str, ...], seed: int) -> Router:
        """The index rule of these terms tuned at a load, a copy; tuned once for all that begin with it."""
        key = (load, terms, seed)
        if key not in self._tuned:
            self._tuned[key] = fit_index(self.tasks[load], IndexHyperparameters(terms=terms), seed)
        return copy.deepcopy(self._tuned[key])


def prepare(table: str | None, options: Mapping[str, Any]) -> QueueProblem:
    """Read the table and the arrivals.

    Args:
        table: a Parquet path or an embedded source's name; digits if None.
        options: `arrivals` (`poisson`, `bursts` or the path of a trace), `test_arrivals` (another trace to
            test on), `loads`, `episodes` to measure with, and the fields of `QueueingConfig`.

    Raises:
        InputError: an option does not fit, or a file cannot be read.
    """
    loads, episodes = _numbers("options.loads", options["loads"]), int(options["episodes"])
    if not loads or len(set(loads)) < len(loads):
        raise InputError("options.loads", list(loads), "are none, or stand twice", "use 0.5,0.8,0.95")
    if episodes < 2:
        raise InputError("options.episodes", episodes, "give no interval", "use 2 or more")
    whole = open_table(table or "digits")
    settings = {name: _plain(options[name]) for name in _CONFIG}
    tasks = {
        load: QueueTask.of(whole, options["arrivals"], options["test_arrivals"], load=load, **settings)
        for load in loads
    }
    return QueueProblem(tasks=tasks, episodes=episodes)


def cases_of(problem: QueueProblem) -> list[Case]:
    """A case for each load."""
    return [Case(label=f"load {load:g}", values={"load": load}) for load in problem.tasks]


def _numbers(field: str, value: Any) -> tuple[float, ...]:
    """One number, or several."""
    try:
        return tuple(float(one) for one in (value if isinstance(value, list | tuple) else (value,)))
    except (TypeError, ValueError) as error:
        raise InputError(field, value, f"are not numbers ({error})", "use [0.5,0.8,0.95]") from error


def _plain(value: Any) -> Any:
    """A list, as YAML has it, as the tuple that a setting is."""
    return tuple(value) if isinstance(value, list) else value
