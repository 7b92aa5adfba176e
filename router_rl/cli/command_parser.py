"""A parser whose help spells options and types as the user does."""

from __future__ import annotations

import argparse
import re

import jsonargparse

from .error_text import METHOD_KEY

__all__ = ["CommandParser"]


class CommandParser(jsonargparse.ArgumentParser):
    """The parser of one command."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, with `--method.FIELD` for hyperparameters, and dashes in the names of options.

        Args:
            formatter: as for `argparse`.
        """
        text = super().format_help(formatter)
        text = re.sub(rf"(?<=--){METHOD_KEY}(?=\.)", "method", text)
        text = re.sub(r"(?<=--)[a-z][\w.]*", lambda match: match.group().replace("_", "-"), text)
        return re.sub(r"<class\s+'(?:\w+\.)*(\w+)'>", r"\1", text)
