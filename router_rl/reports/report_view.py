"""The variables of the report's template, as a function of the results alone.

Sections, order and marks are decided here; the template only places them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..problems.statistics import SEEDS_FOR_IQM
from .certainty import certainty_of
from .column_glossary import term_of
from .drawing import Drawing
from .figure_sections import figure_sections, method_order
from .frontier_chart import frontier_drawings
from .inputs_note import inputs_note
from .number_format import NOTHING, amount, number, signed
from .query_rows import query_rows
from .report_series import Series, series_of
from .report_table import result_groups, swatch_svg
from .results_table import capitalised, columns_of, cost_unit_of, references_of
from .share_heat_map import share_heat_map
from .table_format import FAMILIES, family_name, footnote

__all__ = ["report_view"]

_OF_TWO = ("apgr", "cpt50", "cpt80")  # measures of routers between two experts
_MEASURES = (
    "points",
    "aiq",
    "aiq_difference",
    "aiq_above_zero",
    "cost_saved",
    "quality_gained",
    "router_arena",
    *_OF_TWO,
)
_MOST_TILES = 8
_RUN_COLUMNS = ("method", "family", "case", "seed", "split", "fit_seconds", "collapsed", "collapse")
_RUN_EXTRAS = ("shares", "hyperparameters", "router", "utility", "budget", "met")
_DEFAULTS: dict[str, Any] = {
    "cases": [],
    "summary": [],
    "rows": [],
    "seeds": [],
    "notes": [],
    "verdict": [],
    "warnings": [],
    "command": None,
    "n_trials": None,
}
_CARD: dict[str, Any] = {"environment": "", "about": "", "source": "", "experts": [], "utility": ""}


def report_view(results: dict[str, Any]) -> dict[str, Any]:
    """Return the template's variables; what the results lack is None or empty.

    Args:
        results: the content of `results.json`, schema 2.
    """
    problem = _CARD | results["problem"]
    results = _DEFAULTS | results | {"problem": problem}
    summary: list[dict[str, Any]] = results["summary"]
    series = series_of(summary)
    figures, unknown_figures = figure_sections(results, series)
    specs: list[dict[str, Any]] = []
    references, columns = references_of(results), columns_of(results)
    facts = results.get("table_facts") or {}
    frontier: Mapping[str, Any] = results.get("frontier") or {}
    measured = [(one, _frontier_row(frontier[one.name])) for one in series if one.name in frontier]
    measured = [
        row
        for row in measured
        if any(one["value"] is not None for name, one in row[1].items() if name != "points")
    ]
    iqm = len(results["seeds"]) >= SEEDS_FOR_IQM and any(
        row.get("utility_iqm") is not None for row in summary
    )
    collapses = any(row["family"] in ("rl", "gate") for row in summary)
    width = 3 + (3 if references else 0) + max(0, len(references) - 1) + iqm + len(columns) + 2 * collapses
    return {
        "title": _title(problem),
        "results": results,
        "problem": problem,
        "recommendation": results.get("recommendation"),
        "certainty": certainty_of(results.get("recommendation") or {}),
        "tiles": _tiles(results),
        "against": "compute" if cost_unit_of(results) is None else "cost",
        "in_dollars": facts.get("cost_unit") == "usd",
        "specs": specs,
        "footnote": footnote(summary),
        "iqm": iqm,
        "table_width": width,
        "figure": _frontier(results, series, specs),
        "frontier": measured,
        "aiq_rival": next((facts.get("aiq_rival") for facts in frontier.values()), None),
        "two_experts": any(row["apgr"]["value"] is not None for _, row in measured),
        "references": references,
        "columns": columns,
        "groups": result_groups(results, series),
        "collapses": collapses,
        "heat": _heat(results, specs),
        "queries": query_rows(results),
        "figures": [
            {
                "title": section.title,
                "note": section.note,
                "charts": _placed(section.drawings, specs),
                "key": _key(series, section.methods),
            }
            for section in figures
        ],
        "unknown_figures": unknown_figures,
        "experts": _experts(results),
        "expert_cost_unit": _expert_cost_unit(facts),
        "run_facts": _run_facts(results),
        "runs": _runs(results),
        "run_columns": _run_columns(results),
        "bounds": any(row["family"] == "bound" for row in summary),
    }


def _title(problem: Mapping[str, Any]) -> str:
    """The problem and the short name of its data."""
    name = capitalised(str(problem["name"]).replace("_", " "))
    source = str(problem["source"]).partition(": ")[0]
    return f"{name} report: {source}" if source else f"{name} report"


def _placed(drawings: Sequence[Drawing], specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Charts with their numbers among the page's specifications, to which theirs are added."""
    specs += [one.spec for one in drawings]
    return [{"number": len(specs) - len(drawings) + i, "drawing": one} for i, one in enumerate(drawings)]


