"""`profile`: parameters, FLOPs and bytes of a language model, from its configuration."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from experts.io.value_range import Count

from .command import Command

__all__ = ["COMMAND", "profile", "profile_view"]


def profile(model: str, *, context: Count = 4096) -> dict[str, Any]:
    """Print a language model's parameters, FLOPs and expert bytes, from its configuration only.

    Args:
        model: folder of a model, its config.json, or the name of a published model.
        context: number of tokens that a token attends to.
    """
    from experts.moe.model_costs import model_costs

    return {"model": model, **model_costs(model, context=context).to_json()}


def profile_view(result: dict[str, Any]) -> Table:
    """Return the costs with their units, one per line."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    experts, per_token = result["experts_per_layer"], result["experts_per_token"]
    sparse = f"{result['moe_layers']} of {result['layers']} with {experts} experts, {per_token} per token"
    table.add_row("architecture", result["model_type"])
    table.add_row("layers", sparse if experts else f"{result['layers']}, dense")
    table.add_row("parameters", _scaled(result["parameters"]))
    table.add_row("  active per token", _scaled(result["active_parameters"]))
    table.add_row("  without the embedding", _scaled(result["active_parameters_without_embedding"]))
    if result["shared_parameters"]:
        table.add_row("  in shared experts", _scaled(result["shared_parameters"]))
    table.add_row("work per token", _scaled(result["flops_per_token"], "FLOP"))
    table.add_row(
        f"  of which attention to {result['context']:,} tokens",
        _scaled(result["attention_flops_per_token"], "FLOP"),
    )
    table.add_row(f"bytes in {result['dtype']}", _scaled(result["bytes"], "B"))
    if experts:
        table.add_row("  of routed experts, resident", _scaled(result["expert_bytes_resident"], "B"))
        table.add_row("  of routed experts, moved per token", _scaled(result["expert_bytes_moved"], "B"))
    return table


def _scaled(number: float, unit: str = "") -> str:
    """Return a number with two decimals and a prefix: 46.70 billion as `46.70 B`, bytes as `46.70 GB`."""
    for size, letter in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}{unit}"
    return f"{number:.0f} {unit}".strip()


COMMAND = Command(
    run=profile,
    view=profile_view,
    positional=(("model", str, "folder of a model, its config.json, or the name of a published model"),),
)
