"""The terminal's tables at 80 columns, with as many methods as there are."""

from __future__ import annotations

import runpy
from pathlib import Path

from rich.console import Console

from router_rl.methods.registry import METHODS
from router_rl.reports.terminal import evaluation_view, results_view

SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


def printed(view: object, *, styled: bool = False) -> str:
    console = Console(width=80, force_terminal=styled, color_system="standard" if styled else None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_every_method_fits_80_columns() -> None:
    spread = {name: (method.family, -0.01 * i, 0.3) for i, (name, method) in enumerate(METHODS.items())}
    results = SAMPLES["sample_results"](spread | {"oracle": ("bound", 0.04, 0.2)}, experts=7)
    text = printed(results_view(results))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for name in METHODS:
        assert text.count(f"\n{name} ") == 3, name  # once a compute weight


def test_methods_stand_by_utility_below_the_bound() -> None:
    results = SAMPLES["sample_results"]({"oracle": ("bound", -1.0, 0.3), **SAMPLES["METHODS"]})
    text = printed(results_view(results))
    block = text.split("c=0.1")[1].split("c=0.4")[0].splitlines()[1:]
    names = [line.split()[0] for line in block if line.strip()]
    here = {row["method"]: row["utility_mean"] for row in results["summary"] if row["compute_weight"] == 0.1}
    assert names == ["oracle", *sorted(here.keys() - {"oracle"}, key=lambda name: -here[name])]
    assert "best gate" in text
    assert "▼" in text


def test_one_that_sees_more_is_marked_and_not_bold() -> None:
    methods = {"group_label": ("baseline", 0.03, 0.2), **SAMPLES["METHODS"]}
    text = printed(results_view(SAMPLES["sample_results"](methods)), styled=True)
    assert "\x1b[1mgroup_label" not in text
    assert "\x1b[1mwarm_exact_pg" in text
    assert "† told each query's group" in text


def test_a_run_in_trouble_says_so() -> None:
    run = {"method": "m", "objective": {"compute_weight": 0.1, "load_weight": 0.0}, "experts": ["a", "b"]}
    means = {"utility": 0.5, "quality": 0.5, "compute": 0.5, "load_cv": 1.0, "shares": [1.0, 0.0]}
    run |= {"test": means, "notes": []}
    trouble = {"problems": ["sends nearly everything to one expert"], "reasons": []}
    text = printed(evaluation_view(run | {"collapse": trouble}))
    assert "Warning: the router sends nearly everything to one expert." in text
    assert "- no likely reason was found" in text
    right = {"problems": [], "reasons": ["no collapse: the oracle, too"]}
    text = printed(evaluation_view(run | {"collapse": right}))
    assert "Warning" not in text
    assert "- no collapse: the oracle, too" in text
    assert "Warning" not in printed(evaluation_view(run | {"collapse": None}))
