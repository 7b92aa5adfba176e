"""`profile`: what a language model takes, by its configuration alone."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from .command import Command

__all__ = ["COMMAND", "profile", "profile_view"]


def profile(model: str, *, context: int = 4096) -> dict[str, Any]:
    """Print a language model's parameters, FLOPs and expert bytes, from its configuration alone.

    Args:
        model: a model's folder, its config.json, or a published model's name.
        context: tokens that a token attends to.
    """
    from experts.moe.model_costs import model_costs

    return {"model": model, **model_costs(model, context=context).to_json()}


def profile_view(found: dict[str, Any]) -> Table:
    """The costs with their units, one a line."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    experts, chosen = found["experts_per_layer"], found["experts_per_token"]
    sparse = f"{found['moe_layers']} of {found['layers']} with {experts} experts, {chosen} a token"
    table.add_row("architecture", found["model_type"])
    table.add_row("layers", sparse if experts else f"{found['layers']}, dense")
    table.add_row("parameters", _scaled(found["parameters"]))
    table.add_row("  active per token", _scaled(found["active_parameters"]))
    table.add_row("  the same without the embedding", _scaled(found["active_parameters_without_embedding"]))
    if found["shared_parameters"]:
        table.add_row("  in shared experts", _scaled(found["shared_parameters"]))
    table.add_row("work per token", _scaled(found["flops_per_token"], "FLOP"))
    table.add_row(
        f"  of which attention to {found['context']:,} tokens",
        _scaled(found["attention_flops_per_token"], "FLOP"),
    )
    table.add_row(f"bytes in {found['dtype']}", _scaled(found["bytes"], "B"))
    if experts:
        table.add_row("  of routed experts, resident", _scaled(found["expert_bytes_resident"], "B"))
        table.add_row("  of routed experts, moved per token", _scaled(found["expert_bytes_moved"], "B"))
    return table


def _scaled(number: float, unit: str = "") -> str:
    """Three or four digits and a decimal prefix: 46.70 billion as `46.70 B`, bytes as `46.70 GB`."""
    for size, letter in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}{unit}"
    return f"{number:.0f} {unit}".strip()


COMMAND = Command(
    run=profile,
    view=profile_view,
    positional=(("model", str, "a model's folder, its config.json, or a published model's name"),),
)
