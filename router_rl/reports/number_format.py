"""Numbers as the report prints them: fixed decimals, true minus signs, intervals, amounts of any size."""

from __future__ import annotations

from collections.abc import Sequence

from .table_format import signed as ascii_signed

__all__ = ["NOTHING", "amount", "interval", "number", "signed"]

NOTHING = "\N{EN DASH}"
"""Printed for a missing value."""

_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals and a true minus sign.

    >>> number(-0.12345), number(None)
    ('−0.123', '–')
    """
    return NOTHING if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, always with its sign.

    >>> signed(0.0012), signed(-0.0012), signed(-0.00001)
    ('+0.0012', '−0.0012', '+0.0000')
    """
    return NOTHING if value is None else ascii_signed(value, digits).replace("-", _MINUS)


def interval(ci95: Sequence[float | None] | None, digits: int = 4, with_sign: bool = False) -> str:
    """An interval in brackets; an empty string where there is none.

    >>> interval([-0.5, 0.25], 2, with_sign=True)
    '[−0.50, +0.25]'
    """
    if ci95 is None or None in ci95:
        return ""
    low, high = ((signed if with_sign else number)(end, digits) for end in ci95)
    return f"[{low}, {high}]"


def amount(value: float | None) -> str:
    """A cost of any size with three figures.

    >>> amount(1234567.0), amount(0.00042), amount(12.0), amount(999.7)
    ('1.23 M', '0.00042', '12', '1 k')
    """
    if value is None:
        return NOTHING
    value = float(f"{value:.3g}")  # before the unit is chosen: 999.7 becomes 1,000
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.3g}"
