"""The tables of `token_moe.py`, made of its finished fits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experts.moe.token_pool import TokenPool
from router_rl.problems.statistics import interval, paired_difference

FIXED = {
    "hindsight": ("bound", "1"),
    "label": ("bound", "1"),
    "sequence_label": ("bound", "1"),
    "ridge_on_labels": ("closed form", "1"),
    "ridge": ("closed form", "1"),
    "ridge_top2": ("closed form", "2"),
    "average": ("baseline", "1"),
    "dense": ("baseline", "1"),
    "best_single": ("baseline", "1"),
    "uniform": ("baseline", "all"),
    "random": ("baseline", "1"),
}
TITLES = {
    "main": "Loss at equal numbers of active experts",
    "compute": "An adaptive number of experts",
    "quantised": "Gates trained through the float experts",
    "load": "Load",
    "credit": "Where the credit comes from",
}


@dataclass(frozen=True)
class Row:
    """A method's fits, one a seed."""

    name: str
    family: str
    served: str
    section: str
    fits: list[dict[str, Any]]

    @property
    def loss(self) -> np.ndarray:
        """Test loss in nats per token of each sequence [seeds, S]."""
        return np.array([fit["loss"] for fit in self.fits])

    @property
    def runs(self) -> np.ndarray:
        """Experts run in each sequence, [seeds, S]."""
        return np.array([fit["runs"] for fit in self.fits])

    @property
    def validation(self) -> float:
        """Mean score on validation; only trained methods have one."""
        return float(np.mean([fit["validation"] for fit in self.fits]))

    @property
    def weight(self) -> float | None:
        """The penalty of a second expert, for a method that was trained with it; None for others."""
        return float(self.name.rsplit(" at ", 1)[1]) if self.section == "compute" else None

    def mean(self, field: str) -> float | None:
        """Mean of a measure over the seeds."""
        values = [fit[field] for fit in self.fits if field in fit]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Tables:
    """The tables as Markdown and as JSON."""

    markdown: str
    as_json: dict[str, Any]


def tables(folder: Path, pool: TokenPool, methods: dict[str, dict[str, str]], seeds: int) -> Tables:
    """Read the finished fits and make the tables."""
    rows = [*fixed_rows(folder, seeds), *trained_rows(folder, methods, seeds)]
    by_name = {row.name: row for row in rows}
    mixed = pool.parts["test"].mixed
    train, test = pool.parts["train"], pool.parts["test"]
    names = ", ".join(pool.tail.names)
    text = [
        f"`{pool.name}`: {pool.tail.experts} experts ({names}), {pool.tail.depth} layers with routers;",
        f"{train.domain.size:,} training tokens; tested on {(~mixed).sum()} sequences of one domain and",
        f"{mixed.sum()} mixed ones, of {test.length} tokens each; {seeds} seeds. Loss in nats a token.",
        f"One expert in each layer is {pool.tail.flops * pool.tail.depth / 1e6:,.2f} MFLOPs a token.",
        "`kept`: share of the matching specialists' gain over the dense base, on sequences of one domain.",
    ]
    as_json: dict[str, Any] = {"schema_version": 1, "pool": pool.name, "rows": []}
    rivals = {
        served: best
        for served in {row.served for row in rows}
        if (best := best_of(rows, "gate", lambda row, s=served: row.section == "main" and row.served == s))
    }
    for section, title in TITLES.items():
        chosen = [row for row in rows if row.section == section]
        if not chosen or section == "compute":
            continue
        if section != "main":
            known = ("ridge", "soft_gate", "straight_through", "outcome_table", "reinforce", "label")
            chosen += [by_name[n] for n in known if n in by_name]
        chosen = sorted(chosen, key=lambda row: float(row.loss.mean()))
        text += ["", f"### {title}", "", *head("router", *LOSSES)]
        for row in chosen:
            rival = rivals.get(row.served, rivals.get("1"))
            cells, record = losses(row, rival, by_name, mixed)
            text.append(line(cells))
            as_json["rows"].append({"section": section, **record, **serving(row)})
        text += ["", *head("router", *SERVING)]
        text += [line([row.name, *shown(row)]) for row in chosen if row.mean("tiles") is not None]
    for weight in sorted({w for row in rows if (w := row.weight) is not None}):
        found, records = charged(rows, weight)
        text += found
        as_json["rows"] += records
    text += by_domain(rows, pool)
    return Tables("\n".join(text), as_json)


