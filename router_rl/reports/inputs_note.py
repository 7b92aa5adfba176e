"""One sentence on what routers read, for the terminal, Markdown and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["inputs_note"]


def inputs_note(results: Mapping[str, Any]) -> str | None:
    """The inputs that all methods share, then the methods that differ; None where results do not say.

    Args:
        results: the content of `results.json`.

    >>> inputs_note({"inputs": {"shared": ["prompt"], "methods": {"group_label": ["prompt", "group"]}}})
    'prompt; group_label: prompt, group'
    """
    inputs = results.get("inputs")
    if not inputs:
        return None
    by_inputs: dict[str, list[str]] = {}
    for method, own in inputs["methods"].items():
        by_inputs.setdefault(", ".join(own) or "none", []).append(method)
    parts = [", ".join(inputs["shared"]) or "none"]
    parts += [f"{', '.join(methods)}: {own}" for own, methods in by_inputs.items()]
    return "; ".join(parts)
