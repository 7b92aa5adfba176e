"""The page docs/benchmarks/runtimes.md: what each export did in its runtime."""

from __future__ import annotations

import datetime
import hashlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "Row", "digest_of_exports", "digest_on_page", "write_page"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "runtimes.md"
_BEGIN, _END = "<!-- runtimes: make test-runtimes -->", "<!-- end of runtimes -->"


@dataclass(frozen=True, kw_only=True, order=True)
class Row:
    """One row of the table.

    Attributes:
        runtime: its name.
        format: of the export.
        form: architecture of the model, and how it was run.
        router: what was exported.
        loads: whether the runtime loaded it.
        tokens: greedy tokens equal to transformers, such as `240 of 240`; empty if none were made.
        experts: expert ids equal; empty if the runtime does not show them.
        logits: largest absolute difference of the model's logits or log-probabilities; None if not shown.
        version: of the runtime.
    """

    runtime: str
    format: str
    form: str
    router: str
    loads: bool
    tokens: str = ""
    experts: str = ""
    logits: float | None = None
    version: str


def digest_of_exports() -> str:
    """Return a digest of the sources in router_rl/exports, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    folder = ROOT / "router_rl" / "exports"
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def digest_on_page() -> str | None:
    """Return the digest of the sources that the page was measured with; None if there is no page."""
    if not PAGE.is_file():
        return None
    found = re.search(r"exports ([0-9a-f]{16})", PAGE.read_text(encoding="utf-8"))
    return found.group(1) if found else None


def write_page(rows: Sequence[Row], digest: str) -> str:
    """Put the rows into the page, and return what was done.

    Args:
        rows: of one run of all tests.
        digest: of the exports when the run began.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    inner, after = rest.split(_END)
    table = _table(rows)
    if table in inner and digest_on_page() == digest:
        return f"{PAGE.relative_to(ROOT)} is current"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    measured = f"Commit {commit or 'unknown'}, {today}, exports {digest}."
    PAGE.write_text(f"{before}{_BEGIN}\n{measured}\n\n{table}\n{_END}{after}", encoding="utf-8")
    return f"wrote {PAGE.relative_to(ROOT)}"


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| runtime | format | form | router | loads | same tokens | same experts | logits | version |",
        "| --- | --- | --- | --- | --- | --- | --- | ---: | --- |",
    ]
    for row in sorted(set(rows), key=lambda row: (row.runtime, row.format, row.form, row.router)):
        logits = "" if row.logits is None else _at_most(row.logits)
        loads = "yes" if row.loads else "no"
        cells = [row.runtime, row.format, row.form, row.router, loads, row.tokens, row.experts, logits]
        lines.append(f"| {' | '.join([*cells, row.version])} |")
    return "\n".join(lines)


def _at_most(error: float) -> str:
    """Return the next power of ten, since the last digits change from run to run."""
    bound = next((10.0**power for power in range(-7, 3) if error < 10.0**power), float("inf"))
    return f"< {bound:.0e}"
