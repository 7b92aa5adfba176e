"""`collect`: what the experts of a source, or language models, do on every query, kept as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import InputError, OutcomeTable
from experts import collect as collect_outcomes

from ..reports.terminal import facts_view
from .command import Command

__all__ = ["COMMAND", "collect", "collect_view"]


def collect(
    *,
    out: Path,
    source: str | None = None,
    batch_size: int = 1024,
    models: Path | None = None,
    prompts: Path | None = None,
    scorer: str = "exact_match",
    concurrency: int = 8,
    workers: int = 0,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run every expert once on every query and keep what they did: a source's, or language models.

    A source's experts are pretrained first, and frozen. Language models are asked through LiteLLM (pip
    install 'router-rl[llm]'); every response is kept, and a run that was stopped goes on where it was.

    Args:
        out: the Parquet file to write.
        source: an embedded source: digits, fashion-mnist, or fashion-mnist:FOLDER.
        batch_size: of a source: queries run, and kept, together.
        models: in place of a source: a YAML list of language models.
        prompts: what to ask them: Parquet, CSV or JSON Lines with prompt, reference, and optionally group,
            split and query_id.
        scorer: of their answers: exact_match, multiple_choice, numeric, judge, or module:function.
        concurrency: answers waited for at once, of each model.
        workers: processes that ask, on Ray (pip install 'router-rl[scale]'); 0: this process.
        limit: prompts asked, from the first; null: all.
        seed: of the source's experts and conditions; of the split, where the prompts have none.
    """
    if (source is None) == (models is None):
        raise InputError(
            "source", source, "one of two is needed", "give --source, or --models with --prompts"
        )
    if models is None:
        assert source is not None
        return _facts(collect_outcomes(source, out, batch_size=batch_size, seed=seed), out)
    from experts.llm import collect_answers

    if prompts is None:
        raise InputError("prompts", None, "there is nothing to ask", "give --prompts FILE")
    found = collect_answers(
        models,
        prompts,
        out,
        scorer=scorer,
        concurrency=concurrency,
        workers=workers,
        limit=limit,
        seed=seed,
    )
    return {
        **_facts(found.table, out),
        "asked": found.queries,
        "models": found.models,
        "journal": str(found.journal),
    }


def collect_view(found: dict[str, Any]) -> Group:
    """What was collected, and of language models what each answered and why some answers are missing."""
    models: dict[str, dict[str, Any]] = found.get("models", {})
    facts = facts_view({name: value for name, value in found.items() if name != "models"})
    if not models:
        return Group(facts)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model")
    for name in ("answered", "missing", "cut off", "quality", "seconds", "tokens", "US$"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, about in models.items():
        means = [
            "" if about[part] is None else f"{about[part]:{form}}"
            for part, form in (("quality", ".3f"), ("latency_s", ".2f"))
        ]
        counts = [f"{about[part]:,}" for part in ("answered", "missing", "cut_off")]
        table.add_row(name, *counts, *means, f"{about['tokens_out']:,}", f"{about['usd']:.4f}")
    reasons = [
        Text(f"{name}: {count} x {reason}", style="yellow")
        for name, about in models.items()
        for reason, count in about["reasons"].items()
    ]
    again = [Text("The same command asks again for what is missing.", style="yellow")] if reasons else []
    return Group("", table, "", *reasons, *again, *([""] if reasons else []), facts)


def _facts(table: OutcomeTable, out: Path) -> dict[str, Any]:
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


COMMAND = Command(run=collect, view=collect_view)
