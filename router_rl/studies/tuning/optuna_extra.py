"""Optuna, which is optional: the error where it is missing, and a context without its log."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

from experts import InputError

__all__ = ["quiet_optuna", "require_optuna"]


def require_optuna(field: str, value: object) -> None:
    """Check that Optuna is installed; it is not imported.

    Args:
        field: name of the option that needs it, for the error.
        value: its value.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise InputError(field, value, "optuna is not installed", "pip install 'router-rl[tune]'")


@contextmanager
def quiet_optuna() -> Generator[None, None, None]:
    """Turn Optuna's log and its warnings of experimental features off, until the context ends."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
