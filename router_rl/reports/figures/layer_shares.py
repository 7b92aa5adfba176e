"""Draw which expert does the work in each layer of a mixture, and on which text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..drawing import ROW, Drawing, drawing, picked
from ..heat_map import heat_map

__all__ = ["draw"]


def draw(traces: Mapping[str, Mapping[str, Any]], looks: object = None) -> list[Drawing]:
    """A heat map of layers and experts with menus of the methods and the texts.

    Args:
        traces: each method with its data: `experts`, N names; `texts`, D names; `layers`, L numbers;
            `shares` [L][D][N], of a text's tokens that an expert takes.
        looks: not used.
    """
    rows = [
        {"method": method, "layer": f"layer {layer}", "text": text, "share": row}
        for method, data in traces.items()
        for layer, by_text in zip(data["layers"], data["shares"], strict=True)
        for text, row in zip(data["texts"], by_text, strict=True)
    ]
    first = next(iter(traces.values()))
    menus = [picked("picked_method", "Method", list(traces)), picked("picked_text", "Text", first["texts"])]
    shown = "datum.method === picked_method && datum.text === picked_text"
    chart = heat_map(rows, first["experts"], "expert", "layer", menus, shown)
    table = [
        (row["method"], row["layer"], row["text"], *(f"{share:.1%}" for share in row["share"]))
        for row in rows
    ]
    columns = ("Method", "Layer", "Text", *first["experts"])
    description = "Share of each text's tokens by layer and expert"
    return [drawing(chart, description, columns, table, height=ROW * len(first["layers"]))]
