"""`list`: show the names that the other commands take."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts.sources.registry import SOURCES

from ..exports.registry import format_names
from ..methods.method import Method
from ..methods.registry import find_method, method_names
from ..problems.registry import find_problem, problem_names
from ..problems.rule_names import RULES
from ..reports.table_format import family_name
from .command import Command

__all__ = ["COMMAND", "list_names"]


def list_names(*, env: str | None = None) -> dict[str, Any]:
    """List problems, methods, selection rules, sources and export formats.

    Args:
        env: describe this problem and its methods; null: all names.
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
        "methods": {
            each.name: {
                "family": each.family,
                "full_information": isinstance(each, Method) and each.full_information,
                "about": each.about,
            }
            for each in methods
        },
    }


def list_view(result: dict[str, Any]) -> Group:
    """Return all names, or the description of one problem and its methods."""
    if "problem" in result:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        for name, about in result["methods"].items():
            family = family_name(about["family"], about["full_information"])
            table.add_row(Text(name), Text(family, style="dim"), Text(about["about"]))
        title = f"{result['problem']}: {result['about']} (Gymnasium id {result['environment']})"
        return Group(Text(title), "", table)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for name, value in result.items():
        if isinstance(value, dict):
            for problem, methods in value.items():
                table.add_row(Text(f"{name} of {problem}"), Text(", ".join(methods)))
        else:
            table.add_row(Text(name), Text(", ".join(value)))
    return Group(table, "", Text("`list --env NAME` describes the methods of a problem.", style="dim"))


COMMAND = Command(run=list_names, view=list_view)
