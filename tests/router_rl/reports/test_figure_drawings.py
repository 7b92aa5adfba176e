"""Charts of the report: what Vega-Lite draws of made-up data, and the tables of their numbers."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import pytest
import vl_convert

from router_rl.reports.drawing import Drawing
from router_rl.reports.figure_sections import figure_sections
from router_rl.reports.figures import (
    cache_residency,
    cascade_tree,
    layer_shares,
    learning_curve,
    memory_curve,
    queue_timeline,
)
from router_rl.reports.figures.registry import FORMS, SUMMARY_FORMS, find_drawing
from router_rl.reports.report_series import Series, series_of

EVIL = "<b>&\"'"

TREE: dict[str, Any] = {
    "case": "compute weight 0.1",
    "paths": [
        {"asked": ["small"], "share": 0.6, "quality": 0.9},
        {"asked": ["small", EVIL], "share": 0.395, "quality": 0.75},
        {"asked": ["small", "tiny"], "share": 0.005, "quality": 0.1},
    ],
}
TIMELINE: dict[str, Any] = {
    "experts": [EVIL, "b"],
    "case": "load 0.8",
    "seen": [
        {"second": 0.0, "jobs": [0, 0], "down": [False, False]},
        {"second": 5.0, "jobs": [4, 1], "down": [False, True]},
        {"second": 10.0, "jobs": [2, 1], "down": [False, False]},
    ],
}
RESIDENCY: dict[str, Any] = {
    "case": "half",
    "experts": [EVIL, "b"],
    "resident": [[1, 0], [1, 1], [0, 1]],
    "answered": [0, 1, 1],
}
LAYERS: dict[str, Any] = {
    "experts": [EVIL, "b"],
    "texts": ["law", EVIL],
    "layers": [3, 4],
    "shares": [[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]],
}
CURVE: dict[str, Any] = {"curve": [[0, 0.5], [10, 0.7], [20, 0.72]]}
BINS: dict[str, Any] = {"bins": [{"stated": 0.6, "came_true": 0.5, "queries": 40}]}


def memory_rows(sizes: tuple[float, ...] = (1.0, 2.0, 4.0)) -> list[dict[str, Any]]:
    return [
        {"method": name, "family": family, "case": f"{size:g} GB", "resident_gb": size}
        | {"resident_share": size / 4.0, "quality_mean": 0.8 + size / 100, "utility_mean": utility * size}
        | {"compute_mean": 0.2}
        for name, family, utility in ((EVIL, "rl", 0.20), ("lru", "baseline", 0.19))
        for size in sizes
    ]


def drawn(drawing: Drawing) -> str:
    """Return a chart as SVG, as wide as a laptop's; fails unless Vega-Lite draws it without a warning."""
    return vl_convert.vegalite_to_svg(drawing.spec | {"width": 900}, allowed_base_urls=[])


def texts(drawing: Drawing) -> list[str]:
    """Return every text of a chart; fails unless the SVG is well-formed."""
    root = ElementTree.fromstring(drawn(drawing))
    return [each.text or "" for each in root.iter() if each.tag.endswith("}text")]


def marks(drawing: Drawing, kind: str) -> list[str]:
    """Return what a screen reader says of each mark of a kind, such as `bar`."""
    root = ElementTree.fromstring(drawn(drawing))
    of_kind = [each for each in root.iter() if each.get("aria-roledescription") == kind]
    return [each.get("aria-label") or "" for each in of_kind]


def looks(*methods: str) -> dict[str, Series]:
    rows = [{"method": name, "family": "rl", "case": "c", "utility_mean": 0.0} for name in methods]
    return {one.name: one for one in series_of(rows)}


DATA = {
    "cascade_tree": TREE,
    "queue_timeline": TIMELINE,
    "cache_residency": RESIDENCY,
    "layer_shares": LAYERS,
}
DATA |= {"learning_curve": CURVE, "calibration": BINS}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_draws_what_it_says(form: str) -> None:
    draw = find_drawing(form)
    assert draw is not None
    of_memory = form == "memory_curve"
    drawings = draw(memory_rows() if of_memory else {EVIL: DATA[form]}, looks(EVIL, "lru"))
    assert drawings
    for one in drawings:
        assert "<svg" in drawn(one)
        assert one.spec["description"]
        assert one.rows
        assert all(len(row) == len(one.columns) for row in one.rows)
        assert EVIL in [*itertools.chain(*one.rows), one.title, *texts(one)]
        assert "nan" not in str(one.rows)


def test_the_registry_is_consistent() -> None:
    assert find_drawing("hologram") is None
    assert {form for form, _, _ in SUMMARY_FORMS.values()} <= set(FORMS)


