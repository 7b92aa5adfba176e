"""Drawings of the report: what they show of made-up data, and that text from outside is escaped."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from router_rl.reports.figure_sections import figure_sections
from router_rl.reports.figures import (
    cache_residency,
    cascade_tree,
    layer_shares,
    memory_curve,
    queue_timeline,
)
from router_rl.reports.figures.registry import FORMS, SUMMARY_FORMS, TOGETHER, find_drawing

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


def memory_rows(sizes: tuple[float, ...] = (1.0, 2.0, 4.0)) -> list[dict[str, Any]]:
    return [
        {"method": name, "family": family, "case": f"{size:g} GB", "resident_gb": size}
        | {"resident_share": size / 4.0, "quality_mean": 0.8 + size / 100, "utility_mean": utility * size}
        | {"compute_mean": 0.2}
        for name, family, utility in ((EVIL, "rl", 0.20), ("lru", "baseline", 0.19))
        for size in sizes
    ]


def texts(svg: str) -> list[str]:
    """Every text of a drawing, tooltips and labels too; fails unless it is well-formed."""
    root = ElementTree.fromstring(svg.replace("&#8627;", "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS}"))
    return [each.text or "" for each in root.iter() if each.tag in ("text", "title")]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_draws_with_escaped_text_and_no_inline_style(form: str) -> None:
    draw = find_drawing(form)
    assert draw is not None
    data = {"cascade_tree": TREE, "queue_timeline": TIMELINE, "cache_residency": RESIDENCY}.get(form, LAYERS)
    svg = draw(memory_rows()) if form == "memory_curve" else draw({EVIL: data})
    assert any(EVIL in text for text in texts(svg))
    assert "style=" not in svg  # the page's content security policy would drop it
    assert 'role="img"' in svg
    assert "nan" not in svg


def test_the_registry_is_consistent() -> None:
    assert find_drawing("hologram") is None
    assert set(FORMS) >= TOGETHER
    assert {form for form, _, _ in SUMMARY_FORMS.values()} <= set(FORMS)


def test_the_tree_shows_shares_and_leaves_small_branches_out() -> None:
    words = texts(cascade_tree.draw({"m": TREE}))
    assert "100%, stops 60%, quality 0.90" in words
    assert "40%, stops 40%, quality 0.75" in words
    assert not any("tiny" in word for word in words)
    svg = cascade_tree.draw({"m": TREE})
    widths = [float(width) for width in re.findall(r'class="strong"[^>]* width="([0-9.]+)"', svg)]
    assert widths[1:] == pytest.approx([160 * 0.6, 160 * 0.395], abs=0.06)  # the first is the key's


def test_a_cascade_that_never_asks_twice_has_no_tree() -> None:
    assert cascade_tree.draw({"m": {"paths": TREE["paths"][:1]}}) == ""


def test_the_timeline_has_a_panel_for_each_method_on_one_scale() -> None:
    low = {**TIMELINE, "seen": [{**moment, "jobs": [1, 1]} for moment in TIMELINE["seen"]]}
    svg = queue_timeline.draw({"one": TIMELINE, "two": low})
    words = texts(svg)
    assert words.index("one") < words.index("two")
    assert "10 s" in words
    assert "a row is 4 requests high" in words
    assert svg.count('class="down"') == 2  # the second expert of each
    areas = re.findall(r'class="area" d="M190 (\d+)([^"]*)"', svg)
    rise = [max(float(floor) - float(y) for y in re.findall(r"V([0-9.]+)", path)) for floor, path in areas]
    assert rise[0] == pytest.approx(20.0)  # 4 requests: the whole row
    assert rise[2] == pytest.approx(5.0)
    many = queue_timeline.draw({f"m{i}": TIMELINE for i in range(6)})
    assert "m3" in texts(many)
    assert "m4" not in texts(many)


def test_residency_is_light_where_held_and_strong_where_it_answers() -> None:
    svg = cache_residency.draw({"m": RESIDENCY})
    counts = {
        css: [d.count("M") for d in re.findall(rf'class="{css}" d="([^"]*)"', svg)]
        for css in ("light", "strong")
    }
    assert counts == {"light": [1], "strong": [1, 2]}


def test_layers_show_the_share_as_strength() -> None:
    svg = layer_shares.draw({"m": LAYERS})
    assert svg.count("<rect") == 8
    assert "law, b: 75%" in texts(svg)
    assert "layer 4" in texts(svg)
    assert 'fill-opacity="1.00"' in svg
    assert 'fill-opacity="0.05"' in svg


def test_the_memory_curve_needs_two_sizes_and_marks_half() -> None:
    assert memory_curve.draw(memory_rows((2.0,))) == ""
    words = texts(memory_curve.draw(memory_rows()))
    assert words.count("half") == 2
    assert "lru, 4 GB: utility 0.7600" in words


def results(figures: list[dict[str, Any]], summary: list[dict[str, Any]]) -> dict[str, Any]:
    return {"problem": {"name": "caching", "facts": {}}, "summary": summary, "figures": figures, "cases": []}


def test_sections_group_by_title_order_methods_and_fold_the_rest() -> None:
    names = [f"rule_{i}" for i in range(5)]
    rows = [{"method": name, "family": "baseline", "utility_mean": -i} for i, name in enumerate(names)]
    rows += [{"method": "agent", "family": "rl", "utility_mean": -9.0}]
    figure = {"form": "cache_residency", "title": "Residency", "note": "A note.", "data": RESIDENCY}
    figures = [{"method": name, **figure} for name in [*names[::-1], "agent"]]
    (section,), sentences = figure_sections(results(figures, rows))
    assert sentences == []
    assert (section.title, section.note) == ("Residency", "A note.")
    assert [method for method, _ in section.shown] == ["agent", "rule_0", "rule_1", "rule_2"]
    assert [method for method, _ in section.more] == ["rule_3", "rule_4"]


def test_the_memory_curve_comes_from_the_summary() -> None:
    (section,), _ = figure_sections(results([], memory_rows()))
    assert section.title == "What memory buys"
    assert figure_sections(results([], memory_rows((2.0,)))) == ([], [])
