"""Parse options that are lists."""

from __future__ import annotations

from experts import InputError

__all__ = ["integers_in", "names_in", "numbers_in", "trackers_in"]


def names_in(field: str, value: list[str] | str) -> list[str]:
    """Return the names of a list or of a comma-separated string.

    Args:
        field: the option, for the error.
        value: its value.

    Raises:
        InputError: there is no name, one is empty, or one is given twice.
    """
    names = [name.strip() for name in (value.split(",") if isinstance(value, str) else value)]
    if not names or "" in names:
        raise InputError(field, value, "has no name" if not any(names) else "has an empty name", "write a,b")
    for name in names:
        if names.count(name) > 1:
            raise InputError(field, value, f"has {name!r} twice", "give each name once")
    return names


def trackers_in(value: list[str] | str) -> list[str]:
    """Return the names of trackers of a list or of a comma-separated string; `none` is no tracker.

    Args:
        value: value of the option `track`.

    Raises:
        InputError: a name is empty or given twice.
    """
    return [] if value in ("none", ["none"]) else names_in("track", value)


def numbers_in(field: str, value: list[float] | float | str) -> list[float]:
    """Return the numbers of a list or of a comma-separated string.

    Args:
        field: the option, for the error.
        value: its value.

    Raises:
        InputError: a part is not a number.
    """
    if isinstance(value, int | float):
        return [float(value)]
    try:
        return [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
    except ValueError as error:
        raise InputError(field, value, "not comma-separated numbers", "write 0.02,0.1,0.4") from error


def integers_in(field: str, value: list[int] | int | str, example: str) -> list[int]:
    """Return the integers of a list or of a comma-separated string.

    Args:
        field: the option, for the error.
        value: its value.
        example: a correct value, for the error.

    Raises:
        InputError: a part is not a whole number.
    """
    try:
        parts = str(value).split(",") if isinstance(value, int | str) else value
        return [int(part) for part in parts]
    except ValueError as error:
        raise InputError(field, value, "not comma-separated whole numbers", f"write {example}") from error
