"""The error of the commands of `serve` where their packages are not installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from experts import InputError

__all__ = ["serve_extra"]


@contextmanager
def serve_extra(command: str) -> Generator[None, None, None]:
    """Turn a failed import into one line that names the extra to install.

    Args:
        command: name of the command.

    Raises:
        InputError: a package cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        fix = "pip install 'router-rl[serve]'"
        raise InputError(command, error.name, f"cannot be imported ({error})", fix) from error
