"""Lists the published tables, and measures again those that are stale.

    python benchmarks/results.py
    python benchmarks/results.py --run true --data FOLDER
    python benchmarks/results.py --run true --data FOLDER --only '[rules]'

`tables.yaml` holds each table's document, command, minutes on two idle cores, data files and their digest,
and the epoch that it was measured in. A table is stale if its epoch is older than the file's, or if a data
file has another digest. The file's epoch is raised by whoever changes what the commands measure. Output goes
to `runs/results/NAME.md`; a person reads it, puts it into the document, and then sets epoch and digest.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console

from experts import InputError
from experts.io.atomic import replacing
from experts.io.yaml_file import read_yaml

__all__ = ["Published", "digest_of_file", "listing", "read_tables", "reason_of"]

ROOT = Path(__file__).resolve().parents[1]
TABLES = Path(__file__).with_name("tables.yaml")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published table.

    Attributes:
        name: of the table.
        document: page that holds it.
        command: what prints it; `FOLDER` stands for the folder of the data files.
        minutes: on two idle cores.
        epoch: of the file when it was measured.
        data: digest of each data file; empty if the table needs none.
    """

    name: str
    document: str
    command: str
    minutes: float
    epoch: int
    data: Mapping[str, str]


def read_tables(path: Path = TABLES) -> tuple[int, list[Published]]:
    """Return the file's epoch and its tables."""
    content: Any = read_yaml("tables", path)  # which refuses a table that is listed twice
    tables = [Published(name=name, **({"data": {}} | fields)) for name, fields in content["tables"].items()]
    return int(content["epoch"]), tables


def reason_of(table: Published, epoch: int, folder: Path | None) -> str | None:
    """Return why a table is stale, or None.

    Args:
        table: the table.
        epoch: the file's epoch.
        folder: folder of the data files; None leaves their digests unchecked.
    """
    if table.epoch < epoch:
        return f"measured in epoch {table.epoch}, now {epoch}"
    for name, digest in table.data.items():
        if folder is not None and digest_of_file(folder / name) != digest:
            return f"{name} has changed"
    return None


def digest_of_file(path: Path) -> str:
    """Return a digest of a file's bytes, 16 hexadecimal digits; `absent` if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "absent"


def main(
    data: Path | None = None,
    only: tuple[str, ...] = (),
    out: Path = Path("runs/results"),
    run: bool = False,
) -> None:
    """List the tables and why they are stale, or measure the stale ones, shortest first.

    Args:
        data: folder of the data files; tables that need them are left out without it.
        only: names of tables; all if empty.
        out: folder for the output.
        run: measure the stale tables.
    """
    epoch, tables = read_tables()
    unknown = set(only) - {table.name for table in tables}
    if unknown:
        raise InputError("only", sorted(unknown), "are no published tables", "use names of the list")
    console = Console(stderr=True)
    stale = [
        (table, reason)
        for table in sorted(tables, key=lambda table: table.minutes)
        if (not only or table.name in only) and (reason := reason_of(table, epoch, data)) is not None
    ]
    if not run:
        print(listing(tables, {table.name: reason for table, reason in stale}))
        return
    for table, reason in stale:
        if "FOLDER" in table.command and data is None:
            console.print(f"{table.name}: needs --data, left out")
            continue
        console.print(f"{table.name}: {reason}; about {table.minutes:g} minutes")
        _measure(table, data, out, console)


def listing(tables: Sequence[Published], stale: Mapping[str, str]) -> str:
    """Return one line per table: its state, name, minutes and command."""
    lines = [
        f"{stale.get(table.name, 'current'):<36} {table.name:<22} {table.minutes:>5g} min  {table.command}"
        for table in tables
    ]
    total = sum(table.minutes for table in tables if table.name in stale)
    return "\n".join([*lines, f"{len(stale)} of {len(tables)} are stale, {total:g} minutes."])


def _measure(table: Published, data: Path | None, out: Path, console: Console) -> None:
    """Run a table's command and write what it prints; a command that fails leaves no file."""
    words = [str(data) if word == "FOLDER" else word for word in shlex.split(table.command)]
    words = [word.replace("FOLDER", str(data)) for word in words]
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        console.print(f"{table.name}: failed with exit status {done.returncode}")
        return
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / f"{table.name}.md") as temporary:
        Path(temporary).write_text(done.stdout, encoding="utf-8")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
