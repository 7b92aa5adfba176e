"""Colours, fonts and axes of the report's charts.

A chart names a colour of the page's style sheet, `var(--rl0)`, and not its value: light and dark are then
decided by the browser, without drawing the chart again.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COLOURS", "CONFIG", "colour", "in_light"]

COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#fbfaf7", "#14171a"),
    "card": ("#fff", "#1a1e22"),
    "ink": ("#1b1f24", "#e8e6e1"),
    "soft": ("#555d66", "#a9b0b8"),
    "rule": ("#dcdad4", "#353b42"),
    "grid": ("#eceae5", "#262b31"),
    "rl0": ("#0b5cad", "#74b6f7"),
    "rl1": ("#0c7168", "#4cc9b8"),
    "rl2": ("#6a3dbd", "#b79df6"),
    "gate0": ("#b5390a", "#ff9a6e"),
    "gate1": ("#8a5a00", "#e0b050"),
    "gate2": ("#ad2268", "#f48cbc"),
    "baseline0": ("#4f5862", "#b3bac2"),
    "baseline1": ("#6b747e", "#8b949e"),
    "baseline2": ("#4f5862", "#b3bac2"),
    "win": ("#0b6b3a", "#5fcf93"),
    "loss": ("#a3241c", "#ff8f85"),
    "note": ("#fff4d6", "#332a12"),
    "note-rule": ("#b7791f", "#d9a441"),
    "heat": ("#6fb1ee", "#1f6fb8"),
    "heat-ink": ("#1b1f24", "#fff"),
    "code": ("#f2f0eb", "#20252a"),
}
"""Each colour of the page in light and in dark."""


def colour(name: str) -> str:
    """A colour of the page by its name in `COLOURS`, as a style sheet refers to it.

    >>> colour("ink")
    'var(--ink)'
    """
    assert name in COLOURS
    return f"var(--{name})"


def in_light(text: str) -> str:
    """A specification or a drawing with the values of the light colours, for use outside of the page.

    >>> in_light('fill="var(--ink)"')
    'fill="#1b1f24"'
    """
    for name, (light, _) in COLOURS.items():
        text = text.replace(colour(name), light)
    return text


_TEXT: dict[str, Any] = {
    "labelColor": colour("soft"),
    "titleColor": colour("soft"),
    "titleFontWeight": "normal",
}

CONFIG: dict[str, Any] = {
    "background": None,
    "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 140,
        "labelOverlap": True,
        "domainColor": colour("soft"),
        "tickColor": colour("soft"),
        "gridColor": colour("grid"),
    },
    "axisY": {"labelLimit": {"expr": "min((containerSize()[0] || 420) / 3, 260)"}},
    "axisX": {
        "tickCount": {"expr": "ceil(width / 80)"},
        "labelSeparation": 8,
        "titleLimit": {"expr": "width"},
    },
    "legend": {**_TEXT, "labelFontSize": 12, "orient": "bottom", "title": None},
    "text": {"color": colour("ink"), "fontSize": 12},
    "area": {"color": colour("rl0")},
    "rect": {"color": colour("rl0")},
    "bar": {"color": colour("rl0")},
    "rule": {"color": colour("soft")},
}
"""The `config` of a Vega-Lite specification."""
