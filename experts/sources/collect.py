"""Collection of outcomes: every expert runs on every query once, in batches that survive a kill."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from ..io.atomic import replacing, writable_file, write_json
from ..io.cache import cache_folder
from ..io.errors import InputError, unknown_name
from ..io.owned_folder import MARKER, claim_folder
from ..io.progress import say, track
from ..pool.expert_pool import ExpertPool
from ..table.outcome_table import OutcomeTable
from .recorded_table import RecordedTable
from .registry import SOURCES, open_source
from .source import Queries, Source

__all__ = ["collect", "collected"]


def collect(
    source: str | Source | RecordedTable,
    out: Path | str,
    *,
    batch_size: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> OutcomeTable:
    """Collect a source's outcomes into a Parquet file.

    Finished batches are kept in `<out>.parts/` until the file is written: an interrupted run resumes. Batches
    of other experts, queries or batch sizes are deleted, with a message on stderr. A recorded table is
    copied.

    Args:
        source: a source, or its name.
        out: the Parquet file.
        batch_size: queries per forward pass and per kept batch.
        seed: of the source.
        progress: show progress on stderr.

    Returns:
        The table that was written. Quality is 1 if the most likely class is correct, else 0. Cost is the
        expert's FLOPs per item. Confidence is the probability of the most likely class.

    Raises:
        InputError: the source is unknown, the batch size is below 1, `out` cannot be written to, or
            `<out>.parts` is a folder with other files.
    """
    if isinstance(source, str):
        embedded = open_source(source)
        if embedded is None:
            raise unknown_name("source", source, SOURCES)
        source = embedded
    if batch_size < 1:
        raise InputError("batch_size", batch_size, "is below 1", "give 1 or more")
    out = writable_file("out", out)
    if isinstance(source, RecordedTable):
        if seed != 0:
            raise InputError("seed", seed, f"has no use with {source.name}, a recorded table", "leave it out")
        recorded = source.read(progress=progress)
        recorded.write(out)
        return recorded
    pool = source.pool(seed, progress=progress)
    queries = source.queries(seed)
    probabilities = _run(pool, queries, out.with_name(out.name + ".parts"), batch_size, progress=progress)
    table = _table(source, pool, queries, probabilities, seed)
    table.write(out)
    _remove(out.with_name(out.name + ".parts"))
    return table


def collected(source: Source, *, seed: int = 0, progress: bool = True) -> OutcomeTable:
    """Return a source's outcomes from the cache; the first call collects them.

    Processes that call it at the same time wait for the first one.

    Args:
        source: of the outcomes.
        seed: of the source.
        progress: show progress on stderr.
    """
    path = cache_folder(source.name) / f"table-{source.digest(seed)}.parquet"
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                collect(source, path, seed=seed, progress=progress)
    return OutcomeTable.read(path, progress=progress)


def _run(pool: ExpertPool, queries: Queries, parts: Path, batch_size: int, *, progress: bool) -> np.ndarray:
    """Return class probabilities [T, N, C] float32, from the existing parts and by running the rest."""
    manifest: dict[str, object] = {
        "schema_version": 1,
        "fingerprint": _fingerprint(pool, queries),
        "batch_size": batch_size,
    }
    _prepare(parts, manifest)
    starts = range(0, len(queries.inputs), batch_size)
    batches: list[np.ndarray] = []
    for start in track(starts, "running experts", len(starts), shown=progress):
        part = parts / f"{start:09d}.safetensors"
        if not part.exists():
            logits = pool.run(queries.inputs[start : start + batch_size], batch_size)
            with replacing(part) as temporary:
                save_file({"probabilities": torch.softmax(logits, dim=-1).numpy()}, temporary)
        batches.append(load_file(part)["probabilities"])
    return np.concatenate(batches)


def _prepare(parts: Path, manifest: dict[str, object]) -> None:
    """Create the folder, or keep the existing one if its manifest is the same."""
    # A killed run may have left the temporary of the marker, whose name begins with a dot.
    claim_folder(parts, "collection", [path.name for path in parts.glob("[!.]*")])
    stored = parts / "manifest.json"
    if stored.exists():
        try:
            if json.loads(stored.read_text(encoding="utf-8")) == manifest:
                return
        except (OSError, ValueError):
            pass
        say(f"{parts} has batches of other experts, queries or options; starting again")
    for batch in parts.glob("*.safetensors"):
        batch.unlink()
    write_json(stored, manifest)


def _remove(parts: Path) -> None:
    """Remove the batches, and the folder unless it holds other files."""
    for path in (*parts.glob("*.safetensors"), parts / "manifest.json", parts / MARKER):
        path.unlink(missing_ok=True)
    if not any(parts.iterdir()):
        parts.rmdir()


def _fingerprint(pool: ExpertPool, queries: Queries) -> str:
    digest = hashlib.sha256(pool.fingerprint().encode())
    digest.update("\0".join(map(str, queries.query_id)).encode())
    digest.update(f"{queries.inputs.dtype}\0{tuple(queries.inputs.shape)}\0".encode())
    digest.update(np.ascontiguousarray(queries.inputs.numpy()).tobytes())
    return digest.hexdigest()


def _table(
    source: Source, pool: ExpertPool, queries: Queries, probabilities: np.ndarray, seed: int
) -> OutcomeTable:
    correct = probabilities.argmax(axis=2) == queries.label[:, None]
    cost = np.broadcast_to(pool.costs.numpy(), correct.shape)
    return OutcomeTable(
        experts=pool.names,
        query_id=queries.query_id,
        features=queries.features,
        quality=correct.astype(np.float32),
        cost=cost.astype(np.float32),
        split=queries.split,
        cost_unit="flops",
        source=f"{source.name}: {source.describe()} (seed {seed})",
        group=queries.group,
        confidence=probabilities.max(axis=2),
        probabilities=probabilities,
        label=queries.label,
        extra=pa.table({"base": queries.base}),
    )
