"""`export`: a trained router for inference code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from experts import OutcomeTable

from ..exports import export as export_router

__all__ = ["export"]


def export(
    run: Path,
    *,
    out: Path,
    format: str = "safetensors",
    table: str | None = None,
    at: float | None = None,
) -> dict[str, Any]:
    """Write a trained router for inference code, checked against the trained one.

    Args:
        run: the run folder.
        out: the folder to write; an earlier export in it is replaced.
        format: a format of `list`: safetensors, pt2, aoti, onnx, vllm, sglang, gguf.
        table: a table whose rows the parity check uses; made rows without it.
        at: the compute weight to fold a conditioned router at; without it the weight stays an input.
    """
    from ..evaluation.folding import fold_for
    from ..runs import read_run

    found = read_run(run)
    router = found.router
    if at is not None:
        router = fold_for(router, replace(found.objective, compute_weight=at))
    rows = None if table is None else OutcomeTable.read(table)
    parity = export_router(router, out, format=format, table=rows)
    return {"router": str(out), "format": format, **parity.to_json()}
