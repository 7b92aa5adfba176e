"""Progress bars and messages on stderr."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .printable import printable

__all__ = ["counting", "say", "track"]

Item = TypeVar("Item")


def track(items: Iterable[Item], doing: str, total: int | None, *, shown: bool = True) -> Iterator[Item]:
    """Yield the items, with a progress bar on stderr if that is a terminal.

    Args:
        items: any iterable.
        doing: the bar's label.
        total: number of items; None if unknown.
        shown: False for no bar.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield from bar.track(items, total=total, description=escape(printable(doing)))


@contextmanager
def counting(doing: str, total: int, *, shown: bool = True) -> Generator[Callable[[], None], None, None]:
    """Yield a function that advances a progress bar by one, on stderr if that is a terminal.

    Args:
        doing: the bar's label.
        total: number of steps.
        shown: False for no bar.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as bar:
        task = bar.add_task(printable(doing), total=total)
        yield lambda: bar.advance(task)


def say(text: str) -> None:
    """Print a message for the user on stderr.

    Args:
        text: the message, in plain text.
    """
    lines = "\n".join(map(printable, text.split("\n")))
    Console(stderr=True).print(lines, markup=False, emoji=False, highlight=False, soft_wrap=True)
