"""A source whose outcomes are stored in the package: opening it runs no expert."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # listing sources needs neither numpy nor pyarrow
    from ..table.outcome_table import OutcomeTable

__all__ = ["RecordedTable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTable:
    """A source of outcomes that were measured once and cannot be measured again here.

    Args:
        name: of the source.
        about: one sentence that says what the outcomes are of.
        path: the Parquet file, with its own split.
    """

    name: str
    about: str
    path: Path

    def describe(self) -> str:
        """Return one sentence that says what the outcomes are of."""
        return self.about

    def read(self, *, progress: bool = True) -> OutcomeTable:
        """Return the table.

        Args:
            progress: show progress on stderr.
        """
        from ..table.outcome_table import OutcomeTable

        return OutcomeTable.read(self.path, progress=progress)
