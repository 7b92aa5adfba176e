"""The code blocks of the documents, and a reader who runs them one after the other in one folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import train_router

__all__ = ["ROOT", "Block", "Reader", "blocks_of"]

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(
    r"^(?:<!-- not run by the tests: (?P<reason>.+?) -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One code block of a page.

    Attributes:
        place: page and line, for messages.
        language: first word after the fence, such as `sh`.
        title: name of the file that it shows; empty if it is not the content of a file.
        text: what stands between the fences.
        reason: why the tests do not run it; empty if they do. In the page, it is a comment before the fence.
    """

    place: str
    language: str
    title: str
    text: str
    reason: str


def blocks_of(page: str) -> list[Block]:
    """Return the code blocks of a page, in order.

    Args:
        page: path below the root of the repository.
    """
    content = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            place=f"{page}:{content.count(chr(10), 0, match.start('info')) + 1}",
            language=match["info"].split()[0] if match["info"].split() else "",
            title="".join(re.findall(r'title="([^"]+)"', match["info"])),
            text=match["text"],
            reason=match["reason"] or "",
        )
        for match in _BLOCK.finditer(content)
    ]


class Reader:
    """Runs blocks as a reader of the page would, with small budgets.

    Args:
        budgets: for the beginning of a command, such as `train --env queueing`, options that make it small:
            they replace the page's own.
        after: for the beginning of a command, what to do after it.
    """

    def __init__(self, budgets: dict[str, str], after: dict[str, Callable[[], None]]) -> None:
        self.budgets, self.after = budgets, after
        self.used: set[str] = set()
        self.names: dict[str, object] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Run a Python block, or each line of a shell block."""
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), self.names)
            return
        assert block.language == "sh", block.place
        for line in block.text.splitlines():
            self.command(line, block.place)

    def command(self, line: str, place: str) -> None:
        """Run one line of a shell block: a command of the toolkit."""
        program, *words = shlex.split(line, comments=True)
        assert program in ("train_router.py", "train-router"), f"{place}: {line}"
        smaller: list[str] = []
        for start in self._of(self.budgets, words):
            smaller += shlex.split(self.budgets[start])
        assert train_router.main(_replaced(words, smaller)) == 0, f"{place}: {line}"
        for start in self._of(self.after, words):
            self.after[start]()

    def _of(self, by_start: dict[str, object], words: list[str]) -> list[str]:
        """Return the keys that a command begins with."""
        found = [start for start in by_start if words[: len(start.split())] == start.split()]
        self.used.update(found)
        return found


def _replaced(words: list[str], options: list[str]) -> list[str]:
    """Return the words with these options, in place of their own values of them."""
    names = set(options[::2])
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in names and before not in names
    ]
    return [*kept, *options]