def _frontier(
    results: Mapping[str, Any], series: Sequence[Series], specs: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The charts of quality against cost, where the cases are compute weights or a budget."""
    if not all("compute_weight" in case["values"] for case in results["cases"]):
        return None
    charts = _placed(frontier_drawings(results, series), specs)
    if not charts:
        return None
    singles, zero = (bool(results.get(name)) for name in ("singles", "zero_frontier"))
    return {"charts": charts, "key": _key(series), "singles": singles, "zero": zero}


def _heat(results: Mapping[str, Any], specs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The heat map of shares by group, the recommended method first in its menu."""
    shares, recommended = results.get("shares_by_group"), (results.get("recommendation") or {}).get("method")
    first = [name for name in (recommended, *method_order(results["summary"])) if name is not None]
    chart = share_heat_map(shares, results["problem"]["experts"], first)
    if shares is None or chart is None:
        return None
    clustered = bool(shares.get("clustered"))
    return {"case": shares.get("case") or "", "clustered": clustered, "charts": _placed([chart], specs)}


def _tiles(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and note of what is known before any policy is trained."""
    facts: Mapping[str, Any] = results.get("table_facts") or {}
    card: Mapping[str, Any] = results["problem"].get("facts") or {}
    queries: Mapping[str, Any] = facts.get("queries") or card.get("queries") or {}
    features = facts.get("features", card.get("features"))
    experts = results["problem"]["experts"]
    tiles: list[tuple[str, str, str]] = []
    if queries:
        others = ", ".join(f"{rows} {split}" for split, rows in queries.items() if split != "test")
        tiles.append(("Test queries", str(queries.get("test", NOTHING)), others))
    if experts:
        note = "frozen" + (f"; {features} features" if features is not None else "")
        tiles.append(("Experts", str(len(experts)), note))
    if facts:
        tiles += _quality_tiles(facts)
    known = ("queries", "features", "cost_unit", "compute_unit")
    for name, value in card.items():
        if name not in known and isinstance(value, int | float | str) and not isinstance(value, bool):
            text = amount(value) if isinstance(value, int | float) else value
            tiles.append((capitalised(term_of(name).label), text, ""))
    if len(results["cases"]) > 1 and not facts:
        tiles.append(("Cases", str(len(results["cases"])), f"from {results['cases'][0]['label']}"))
    methods = {row["method"] for row in results["summary"]}
    tiles.append(("Methods", str(len(methods)), _seeds_and_trials(results)))
    return tiles[:_MOST_TILES]


def _quality_tiles(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    known = [quality for quality in facts.get("expert_quality") or [] if quality is not None]
    random = sum(known) / len(known) if known else None
    best, oracle = facts.get("best_single_quality"), facts.get("oracle_quality")
    gain = None if best is None or oracle is None else oracle - best
    return [
        ("Random expert", number(random), "quality, mean over experts"),
        ("Best single expert", number(best), "quality, used for all queries"),
        ("Oracle", number(oracle), "quality; it uses the outcomes"),
        ("Routing can gain", signed(gain, 3), "quality of the oracle over best single"),
    ]


def _seeds_and_trials(results: Mapping[str, Any]) -> str:
    seeds, trials = len(results["seeds"]), results.get("n_trials")
    words = f"{seeds} seed{'s' * (seeds != 1)}"
    return words if trials is None else f"{words}, {trials} trial{'s' * (trials != 1)} each"


def _key(series: Sequence[Series], methods: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The key of some methods, or of all: by family, those that lead first."""
    some = [one for one in series if methods is None or one.name in methods]
    some.sort(key=lambda one: not one.leading)
    return [
        {
            "name": name,
            "css": next(one.family for one in some if family_name(one.family) == name),
            "methods": [(one, swatch_svg(one)) for one in some if family_name(one.family) == name],
        }
        for name in _family_names(some)
    ]


def _family_names(series: Sequence[Series]) -> list[str]:
    """Names of the families that are there: those of `FAMILIES` in its order, then others."""
    names = dict.fromkeys(family_name(one.family) for one in series)
    return [name for name in FAMILIES.values() if name in names] + [
        name for name in names if name not in FAMILIES.values()
    ]


def _frontier_row(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every measure of a frontier as a value with its interval; None where it was not measured."""
    row: dict[str, dict[str, Any]] = {}
    for name in _MEASURES:
        value = facts.get(name)
        if isinstance(value, dict):
            row[name] = {"value": value["value"], "ci95": value["ci95"]}
        else:
            row[name] = {"value": value, "ci95": facts.get(f"{name}_ci95")}
    return row


def _experts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The experts in the table's order with what is known of each; empty where nothing but names is known."""
    facts: Mapping[str, Any] = results.get("table_facts") or {}
    names: Sequence[str] = results["problem"]["experts"]
    if not facts:
        return []
    nothing = [None] * len(names)
    quality: Sequence[float | None] = facts.get("expert_quality") or nothing
    cost: Sequence[float | None] = facts.get("expert_cost") or nothing
    compute = {single["expert"]: single["compute"] for single in results.get("singles") or []}
    hull = {tuple(point) for point in results.get("zero_frontier") or []}
    best = max((value for value in quality if value is not None), default=None)
    factor = 1000.0 if facts.get("cost_unit") == "usd" else 1.0
    return [
        {
            "name": name,
            "quality": quality[i],
            "cost": None if (known := cost[i]) is None else factor * known,
            "compute": compute.get(name),
            "best": best is not None and quality[i] == best,
            "on_frontier": (compute.get(name), quality[i]) in hull,
        }
        for i, name in enumerate(names)
    ]


def _expert_cost_unit(facts: Mapping[str, Any]) -> str:
    unit = facts.get("cost_unit") or ""
    return {"usd": "US$ per 1,000 queries", "flops": "FLOPs per query", "seconds": "seconds per query"}.get(
        unit, unit
    )


def _run_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what was run."""
    problem, seconds = results["problem"], results.get("seconds")
    rows = [
        (
            "Problem",
            f"{problem['name']} ({problem['environment']})" if problem["environment"] else problem["name"],
        ),
        ("Data", problem["source"] or ""),
        ("Utility", problem.get("utility") or ""),
        ("Inputs of a call", inputs_note(results) or ""),
        ("Cases", "; ".join(case["label"] for case in results["cases"])),
        ("Options", ", ".join(_flat(problem.get("options") or {}))),
        ("Seeds", ", ".join(map(str, results["seeds"]))),
        ("Trials", _trials(results.get("n_trials"))),
        ("Experts", ", ".join(problem["experts"]) if not results.get("table_facts") else ""),
        ("Fit time", "" if seconds is None else f"{seconds:.1f} s in all"),
        ("Finished", results.get("created") or ""),
        ("Versions", ", ".join(f"{name} {value}" for name, value in (results.get("versions") or {}).items())),
        ("Commit", results.get("commit") or ""),
    ]
    return [(name, value) for name, value in rows if value]


def _trials(count: int | None) -> str:
    if count is None:
        return ""
    settings = f"{count} hyperparameter setting{'s' * (count != 1)}"
    return f"{settings} for each method and case; the best on validation is kept"


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Options as `name=value`, nested ones with dots; those that are None are left out."""
    flat: list[str] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ()):
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            flat.append(f"{prefix}{name}={text}")
    return flat


def _runs(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every run on the test rows, in the order of cases, methods and seeds."""
    order = {case["label"]: place for place, case in enumerate(results["cases"])}
    rows = [row for row in results.get("rows") or [] if row["split"] == "test"]
    rows.sort(key=lambda row: (order.get(row["case"], len(order)), row["method"], row["seed"]))
    names = [name for name, _ in _run_columns(results)]
    return [
        row
        | {
            "numbers": [NOTHING if row.get(name) is None else _plain(row[name]) for name in names],
            "hyperparameters": list(_flat(row.get("hyperparameters") or {})),
        }
        for row in rows
    ]


def _plain(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 1_000.0 else amount(value)


def _run_columns(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and label of the numbers that runs have beside utility."""
    case_values = {name for case in results["cases"] for name in case["values"]}
    skipped = {*_RUN_COLUMNS, *_RUN_EXTRAS, *case_values}
    rows = [row for row in results.get("rows") or [] if row["split"] == "test"]
    names = dict.fromkeys(name for row in rows for name in row if name not in skipped)
    return [(name, term_of(name).label) for name in names]
