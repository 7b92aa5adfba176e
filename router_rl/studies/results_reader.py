"""Read `results.json` of this version or of version 1, as schema 2.

Version 1 wrote two forms of schema 1: comparisons on a table and comparisons on an environment. Both are
converted to schema 2. Fields that version 1 did not record are None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experts.io.errors import InputError
from experts.io.json_file import read_json

from .results import SCHEMA_VERSION
from .results_schema import check_results

__all__ = ["read_results"]

_VERSION_1_METHODS = {"gate": "method"}  # name of the other method in a paired difference
_ROUTING = "one decision a query: which experts answer it"


def read_results(source: Path | str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `results.json` as schema 2.

    Args:
        source: the file, its folder, or its content. Content of schema 2 is returned unchanged.

    Raises:
        InputError: the file cannot be read, its schema version is unknown, or a field is missing or of
            another type.
    """
    if isinstance(source, Mapping):
        content, name = dict(source), "results"
    else:
        content, name = _read(Path(source)), str(source)
    version = content.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        problem = f"has schema version {version}, this release reads 1 and {SCHEMA_VERSION}"
        raise InputError("results", name, problem, "run compare again, or use the release that wrote it")
    if version == 1 and "env" not in content and "experts" not in content:
        raise InputError(
            "results", name, "is not the result of a comparison", "give the results.json of `compare`"
        )
    try:
        if version == 1:
            content = _from_environment(content) if "env" in content else _from_table(content)
        check_results(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError("results", name, f"cannot be used: {reason}", "run compare again") from error
    return content


def _read(path: Path) -> dict[str, Any]:
    file = path / "results.json" if path.is_dir() else path
    return read_json("results", file, dict[str, Any], fix="give the results.json of `compare`")


def _from_table(old: Mapping[str, Any]) -> dict[str, Any]:
    """Convert schema 1 of a comparison on a table."""
    budget = old.get("budget")
    facts = old.get("table_facts") or {}
    load_weight = old.get("load_weight") or 0.0
    charges = "" if budget is not None else " - compute weight x compute"
    charges += f" - {load_weight:g} x load" if load_weight else ""
    card = {
        "name": "routing",
        "environment": "RouterRL/Routing-v0",
        "about": _ROUTING,
        "source": old.get("source") or old.get("table") or "",
        "experts": list(old["experts"]),
        "options": {
            name: old[name] for name in ("select", "scorer", "feedback") if old.get(name) is not None
        },
        "facts": {
            name: facts[name]
            for name in ("queries", "features", "cost_unit", "compute_unit")
            if name in facts
        },
        "notes": list(old.get("notes") or []),
        "utility": f"quality{charges}",
    }
    weights: Sequence[float] = old.get("compute_weights") or _distinct(old["summary"], "compute_weight")
    cases = [_case(weight, load_weight, budget) for weight in weights]
    labels = {case["values"]["compute_weight"]: case["label"] for case in cases}
    shares: Mapping[str, Any] = old.get("shares_by_group") or {}
    return {
        **_common(old, card, cases),
        "commit": old.get("commit"),
        "versions": dict(old.get("versions") or {}),
        "seconds": old.get("seconds"),
        "notes": list(old.get("notes") or []),
        "rows": [_row(row, labels[row["compute_weight"]]) for row in old.get("rows") or []],
        "summary": [_table_summary(row, labels[row["compute_weight"]]) for row in old["summary"]],
        "table_facts": old.get("table_facts"),
        "frontier": dict(old.get("frontier") or {}),
        "zero_frontier": list(old.get("zero_frontier") or []),
        "singles": list(old.get("singles") or []),
        "shares_by_group": _shares(shares, labels),
        "verdict": list(old.get("verdict") or []),
        "warnings": list(old.get("warnings") or []),
    }


def _from_environment(old: Mapping[str, Any]) -> dict[str, Any]:
    """Convert schema 1 of a comparison on an environment."""
    card = {
        "name": old["env"],
        "environment": old.get("environment") or "",
        "about": "",
        "source": old.get("table") or "",
        "experts": [],
        "options": dict(old.get("options") or {}),
        "facts": {},
        "notes": [],
        "utility": "",
    }
    cases = [
        {"label": case["label"], "values": {name: value for name, value in case.items() if name != "label"}}
        for case in old["cases"]
    ]
    return {
        **_common(old, card, cases),
        "rows": [_row(row, _label_of(row, cases)) for row in old.get("rows") or []],
        "summary": [_environment_summary(row) for row in old["summary"]],
    }


def _common(old: Mapping[str, Any], card: dict[str, Any], cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all fields of schema 2, filled with those that both forms of schema 1 recorded."""
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": card,
        "cases": cases,
        "created": old.get("created"),
        "command": old.get("command"),
        "versions": {},
        "commit": None,
        "seeds": list(old.get("seeds") or []),
        "n_trials": old.get("tries"),
        "seconds": None,
        "notes": [],
        "recommendation": None,
        "rows": [],
        "summary": [],
        "table_facts": None,
        "frontier": {},
        "zero_frontier": [],
        "singles": [],
        "shares_by_group": None,
        "rl_verdicts": [],
        "verdict": [],
        "warnings": [],
        "figures": [],
    }


def _case(weight: float, load_weight: float, budget: float | None) -> dict[str, Any]:
    values = {"compute_weight": weight, "load_weight": load_weight}
    if budget is None:
        return {"label": f"compute weight {weight:g}", "values": values}
    return {"label": f"budget {budget:g}", "values": values | {"budget": budget}}


def _row(row: Mapping[str, Any], label: str) -> dict[str, Any]:
    new = {"method": row["method"], "family": row["family"], "case": label, **row}
    new["hyperparameters"] = new.pop("settings", None)
    return {"collapsed": False, "collapse": None, "shares": None, "router": None} | new


def _table_summary(row: Mapping[str, Any], label: str) -> dict[str, Any]:
    new = {"method": row["method"], "family": row["family"], "case": label, **row}
    new["full_information"] = False  # not recorded
    new["extra_inputs"] = list(new.pop("sees", None) or [])
    new["paired_difference_to_best_gate"] = _difference(row.get("paired_difference_to_best_gate"))
    new.pop("validation_difference_to_best_gate", None)
    other = ("paired_difference_to_rival", "paired_difference_to_best_rival", "same_as")
    return new | dict.fromkeys(other)


def _environment_summary(row: Mapping[str, Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(
        (
            "utility_iqm",
            "utility_iqm_ci95",
            "paired_difference_to_best_gate",
            "same_as",
        )
    )
    return {
        **row,
        "full_information": False,
        "extra_inputs": [],
        "collapsed": 0,
        "below_best_single": 0,
        **nothing,
    }


def _difference(old: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if old is None:
        return None
    return {_VERSION_1_METHODS.get(name, name): value for name, value in old.items()}


def _shares(shares: Mapping[str, Any], labels: Mapping[float, str]) -> dict[str, Any] | None:
    methods: Mapping[str, Any] = shares.get("methods") or {}
    if not methods:
        return None
    weight = next(iter(methods.values())).get("compute_weight")
    return {
        "case": labels.get(weight, ""),
        "groups": list(shares.get("groups") or []),
        "methods": {name: each["shares"] for name, each in methods.items()},
    }


def _label_of(row: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    """Return the label of the case that has a row's values."""
    for case in cases:
        if all(row.get(name) == value for name, value in case["values"].items()):
            return str(case["label"])
    raise InputError("results.rows", row["method"], "belongs to no case", "run compare again")


def _distinct(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return list(dict.fromkeys(row[name] for row in rows))
