"""Families, daggers, the best method and signs, as every table of methods prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["FAMILIES", "MARKS", "best_of", "family_name", "footnote", "marked", "outcome_of", "signed"]

FAMILIES = {"rl": "RL", "gate": "gate", "baseline": "baseline", "bound": "bound"}
"""A method's family as tables print it."""

MARKS = {"better": "▲", "worse": "▼", "same": "="}
"""The sign of each outcome of `outcome_of`."""

_DAGGER = "\N{DAGGER}"


def family_name(family: str, full_information: bool = False) -> str:
    """A family as tables print it; one that is not known as it is.

    Args:
        family: as in `results.json`.
        full_information: whether the method used the known outcomes of all experts.

    >>> family_name("rl"), family_name("rl", True)
    ('RL', 'RL, full')
    """
    return FAMILIES.get(family, family) + (", full" if full_information else "")


def marked(row: dict[str, Any]) -> str:
    """A method's name, with a dagger if it uses extra inputs.

    Args:
        row: of the `summary` in `results.json`.

    >>> marked({"method": "group_label", "extra_inputs": ["group"]})
    'group_label †'
    """
    return f"{row['method']} {_DAGGER}" if row.get("extra_inputs") else row["method"]


def footnote(summary: Sequence[dict[str, Any]]) -> str | None:
    """What the dagger means, or None where no method has one.

    Args:
        summary: of `results.json`.

    >>> footnote([{"method": "group_label", "extra_inputs": ["group"]}, {"method": "ppo"}])
    '† uses extra inputs (group) that the other methods do not have; never a reference: group_label.'
    """
    inputs = {row["method"]: row["extra_inputs"] for row in summary if row.get("extra_inputs")}
    if not inputs:
        return None
    columns = ", ".join(dict.fromkeys(name for names in inputs.values() for name in names))
    return (
        f"{_DAGGER} uses extra inputs ({columns}) that the other methods do not have; never a "
        f"reference: {', '.join(inputs)}."
    )


def best_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """The method with the highest utility that is no bound and has no extra inputs; None if there is none.

    Args:
        rows: of the `summary`, all of one case.
    """
    eligible = [
        row
        for row in rows
        if row["family"] != "bound" and not row.get("extra_inputs") and row["utility_mean"] is not None
    ]
    return max(eligible, key=lambda row: row["utility_mean"])["method"] if eligible else None


def outcome_of(ci95: Sequence[float]) -> str:
    """`better` or `worse` where the 95% CI of a difference excludes 0, else `same`.

    Args:
        ci95: the lower and the upper end.

    >>> outcome_of([0.1, 0.2]), outcome_of([-0.2, -0.1]), outcome_of([-0.1, 0.1])
    ('better', 'worse', 'same')
    """
    return "better" if ci95[0] > 0 else "worse" if ci95[1] < 0 else "same"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; what rounds to zero is +0, never -0.

    >>> signed(0.00012), signed(-0.00012), signed(-0.00001)
    ('+0.0001', '-0.0001', '+0.0000')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"
