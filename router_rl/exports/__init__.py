"""Hand a trained router to inference code: one file a format, each checked against the trained router."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experts import InputError, OutcomeTable
from experts.atomic import writable_folder, write_json
from experts.errors import unknown_name

from ..features import featurised
from ..routing import Router, RouterError
from . import pt2, safetensors
from .parity import Parity, check_parity, parity_rows

__all__ = ["FORMATS", "Format", "Parity", "export"]


@dataclass(frozen=True)
class Format:
    """A way to write a router to a folder and to read it back for the parity check."""

    write: Callable[[Router, Path], None]
    load: Callable[[Path], Callable[..., Any]]
    about: str


FORMATS: dict[str, Format] = {
    "safetensors": Format(safetensors.write, safetensors.load, "weights and JSON; loaded with torch alone"),
    "pt2": Format(pt2.write, pt2.load, "a torch.export program with a dynamic number of rows"),
}


def export(
    router: Router, out: Path | str, *, format: str = "safetensors", table: OutcomeTable | None = None
) -> Parity:
    """Write a router to a folder, with `parity.json` beside it.

    The export is written next to the folder, loaded, compared, and only then moved in place: a failed
    parity leaves what was there before.

    Args:
        router: a trained router.
        out: the folder; an earlier export in it is replaced.
        format: a name in `FORMATS`.
        table: rows to compare on; made ones if None.

    Raises:
        InputError: the format is unknown, or the folder cannot be written or holds something else.
        RouterError: the table is another router's, parity failed, or the rule cannot be used row by row.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if not router.rule.causal:
        raise RouterError(
            f"{router.rule.name} selection looks at the whole batch, so it cannot route one request after "
            "another; train with topk to export"
        )
    out = Path(out)
    _check_replaceable(out)
    features = None
    if table is not None:
        if table.features is None and router.text is not None:
            table = featurised(table, router.text)
        router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
        assert table.features is not None
        features = torch.tensor(table.features[:: max(1, len(table) // 2048)])
    parent = writable_folder("out", out.parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.") as temporary:
        fresh = Path(temporary) / "export"
        FORMATS[format].write(router, fresh)
        inputs = parity_rows(router, features)
        parity = check_parity(router, FORMATS[format].load(fresh), inputs)
        rows = "table" if table is not None else "made"
        write_json(fresh / "parity.json", {"format": format, "rows_from": rows, **parity.to_json()})
        if out.exists():
            out.rename(Path(temporary) / "before")
        fresh.rename(out)
    return parity


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and (not any(out.iterdir()) or (out / "parity.json").exists()):
        return
    if out.exists():
        raise InputError("out", str(out), "exists and is not an export", "choose another folder")
