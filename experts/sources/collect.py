"""Run every expert on every query, once: batched, resumable after a kill, written atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from ..io.atomic import replacing, writable_file, write_json
from ..io.cache import cache_folder
from ..io.errors import InputError, unknown_name
from ..io.progress import say, track
from ..pool.expert_pool import ExpertPool
from ..table.outcome_table import OutcomeTable
from .registry import SOURCES, open_source
from .source import Queries, Source

__all__ = ["collect", "collected"]


def collect(
    source: str | Source,
    out: Path | str,
    *,
    batch_size: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> OutcomeTable:
    """Collect a source's outcomes into a Parquet file.

    Finished batches are kept in `<out>.parts/` until the file is written, so a run that was killed goes on
    where it was. Parts of other experts, queries or batch sizes are thrown away, and this is said on stderr.

    Args:
        source: a source, or the name of an embedded one.
        out: the Parquet file.
        batch_size: queries run, and kept, together.
        seed: of the source.
        progress: show progress on stderr.

    Returns:
        The table that was written. Quality is 1 where the likeliest class is right, else 0; cost is the
        expert's FLOPs per item; confidence is the likeliest class's probability.

    Raises:
        InputError: the source is unknown, the batch size is below 1, or `out` cannot be written.
    """
    if isinstance(source, str):
        opened = open_source(source)
        if opened is None:
            raise unknown_name("source", source, SOURCES)
        source = opened
    if batch_size < 1:
        raise InputError("batch_size", batch_size, "is below 1", "give 1 or more")
    out = writable_file("out", out)
    pool = source.pool(seed, progress=progress)
    queries = source.queries(seed)
    probabilities = _run(pool, queries, out.with_name(out.name + ".parts"), batch_size, progress=progress)
    table = _table(source, pool, queries, probabilities, seed)
    table.write(out)
    shutil.rmtree(out.with_name(out.name + ".parts"))
    return table


def collected(source: Source, *, seed: int = 0, progress: bool = True) -> OutcomeTable:
    """Return a source's outcomes from the cache, where they are collected the first time.

    Processes that ask at the same time wait for the first one.
    """
    path = cache_folder(source.name) / f"table-{source.digest(seed)}.parquet"
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                collect(source, path, seed=seed, progress=progress)
    return OutcomeTable.read(path, progress=progress)


def _run(pool: ExpertPool, queries: Queries, parts: Path, batch_size: int, *, progress: bool) -> np.ndarray:
    """Return class probabilities [T, N, C] float32, from the parts that exist and by running the rest."""
    manifest: dict[str, object] = {
        "schema_version": 1,
        "fingerprint": _fingerprint(pool, queries),
        "batch_size": batch_size,
    }
    _prepare(parts, manifest)
    starts = range(0, len(queries.inputs), batch_size)
    found: list[np.ndarray] = []
    for start in track(starts, "running experts", len(starts), shown=progress):
        part = parts / f"{start:09d}.safetensors"
        if not part.exists():
            logits = pool.run(queries.inputs[start : start + batch_size], batch_size)
            with replacing(part) as temporary:
                save_file({"probabilities": torch.softmax(logits, dim=-1).numpy()}, temporary)
        found.append(load_file(part)["probabilities"])
    return np.concatenate(found)


def _prepare(parts: Path, manifest: dict[str, object]) -> None:
    """Leave a folder whose manifest is this one, with the parts that belong to it and no others."""
    note = parts / "manifest.json"
    if parts.exists():
        try:
            fits = json.loads(note.read_text(encoding="utf-8")) == manifest
        except (OSError, ValueError):
            fits = False
        if fits:
            return
        say(f"{parts}: made from other experts, queries or settings; starting afresh")
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    write_json(note, manifest)


def _fingerprint(pool: ExpertPool, queries: Queries) -> str:
    digest = hashlib.sha256(pool.fingerprint().encode())
    digest.update("\0".join(map(str, queries.query_id)).encode())
    digest.update(f"{queries.inputs.dtype}\0{tuple(queries.inputs.shape)}\0".encode())
    digest.update(np.ascontiguousarray(queries.inputs.numpy()).tobytes())
    return digest.hexdigest()


def _table(
    source: Source, pool: ExpertPool, queries: Queries, probabilities: np.ndarray, seed: int
) -> OutcomeTable:
    right = probabilities.argmax(axis=2) == queries.label[:, None]
    cost = np.broadcast_to(pool.costs.numpy(), right.shape)
    return OutcomeTable(
        experts=pool.names,
        query_id=queries.query_id,
        features=queries.features,
        quality=right.astype(np.float32),
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
