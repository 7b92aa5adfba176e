"""What is odd about a table of outcomes: things that are not wrong, yet that its owner should look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .splitting import leaking_rows

__all__ = ["Finding", "findings"]

_SHOWN = 5  # examples of each finding
_SPREAD = 1000.0  # times the cheapest expert's mean cost: more is mostly a slip of units
_LEAST, _MOST = 0.001, 1000.0  # US dollars per million tokens that anybody has charged


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One oddity.

    Attributes:
        kind: `duplicate_prompts`, `leakage`, `missing`, `constant_quality`, `constant_cost`, `price`.
        count: rows or experts it concerns.
        message: what and where, in a sentence.
        examples: query ids or experts, a few.
    """

    kind: str
    count: int
    message: str
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As printed by `--json`."""
        return {
            "kind": self.kind,
            "count": self.count,
            "message": self.message,
            "examples": list(self.examples),
        }


def findings(
    experts: tuple[str, ...], query: list[str], numbers: dict[str, np.ndarray], facts: dict[str, np.ndarray]
) -> list[Finding]:
    """Look a table over; fields are those of `Assembled`, costs filled in."""
    return [
        *_prompts(query, facts),
        *_missing(experts, numbers["quality"]),
        *_constant(experts, numbers),
        *_prices(experts, numbers),
    ]


def _prompts(query: list[str], facts: dict[str, np.ndarray]) -> list[Finding]:
    """Prompts that stand twice, and those of them that straddle splits or folds."""
    prompts = [" ".join(str(prompt).split()) for prompt in facts["prompt"] if prompt is not None]
    found: list[Finding] = []
    repeats = len(prompts) - len(set(prompts))
    if repeats:
        message = f"{repeats} rows repeat the prompt of another row"
        found.append(Finding(kind="duplicate_prompts", count=repeats, message=message))
    for name in ("split", "fold"):
        rows = leaking_rows(facts["prompt"], facts[name])
        if len(rows):
            message = f"{len(rows)} rows have a prompt that also stands in another {name} (leakage)"
            examples = tuple(query[row] for row in rows[:_SHOWN])
            found.append(Finding(kind="leakage", count=len(rows), message=message, examples=examples))
    return found


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
    found: list[Finding] = []
    for kind, name, consequence in (
        ("quality", "constant_quality", "there is nothing to learn about it"),
        ("cost", "constant_cost", "its price per query is a list price, not a measurement"),
    ):
        values = numbers[kind]
        same = [expert for index, expert in enumerate(experts) if _is_constant(values[:, index])]
        if same:
            message = f"{', '.join(same[:_SHOWN])}: the same {kind} on every row; {consequence}"
            found.append(Finding(kind=name, count=len(same), message=message, examples=tuple(same[:_SHOWN])))
    return found


def _is_constant(values: np.ndarray) -> bool:
    known = values[~np.isnan(values)]
    return known.size > 1 and bool((known == known[0]).all())


def _prices(experts: tuple[str, ...], numbers: dict[str, np.ndarray]) -> list[Finding]:
    """Costs of 0, costs apart by orders of magnitude, and rates per token that nobody charges."""
    cost = numbers["cost"]
    known = (~np.isnan(cost)).sum(axis=0)
    mean = np.nansum(cost, axis=0, dtype=np.float64) / np.maximum(known, 1)
    found: list[Finding] = []

    def tell(names: list[str], what: str) -> None:
        if names:
            message = f"{', '.join(names[:_SHOWN])}: {what}"
            found.append(
                Finding(kind="price", count=len(names), message=message, examples=tuple(names[:_SHOWN]))
            )

    tell([name for name, c in zip(experts, mean, strict=True) if c == 0.0], "free on every row")
    paid = mean[mean > 0]
    if paid.size and paid.max() > _SPREAD * paid.min():
        dear, cheap = (
            experts[int(np.nanargmax(mean))],
            experts[int(np.where(mean > 0, mean, np.inf).argmin())],
        )
        ratio = paid.max() / paid.min()
        tell([dear], f"costs {ratio:,.0f} times as much as {cheap}; are both in the same unit?")
    tokens = np.nansum(numbers["tokens_in"], axis=0) + np.nansum(numbers["tokens_out"], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.nansum(cost, axis=0) / tokens * 1e6
    odd = [
        f"{name} ({value:.3g})"
        for name, value in zip(experts, rate, strict=True)
        if np.isfinite(value) and value > 0 and not _LEAST <= value <= _MOST
    ]
    tell(odd, f"US dollars per million tokens outside {_LEAST:g} to {_MOST:g}; are costs in dollars?")
    return found
