"""The error for invalid input, and the suggestion of the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .printable import one_line_of

__all__ = ["InputError", "unknown_name"]


_LONGEST = 1000  # characters of a value in a message


class InputError(ValueError):
    """Invalid input: the message names the field, its value, the problem and the fix."""

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        """Build the message `field=value: problem; fix`, on one line and without control characters.

        Args:
            field: what the user set, as the user spells it: a column, a flag or a configuration key.
            value: its value.
            problem: why the value cannot be used.
            fix: what to do instead.
        """
        super().__init__(one_line_of(f"{field}={_shown(value)}: {problem}; {fix}"))
        self.field = field
        self.value = value

    def __reduce__(self) -> tuple[object, ...]:
        """Return what another process makes the same error of; the value is passed as text."""
        return _received, (str(self), self.field, _shown(self.value))


def _received(message: str, field: str, value: str) -> InputError:
    """Return the error of another process."""
    error = InputError(field, value, "", "")
    error.args = (message,)
    return error


def _shown(value: object) -> str:
    """Return the representation of a value, without the middle if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list that nests deeply
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-100:]}"


def unknown_name(field: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the nearest known name.

    Args:
        field: what the user set, as the user spells it.
        name: its value.
        known: the names that exist.

    >>> print(unknown_name("method", "ridg", ["ridge", "oracle"]))
    method='ridg': unknown; did you mean 'ridge'? Known: oracle, ridge
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {nearest[0]!r}? Known: " if nearest else "known: "
    return InputError(field, name, "unknown", hint + ", ".join(names))
