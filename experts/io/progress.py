"""Progress bars on stderr, for work that takes more than a moment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["counting", "say", "track"]

Item = TypeVar("Item")


def track(items: Iterable[Item], doing: str, total: int | None, *, shown: bool = True) -> Iterator[Item]:
    """Yield the items, with a progress bar on stderr where that is a terminal.

    Args:
        items: what is worked on.
        doing: a few words beside the bar.
        total: how many items there are; None where nobody knows.
        shown: False for no bar.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield from bar.track(items, total=total, description=doing)


@contextmanager
def counting(doing: str, total: int, *, shown: bool = True) -> Generator[Callable[[], None], None, None]:
    """Yield a function that counts one thing done, with a progress bar on stderr where that is a terminal.

    Args:
        doing: a few words beside the bar.
        total: how many things there are.
        shown: False for no bar.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda: bar.advance(task)


def say(text: str) -> None:
    """Say one thing on stderr that the user should know and that no return value can carry."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