def test_the_tree_shows_shares_and_leaves_small_branches_out() -> None:
    (drawing,) = cascade_tree.draw({"m": TREE})
    words = texts(drawing)
    assert "100%, stops 60%, quality 0.90" in words
    assert "40%, stops 40%, quality 0.75" in words
    assert any(word.endswith(f"↳ {EVIL}") for word in words)
    assert not any("tiny" in word for word in words)
    assert [list(row) for row in drawing.rows] == [
        ["m", "small", "100.0%", "60.0%", "0.90"],
        ["m", f"small\N{THIN SPACE}→\N{THIN SPACE}{EVIL}", "39.5%", "39.5%", "0.75"],
    ]
    assert len(marks(drawing, "bar")) == 4  # asked and stops, of two branches


def test_a_cascade_that_never_asks_twice_has_no_tree() -> None:
    flat = {"paths": TREE["paths"][:1]}
    assert cascade_tree.draw({"m": flat}) == []
    (drawing,) = cascade_tree.draw({"flat": flat, "m": TREE})
    assert [param["bind"]["options"] for param in drawing.spec["params"]] == [["m"]]


def test_the_timeline_has_a_chart_for_each_method_on_one_scale() -> None:
    low = {**TIMELINE, "seen": [{**moment, "jobs": [1, 1]} for moment in TIMELINE["seen"]]}
    one, two = queue_timeline.draw({"one": TIMELINE, "two": low})
    assert (one.title, two.title) == ("one (a row is 4 requests high)", "two (a row is 4 requests high)")
    assert [list(row) for row in one.rows] == [[EVIL, "2.0", "4", "0%"], ["b", "0.7", "1", "33%"]]

    def tallest(drawing: Drawing) -> float:
        areas = next(layer for layer in drawing.spec["layer"] if layer["mark"]["type"] == "area")
        rows = drawing.spec["datasets"][areas["data"]["name"]]
        return max(row["level"] - row["floor"] for row in rows if row["expert"] == EVIL)

    assert tallest(one) == pytest.approx(4 * tallest(two), abs=1e-3)
    assert len(marks(one, "area mark container")) == len(marks(two, "area mark container"))
    assert len(queue_timeline.draw({f"m{i}": TIMELINE for i in range(6)})) == 4


def test_residency_is_drawn_in_runs_of_requests() -> None:
    (drawing,) = cache_residency.draw({"m": RESIDENCY})
    spans = drawing.spec["datasets"][drawing.spec["data"]["name"]]
    assert [(one["expert"], one["state"], one["from"], one["to"]) for one in spans] == [
        (EVIL, "answers", 0, 1),
        (EVIL, "in GPU memory", 1, 2),
        ("b", "answers", 1, 3),
    ]
    assert [list(row) for row in drawing.rows] == [
        ["m", EVIL, "66.7%", "33.3%"],
        ["m", "b", "66.7%", "66.7%"],
    ]


def test_layers_show_the_shares_of_the_first_text() -> None:
    (drawing,) = layer_shares.draw({"m": LAYERS})
    assert [word for word in texts(drawing) if word.endswith("%")] == ["25%", "75%", "50%", "50%"]
    assert ["m", "layer 3", EVIL, "100.0%", "0.0%"] in [list(row) for row in drawing.rows]


def test_the_memory_curve_needs_two_sizes_and_marks_half() -> None:
    assert memory_curve.draw(memory_rows((2.0,)), {}) == []
    quality, utility = memory_curve.draw(memory_rows(), looks(EVIL, "lru"))
    assert len(marks(quality, "rule mark")) == 1
    assert ["lru", "4", "0.7600"] in [list(row) for row in utility.rows]


def test_only_methods_that_lead_are_drawn_from_the_start() -> None:
    many = [f"m{i}" for i in range(20)]
    (drawing,) = learning_curve.draw(dict.fromkeys(many, CURVE), looks(*many))
    (shown,) = [param["value"] for param in drawing.spec["params"] if param["name"] == "shown"]
    assert shown == ["m0"]
    assert len(marks(drawing, "point")) == len(CURVE["curve"])


def results(figures: list[dict[str, Any]], summary: list[dict[str, Any]]) -> dict[str, Any]:
    return {"problem": {"name": "caching", "facts": {}}, "summary": summary, "figures": figures, "cases": []}


def test_sections_group_by_title_and_order_methods() -> None:
    names = [f"rule_{i}" for i in range(5)]
    rows = [{"method": name, "family": "baseline", "utility_mean": -i} for i, name in enumerate(names)]
    rows += [{"method": "agent", "family": "rl", "utility_mean": -9.0}]
    figure = {"form": "cache_residency", "title": "Residency", "note": "A note.", "data": RESIDENCY}
    figures = [{"method": name, **figure} for name in [*names[::-1], "agent"]]
    (section,), sentences = figure_sections(results(figures, rows), [])
    assert sentences == []
    assert (section.title, section.note) == ("Residency", "A note.")
    assert section.methods == ["agent", *names]
    (drawing,) = section.drawings
    assert [param["bind"]["options"] for param in drawing.spec["params"]] == [["agent", *names]]


def test_the_memory_curve_comes_from_the_summary() -> None:
    (section,), _ = figure_sections(results([], memory_rows()), [])
    assert section.title == "Quality and utility by GPU memory"
    assert figure_sections(results([], memory_rows((2.0,))), []) == ([], [])
