"""`list`: show the names that the other commands take."""

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
                "full_information": getattr(each, "full_information", False),
                "about": each.about,
            }
            for each in methods
        },
    }


def list_view(result: dict[str, Any]) -> Group:
    """Return all names, or the description of one problem and its methods."""
    if "problem" in result:
        title = Text(f"{result['problem']}: {result['about']}")
        environment = Text(f"Gymnasium id: {result['environment']}", style="dim")
        return Group(title, environment, "", _methods_table(result["methods"]))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for name, value in result.items():
        if isinstance(value, dict):
            for problem, methods in value.items():
                table.add_row(Text(f"{name} of {problem}"), Text(", ".join(methods)))
        else:
            table.add_row(Text(name), Text(", ".join(value)))
    return Group(table, "", Text("`list --env NAME` describes the methods of a problem.", style="dim"))


def _methods_table(methods: dict[str, dict[str, Any]]) -> Table:
    """Return the methods and what each is, by family."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    family_of = {
        name: family_name(about["family"], about["full_information"]) for name, about in methods.items()
    }
    for family in dict.fromkeys(family_of.values()):
        table.add_row(Text(family, style="dim"), "")
        for name, about in methods.items():
            if family_of[name] == family:
                table.add_row(Text(f"  {name}"), Text(about["about"]))
    return table


COMMAND = Command(run=list_names, view=list_view)
