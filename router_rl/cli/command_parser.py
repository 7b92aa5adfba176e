"""A parser whose help and errors spell options and types as the user does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jsonargparse

from experts.io.checked_options import checked_value
from experts.io.errors import InputError

from .error_text import METHOD_KEY, as_typed, parser_error
from .path_options import check_paths

__all__ = ["CommandParser"]

_UNRECOGNISED = "unrecognized arguments: "


class CommandParser(jsonargparse.ArgumentParser):
    """The parser of one command.

    Attributes:
        kinds: type of each option, with its range, by its key.
    """

    kinds: dict[str, Any]

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Return the value of each option.

        Args:
            args: the words of the command line.
            others: as for `jsonargparse`.
            options: as for `jsonargparse`.

        Raises:
            InputError: the type of a value is wrong, or a word belongs to no option.
            jsonargparse.ArgumentError: another error, such as a missing option.
        """
        try:
            return super().parse_args(args, *others, **options)  # type: ignore[arg-type]
        except jsonargparse.ArgumentError as error:
            text = str(error)
            if text.startswith(_UNRECOGNISED):
                raise _unrecognised(text.removeprefix(_UNRECOGNISED), args or ()) from error
            rejected = parser_error(text, self.kinds)
            if rejected is not None:
                raise rejected from error
            raise

    def instantiate(self, *arguments: Any, **options: Any) -> Any:
        """Return the value of each option, with instances of the dataclasses of groups.

        Args:
            arguments: as for `jsonargparse`.
            options: as for `jsonargparse`.

        Raises:
            InputError: a value is out of range, or cannot be a path.
        """
        made = super().instantiate(*arguments, **options)
        check_paths(made.as_dict(), self.kinds)
        return made

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, with `--method.FIELD` for hyperparameters, and dashes in the names of options.

        Args:
            formatter: as for `argparse`.
        """
        text = super().format_help(formatter)
        text = re.sub(rf"(?<=--){METHOD_KEY}(?=\.)", "method", text)
        text = re.sub(r"(?<=--)[a-z][\w.]*", lambda match: match.group().replace("_", "-"), text)
        # A line break within what is replaced is kept, so that no line becomes longer than the terminal.
        text = re.sub(r"(?:typing\.)?Annotated\[(\w+),(\s+)([^\[\]]*?)\]", r"\1\2\3", text)
        return re.sub(r" <class(\s+)'(?:\w+\.)*(\w+)'>", r"\1\2", text)


def _unrecognised(rest: str, words: Sequence[str]) -> InputError:
    """Return the error of words that belong to no option: the value of a switch, or an argument too many."""
    for before, word in pairwise(words):
        name, equals, value = before.removeprefix("--").partition("=")
        if before.startswith("--") and equals and value == "true" and rest.startswith(word):
            try:
                checked_value(as_typed(name), word, bool)
            except InputError as error:
                return error
    return InputError("argument", rest, "belongs to no option", "leave it out, or see --help")