LOSSES = (
    "family",
    "experts run",
    "loss",
    "95% CI",
    "one domain",
    "mixed",
    "minus best gate",
    "95% CI",
    "kept",
)
SERVING = (
    "recovery",
    "load CV",
    "worst layer",
    "2 devices",
    "tiles",
    "flips, bfloat16",
    "flips, noise",
    "tokens/s",
    "fit s",
)


def best_of(rows: list[Row], family: str, wanted: Callable[[Row], bool]) -> Row | None:
    """The trained row of a family with the best validation score."""
    found = [row for row in rows if row.family == family and wanted(row)]
    return min(found, key=lambda row: row.validation, default=None)


def head(*names: str) -> list[str]:
    """The head of a table; all but the first two columns are numbers."""
    return [line(names), "|---|---|" + "---:|" * (len(names) - 2)]


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def losses(
    row: Row, rival: Row | None, by_name: dict[str, Row], mixed: np.ndarray
) -> tuple[list[str], dict[str, Any]]:
    """The losses of a row, printed and as JSON."""
    loss = interval(row.loss)
    pure, changing = row.loss[:, ~mixed].mean(), row.loss[:, mixed].mean() if mixed.any() else float("nan")
    base, home = (by_name[n].loss[:, ~mixed].mean() for n in ("dense", "label"))
    kept = (base - pure) / (base - home)
    less, against = compared(row, rival, lambda each: each.loss)
    compute = row.mean("compute")
    cells = [
        row.name,
        row.family,
        row.served if compute is None else f"{compute:.2f}",
        f"{loss.mean:.4f}",
        f"{loss.low:.3f} to {loss.high:.3f}",
        f"{pure:.4f}",
        f"{changing:.4f}",
        *less,
        f"{kept:.1%}",
    ]
    return cells, {
        "method": row.name,
        "family": row.family,
        "served": row.served,
        "loss": [loss.mean, loss.low, loss.high],
        "one_domain": float(pure),
        "mixed": float(changing),
        "kept": float(kept),
        "by_seed": row.loss.mean(axis=1).tolist(),
        "minus_best_gate": against,
    }


def compared(
    row: Row, rival: Row | None, value: Callable[[Row], np.ndarray]
) -> tuple[tuple[str, str], list[Any] | None]:
    """The paired difference to a rival: two cells, and as JSON."""
    if rival is None:
        return ("", ""), None
    if rival.name == row.name:
        return ("best gate", ""), None
    seeds = max(len(row.fits), len(rival.fits))
    found = paired_difference(spread_over(value(row), seeds), spread_over(value(rival), seeds))
    cells = f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"
    return cells, [rival.name, found.mean, found.low, found.high]


def serving(row: Row) -> dict[str, Any]:
    """Load, robustness and speed of a row, as JSON; None where it was not measured."""
    fields = ("compute", "recovery", "load_cv", "device_cv", "tiles", "flips_bfloat16", "flips_noise")
    layers = [fit["load_cv_layers"] for fit in row.fits if "load_cv_layers" in fit]
    return {
        **{field: row.mean(field) for field in (*fields, "tokens_per_second", "fit_seconds")},
        "load_cv_layers": np.mean(layers, axis=0).tolist() if layers else None,
    }


def shown(row: Row) -> list[str]:
    """The same, printed."""
    found = serving(row)
    forms = {"recovery": ".2f", "load_cv": ".2f", "worst": ".2f", "device_cv": ".2f", "tiles": ".2f"}
    forms |= {
        "flips_bfloat16": ".2%",
        "flips_noise": ".2%",
        "tokens_per_second": ",.0f",
        "fit_seconds": ".0f",
    }
    found["worst"] = max(found["load_cv_layers"])
    return ["" if found[name] is None else format(found[name], form) for name, form in forms.items()]


