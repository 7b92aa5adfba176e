"""The one error a user can cause below the inference floor, and the nearest-name suggestion it carries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "unknown_name"]


class InputError(ValueError):
    """Something the user gave cannot be used: says which field, which value and what to do about it."""

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        """Build the message `field=value: problem; fix`.

        Args:
            field: what the user set, as the user spells it (a column, a flag, a configuration key).
            value: what it was set to.
            problem: what is wrong with it.
            fix: what to do.
        """
        super().__init__(f"{field}={value!r}: {problem}; {fix}")
        self.field = field
        self.value = value


def unknown_name(field: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not registered, with the nearest one that is.

    >>> print(unknown_name("method", "ridg", ["ridge", "oracle"]))
    method='ridg': unknown; did you mean 'ridge'? Known: oracle, ridge
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {nearest[0]!r}? Known: " if nearest else "known: "
    return InputError(field, name, "unknown", hint + ", ".join(names))
