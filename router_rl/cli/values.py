"""Parse options that are lists."""

from __future__ import annotations

from experts import InputError

__all__ = ["integers_in", "names_in", "numbers_in"]


def names_in(value: list[str] | str) -> list[str]:
    """Return the names of a list or of a comma-separated string."""
    names = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in names if name.strip()]


def numbers_in(field: str, value: list[float] | float | str) -> list[float]:
    """Return the numbers of a list or of a comma-separated string."""
    if isinstance(value, int | float):
        return [float(value)]
    try:
        return [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
    except ValueError as error:
        raise InputError(field, value, "not comma-separated numbers", "write 0.02,0.1,0.4") from error


def integers_in(field: str, value: list[int] | int | str, example: str) -> list[int]:
    """Return the integers of a list or of a comma-separated string."""
    try:
        parts = str(value).split(",") if isinstance(value, int | str) else value
        return [int(part) for part in parts]
    except ValueError as error:
        raise InputError(field, value, "not comma-separated whole numbers", f"write {example}") from error
