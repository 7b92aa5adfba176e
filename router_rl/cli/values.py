"""Values of options that are lists."""

from __future__ import annotations

from experts import InputError

__all__ = ["integers_in", "names_in", "numbers_in"]


def names_in(value: list[str] | str) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value
    return [name.strip() for name in names if name.strip()]


def numbers_in(field: str, value: list[float] | float | str) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)]
    try:
        return [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
    except ValueError as error:
        raise InputError(field, value, "not numbers with commas between", "write 0.02,0.1,0.4") from error


def integers_in(field: str, value: list[int] | int | str, example: str) -> list[int]:
    try:
        parts = str(value).split(",") if isinstance(value, int | str) else value
        return [int(part) for part in parts]
    except ValueError as error:
        raise InputError(field, value, "not whole numbers with commas between", f"write {example}") from error
