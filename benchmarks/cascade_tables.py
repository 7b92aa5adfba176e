"""Tables for the cascade study: language models with their answers, and images with follow-ups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from real_tables import SEALED, sealed_part, split_by_fold

from experts import OutcomeTable, open_table
from experts.sources.recorded_table import RecordedTable
from experts.sources.registry import open_source
from experts.table.follow_ups import verified

__all__ = ["CHEAP", "EXPENSIVE", "answers_alone", "sealed_answers", "with_follow_ups", "with_length_ranks"]

CHEAP, EXPENSIVE = "cheap-generalist", "expensive-generalist"
_NOISE = 0.15  # of a further sample; pixels are between 0 and 1
_UNPARSED = "None"  # in mmlupro_pool22: no answer was found in the output


def answers_alone(path: Path) -> OutcomeTable:
    """Return a table of language models by its folds; what cascades observe are the answers, if anything.

    Args:
        path: the Parquet file, with columns `answer/<expert>`. Of `mmlupro_pool22` fold 4 is left out.
    """
    return _without_unparsed(split_by_fold(open_table(path), sealed=path.stem == SEALED))


def sealed_answers(path: Path) -> OutcomeTable:
    """Return `mmlupro_pool22` with the part of fold 4 that is sealed for cascades as test rows.

    Args:
        path: the Parquet file.
    """
    table = open_table(path)
    assert table.prompt is not None
    assert table.fold is not None
    kept = table.take(np.flatnonzero((table.fold < 4) | (sealed_part(table.prompt) == 1)))
    return _without_unparsed(split_by_fold(kept))


def with_length_ranks(table: OutcomeTable) -> OutcomeTable:
    """Return the table with the rank of an answer's length, among the expert's in training, as confidence."""
    assert table.tokens_out is not None
    train = np.sort(table.tokens_out[table.split == "train"], axis=0)
    below = [np.searchsorted(own, length) for own, length in zip(train.T, table.tokens_out.T, strict=True)]
    return replace(table, confidence=(np.stack(below, axis=1) + 0.5) / (len(train) + 1.0))


def with_follow_ups(name: str) -> OutcomeTable:
    """Return an image source's table with two more samples and a verifier of the cheap expert's answer.

    A further sample is the cheap expert's answer to the image with some noise, at its full compute. The
    verifier is the expensive expert: the class probability that it gives to the answer, at its full compute.

    Args:
        name: `digits` or `fashion-mnist`.
    """
    source = open_source(name)
    assert source is not None
    assert not isinstance(source, RecordedTable)
    table = open_table(name)
    assert table.probabilities is not None
    assert table.label is not None
    expert = table.experts.index(CHEAP)
    inputs, pool = source.queries(0).inputs, source.pool(0)
    given = [table.probabilities]
    for seed in (1, 2):
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed))
        logits = pool.run(inputs + _NOISE * noise, 1024)[:, [expert]]
        given.append(torch.softmax(logits, dim=-1).numpy())
    probabilities = np.concatenate(given, axis=1)
    places = [*range(len(table.experts)), expert, expert]
    sampled = replace(
        table,
        experts=(*table.experts, f"{CHEAP}#2", f"{CHEAP}#3"),
        probabilities=probabilities,
        confidence=probabilities.max(axis=2),
        quality=(probabilities.argmax(axis=2) == table.label[:, None]).astype(np.float32),
        cost=table.cost[:, places],
    )
    return verified(sampled, [EXPENSIVE], answers=[CHEAP])


def _without_unparsed(table: OutcomeTable) -> OutcomeTable:
    """Return the table with missing answers where none was found in an expert's output."""
    assert table.extra is not None
    columns = {name: table.extra[name] for name in table.extra.column_names}
    for name in columns:
        if name.startswith("answer/"):
            answers = [None if one == _UNPARSED else one for one in columns[name].to_pylist()]
            columns[name] = pa.array(answers, type=pa.string())
    return replace(table, extra=pa.table(columns))
