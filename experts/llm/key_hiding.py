"""Texts of other programs without API keys: a server may repeat the key that it was sent in an error."""

from __future__ import annotations

import os
import re

__all__ = ["hides", "without_keys"]

_NAMED = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)  # variables that LiteLLM may read
_SHORTEST = 8  # characters: shorter values are words, which would be hidden everywhere
_known: set[str] = set()


def hides(key: str) -> None:
    """Let `without_keys` replace a key from now on.

    Args:
        key: one that was read from the environment.
    """
    if len(key) >= _SHORTEST:
        _known.add(key)


def without_keys(text: str) -> str:
    """Return a text in which keys are replaced by `***`.

    Args:
        text: such as an error of a server.
    """
    named = {value for name, value in os.environ.items() if _NAMED.search(name) and len(value) >= _SHORTEST}
    for key in sorted(_known | named, key=len, reverse=True):
        text = text.replace(key, "***")
    return text
