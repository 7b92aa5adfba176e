"""Charts of a search for hyperparameters, as SVG files: the utility of every trial, and importances."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt

from experts.io.atomic import replacing

from .chart_theme import CONFIG, colour, in_light
from .drawing import ROW, values

__all__ = ["write_tuning_charts"]

_WIDTH, _HEIGHT = 560, 280
_SPREADS = 3.0  # trials that are further below the best, in spreads of the better half, are cut off


def write_tuning_charts(facts: Mapping[str, Any], folder: Path) -> None:
    """Write history.svg, and importance.svg where importances are known.

    Args:
        facts: the content of `tuning.json`.
        folder: the folder to write to.
    """
    _write(folder / "history.svg", _history(facts), _HEIGHT)
    path = folder / "importance.svg"
    if facts["importance"]:
        _write(path, _importance(facts), ROW * len(facts["importance"]))
    else:
        path.unlink(missing_ok=True)  # of an earlier search with more trials


def _history(facts: Mapping[str, Any]) -> Any:
    """Utility of every complete trial, and the highest so far."""
    best = -float("inf")
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(facts["trials"]):
        utility = trial["validation_utility"]
        if utility is not None:
            best = max(best, utility)
            rows.append({"trial": number, "utility": utility, "best": best})
    utilities = sorted((row["utility"] for row in rows), reverse=True)
    spread = utilities[0] - utilities[len(utilities) // 2]
    low = max(utilities[-1], utilities[0] - max(_SPREADS * spread, 1e-9)) if spread else utilities[-1]
    scale = alt.Scale(domain=[low, utilities[0]], zero=False, padding=8)
    base = alt.Chart(values(rows)).encode(x=alt.X("trial:Q", title="trial", scale=alt.Scale(padding=8)))
    points = base.mark_point(clip=True, filled=True, size=40, color=colour("baseline1")).encode(
        y=alt.Y("utility:Q", title="utility on validation", scale=scale)
    )
    line = base.mark_line(clip=True, interpolate="step-after", color=colour("rl0")).encode(
        y=alt.Y("best:Q", scale=scale)
    )
    return alt.layer(points, line)


def _importance(facts: Mapping[str, Any]) -> Any:
    """Share of the variance of the utility by hyperparameter, the largest first."""
    rows = [{"name": name, "share": share} for name, share in facts["importance"].items()]
    return (
        alt.Chart(values(rows))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the variance of the utility", axis=alt.Axis(format=".0%")),
            y=alt.Y("name:N", title=None, sort=None),
        )
    )


def _write(path: Path, chart: Any, height: float) -> None:
    import vl_convert  # starts a JavaScript runtime

    spec: dict[str, Any] = chart.to_dict()
    config = {**CONFIG, "background": colour("card")}
    text = in_light(json.dumps({**spec, "width": _WIDTH, "height": height, "config": config}))
    drawn: str = vl_convert.vegalite_to_svg(text)
    names: dict[str, str] = {}  # Vega counts clips since the process began: number them anew
    drawn = re.sub(r"\bclip\d+\b", lambda match: names.setdefault(match[0], f"clip{len(names)}"), drawn)
    with replacing(path) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
