"""Checks of a table that are not errors: duplicates, leakage, missing outcomes, constant columns, prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .splitting import canonical, leaking_rows

__all__ = ["Finding", "findings", "prompt_findings"]

_SHOWN = 5  # examples of each finding
_SPREAD = 1000.0  # times the cheapest expert's mean cost: a larger ratio is often a wrong unit
_LOWEST, _HIGHEST = 0.001, 1000.0  # US dollars per million tokens: the range of real prices


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding.

    Attributes:
        kind: `duplicate_prompts`, `leakage`, `missing`, `missing_values`, `constant_quality`,
            `constant_cost`, `price`.
        count: number of rows or experts concerned.
        message: one sentence that says what and where.
        examples: a few query ids or experts.
    """

    kind: str
    count: int
    message: str
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the finding as `--json` prints it."""
        return {
            "kind": self.kind,
            "count": self.count,
            "message": self.message,
            "examples": list(self.examples),
        }


def findings(experts: tuple[str, ...], numbers: dict[str, np.ndarray]) -> list[Finding]:
    """Return the findings on the outcomes of a table.

    Args:
        experts: N names.
        numbers: [T, N] float32 by name, as in `Assembled`, with every cost filled in.
    """
    return [
        *_missing(experts, numbers["quality"]),
        *_constant(experts, numbers),
        *_prices(experts, numbers),
    ]


def prompt_findings(query: list[str], facts: dict[str, np.ndarray]) -> list[Finding]:
    """Return the findings on duplicate prompts, and on those that occur in several splits or folds.

    Args:
        query: [T] query ids.
        facts: [T] by name (prompt, split, fold), None if missing; a name can be absent.
    """
    prompts = facts.get("prompt", np.empty(0, dtype=object))
    keys = [key for key in map(canonical, prompts) if key]
    results: list[Finding] = []
    repeats = len(keys) - len(set(keys))
    if repeats:
        message = f"{repeats} rows repeat the prompt of another row"
        results.append(Finding(kind="duplicate_prompts", count=repeats, message=message))
    for name in ("split", "fold"):
        rows = leaking_rows(prompts, facts[name]) if len(prompts) and name in facts else ()
        if len(rows):
            message = f"{len(rows)} rows have a prompt that also occurs in another {name} (leakage)"
            examples = tuple(query[int(row)] for row in rows[:_SHOWN])
            results.append(Finding(kind="leakage", count=len(rows), message=message, examples=examples))
    return results


def _missing(experts: tuple[str, ...], quality: np.ndarray) -> list[Finding]:
    missing = np.isnan(quality)
    if not missing.any():
        return []
    rows = int(missing.any(axis=1).sum())
    by_expert = sorted(zip(missing.sum(axis=0).tolist(), experts, strict=True), reverse=True)
    worst = ", ".join(f"{name} on {count}" for count, name in by_expert[:_SHOWN] if count)
    message = f"{rows} of {len(quality)} rows lack an expert: {worst}"
    examples = tuple(name for count, name in by_expert if count)[:_SHOWN]
    return [Finding(kind="missing", count=rows, message=message, examples=examples)]


def _constant(experts: tuple[str, ...], numbers: dict[str, np.ndarray]) -> list[Finding]:
    results: list[Finding] = []
    for kind, name, consequence in (
        ("quality", "constant_quality", "there is nothing to learn"),
        ("cost", "constant_cost", "this is a list price, not a measurement"),
    ):
        values = numbers[kind]
        same = [expert for index, expert in enumerate(experts) if _is_constant(values[:, index])]
        if same:
            message = f"{', '.join(same[:_SHOWN])}: the same {kind} on every row; {consequence}"
            results.append(
                Finding(kind=name, count=len(same), message=message, examples=tuple(same[:_SHOWN]))
            )
    return results


def _is_constant(values: np.ndarray) -> bool:
    known = values[~np.isnan(values)]
    return known.size > 1 and bool((known == known[0]).all())


def _prices(experts: tuple[str, ...], numbers: dict[str, np.ndarray]) -> list[Finding]:
    """Costs of 0, costs that differ by orders of magnitude, and implausible rates per token."""
    cost = numbers["cost"]
    known = (~np.isnan(cost)).sum(axis=0)
    mean = np.nansum(cost, axis=0, dtype=np.float64) / np.maximum(known, 1)
    results: list[Finding] = []

    def add(names: list[str], what: str) -> None:
        if names:
            message = f"{', '.join(names[:_SHOWN])}: {what}"
            results.append(
                Finding(kind="price", count=len(names), message=message, examples=tuple(names[:_SHOWN]))
            )

    add([name for name, c in zip(experts, mean, strict=True) if c == 0.0], "free on every row")
    paid = mean[mean > 0]
    if paid.size and paid.max() > _SPREAD * paid.min():
        highest, lowest = (
            experts[int(np.nanargmax(mean))],
            experts[int(np.where(mean > 0, mean, np.inf).argmin())],
        )
        ratio = paid.max() / paid.min()
        add([highest], f"costs {ratio:,.0f} times as much as {lowest}; are both in the same unit?")
    tokens = np.nansum(numbers["tokens_in"], axis=0) + np.nansum(numbers["tokens_out"], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.nansum(cost, axis=0) / tokens * 1e6
    implausible = [
        f"{name} ({value:.3g})"
        for name, value in zip(experts, rate, strict=True)
        if np.isfinite(value) and value > 0 and not _LOWEST <= value <= _HIGHEST
    ]
    what = f"US dollars per million tokens outside {_LOWEST:g} to {_HIGHEST:g}; are costs in dollars?"
    add(implausible, what)
    return results
