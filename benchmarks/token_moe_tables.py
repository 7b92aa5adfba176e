"""The tables of `token_moe.py`, made of its finished fits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experts.moe.pool import TokenPool
from router_rl.evaluation.statistics import interval, paired_difference

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
        """[seeds, S]"""
        return np.array([fit["loss"] for fit in self.fits])

    def mean(self, field: str) -> float | None:
        """Of a measure, over the seeds."""
        values = [fit[field] for fit in self.fits if field in fit]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Tables:
    """What is printed and what is written."""

    markdown: str
    as_json: dict[str, Any]


def tables(folder: Path, pool: TokenPool, methods: dict[str, dict[str, str]], seeds: int) -> Tables:
    """Read the fits and print what they say."""
    rows = [*fixed_rows(folder, seeds), *trained_rows(folder, methods, seeds)]
    by_name = {row.name: row for row in rows}
    mixed = pool.parts["test"].mixed
    train, test = pool.parts["train"], pool.parts["test"]
    names = ", ".join(pool.tail.names)
    text = [
        f"`{pool.name}`: {pool.tail.experts} experts ({names}), {pool.tail.depth} layers with routers;",
        f"{train.domain.size:,} training tokens; tested on {(~mixed).sum()} sequences of one domain and",
        f"{mixed.sum()} mixed ones, of {test.length} tokens each; {seeds} seeds. Loss in nats a token.",
        "`kept`: share of the matching specialists' gain over the dense base, on sequences of one domain.",
    ]
    as_json: dict[str, Any] = {"schema_version": 1, "pool": pool.name, "rows": []}
    rivals = {
        served: min(found, key=lambda row: float(np.mean([f["validation"] for f in row.fits])))
        for served in {row.served for row in rows}
        if (found := [r for r in rows if r.family == "gate" and r.served == served and r.section == "main"])
    }
    for section, title in TITLES.items():
        chosen = [row for row in rows if row.section == section]
        if not chosen:
            continue
        if section != "main":
            chosen += [
                by_name[n] for n in ("ridge", "straight_through", "reinforce", "label") if n in by_name
            ]
        head = "| router | family | experts run | loss | 95% interval | one domain | mixed "
        head += "| minus best gate | 95% interval "
        text += [
            "",
            f"### {title}",
            "",
            head + "| kept | recovery | load CV | tiles | flips bf16 / noise | fit s |",
        ]
        text.append("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        for row in sorted(chosen, key=lambda row: float(row.loss.mean())):
            rival = rivals.get(row.served, rivals.get("1"))
            cells, record = described(row, rival, by_name, mixed)
            text.append("| " + " | ".join(cells) + " |")
            as_json["rows"].append({"section": section, **record})
    return Tables("\n".join(text), as_json)


def described(
    row: Row, rival: Row | None, by_name: dict[str, Row], mixed: np.ndarray
) -> tuple[list[str], dict[str, Any]]:
    """A row of a table, and as JSON."""
    loss = interval(row.loss)
    pure, changing = row.loss[:, ~mixed].mean(), row.loss[:, mixed].mean() if mixed.any() else float("nan")
    base, home = (by_name[n].loss[:, ~mixed].mean() for n in ("dense", "label"))
    kept = (base - pure) / (base - home)
    difference = ""
    spread = ""
    record: dict[str, Any] = {
        "method": row.name,
        "family": row.family,
        "served": row.served,
        "loss": [loss.mean, loss.low, loss.high],
        "one_domain": float(pure),
        "mixed": float(changing),
        "kept": float(kept),
        "by_seed": row.loss.mean(axis=1).tolist(),
    }
    if rival is not None and rival.name == row.name:
        difference = "best gate"
    elif rival is not None:
        seeds = max(len(row.fits), len(rival.fits))
        found = paired_difference(spread_over(row.loss, seeds), spread_over(rival.loss, seeds))
        difference, spread = f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"
        record["minus_best_gate"] = [rival.name, found.mean, found.low, found.high]
    fields = ("compute", "recovery", "load_cv", "tiles", "flips_bfloat16", "flips_noise", "fit_seconds")
    values = {field: row.mean(field) for field in (*fields, "tokens_per_second")}
    record |= values

    def shown(field: str, form: str) -> str:
        value = values[field]
        return "" if value is None else format(value, form)

    cells = [
        row.name,
        row.family,
        shown("compute", ".2f") or row.served,
        f"{loss.mean:.4f}",
        f"{loss.low:.3f} to {loss.high:.3f}",
        f"{pure:.4f}",
        f"{changing:.4f}",
        difference,
        spread,
        f"{kept:.1%}",
        shown("recovery", ".2f"),
        shown("load_cv", ".2f"),
        shown("tiles", ".2f"),
        f"{shown('flips_bfloat16', '.2%')} / {shown('flips_noise', '.2%')}" if values["flips_noise"] else "",
        shown("fit_seconds", ".0f"),
    ]
    return cells, record


def spread_over(loss: np.ndarray, seeds: int) -> np.ndarray:
    """A method without seeds stands beside each."""
    return np.repeat(loss, seeds, axis=0) if len(loss) == 1 else loss[:seeds]


def fixed_rows(folder: Path, seeds: int) -> list[Row]:
    """Routes that are not trained."""
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
    """Methods whose every seed is there, at the learning rate that validation chose."""
    rows: list[Row] = []
    for name, method in methods.items():
        files = [read(path) for path in sorted(folder.glob(f"{name.replace(' ', '_')}-*.json"))]
        files = [file for file in files if file["method"] == name]
        first = [file for file in files if file["training"]["seed"] == 0]
        if not first:
            continue
        rate = min(first, key=lambda file: file["validation"])["training"]["learning_rate"]
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