def charged(rows: list[Row], weight: float) -> tuple[list[str], list[dict[str, Any]]]:
    """The table of an adaptive number of experts: loss, and loss plus the penalty of more experts."""

    def paid(row: Row) -> np.ndarray:
        return row.loss + weight * (row.runs - 1.0)

    def validated(row: Row) -> float:
        # Validation of a fixed number of experts has no penalty; it is known, so it is added here.
        fixed = 0.0 if row.weight is not None else weight * (float(row.mean("compute") or 1.0) - 1.0)
        return row.validation + fixed

    few = [row for row in rows if row.fits[0].get("runs") and row.family in ("gate", "RL", "closed form")]
    few = [row for row in few if row.weight in (None, weight) and row.section in ("main", "compute")]
    gates = [row for row in few if row.family == "gate"]
    rival = min(gates, key=validated, default=None)
    text = ["", f"### An adaptive number of experts, {weight:g} nats for a second expert", ""]
    text += head("router", "family", "experts run", "loss", "with penalty", "minus best gate", "95% CI")
    records: list[dict[str, Any]] = []
    for row in sorted(few, key=lambda row: float(paid(row).mean())):
        less, against = compared(row, rival, paid)
        cells = [f"{row.mean('compute'):.2f}", f"{row.loss.mean():.4f}", f"{paid(row).mean():.4f}"]
        text.append(line([row.name, row.family, *cells, *less]))
        record = {"section": "compute", "weight": weight, "method": row.name, "minus_best_gate": against}
        records.append({**record, "charged": float(paid(row).mean()), "compute": row.mean("compute")})
    return text, records


def by_domain(rows: list[Row], pool: TokenPool) -> list[str]:
    """Loss and perplexity by domain, of the best routers on validation for each number of experts."""
    main = [row for row in rows if row.section == "main"]
    names = ["label", "dense", "average", "ridge"]
    for served in ("1", "2", "all"):
        found = (best_of(main, f, lambda row, s=served: row.served == s) for f in ("gate", "RL"))
        names += [row.name for row in found if row is not None]
    test = pool.parts["test"]
    text = ["", "### Loss by domain (and perplexity)", "", *head("router", "family", *pool.domains, "mixed")]
    for row in (row for name in names for row in main if row.name == name):
        places = [(test.domain[:, 0] == d) & ~test.mixed for d in range(len(pool.domains))]
        means = [float(row.loss[:, place].mean()) for place in (*places, test.mixed) if place.any()]
        text.append(line([row.name, row.family, *(f"{mean:.3f} ({np.exp(mean):.1f})" for mean in means)]))
    return text


def spread_over(loss: np.ndarray, seeds: int) -> np.ndarray:
    """Repeat a method without seeds for each seed."""
    return np.repeat(loss, seeds, axis=0) if len(loss) == 1 else loss[:seeds]


def fixed_rows(folder: Path, seeds: int) -> list[Row]:
    """Ways of routing that are not trained."""
    rows: list[Row] = []
    for name, (family, served) in FIXED.items():
        paths = (
            [folder / f"random-{seed}.json" for seed in range(seeds)]
            if name == "random"
            else [folder / f"{name}.json"]
        )
        rows.append(Row(name, family, served, "main", [read(path) for path in paths]))
    return rows


def trained_rows(folder: Path, methods: dict[str, dict[str, str]], seeds: int) -> list[Row]:
    """Methods with all seeds finished, at the learning rate chosen on validation."""
    rows: list[Row] = []
    for name, method in methods.items():
        files = [read(path) for path in sorted(folder.glob(f"{name.replace(' ', '_')}-*.json"))]
        files = [file for file in files if file["method"] == name]
        first = [file for file in files if file["training"]["seed"] == 0]
        if not first:
            continue
        seeds_at = Counter(file["training"]["learning_rate"] for file in files)

        def by_score(file: dict[str, Any], seeds_at: Counter[float] = seeds_at) -> tuple[float, int]:
            # Where every rate keeps the start, the scores tie: then the rate that all seeds were run at.
            return file["validation"], -seeds_at[file["training"]["learning_rate"]]

        rate = min(first, key=by_score)["training"]["learning_rate"]
        fits = sorted(
            (file for file in files if file["training"]["learning_rate"] == rate),
            key=lambda file: file["training"]["seed"],
        )
        if len(fits) >= seeds:
            rows.append(Row(name, method["family"], method["served"], method["section"], fits[:seeds]))
    return rows


def read(path: Path) -> dict[str, Any]:
    """A finished fit."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
