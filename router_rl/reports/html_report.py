"""Write a comparison's results as one self-contained HTML page: no network, no scripts, no fonts.

The page is a function of the results alone, so equal results give equal bytes. Everything that needs a
decision (sorting, marks, levels of grey) is decided here; the template only places it.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experts.io.atomic import replacing
from experts.io.errors import InputError

from ..problems.statistics import SEEDS_FOR_IQM
from .report_figures import frontier_figure, shortened
from .report_series import Series, leading_methods, series_of
from .table_format import FAMILIES, best_of, footnote, marked, signed

__all__ = ["write_report"]

SCHEMA_VERSION = 1
HEAT_LEVELS = 10
_OF_TWO = ("apgr", "cpt50", "cpt80")  # measures of routers between two experts
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def write_report(results: dict[str, Any], path: Path) -> None:
    """Render the content of results.json to one HTML file, atomically.

    Args:
        results: what `compare` returns and results.json holds, schema version 1.
        path: the file to write; an existing one is replaced only when the new one is complete.

    Raises:
        InputError: the results have another schema version.
    """
    version = results.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            "results.schema_version",
            version,
            f"the report reads version {SCHEMA_VERSION}",
            "run compare again",
        )
    page = _environment().get_template("report.html.j2").render(_view(results))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "number": _number,
        "signed": _signed,
        "interval": _interval,
        "amount": _amount,
        "csp_hash": _csp_hash,
        "shortened": shortened,
    }
    environment.filters.update(filters)
    return environment


def _view(results: dict[str, Any]) -> dict[str, Any]:
    """Return everything the template names; what the results lack is None or empty."""
    summary = results.get("summary") or []
    series = series_of(summary)
    facts = _facts(results)
    figure = frontier_figure(
        series, results.get("singles") or [], results.get("zero_frontier") or [], facts["across"]
    )
    frontier = results.get("frontier") or {}
    measured = [(one, _frontier_row(frontier[one.name])) for one in series if one.name in frontier]
    two_experts = any(facts["apgr"]["value"] is not None for _, facts in measured)
    return {
        "results": {"source": None, "select": None, "scorer": None, "created": None, "command": None}
        | {"commit": None, "versions": {}, "seeds": [], "compute_weights": [], "load_weight": None}
        | {"tries": None, "seconds": None, "notes": [], "verdict": [], "warnings": []}
        | results,
        "facts": facts,
        "series": [(one, _safe(_swatch_svg(one))) for one in series],
        "families": _families(series),
        "all_lead": all(one.leading for one in series),
        "footnote": footnote(summary),
        "iqm": len(results.get("seeds") or []) >= SEEDS_FOR_IQM,
        "figure": figure and {name: getattr(figure, name) for name in figure.__slots__},
        "safe": _safe,
        "frontier": [row for row in measured if any(one["value"] is not None for one in row[1].values())],
        "two_experts": two_experts,
        "groups": _result_groups(summary, series, len(results.get("seeds") or [])),
        "heat": _heat_maps(
            results.get("shares_by_group") or {}, results["experts"], leading_methods(summary)
        ),
        "experts": _experts(results),
        "runs": sorted(
            (row for row in results.get("rows") or [] if row["split"] == "test"),
            key=lambda row: (row["compute_weight"], row["method"], row["seed"]),
        ),
    }


def _frontier_row(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every measure of a frontier as a value with its interval; None where it was not measured."""
    row: dict[str, dict[str, Any]] = {}
    for name in ("aiq", "aiq_above_zero", "cost_saved", "quality_gained", "router_arena", *_OF_TWO):
        found = facts.get(name)
        if isinstance(found, dict):
            row[name] = {"value": found["value"], "ci95": found["ci95"]}
        else:
            row[name] = {"value": found, "ci95": facts.get(f"{name}_ci95")}
    return row


