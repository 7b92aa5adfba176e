"""A bad input: a command line, the files it needs, and what the error must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BadCase", "Prepare", "no_files"]

Prepare = Callable[[Path], None]
"""Writes the files of a case into a folder that is removed after the case."""


def no_files(folder: Path) -> None:
    """Write nothing."""


@dataclass(frozen=True, kw_only=True)
class BadCase:
    """One bad input.

    Attributes:
        kind: what is bad, such as `value`, `config` or `table`; cases are sampled evenly over commands and
            kinds.
        words: the command line; the working folder holds the good inputs, and `bad/` the files of the case.
        names: the error must name one of these: fields or files.
        about: what is bad about its files.
        prepare: writes the files of the case into `bad/`.
        may_pass: whether the input may be valid, as a flipped bit can be; then only tracebacks, hangs and
            lost files are defects.
    """

    kind: str
    words: tuple[str, ...]
    names: tuple[str, ...]
    about: str = ""
    prepare: Prepare = no_files
    may_pass: bool = False

    @property
    def command(self) -> str:
        """The command."""
        return self.words[0]
