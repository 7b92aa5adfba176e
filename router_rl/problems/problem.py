"""What `train --env` and `compare --env` need to know of an environment whose decisions have consequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..methods.method import Family

__all__ = ["Case", "EnvKind", "EnvMethod", "Figure", "Played", "Row", "Tell", "Traces"]

Tell = Callable[[int, int, str], None]
Row = Mapping[str, Any]
Traces = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting that methods are compared under, such as a compute weight or a load.

    Attributes:
        label: how it is called in tables.
        values: its numbers, which become columns of `results.json`.
    """

    label: str
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """What a policy earned on the episodes or requests of one split.

    Attributes:
        utility: [T] float.
        parts: what utility is made of, such as quality and compute, [T] float each.
        facts: other numbers that are no means, such as p95.
    """

    utility: np.ndarray
    parts: Mapping[str, np.ndarray]
    facts: Mapping[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """The means of utility and its parts, and the facts."""
        means = {name: float(np.mean(part, dtype=np.float64)) for name, part in self.parts.items()}
        return {"utility": float(np.mean(self.utility, dtype=np.float64)), **means, **self.facts}


class Figure(NamedTuple):
    """A picture of the report: its title, one sentence on how to read it, and its SVG."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class EnvMethod:
    """One way to get a policy.

    Attributes:
        name: as on the command line.
        family: `rl`, `gate`, `baseline` or `bound`.
        about: one line for `list`.
        fit: problem, cases, seed, tries and progress to a policy for each case, the same object where one
            serves them all.
    """

    name: str
    family: Family
    about: str
    fit: Callable[[Any, Sequence[Case], int, int, Tell], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class EnvKind:
    """One environment.

    Attributes:
        name: as on the command line.
        environment: its id in Gymnasium.
        about: one line for `list`.
        prepare: table (path, source or None) and all options to the problem; raises InputError.
        options: the options and their defaults.
        cases: of a problem, in order.
        methods: by name; the first is what `train` fits if none is named.
        always: methods that every comparison holds: bounds, random, the best single expert.
        play: problem, policy, case and split (`validation` or `test`) to what was earned. The episodes do not
            depend on the policy, so that differences are paired.
        rival: the method that `results.json` compares with; None: the best on validation that is no RL.
        trace: problem, policy and case to what the figures need, as JSON; kept for the first seed.
        figures: the traces of the middle case by method, and the rows of the summary, to pictures.
        write: keeps a policy for inference code in a folder; False where it is none that can be.
    """

    name: str
    environment: str
    about: str
    prepare: Callable[[str | None, Mapping[str, Any]], Any]
    options: Mapping[str, Any]
    cases: Callable[[Any], Sequence[Case]]
    methods: Mapping[str, EnvMethod]
    always: tuple[str, ...]
    play: Callable[[Any, Any, Case, str], Played]
    rival: str | None = None
    trace: Callable[[Any, Any, Case], dict[str, Any] | None] = lambda problem, policy, case: None
    figures: Callable[[Traces, Sequence[Row]], Sequence[Figure]] = lambda traces, summary: ()
    write: Callable[[Any, Any], bool] = lambda policy, folder: False
