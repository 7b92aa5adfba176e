"""Text from outside, such as names and paths, made safe for a terminal."""

from __future__ import annotations

import re

__all__ = ["one_line_of", "printable"]


def printable(text: str) -> str:
    r"""Return a text without control characters: what cannot be printed is written as an escape.

    Args:
        text: from a file, a command line or a library.

    >>> print(printable("a\x1b[31mred\n"))
    a\x1b[31mred\n
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def one_line_of(text: str) -> str:
    r"""Return a message on one line: line breaks become spaces, control characters escapes.

    Args:
        text: the message, of several lines perhaps.

    >>> one_line_of("not YAML:\n  line 1,\tcolumn 2")
    'not YAML: line 1,\\tcolumn 2'
    """
    return printable(re.sub(r"\s*[\r\n]\s*", " ", text.strip("\r\n")))
