"""The evaluation of one trained policy at the terminal: its means, the load, and the experts' shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .column_glossary import term_of
from .results_table import CostUnit, amount, capitalised, cost_unit_named

__all__ = ["evaluation_view"]

_WIDTH = 80
_SECONDARY = ("max_over_mean", "drops", "load", "entropy", "cost")  # of a router; `load` is shown in words
_BASELINES = ("random_utility", "best_single_utility", "oracle_utility")


def evaluation_view(result: dict[str, Any]) -> Group:
    """A trained policy's measured means, or their estimates from a log, and the experts' shares.

    Args:
        result: the content of `run.json`, schema 2, or what `evaluate` returns: `method`, `notes`, and the
            means of a split under its name; where known `problem`, `inputs`, `objective`, `cases`,
            `experts`, `collapse`, `load`, `off_policy`.
    """
    split = result.get("split", "test")
    cases = [case for case in result.get("cases") or [] if case.get(split) is not None]
    parts: list[Any] = [_plain(_about(result))]
    if "off_policy" in result:
        parts += _estimates(result["off_policy"], cost_unit_named(result.get("cost_unit")))
    if len(cases) > 1:
        parts += ["", *_case_table(cases, split)]
    elif split in result:
        rows = [(f"{split} {term_of(name).label}", text) for name, text in _means(result[split])]
        parts += [_plain([*rows, *_load(result), *_baselines(result)])]
    shares = (result.get(split) or {}).get("shares")
    if shares is not None and result.get("experts"):
        parts += ["", _shares(result["experts"], shares)]
    notes = [Text(f"Note: {note}", style="yellow") for note in result.get("notes") or []]
    return Group("", *parts, "", *_collapse(result), *notes)


def _about(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which problem, method and objective."""
    rows: list[tuple[str, str]] = []
    name = (result.get("problem") or {}).get("name")
    if name not in (None, "routing"):
        rows.append(("problem", name))
    if "method" in result:  # an exported router does not name it
        rows.append(("method", result["method"]))
    if result.get("inputs"):
        rows.append(("inputs", ", ".join(result["inputs"])))
    trials = result.get("n_trials")
    if trials is not None and trials > 1:
        rows.append(("trials", f"{trials}, the best on validation is kept"))
    objective, cases = result.get("objective"), result.get("cases") or []
    if objective is not None and len(cases) < 2:  # each case has its own
        rows.append(("objective", _objective(objective)))
    elif len(cases) == 1:
        rows.append(("case", cases[0]["label"]))
    return rows


def _objective(objective: Mapping[str, Any]) -> str:
    """An objective as a formula with its constraints."""
    budget, cost = objective.get("budget"), objective.get("max_cost")
    formula = "quality"
    if budget is None:
        formula += f" - {objective['compute_weight']:g} x compute"
    if objective.get("load_weight"):
        formula += f" - {objective['load_weight']:g} x load"
    if budget is not None:
        formula += f", mean compute at most {budget:g}"
    return formula if cost is None else f"{formula}, no expert above {cost:g}"


