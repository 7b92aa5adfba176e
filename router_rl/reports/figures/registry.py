"""Every form of figure by its name, and the function that draws it. A new one is a file and a line here.

A problem's `figures` returns data of a form; `draw(traces, looks)` of the form's module makes charts of it,
where `traces` has the data by method and `looks` the methods' colours and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..drawing import Drawing

__all__ = ["FORMS", "SUMMARY_FORMS", "find_drawing"]

FORMS: dict[str, str] = {
    "cascade_tree": "router_rl.reports.figures.cascade_tree:draw",
    "queue_timeline": "router_rl.reports.figures.queue_timeline:draw",
    "cache_residency": "router_rl.reports.figures.cache_residency:draw",
    "layer_shares": "router_rl.reports.figures.layer_shares:draw",
    "memory_curve": "router_rl.reports.figures.memory_curve:draw",
    "learning_curve": "router_rl.reports.figures.learning_curve:draw",
    "calibration": "router_rl.reports.figures.calibration_curve:draw",
}
"""Form to `module:function`."""

SUMMARY_FORMS: dict[str, tuple[str, str, str]] = {
    "resident_gb": (
        "memory_curve",
        "Quality and utility by GPU memory",
        "Means over the seeds on test, against GPU memory in GB. At the dashed line, half of the experts' "
        "bytes are resident. Utilities more than 0.06 below the best are cut off.",
    )
}
"""A value of the cases to the form that draws the summary against it, the title and the note."""


def find_drawing(form: str) -> Callable[..., list[Drawing]] | None:
    """Import the function that draws a form; None where the form is unknown.

    Args:
        form: of a figure in `results.json`.
    """
    place = FORMS.get(form)
    if place is None:
        return None
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
