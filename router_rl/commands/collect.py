"""`collect`: what the experts of a source do on every query, kept as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import collect as collect_outcomes

__all__ = ["collect"]


def collect(*, source: str, out: Path, batch_size: int = 1024, seed: int = 0) -> dict[str, Any]:
    """Pretrain a source's experts, freeze them, run each once on every query, and keep what they did.

    Args:
        source: an embedded source: digits, fashion-mnist, or fashion-mnist:FOLDER.
        out: the Parquet file to write.
        batch_size: queries run, and kept, together.
        seed: of the source's experts and conditions.
    """
    table = collect_outcomes(source, out, batch_size=batch_size, seed=seed)
    quality = table.quality.mean(axis=0, dtype=float)
    return {
        "table": str(out),
        "queries": len(table),
        "features": 0 if table.features is None else table.features.shape[1],
        "experts": dict(zip(table.experts, map(float, quality), strict=True)),
        "best_single_quality": float(quality.max()),
        "oracle_quality": float(table.quality.max(axis=1).mean(dtype=float)),
        "notes": list(table.notes),
    }