def _means(means: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every mean of one split as text, utility first."""
    names = [name for name in means if name not in ("utility", "shares", *_SECONDARY)]
    order = [name for name in ("quality", "compute", "load_cv") if name in names]
    order += [name for name in names if name not in order]
    shown = ["utility", *order] if "utility" in means else order
    return [(name, f"{means[name]:.4f}") for name in shown if isinstance(means[name], int | float)]


def _case_table(cases: Sequence[Mapping[str, Any]], split: str) -> list[Any]:
    """One line for each case; columns that do not fit are left out."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(f"{split}, by case", no_wrap=True)
    first = max(len(f"{split}, by case"), *(len(case["label"]) for case in cases))
    lines = [dict(_means(case[split])) for case in cases]
    left, names = _WIDTH - first, []
    for name in lines[0]:
        width = 2 + max(len(term_of(name).short), *(len(line.get(name, "")) for line in lines))
        if width > left:
            break
        left -= width
        names.append(name)
        table.add_column(Text(term_of(name).short), justify="right", no_wrap=True)
    for case, line in zip(cases, lines, strict=True):
        table.add_row(Text(capitalised(case["label"])), *(line.get(name, "") for name in names))
    return [table]


def _load(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Load by expert, tile and device, where it was measured."""
    load = result.get("load")
    if load is None:
        return []
    rows = [
        ("busiest expert", f"{load['max_over_mean']:.2f} x the mean"),
        ("tiles", f"{load['tiles']['ratio']:.2f} x the fewest"),
        (f"drops at capacity {load['drops']['capacity_factor']}", f"{load['drops']['fraction']:.1%}"),
    ]
    if "devices" in load:
        devices = load["devices"]
        rows.append(("device shares", ", ".join(f"{share:.1%}" for share in devices["shares"])))
        rows.append(("device CV, max/mean", f"{devices['cv']:.4f}, {devices['max_over_mean']:.2f}"))
    return rows


def _baselines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), f"{result[name]:.4f}") for name in _BASELINES if name in result]


def _plain(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    width = max((len(name) for name, _ in rows), default=0)
    table.add_column(width=max(width, 22))
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    return table


def _shares(experts: Sequence[str], shares: Sequence[float]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("expert")
    table.add_column("share", justify="right")
    for expert, share in sorted(zip(experts, shares, strict=True), key=lambda item: -item[1]):
        table.add_row(Text(expert), f"{share:6.1%}")
    return table


def _estimates(estimates: Mapping[str, Any], unit: CostUnit | None) -> list[Any]:
    """Return the off-policy estimates of what the router earns, and of what that changes."""
    parts: list[Any] = []
    goal = "utility" if "ips" in estimates else "quality"
    main = estimates if goal == "utility" else estimates["quality"]
    table = _right_aligned(f"{goal} by the log", "estimate", "95% CI")
    for name, label in (("ips", "IPS"), ("snips", "SNIPS"), ("dr", "doubly robust")):
        low, high = main[name]["ci95"]
        table.add_row(label, f"{main[name]['mean']:.4f}", f"{low:.4f} to {high:.4f}")
    if main["truth"] is not None:
        table.add_row("truth on its queries", f"{main['truth']:.4f}", "")
    parts += ["", table]
    if "quality" in estimates:
        change = _right_aligned("doubly robust", "router", "log", "difference", "95% CI")
        label, factor = ("cost", 1.0) if unit is None else (unit.label, unit.per_compute)
        for name, each in (("quality", estimates["quality"]), (label, estimates["cost"])):
            scale, shown = (1.0, "{:.4f}".format) if name == "quality" else (factor, amount)
            low, high = (shown(scale * end) for end in each["difference"]["ci95"])
            means = [shown(scale * each[kind]["mean"]) for kind in ("dr", "logged", "difference")]
            change.add_row(name, *means, f"{low} to {high}")
        parts += ["", change]
    size = (
        f"{estimates['decisions']} decisions; effective sample size {estimates['effective_sample_size']:.0f} "
        "for this router"
    )
    warnings = [Text(f"Warning: {warning}", style="yellow") for warning in estimates["warnings"]]
    return [*parts, Text(size, style="dim"), *warnings]


def _right_aligned(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _collapse(result: Mapping[str, Any]) -> list[Text]:
    """The warning that a learned policy collapsed, with likely reasons."""
    collapse = result.get("collapse")
    if collapse is None:
        return []
    problems = collapse["problems"]
    lines = [Text(f"Warning: the router {' and '.join(problems)}.", style="yellow")] if problems else []
    reasons = collapse["reasons"] or (
        ["none of the reasons that are checked applies; the features may not separate the queries"]
        if problems
        else []
    )
    return lines + [Text(f"- {reason}", style="yellow" if problems else "dim") for reason in reasons]
