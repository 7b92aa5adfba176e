"""`collect`: run the experts of a source, or language models, on every query and save the outcome table."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from experts import InputError
from experts.io.printable import printable
from experts.io.value_range import Count
from experts.llm.collecting import CollectOptions, collect_answers
from experts.table.outcome_table import OutcomeTable

from ..reports.terminal import facts_view
from .command import Command

__all__ = ["COMMAND", "collect", "collect_view"]

_BATCH = 1024
_HIDDEN = ("models", "max_cost", "unsent", "unsent_usd")  # not among the facts of the view


def collect(
    *,
    out: Path,
    source: str | None = None,
    batch_size: Count = _BATCH,
    models: Path | None = None,
    prompts: Path | None = None,
    options: CollectOptions,
) -> dict[str, Any]:
    """Run every expert once on every query and save the outcomes: a source's experts, or language models.

    A source's experts are pretrained first, and frozen. Language models are called through LiteLLM (pip
    install 'router-rl[llm]'). Responses are journaled: an interrupted run resumes without repeating requests.

    Args:
        out: output Parquet file.
        source: an embedded source: digits, fashion-mnist, fashion-mnist:FOLDER, or routellm_gsm8k (already
            collected; it is copied).
        batch_size: queries per batch of a source's experts.
        models: in place of a source: a YAML list of language models.
        prompts: prompts for the models: Parquet, CSV or JSON Lines with prompt, reference, and optionally
            group, split and query_id.
        options: how requests are sent and answers scored.
    """
    if (source is None) == (models is None):
        raise InputError(
            "source", source, "one of two is needed", "give --source, or --models with --prompts"
        )
    if models is None:
        from experts import collect as collect_outcomes

        assert source is not None
        if prompts is not None:
            raise InputError("prompts", str(prompts), "has no use with a source", "leave it out")
        for field in fields(CollectOptions):
            if field.name != "seed" and getattr(options, field.name) != field.default:
                problem = "has no use with a source, whose experts run here"
                raise InputError(field.name, getattr(options, field.name), problem, "leave it out")
        return _facts(collect_outcomes(source, out, batch_size=batch_size, seed=options.seed), out)
    if prompts is None:
        raise InputError("prompts", None, "there are no prompts for the models", "give --prompts FILE")
    if batch_size != _BATCH:
        problem = "has no use with language models"
        raise InputError("batch_size", batch_size, problem, "leave it out, or give --concurrency")
    result = collect_answers(models, prompts, out, options=options)
    return {
        **_facts(result.table, out),
        "asked": result.queries,
        "models": result.models,
        "journal": str(result.journal),
        "spent_usd": result.spent_usd,
        "max_cost": options.max_cost,
        "unsent": result.unsent,
        "unsent_usd": result.unsent_usd,
    }


def collect_view(result: dict[str, Any]) -> Group:
    """Return a view of what was collected; for language models also answers and reasons for missing ones."""
    models: dict[str, dict[str, Any]] = result.get("models", {})
    facts = facts_view({name: value for name, value in result.items() if name not in _HIDDEN})
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
        table.add_row(
            Text(printable(name)), *counts, *means, f"{about['tokens_out']:,}", f"{about['usd']:.4f}"
        )
    reasons = [
        Text(printable(f"{name}: {count} x {reason}"), style="yellow")
        for name, about in models.items()
        for reason, count in about["reasons"].items()
    ]
    advice = "Run the same command again to retry the missing answers."
    if result["unsent"]:
        advice = (
            f"Stopped below --max-cost {result['max_cost']:g}: US$ {result['spent_usd']:.4f} are spent, and "
            f"{result['unsent']} requests are left, at most US$ {result['unsent_usd']:.4f}. Give a higher "
            "--max-cost to go on; no answer is paid for twice."
        )
    again = [Text(advice, style="yellow")] if reasons else []
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
