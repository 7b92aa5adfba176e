"""Draws quality against cost from a comparison's results, as an SVG for the README.

    python docs/frontier.py runs/compare docs/figures/frontier.svg

Points are operating points on test rows: single models,
and each method at every compute weight that was compared. Methods with extra inputs and bounds are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import altair

from router_rl.reports.chart_theme import COLOURS
from router_rl.reports.frontier_chart import cost_axis
from router_rl.reports.results_table import cost_unit_of
from router_rl.studies.results_reader import read_results

FAMILIES = {
    "expert": "one model",
    "baseline": "simple rule",
    "gate": "learned gate",
    "rl": "reinforcement learning",
}
LIGHT = [COLOURS[name][0] for name in ("gate1", "gate0", "rl0")]
SHOWN = ("kernel", "knn", "guarded_knn", "ridge", "boosted_trees")


def points_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, family, cost and quality of every point."""
    unit = cost_unit_of(results)
    assert unit is not None, "the table has no cost unit"
    points = [
        {
            "name": one["expert"],
            "family": FAMILIES["expert"],
            "cost": unit.per_compute * one["compute"],
            "quality": one["quality"],
        }
        for one in results["singles"]
    ]
    for row in results["summary"]:
        learned = row["family"] in ("rl", "gate") or row["method"] in SHOWN
        if learned and not row["extra_inputs"]:
            points.append(
                {
                    "name": row["method"],
                    "family": FAMILIES[row["family"]],
                    "cost": unit.per_compute * row["compute_mean"],
                    "quality": row["quality_mean"],
                }
            )
    return points


def labelled(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the single models that no cheaper one reaches in quality."""
    singles = sorted(
        (one for one in points if one["family"] == FAMILIES["expert"]), key=lambda one: one["cost"]
    )
    best: list[dict[str, Any]] = []
    for one in singles:
        if not best or one["quality"] > best[-1]["quality"]:
            best.append(one)
    return best


def main(folder: Path, out: Path) -> None:
    """Write the SVG."""
    results = read_results(folder)
    points = points_of(results)
    data = altair.Data(values=points)
    costs = [point["cost"] for point in points]
    label = getattr(cost_unit_of(results), "label", "")
    across = cost_axis(costs, label, (0.8 * min(costs), 1.6 * max(costs)))
    up = altair.Y("quality:Q", scale=altair.Scale(zero=False), title="quality on test queries")
    colours = altair.Scale(domain=list(FAMILIES.values()), range=["#8a8f96", *LIGHT])
    base = altair.Chart(data).encode(
        x=across, y=up, color=altair.Color("family:N", scale=colours, title=None)
    )
    lines = (
        base.transform_filter(altair.datum.family != FAMILIES["expert"])
        .mark_line(opacity=0.5)
        .encode(detail="name:N")
    )
    marks = base.mark_point(filled=True, size=60).encode(
        shape=altair.Shape("family:N", scale=altair.Scale(domain=list(FAMILIES.values())), title=None)
    )
    names = (
        altair.Chart(altair.Data(values=labelled(points)))
        .mark_text(align="left", dx=7, dy=-6, fontSize=10, color="#555d66")
        .encode(x=across, y=up, text="name:N")
    )
    chart = (lines + marks + names).properties(width=640, height=320, background="white")
    chart.configure_legend(orient="bottom").save(str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
