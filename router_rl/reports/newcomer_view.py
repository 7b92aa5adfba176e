"""What `add-expert` prints: what the new expert adds, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .number_format import amount
from .results_table import cost_unit_named
from .table_format import signed

__all__ = ["advice_of", "newcomer_view"]

_WORTH = 0.001  # utility per query; below, more probes are not advised


def advice_of(gain: Mapping[str, Any], open_value: float) -> str:
    """Return what to do: use the new router, ask more, or keep the old one.

    Args:
        gain: as `Gain.to_json` gives it.
        open_value: utility per query that more probes could add at most.

    >>> advice_of({"share": 0.3, "utility": {"ci95": [0.002, 0.01]}}, 0.0001)
    'Use the new router: it is expected to be better (95% CI above 0). More probes would hardly change it.'
    """
    more = open_value >= _WORTH
    rest = (
        f"More probes can add at most {open_value:.4f} of utility per query: ask those of --suggest."
        if more
        else "More probes would hardly change it."
    )
    if gain["share"] == 0.0:
        return f"Keep the old router: the new expert would get no queries. {rest}"
    if gain["utility"]["ci95"][0] > 0.0:
        return f"Use the new router: it is expected to be better (95% CI above 0). {rest}"
    return f"Not certain: the 95% CI of the gain includes 0. Try the new router on some traffic first. {rest}"


def newcomer_view(result: dict[str, Any]) -> Group:
    """Format the result of `add-expert`.

    Args:
        result: what the command returned.
    """
    if "suggested" in result:
        lines = [
            f"{result['suggested']} queries to ask the new expert, best first, are in {result['prompts']}"
        ]
        if "open_value" in result:
            lines.append(f"More probes can add at most {result['open_value']:.4f} of utility per query.")
        return Group("", *map(Text, lines))
    gain = result["gain"]
    low, high = gain["utility"]["ci95"]
    rows = [
        ("new expert", result["expert"]),
        ("probes", str(result["probes"])),
        ("method", result["method"]),
        ("share", f"{gain['share']:.1%} of the test queries"),
        ("utility", f"{signed(gain['utility']['mean'])} a query (95% CI {signed(low)} to {signed(high)})"),
        ("quality", " to ".join(f"{value:.4f}" for value in gain["quality"])),
        ("cost", " to ".join(_cost(value, result["cost_unit"]) for value in gain["cost"])),
    ]
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    notes = [Text(f"Note: {note}", style="dim") for note in result["notes"]]
    return Group("", table, Text(result["advice"]), Text(""), *notes)


def _cost(value: float, unit: str) -> str:
    named = cost_unit_named(unit)
    return f"{amount(value)} a query" if named is None else named.text(value)
