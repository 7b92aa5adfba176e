"""The table of a comparison before it is printed: its columns, cases and reference methods.

The terminal, Markdown and HTML print the same table, so its content is decided here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .column_glossary import Term, term_of
from .number_format import amount

__all__ = [
    "Column",
    "CostUnit",
    "Reference",
    "by_case",
    "capitalised",
    "columns_of",
    "cost_unit_named",
    "cost_unit_of",
    "difference_of",
    "has_interval",
    "references_of",
]

# Not columns of their own: utility has one, and validation and fit times would mislead beside test numbers.
_ELSEWHERE = ("utility", "validation_utility", "fit_seconds")
_SECONDARY = ("max_over_mean", "drops")  # in `results.json` and in the report's list of all runs
_FIRST = ("quality", "compute", "cost", "load_cv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One measured column.

    Attributes:
        name: in `results.json`, without `_mean`.
        term: how it is printed.
        value: the mean of a row of the summary; None where it was not measured.
        text: that value as printed; an empty string where there is none.
    """

    name: str
    term: Term
    value: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CostUnit:
    """The unit that a user pays in.

    Attributes:
        label: such as `US$ per 1,000 queries`.
        short: at the terminal.
        per_compute: how much a compute of 1 is.
    """

    label: str
    short: str
    per_compute: float

    def text(self, compute: float) -> str:
        """A compute in this unit, such as `US$ 15.7 per 1,000 queries`."""
        value = amount(compute * self.per_compute)
        return (
            f"US$ {value}{self.label.removeprefix('US$')}"
            if self.label.startswith("US$")
            else f"{value} {self.label}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The method that paired differences are computed against, in each case.

    Attributes:
        field: in a row of the summary.
        role: such as `best gate`.
        methods: the method in each case, by the case's label.
    """

    field: str
    role: str
    methods: Mapping[str, str]

    @property
    def name(self) -> str:
        """The method where it is the same in all cases and the problem names it, else the role."""
        names = set(self.methods.values())
        return names.pop() if self.role == "rival" and len(names) == 1 else self.role

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the summary is the reference itself."""
        return row["method"] == self.methods.get(row["case"])


def by_case(results: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each case's label with its rows of the summary: bounds first, then by decreasing utility.

    Args:
        results: the content of `results.json`.
    """
    for case in results["cases"]:
        rows = [row for row in results["summary"] if row["case"] == case["label"]]
        rows.sort(key=lambda row: (row["family"] != "bound", *_falling(row), row["method"]))
        if rows:
            yield case["label"], rows


def columns_of(results: Mapping[str, Any]) -> list[Column]:
    """The measured columns that the summary holds, quality, compute, cost and load first.

    Args:
        results: the content of `results.json`.
    """
    names = dict.fromkeys(name for row in results["summary"] for name in row if name.endswith("_mean"))
    parts = [name.removesuffix("_mean") for name in names]
    unit = cost_unit_of(results)
    columns = {name: _column(name) for name in parts if name not in (*_ELSEWHERE, *_SECONDARY, "cost")}
    if unit is not None and "compute" in columns:
        columns["cost"] = _cost_column(unit)
    order = [name for name in _FIRST if name in columns]
    return [columns[name] for name in [*order, *(name for name in columns if name not in order)]]


def cost_unit_of(results: Mapping[str, Any]) -> CostUnit | None:
    """The unit that a user pays in, where the results know it.

    Args:
        results: the content of `results.json`.
    """
    facts = {**(results["problem"].get("facts") or {}), **(results.get("table_facts") or {})}
    scale, unit = facts.get("compute_unit"), facts.get("cost_unit")
    return None if scale is None else cost_unit_named(unit, scale)


def cost_unit_named(unit: str | None, scale: float = 1.0) -> CostUnit | None:
    """The unit that a user pays in, by the table's name of it; None for one that is not known.

    Args:
        unit: usd, flops or seconds.
        scale: cost of a compute of 1 in this unit; 1 for costs as the table has them.

    >>> cost_unit_named("usd").text(0.00031), cost_unit_named("flops").text(2.5e9)
    ('US$ 0.31 per 1,000 queries', '2.5 G FLOPs per query')
    """
    names = {
        "usd": ("US$ per 1,000 queries", "$/1k", 1000.0),
        "flops": ("FLOPs per query", "FLOPs", 1.0),
        "seconds": ("seconds per query", "s/query", 1.0),
    }
    if unit not in names:
        return None
    label, short, factor = names[unit]
    return CostUnit(label=label, short=short, per_compute=factor * scale)


def references_of(results: Mapping[str, Any]) -> list[Reference]:
    """The references that differences are computed against, the main one first; empty where there is none.

    The main reference is the rival that the problem names, and then the only one. Without such a rival it is
    the best rival: the gate or baseline with the highest utility on validation. The best gate follows if it
    is another method in some case.

    Args:
        results: the content of `results.json`.
    """
    summary = results["summary"]
    rival, gate, best = (
        _reference(summary, f"paired_difference_to_{name}", name.replace("_", " "))
        for name in ("rival", "best_gate", "best_rival")
    )
    main = rival or best or gate
    if main is None:
        return []
    return [main] if rival or gate is None or gate.methods == main.methods else [main, gate]


def difference_of(row: Mapping[str, Any], reference: Reference) -> dict[str, Any] | None:
    """A row's paired difference to a reference, {method, mean, ci95}; None where it has none."""
    difference = row.get(reference.field)
    if difference is None or difference["mean"] is None or not has_interval(difference["ci95"]):
        return None
    return dict(difference)


def has_interval(ci95: Sequence[float | None] | None) -> bool:
    """Whether both ends of an interval are known."""
    return ci95 is not None and None not in ci95


def capitalised(text: str) -> str:
    """A text with its first letter in upper case, the others as they are.

    >>> capitalised("compute weight 0.1"), capitalised("")
    ('Compute weight 0.1', '')
    """
    return text[:1].upper() + text[1:]


def _falling(row: Mapping[str, Any]) -> tuple[bool, float]:
    utility = row["utility_mean"]
    return utility is None, -float(utility or 0.0)


def _reference(summary: Sequence[Mapping[str, Any]], field: str, role: str) -> Reference | None:
    methods = {row["case"]: row[field]["method"] for row in summary if row.get(field)}
    return Reference(field=field, role=role, methods=methods) if methods else None


def _column(name: str) -> Column:
    term = term_of(name)

    def text(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.{term.digits}f}" if abs(value) < 1_000.0 else f"{value:.3g}"

    return Column(name=name, term=term, value=lambda row: row.get(f"{name}_mean"), text=text)


def _cost_column(unit: CostUnit) -> Column:
    def value(row: Mapping[str, Any]) -> float | None:
        compute = row.get("compute_mean")
        return None if compute is None else compute * unit.per_compute

    term = Term(unit.label, unit.short, f"compute in the unit that you pay in: {unit.label}.")
    return Column(name="cost", term=term, value=value, text=lambda v: "" if v is None else amount(v))
