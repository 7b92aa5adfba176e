"""What commands say at the terminal: progress, tables readable at 80 columns, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .table_format import FAMILIES, best_of, footnote, marked, signed

__all__ = ["evaluation_view", "facts_view", "paths_of", "progress_of", "results_view"]

_STYLES = {"rl": "cyan", "gate": "yellow", "baseline": "dim", "bound": "dim italic"}


def results_view(results: dict[str, Any]) -> Group:
    """The table of a comparison: for each compute weight, its methods by falling utility.

    Args:
        results: the content of `results.json`.
    """
    summary = results["summary"]
    budget = results.get("budget")
    compared = any(row["paired_difference_to_best_gate"] for row in summary)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("router", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for name in ("utility", *(("vs best gate",) if compared else ()), "quality", "compute", "CV"):
        table.add_column(name, justify="right", no_wrap=True)
    for weight in results["compute_weights"]:
        rows = [row for row in summary if row["compute_weight"] == weight]
        title = f"c={weight:g}" if budget is None else f"budget {budget:g}"
        table.add_row()
        table.add_row(Text(title, style="bold underline"))
        best = best_of(rows)
        for row in sorted(rows, key=lambda row: (row["family"] != "bound", -row["utility_mean"])):
            family = row["family"]
            star = " *" if row["collapsed"] or row["below_best_single"] else ""
            table.add_row(
                Text(marked(row) + star, style="bold" if row["method"] == best else ""),
                Text(FAMILIES[family], style=_STYLES[family]),
                _spread(f"{row['utility_mean']:.3f}", row["utility_ci95"], bold=row["method"] == best),
                *((_compared(row),) if compared else ()),
                f"{row['quality_mean']:.3f}",
                f"{row['compute_mean']:.3f}",
                f"{row['load_cv_mean']:.2f}",
                style="dim" if family == "bound" else None,
            )
    facts = results["table_facts"]
    load = f" - {results['load_weight']:g} x load" if results["load_weight"] else ""
    charge = " - c x compute" if budget is None else ""
    seeds = len(results["seeds"])
    caption = (
        f"Utility = quality{charge}{load}, on {facts['queries']['test']} test queries, mean of "
        f"{seeds} seed{'s' * (seeds != 1)} ± half the 95% interval. Compute 1 = one call of the "
        "dearest expert; CV is the load's. Bold: the highest. ▲ ▼: the interval lies above, below the "
        "best gate's. The oracle knows the outcomes: nobody can reach it."
    )
    note = footnote(summary)
    lines = [Text(sentence) for sentence in results["verdict"]]
    warned = [Text(f"* {warning}", style="yellow") for warning in results["warnings"]]
    return Group(
        "",
        table,
        "",
        Text(caption, style="dim"),
        *([Text(note, style="dim")] if note else []),
        "",
        *lines,
        *warned,
        *_notes(results),
    )


def evaluation_view(found: dict[str, Any]) -> Group:
    """What one trained router earned or is estimated to earn, and how the experts share the work."""
    objective = found["objective"]
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_row("method", found["method"])
    load = f" - {objective['load_weight']:g} x load" if objective["load_weight"] else ""
    budget, limit = objective.get("budget"), objective.get("limit")
    charge = f" - {objective['compute_weight']:g} x compute" if budget is None else ""
    within = "" if budget is None else f", compute at most {budget:g} on average"
    never = "" if limit is None else f", no expert above {limit:g}"
    table.add_row("objective", f"quality{charge}{load}{within}{never}")
    estimates = _estimates(found["off_policy"]) if "off_policy" in found else []
    split = found.get("split", "test")
    if split not in found:  # there is a log alone
        return Group("", table, *estimates, "", *_notes(found))
    means = found[split]
    for name in ("utility", "quality", "compute", "load_cv"):
        table.add_row(f"{split} {name.replace('_cv', ' CV')}", f"{means[name]:.4f}")
    if "load" in found:
        load = found["load"]
        table.add_row("busiest expert", f"{load['max_over_mean']:.2f} x the mean")
        table.add_row("tiles", f"{load['tiles']['ratio']:.2f} x the fewest")
        table.add_row(
            f"drops at capacity {load['drops']['capacity_factor']}", f"{load['drops']['fraction']:.1%}"
        )
        if "devices" in load:
            devices = load["devices"]
            table.add_row("device shares", ", ".join(f"{share:.1%}" for share in devices["shares"]))
            table.add_row("device CV, max/mean", f"{devices['cv']:.4f}, {devices['max_over_mean']:.2f}")
    for name in ("random_utility", "best_single_utility", "oracle_utility"):
        if name in found:
            table.add_row(name.replace("_", " "), f"{found[name]:.4f}")
    shares = Table(box=None, padding=(0, 1), pad_edge=False)
    shares.add_column("expert")
    shares.add_column("share", justify="right")
    for expert, share in sorted(
        zip(found["experts"], means["shares"], strict=True), key=lambda item: -item[1]
    ):
        shares.add_row(expert, f"{share:6.1%}")
    return Group("", table, "", shares, *estimates, "", *_collapse(found), *_notes(found))


def _estimates(found: dict[str, Any]) -> list[Any]:
    """What a log says that the router earns."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("utility by the log")
    table.add_column("estimate", justify="right")
    table.add_column("95% interval", justify="right")
    for name, label in (("ips", "IPS"), ("snips", "SNIPS"), ("dr", "doubly robust")):
        low, high = found[name]["ci95"]
        table.add_row(label, f"{found[name]['mean']:.4f}", f"{low:.4f} to {high:.4f}")
    if found["truth"] is not None:
        table.add_row("truth on its queries", f"{found['truth']:.4f}", "")
    size = f"{found['decisions']} decisions, worth {found['effective_sample_size']:.0f} of the router's own"
    warned = [Text(f"Warning: {warning}", style="yellow") for warning in found["warnings"]]
    return ["", table, Text(size, style="dim"), *warned]


