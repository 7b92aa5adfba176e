"""The `Format` record: how an export format writes, loads and verifies a router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..routing import Router

__all__ = ["Format"]


def _no_usage(router: Router) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Format:
    """Writes a router to a folder and loads it in its runtime, for the parity check.

    Attributes:
        write: takes a router and a folder; writes the files.
        load: takes the folder; returns a function of features [T, D], of state [T, S] if the router has
            state, and of the keyword `action_mask` [N] bool if the format is guarded. The function returns a
            `Routing`.
        usage: takes a router; returns Python that loads and calls the export from its folder, for README.md.
        guarded: non-finite rows go to the fallback and experts can be masked; a stock gate does neither.
        keeps_text: the text pipeline of a prompt router is part of the export, and `load` returns a `Router`.
        takes_state: the runtime passes a second input. If False, a router with conditions is written at their
            default values, such as the compute weight it was trained for.
        for_model: takes the path of a model; returns the format for this model, which has `verify` and may
            accept more routers. None if the format does not run whole models.
        verify: takes the routers of a model's layers, in order; runs the model in its own runtime and returns
            the comparison for `parity.json`. Raises RouterError if the decisions differ.
    """

    write: Callable[[Router, Path], None]
    load: Callable[[Path], Callable[..., Any]]
    usage: Callable[[Router], str] = _no_usage
    guarded: bool = True
    keeps_text: bool = False
    takes_state: bool = True
    for_model: Callable[[Path], Format] | None = None
    verify: Callable[[Sequence[Router]], dict[str, Any]] | None = None
