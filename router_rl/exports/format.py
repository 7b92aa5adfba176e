"""What an export format is."""

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
    """Writes a router to a folder and reads it back in its runtime, for the parity check.

    Attributes:
        write: router and folder; writes the files.
        load: folder to a function of features [T, D], of state [T, S] where the router has one, and of the
            keyword `action_mask` [N] bool where the format is guarded; it returns a `Routing`.
        usage: router to Python that loads and calls the export, run in its folder; for its README.md.
        guarded: rows that are not finite go to the fallback and experts can be masked; a stock runtime's gate
            does neither.
        keeps_text: the text pipeline of a prompt router is part of the export, and `load` returns a `Router`.
        takes_state: the runtime passes a second input. Without, a router with conditions is written at their
            defaults, such as the compute weight it was trained for.
        for_model: path of a model to the format for this model: it may write more routers, and has `verify`.
            None where the format does not know its runtime's models.
        verify: the routers of a model's layers, in order, to a comparison in the model's own runtime, for
            `parity.json`; raises RouterError if they decide otherwise there.
    """

    write: Callable[[Router, Path], None]
    load: Callable[[Path], Callable[..., Any]]
    usage: Callable[[Router], str] = _no_usage
    guarded: bool = True
    keeps_text: bool = False
    takes_state: bool = True
    for_model: Callable[[Path], Format] | None = None
    verify: Callable[[Sequence[Router]], dict[str, Any]] | None = None