def paths_of(found: dict[str, Any]) -> list[str]:
    """Where to find what a command wrote, a line each."""
    paths: list[tuple[str, str]] = []
    if "out" in found:
        paths.append(("report", f"{found['out']}/report.html"))
        if "env" not in found:
            paths.append(("curves", f"tensorboard --logdir {found['out']}/tensorboard"))
    paths += [(name, found[name]) for name in ("run", "router", "policy") if name in found]
    return [f"{name:<7}{path}" for name, path in paths]


def facts_view(found: dict[str, Any]) -> Table:
    """Names and values, one a line."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key} {_short(item)}" for key, item in value.items())
        elif isinstance(value, list):
            value = ("\n" if name == "notes" else ", ").join(map(str, value))
        if value != "" and name not in ("router", "policy"):  # paths come last, whole
            table.add_row(name.replace("_", " "), _short(value))
    return table


@contextmanager
def progress_of(doing: str, console: Console) -> Generator[Callable[[int, int, str], None]]:
    """Yield a function (done, total, what) that shows a bar, or says lines where there is no terminal."""
    if not console.is_terminal:
        yield _lines(doing, console)
        return
    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + doing),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what, visible=True
        )


def _lines(doing: str, console: Console) -> Callable[[int, int, str], None]:
    """Say every further tenth as one line."""
    said = -1

    def tell(done: int, total: int, what: str) -> None:
        nonlocal said
        tenth = 10 * done // max(total, 1)
        if tenth > said:
            said = tenth
            console.print(f"{done}/{total} {doing}: {what}", markup=False, highlight=False, soft_wrap=True)

    return tell


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _collapse(found: dict[str, Any]) -> list[Text]:
    """What is wrong with a learned router, and why it may be."""
    collapse = found.get("collapse")
    if collapse is None:
        return []
    troubles = collapse["problems"]
    lines = [Text(f"Warning: the router {' and '.join(troubles)}.", style="yellow")] if troubles else []
    reasons = collapse["reasons"] or (
        ["no likely reason was found: the features may not tell the queries apart"] if troubles else []
    )
    return lines + [Text(f"- {reason}", style="yellow" if troubles else "dim") for reason in reasons]


def _notes(found: dict[str, Any]) -> list[Text]:
    return [Text(f"Note: {note}", style="yellow") for note in found["notes"]]


def _spread(mean: str, ci95: list[float], *, bold: bool = False) -> Text:
    half = f"±{(ci95[1] - ci95[0]) / 2:.3f}".replace("0.", ".", 1)
    return Text(mean, style="bold" if bold else "").append(half, style="dim not bold")


def _compared(row: dict[str, Any]) -> Text:
    """The difference to the best gate, with its mark; empty for that gate itself."""
    found = row["paired_difference_to_best_gate"]
    if found is None:
        return Text("best gate" if row["family"] == "gate" else "", style="dim")
    low, high = found["ci95"]
    text = _spread(signed(found["mean"], 3), found["ci95"])
    if row["family"] == "bound":
        return text.append("  ")
    mark, style = (" ▲", "green") if low > 0 else (" ▼", "red") if high < 0 else ("  ", "")
    return text.append(mark, style="dim" if row["sees"] else style)
