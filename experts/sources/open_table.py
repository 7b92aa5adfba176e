"""Open an outcome table by the path of a Parquet file or by the name of a source."""

from __future__ import annotations

from pathlib import Path

from ..io.errors import InputError, unknown_name
from ..table.outcome_table import OutcomeTable
from .collect import collected
from .recorded_table import RecordedTable
from .registry import SOURCES, open_source

__all__ = ["open_table"]


def open_table(
    path_or_source: str | Path, *, allow_leakage: bool = False, seed: int = 0, progress: bool = True
) -> OutcomeTable:
    """Return the outcome table of a Parquet file or of a source, which is collected on first use.

    Args:
        path_or_source: a Parquet file, or a source's name: `digits`, `routellm_gsm8k`, `fashion-mnist:/path`,
            or the name of an installed plugin. A source comes before a file of the same name; `./digits` is
            always a file.
        allow_leakage: accept a prompt that occurs in two splits or folds; the table's `notes` then say so.
        seed: of a split made here, and of a source's queries and experts; a recorded table has its own split.
        progress: show progress on stderr.

    Returns:
        The table. A source's table is read from the cache after the first time.

    Raises:
        InputError: no file and no source has this name, or the file cannot be read; names the file, the
            column, the row and the fix.
    """
    source = open_source(path_or_source) if isinstance(path_or_source, str) else None
    if isinstance(source, RecordedTable):
        return source.read(progress=progress)
    if source is not None:
        return collected(source, seed=seed, progress=progress)
    path = Path(path_or_source)
    if not path.exists():
        if not path.suffix and len(path.parts) == 1:
            raise unknown_name("table", str(path_or_source), [*SOURCES, "a Parquet path"])
        fix = f"give a Parquet file or the name of a source: {', '.join(SOURCES)}"
        raise InputError("table", str(path_or_source), "no such file", fix)
    return OutcomeTable.read(path, allow_leakage=allow_leakage, seed=seed, progress=progress)