def _families(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the key: each family's methods, those that lead first, with their number among all series."""
    numbered = sorted(enumerate(series), key=lambda item: not item[1].leading)
    return [
        {
            "name": name,
            "css": next(one.family for one in series if FAMILIES.get(one.family, one.family) == name),
            "methods": [
                (i, one, _safe(_swatch_svg(one)))
                for i, one in numbered
                if FAMILIES.get(one.family, one.family) == name
            ],
        }
        for name in dict.fromkeys(FAMILIES.get(one.family, one.family) for one in series)
    ]


def _facts(results: dict[str, Any]) -> dict[str, Any]:
    """Return what is known before any router is trained, and what routing could gain."""
    facts = results.get("table_facts") or {}
    known = [quality for quality in facts.get("expert_quality") or [] if quality is not None]
    best, oracle = facts.get("best_single_quality"), facts.get("oracle_quality")
    return {
        "queries": facts.get("queries") or {},
        "features": facts.get("features"),
        "cost_unit": facts.get("cost_unit") or "unknown unit",
        "across": _across(facts),
        "random": sum(known) / len(known) if known else None,
        "best": best,
        "oracle": oracle,
        "gain": None if best is None or oracle is None else oracle - best,
    }


def _across(facts: dict[str, Any]) -> str:
    """What the figure's horizontal axis shows: compute, and how many dollars 1 is where costs are dollars."""
    unit = facts.get("compute_unit")
    if facts.get("cost_unit") != "usd" or unit is None:
        return "compute (1 = the dearest expert)"
    return f"cost (1 = ${1000 * unit:,.3g} per 1,000 queries)"


def _result_groups(
    summary: Sequence[dict[str, Any]], series: Sequence[Series], seeds: int
) -> list[dict[str, Any]]:
    """Return one group of table rows for each pair of weights, best utility first, bounds apart."""
    looks = {one.name: _safe(_swatch_svg(one)) for one in series}
    scale = _difference_scale(summary)
    pairs = sorted({(row["compute_weight"], row.get("load_weight") or 0.0) for row in summary})
    groups: list[dict[str, Any]] = []
    for compute_weight, load_weight in pairs:
        here = [
            row
            for row in summary
            if (row["compute_weight"], row.get("load_weight") or 0.0) == (compute_weight, load_weight)
        ]
        best = best_of(here)
        rivals = {(row.get("paired_difference_to_best_gate") or {}).get("gate") for row in here}
        rows = [
            row
            | _told(row, scale, seeds)
            | {"swatch": looks[row["method"]], "is_rival": row["method"] in rivals}
            | {
                "label": marked(row),
                "sees": row.get("sees"),
                "is_best": row["method"] == best,
                "utility_iqm": row.get("utility_iqm"),
            }
            for row in here
        ]
        rows.sort(
            key=lambda row: (row["utility_mean"] is None, -float(row["utility_mean"] or 0.0), row["method"])
        )
        groups.append(
            {
                "compute_weight": compute_weight,
                "load_weight": load_weight,
                "budget": here[0].get("budget"),
                "routers": [row for row in rows if row["family"] != "bound"],
                "bounds": [row for row in rows if row["family"] == "bound"],
            }
        )
    return groups


def _told(row: dict[str, Any], scale: float, seeds: int) -> dict[str, Any]:
    """Return a row's family in words, its mark against the best gate and the drawing of that interval."""
    difference = row.get("paired_difference_to_best_gate")
    told: dict[str, Any] = {
        "family_name": FAMILIES.get(row["family"], row["family"]),
        "difference": None,
        "collapsed_of": NOTHING,
        "below_of": NOTHING,
    }
    if row["family"] in ("rl", "gate"):  # only these are judged: best single "collapses" by design
        told["collapsed_of"] = f"{row.get('collapsed') or 0}/{seeds or NOTHING}"
        told["below_of"] = f"{row.get('below_best_single') or 0}/{seeds or NOTHING}"
    if difference is None or difference["mean"] is None or None in (difference["ci95"] or [None]):
        return told | {"mark": None, "drawing": ""}
    low, high = difference["ci95"]
    mark = "win" if low > 0 else "loss" if high < 0 else "level"
    return told | {
        "difference": difference,
        "mark": mark,
        "sign": {"win": "▲", "loss": "▼", "level": "="}[mark],
        "drawing": _safe(_interval_svg(difference["mean"], difference["ci95"], scale)),
    }


def _difference_scale(summary: Sequence[dict[str, Any]]) -> float:
    """Return the half-width of the drawn differences: wide enough for learned routers, not for outliers."""
    reaches = sorted(
        max(abs(limit) for limit in row["paired_difference_to_best_gate"]["ci95"])
        for row in summary
        if row["family"] in ("rl", "gate")
        and row.get("paired_difference_to_best_gate")
        and None not in (row["paired_difference_to_best_gate"]["ci95"] or [None])
    )
    if not reaches or reaches[-1] == 0:
        return 1.0
    return min(reaches[-1], 2 * reaches[len(reaches) // 2] or reaches[-1])


def _swatch_svg(series: Series) -> str:
    """Draw one method's mark, for the key and the tables."""
    return (
        '<svg class="swatch" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">'
        f'<path class="mark {series.css}" d="{series.shape}"/></svg>'
    )


def _interval_svg(mean: float, ci95: Sequence[float], scale: float) -> str:
    """Draw a difference and its interval on a line from -scale to scale; what lies outside gets an arrow."""
    width, half = 88, 38.0
    left, centre, right = (half * min(max(value / scale, -1.0), 1.0) for value in (ci95[0], mean, ci95[1]))
    kind = "win" if ci95[0] > 0 else "loss" if ci95[1] < 0 else "level"
    parts = [
        f'<svg class="interval {kind}" viewBox="{-width / 2:g} -8 {width} 16" width="{width}" height="16"'
        ' aria-hidden="true"><path class="zero-line" d="M0 -8V8"/>',
        f'<path class="bar" d="M{left:.1f} 0H{right:.1f}"/>' if right - left > 0.05 else "",
    ]
    if abs(mean) > scale:
        edge = math.copysign(half, mean)
        parts.append(f'<path class="dot" d="M{edge + math.copysign(6, mean):.1f} 0L{edge:.1f} -4V4Z"/>')
    else:
        parts.append(f'<circle class="dot" cx="{centre:.1f}" cy="0" r="3.2"/>')
    return "".join(parts) + "</svg>"


def _heat_maps(shares: dict[str, Any], experts: Sequence[str], leading: set[str]) -> dict[str, Any] | None:
    """Return each method's shares with a level of colour, relative to the largest share of any method."""
    methods: dict[str, Any] = shares.get("methods") or {}
    if not methods:
        return None
    largest = max(
        (share or 0.0 for one in methods.values() for row in one["shares"] for share in row), default=0.0
    )

    def level(share: float | None) -> int:
        return round(HEAT_LEVELS * (share or 0.0) / largest) if largest else 0

    groups = shares.get("groups") or ["all"]
    maps = [
        {
            "method": name,
            "leading": name in leading or not leading,
            "compute_weight": one.get("compute_weight"),
            "rows": [
                (group, [(share, level(share)) for share in row])
                for group, row in zip(groups, one["shares"], strict=False)
            ],
        }
        for name, one in sorted(methods.items(), key=lambda item: item[0] not in leading)
    ]
    upright = len(experts) <= 6 and max(map(len, experts), default=0) <= 12
    lead = len([one for one in maps if one["leading"]])
    others = lead if lead < len(maps) else 0  # where the maps that do not lead begin
    return {"others": others, "maps": maps, "largest": largest, "experts": experts, "upright": upright}


def _experts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the experts in the table's order with what is known of each."""
    facts = results.get("table_facts") or {}
    names: Sequence[str] = results["experts"]
    nothing = [None] * len(names)
    quality = facts.get("expert_quality") or nothing
    cost = facts.get("expert_cost") or nothing
    compute = {single["expert"]: single["compute"] for single in results.get("singles") or []}
    hull = {tuple(point) for point in results.get("zero_frontier") or []}
    best = max((value for value in quality if value is not None), default=None)
    return [
        {
            "name": name,
            "quality": quality[i],
            "cost": cost[i],
            "compute": compute.get(name),
            "best": best is not None and quality[i] == best,
            "on_frontier": (compute.get(name), quality[i]) in hull,
        }
        for i, name in enumerate(names)
    ]


def _number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed decimals and a true minus sign.

    >>> _number(-0.12345), _number(None)
    ('−0.123', '–')
    """
    return NOTHING if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def _signed(value: float | None, digits: int = 4) -> str:
    """Return a difference, always with its sign.

    >>> _signed(0.0012), _signed(-0.0012), _signed(-0.00001)
    ('+0.0012', '−0.0012', '+0.0000')
    """
    return NOTHING if value is None else signed(value, digits).replace("-", MINUS)


def _interval(ci95: Sequence[float | None] | None, digits: int = 4, signed: bool = False) -> str:
    """Return an interval in brackets, or nothing where there is none.

    >>> _interval([-0.5, 0.25], 2, signed=True)
    '[−0.50, +0.25]'
    """
    if ci95 is None or None in ci95:
        return ""
    low, high = ((_signed if signed else _number)(limit, digits) for limit in ci95)
    return f"[{low}, {high}]"


def _amount(value: float | None) -> str:
    """Return a cost of any size with three figures.

    >>> _amount(1234567.0), _amount(0.00042), _amount(12.0)
    ('1.23 M', '0.00042', '12')
    """
    if value is None:
        return NOTHING
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.3g}"


def _safe(svg: str) -> Markup:
    """Mark a drawing of ours as HTML: `report_figures` has escaped what came from outside."""
    return Markup(svg)


def _csp_hash(style: str) -> str:
    """Return a style sheet's source expression for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()
