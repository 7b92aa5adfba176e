"""`list`: the names that the other commands take."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts.sources.registry import SOURCES

from ..exports.registry import format_names
from ..methods.registry import find_method, method_names
from ..problems.registry import find_problem, problem_names
from ..problems.rule_names import RULES
from .command import Command

__all__ = ["COMMAND", "list_names"]


def list_names(*, env: str | None = None) -> dict[str, Any]:
    """List problems, methods, selection rules, sources and export formats.

    Args:
        env: describe this problem, its options and its methods; null: names only, of everything.
    """
    if env is None:
        return {
            "problems": problem_names(),
            "methods": {name: method_names(name) for name in problem_names()},
            "selections": list(RULES),
            "sources": list(SOURCES),
            "formats": format_names(),
        }
    kind = find_problem(env)
    methods = [find_method(env, name) for name in method_names(env)]
    return {
        "problem": env,
        "environment": kind.environment,
        "about": kind.about,
        "methods": {each.name: {"family": each.family, "about": each.about} for each in methods},
    }


def list_view(found: dict[str, Any]) -> Group:
    """Names, or one problem with what each of its methods is."""
    if "problem" in found:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        for name, about in found["methods"].items():
            table.add_row(Text(name), Text(about["family"], style="dim"), Text(about["about"]))
        title = f"{found['problem']}: {found['about']} (Gymnasium id {found['environment']})"
        return Group(Text(title), "", table)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            for problem, methods in value.items():
                table.add_row(Text(f"{name} of {problem}"), Text(", ".join(methods)))
        else:
            table.add_row(Text(name), Text(", ".join(value)))
    return Group(table, "", Text("`list --env NAME` says what the methods of a problem do.", style="dim"))


COMMAND = Command(run=list_names, view=list_view)
