"""The report: what it says, how it survives odd results, and that equal results give equal bytes."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts.io.errors import InputError
from router_rl.reports.frontier_chart import cost_axis, frontier_drawings
from router_rl.reports.html_report import write_report
from router_rl.reports.report_series import series_of
from router_rl.reports.report_table import interval_svg

METHODS = {  # method: (family, quality against the best gate, compute)
    "warm_exact_pg": ("rl", 0.0035, 0.31),
    "ppo": ("rl", -0.012, 0.36),
    "sampled_pg": ("rl", -0.004, 0.33),
    "dqn": ("rl", -0.021, 0.29),
    "softmax_gate": ("gate", 0.0, 0.32),
    "ridge": ("gate", -0.007, 0.35),
    "switch_gate": ("gate", -0.002, 0.34),
    "renormalised_gate": ("gate", -0.062, 0.40),
    "knn": ("baseline", -0.015, 0.38),
    "random": ("baseline", -0.32, 0.37),
    "best_single": ("baseline", -0.09, 1.0),
    "oracle": ("bound", 0.035, 0.18),
}
WEIGHTS = (0.02, 0.1, 0.4)
CROWD = {  # 24 methods, one of them with extra inputs
    **{f"{family}_{i}": (family, -0.004 * i, 0.3) for family in ("rl", "gate", "baseline") for i in range(7)},
    "group_label": ("baseline", 0.02, 0.2),
    "best_single": METHODS["best_single"],
    "oracle": METHODS["oracle"],
}


def sample_results(
    methods: dict[str, tuple[str, float, float]] | None = None, experts: int = 8
) -> dict[str, Any]:
    """Return made-up results in the shape of results.json: plausible numbers, the same ones every time."""
    methods = METHODS if methods is None else methods
    draw = np.random.default_rng(7)
    names = [
        f"{'mlp' if i % 2 else 'linear'}_{('pixels', 'edges', 'rows', 'halves')[i // 2 % 4]}"
        for i in range(8)
    ]
    names = (names + [f"organisation/expert-model-{i}-instruct" for i in range(8, experts)])[:experts]
    compute = np.sort(np.round(np.geomspace(0.03, 1.0, experts), 4))
    quality = np.round(0.55 + 0.3 * compute**0.35 - draw.uniform(0, 0.12, experts), 4)
    groups = ["digits 0, 1", "digits 2, 3", "digits 4, 5", "digits 6, 7", "digits 8, 9"]
    summary: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for weight in WEIGHTS:
        case = {"case": f"compute weight {weight:g}", "compute_weight": weight, "load_weight": 0.0}
        for name, (family, above, spent) in methods.items():
            moved = spent if name in ("random", "best_single") else spent * (0.02 / weight) ** 0.35
            reached = (
                0.945 + above - (0.0 if name in ("random", "best_single") else 0.02 * math.log(weight / 0.02))
            )
            utility = reached - weight * moved
            difference = above - weight * (moved - 0.32 * (0.02 / weight) ** 0.35)
            half = 0.003 if family != "baseline" else 0.02
            summary.append(
                {"method": name, "family": family, **case}
                | {"extra_inputs": ["group"] if name.startswith("group_label") else []}
                | {"utility_mean": utility, "utility_ci95": [utility - 0.011, utility + 0.01]}
                | {"utility_iqm": utility + 0.0005, "utility_iqm_ci95": [utility - 0.01, utility + 0.01]}
                | {"quality_mean": reached, "quality_ci95": [reached - 0.01, reached + 0.009]}
                | {"compute_mean": moved, "compute_ci95": [moved * 0.96, moved * 1.04]}
                | {"load_cv_mean": 0.7 + 2 * abs(above), "max_over_mean_mean": 2.0, "drops_mean": 0.1}
                | {"fit_seconds_mean": 3.2, "validation_utility_mean": utility + 0.001}
                | {"collapsed": 2 if name == "renormalised_gate" else 0, "below_best_single": 0}
                | {"paired_difference_to_rival": None, "paired_difference_to_best_rival": None}
                | {"same_as": None}
                | {
                    "paired_difference_to_best_gate": None
                    if name == "softmax_gate"
                    else {"method": "softmax_gate", "mean": difference}
                    | {"ci95": [difference - half, difference + half]}
                }
            )
            for seed in range(3):
                rows.append(
                    {"method": name, "family": family, **case}
                    | {
                        "seed": seed,
                        "split": "test",
                        "quality": reached,
                        "cost": moved * 41e3,
                        "compute": moved,
                    }
                    | {
                        "load_cv": 0.7,
                        "utility": utility + 0.001 * seed,
                        "fit_seconds": 3.2,
                        "collapsed": False,
                    }
                    | {
                        "shares": [1 / experts] * experts,
                        "hyperparameters": {"learning_rate": 0.001, "steps": 400},
                    }
                )
    shares = {name: draw.dirichlet([0.4] * experts, len(groups)).round(4).tolist() for name in methods}
    hull = [0, 1, experts // 2, experts - 1] if experts > 3 else [0]
    return {
        "schema_version": 2,
        "problem": {
            "name": "routing",
            "environment": "RouterRL/Routing-v0",
            "about": "one decision a query: which experts answer it",
            "source": "digits: scikit-learn's handwritten digits, 8 experts trained on different views",
            "experts": names,
            "options": {"select": "hard", "scorer": {"kind": "mlp", "hidden": [64]}, "tree": None},
            "facts": {"queries": {"train": 1078, "validation": 359, "test": 360}, "features": 64},
            "notes": [],
            "utility": "quality - compute weight x compute",
        },
        "cases": [
            {
                "label": f"compute weight {weight:g}",
                "values": {"compute_weight": weight, "load_weight": 0.0},
            }
            for weight in WEIGHTS
        ],
        "created": "2026-11-24T20:00:00Z",
        "command": "train_router.py compare --table digits --methods "
        + ",".join(methods)
        + " --seeds 3 --out digits",
        "versions": {"router-rl": "0.1.0", "torch": "2.9.0", "python": "3.11.7"},
        "commit": "eaf89d6",
        "seeds": [0, 1, 2],
        "n_trials": 4,
        "seconds": 88.1,
        "recommendation": {
            "method": "warm_exact_pg",
            "family": "rl",
            "case": "compute weight 0.1",
            "sentence": "Use warm_exact_pg (compute weight 0.1): utility 0.8980 (95% CI 0.8870 to 0.9080).",
        },
        "notes": [
            "The table was read with --allow-leakage: 3 prompts stand in two splits: test quality flatters."
        ],
        "table_facts": {
            "queries": {"train": 1078, "validation": 359, "test": 360},
            "features": 64,
            "cost_unit": "flops",
            "expert_quality": quality.tolist(),
            "expert_cost": (compute * 41e3).tolist(),
            "oracle_quality": 0.9806,
            "best_single_quality": float(quality.max()),
            "groups": groups,
        },
        "rows": rows,
        "summary": summary,
        "frontier": {
            name: {"aiq": 0.91 + 0.3 * above, "apgr": None} for name, (_, above, _) in methods.items()
        },
        "zero_frontier": [[float(compute[i]), float(quality[i])] for i in hull],
        "singles": [
            {"expert": name, "compute": float(compute[i]), "quality": float(quality[i])}
            for i, name in enumerate(names)
        ],
        "shares_by_group": {"case": "compute weight 0.1", "groups": groups, "methods": shares},
        "rl_verdicts": [
            {"case": f"compute weight {weight:g}", "rl": "warm_exact_pg", "rl_utility": 0.898}
            | {"rival": "softmax_gate", "rival_utility": 0.894, "same_as": None}
            | {"mean": 0.004, "ci95": [0.001, 0.007], "outcome": "better"}
            for weight in WEIGHTS
        ],
        "verdict": [
            "Compute weight 0.02: warm_exact_pg is significantly better than softmax_gate: +0.0039 utility "
            "(95% CI +0.0009 to +0.0069).",
            "Compute weight 0.1: warm_exact_pg is significantly better than softmax_gate.",
        ],
        "warnings": [
            "renormalised_gate collapsed in 2 of 3 seeds: a renormalised top-1 gate gets no gradient."
        ],
        "figures": [],
    }


def environment_results() -> dict[str, Any]:
    """Return made-up results of an environment: no table facts, a rival, other columns, figures."""
    methods = {"rollout": ("rl", 0.03), "index_rule": ("baseline", 0.0), "gate": ("gate", -0.2)}
    methods |= {"best_rule": ("baseline", 0.01), "hindsight": ("bound", 0.1)}
    summary: list[dict[str, Any]] = []
    for load in (0.5, 0.9):
        for name, (family, above) in methods.items():
            utility = 0.9 - load / 10 + above

            def to(other: str, name: str = name, above: float = above) -> dict[str, Any] | None:
                difference = above - methods[other][1]
                ci95 = [difference - 0.005, difference + 0.005]
                return None if name == other else {"method": other, "mean": difference, "ci95": ci95}

            summary.append(
                {"method": name, "family": family, "extra_inputs": [], "case": f"load {load:g}", "load": load}
                | {"utility_mean": utility, "utility_ci95": [utility - 0.01, utility + 0.01]}
                | {"utility_iqm": utility, "quality_mean": 0.9, "compute_mean": 0.2, "missed_mean": 0.01}
                | {"p95_s_mean": 2.5, "validation_utility_mean": utility, "fit_seconds_mean": 1.0}
                | {"collapsed": 0, "below_best_single": 0}
                | {f"paired_difference_to_{role}": to(other) for role, other in _ROLES.items()}
            )
    moments = [{"second": 0.1 * i, "jobs": [i % 3, 1], "down": [False, i == 2]} for i in range(5)]
    data = {"experts": ["small", "large"], "case": "load 0.9", "seen": moments}
    figure = {
        "form": "queue_timeline",
        "title": "Queues over time",
        "note": "One test episode.",
        "data": data,
    }
    return {
        "schema_version": 2,
        "problem": {
            "name": "queueing",
            "environment": "RouterRL/Queueing-v0",
            "about": "send each request to an expert's queue",
            "source": "digits",
            "experts": ["small", "large"],
            "options": {"loads": [0.5, 0.9], "arrivals": "poisson"},
            "facts": {"requests": 256, "cost_unit": "usd", "compute_unit": 0.002},
            "notes": [],
            "utility": "quality - compute weight x compute - lateness",
        },
        "cases": [{"label": f"load {load:g}", "values": {"load": load}} for load in (0.5, 0.9)],
        "created": "2026-11-24T20:00:00Z",
        "command": "",
        "versions": {"router-rl": "0.2.0"},
        "commit": None,
        "seeds": [0, 1],
        "n_trials": 2,
        "seconds": 9.0,
        "notes": [],
        "recommendation": {"method": "rollout", "sentence": "Use rollout (load 0.5): utility 0.8800."},
        "rows": [],
        "summary": summary,
        "table_facts": None,
        "frontier": {},
        "zero_frontier": [],
        "singles": [],
        "shares_by_group": None,
        "rl_verdicts": [],
        "verdict": ["Load 0.5: rollout earns 0.880."],
        "warnings": [],
        "figures": [{"method": name, **figure} for name in ("index_rule", "rollout")],
    }


_ROLES = {"rival": "index_rule", "best_rival": "best_rule", "best_gate": "gate"}


def bare_results() -> dict[str, Any]:
    """Return the minimum that results may hold: every optional list empty, every optional value null."""
    results = sample_results({"ppo": METHODS["ppo"]}, experts=2)
    for key in ("notes", "rows", "summary", "zero_frontier", "singles", "verdict", "warnings", "seeds"):
        results[key] = []
    for key in ("commit", "command", "n_trials", "seconds", "created", "recommendation", "shares_by_group"):
        results[key] = None
    results["frontier"] = {}
    results["problem"] |= {"about": "", "options": {}, "facts": {}, "utility": ""}
    results["table_facts"] = {"queries": {}, "expert_quality": [], "expert_cost": [], "oracle_quality": None}
    return results


def rendered(results: dict[str, Any], folder: Path) -> str:
    path = folder / "report.html"
    write_report(results, path)
    text = path.read_text(encoding="utf-8")
    _Checker().check(text)
    return text


def specs_of(html: str) -> list[dict[str, Any]]:
    """Return the Vega-Lite specifications of a page."""
    return json.loads(html.split('id="specs">')[1].split("</script>")[0])


def rows_of(spec: dict[str, Any], mark: str = "point") -> list[dict[str, Any]]:
    """Return the data of a specification's layer with a mark."""
    layer = next(one for one in spec["layer"] if one["mark"]["type"] == mark)
    return spec["datasets"][layer.get("data", spec.get("data"))["name"]]


def plain(html: str) -> str:
    """Return what a reader reads: no tags, no style sheet, single spaces."""
    checker = _Checker()
    checker.check(html)
    return " ".join(" ".join(checker.texts).split())


class _Checker(HTMLParser):
    """Collects text and fails on unbalanced tags, double ids, anything fetched, and other scripts."""

    VOID = frozenset({"meta", "link", "input", "br"})
    DRAWN = frozenset({"path", "circle", "rect"})

    def check(self, html: str) -> None:
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("img", "iframe", "object", "embed")
        assert tag != "script" or given in ({}, {"type": "application/json", "id": "specs"})
        assert not any(name.startswith("on") or name in ("src", "style", "xlink:href") for name in given)
        assert (given.get("href") or "#").startswith(("#", "data:,"))
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "th":
            assert "scope" in given
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.DRAWN

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.texts.append(data)


def test_says_the_recommendation_first_and_the_table_s_numbers(tmp_path: Path) -> None:
    results = sample_results()
    text = plain(rendered(results, tmp_path))
    order = ["Routing report: digits", results["recommendation"]["sentence"], results["verdict"][0]]
    order += [results["notes"][0], "Routing can gain"]
    order += ["Quality against compute", "Results on test", "Expert shares by group", "The experts"]
    order += ["What was run", "How to read the numbers", "gets no gradient"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for row in results["summary"]:
        assert f"{row['utility_mean']:.4f}" in text
    assert results["command"] in text
    assert "2/3" in text  # collapsed


def test_an_environment_has_its_own_columns_and_no_sections_of_tables(tmp_path: Path) -> None:
    results = environment_results()
    html = rendered(results, tmp_path)
    text = plain(html)
    order = ["Queueing report: digits", "Use rollout", "Load 0.5: rollout earns", "Results on test"]
    order += ["Difference to the rival", "P95 (s)", "Queues over time"]
    order += ["What was run", "RouterRL/Queueing-v0", "arrivals=poisson", "How to read the numbers"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for part in ("Quality against compute", "Expert shares by group", "The experts", "AIQ", "Zero router"):
        assert part not in text
    assert "the rival (index_rule)" in text
    # In two cases: rollout and best_rule, in the column and in the phone's line.
    assert text.count("▲ better") == 2 * 2 * 2
    assert "best rival" not in text
    assert "US$ per 1,000 queries" in text
    assert html.count("<td>0.4</td>") == len(results["summary"])  # compute 0.2 of US$ 2 per 1,000
    assert len(specs_of(html)) == 2  # a timeline for each method


def test_rows_are_sorted_by_utility_with_the_bound_last(tmp_path: Path) -> None:
    html = rendered(sample_results(), tmp_path)
    table = html.split('aria-label="Results table"')[1].split("</table>")[0]
    for body in table.split("<tbody>")[1:]:
        names = re.findall(r'class="clip" title="([^"]+)"', body)
        values = [float(value) for value in re.findall(r'figure-number">([0-9.]+)<', body)]
        assert names[-1] == "oracle"
        assert values[:-1] == sorted(values[:-1], reverse=True)
        assert len(names) == len(METHODS)


@pytest.mark.parametrize(
    ("ci95", "mark"), [([0.001, 0.01], "▲ better"), ([-0.01, -0.001], "▼ worse"), ([-0.001, 0.001], "= n.s.")]
)
def test_the_mark_against_the_gate_is_a_word(ci95: list[float], mark: str, tmp_path: Path) -> None:
    results = sample_results({"ppo": METHODS["ppo"]})
    for row in results["summary"]:
        row["paired_difference_to_best_gate"] = {"method": "g", "mean": sum(ci95) / 2, "ci95": ci95}
    text = plain(rendered(results, tmp_path))
    assert text.count(mark) == 2 * len(WEIGHTS)  # a column, and a phone's line under the name


def test_text_from_outside_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"'<img src=x onerror=y>"
    results = json.loads(json.dumps(sample_results()).replace("ppo", json.dumps(evil)[1:-1]))
    for key in ("command", "commit", "created"):
        results[key] = evil
    for key in ("name", "environment", "about", "source", "utility"):
        results["problem"][key] = evil
    results["problem"]["options"] = {evil: evil}
    results["problem"]["facts"] = {evil: evil}
    results["recommendation"]["sentence"] = evil
    results["cases"][1]["label"] = results["shares_by_group"]["case"] = evil
    for row in results["summary"]:
        if row["compute_weight"] == 0.1:
            row["case"] = evil
    for key in ("notes", "verdict", "warnings"):
        results[key] = [evil]
    results["problem"]["experts"][2] = results["singles"][2]["expert"] = evil
    results["shares_by_group"]["groups"][1] = results["table_facts"]["groups"][1] = evil
    results["table_facts"]["cost_unit"] = evil
    results["versions"] = {evil: evil}
    results["rows"][0]["hyperparameters"] = {evil: evil}
    html = rendered(results, tmp_path)  # the checker refuses scripts, images and handlers
    assert evil in plain(html)
    assert html.count("<script") == 2
    assert evil in json.dumps(specs_of(html), ensure_ascii=False).replace('\\"', '"')


def test_empty_optionals_still_make_a_page(tmp_path: Path) -> None:
    text = plain(rendered(bare_results(), tmp_path))
    assert "Routing report: digits" in text
    assert "Warnings None." in text
    minimum = {"schema_version": 2, "problem": {"name": "routing", "source": "t"}}
    assert "Routing report: t" in plain(rendered(minimum, tmp_path))


def test_an_unknown_figure_is_a_sentence(tmp_path: Path) -> None:
    results = environment_results()
    results["figures"][0]["form"] = "hologram"
    html = rendered(results, tmp_path)
    assert "cannot draw figures of the form 'hologram' (index_rule)" in plain(html)
    assert len(specs_of(html)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    ["notes", "rows", "summary", "cases", "zero_frontier", "singles", "verdict", "warnings", "figures"],
)
def test_any_one_list_may_be_empty(key: str, tmp_path: Path) -> None:
    rendered(sample_results() | {key: []}, tmp_path)


def test_nulls_are_shown_as_missing(tmp_path: Path) -> None:
    results = sample_results()
    for row in results["summary"][::2]:
        for key in row:
            if key.endswith(("_mean", "_ci95", "_gate")):
                row[key] = None
    for key in ("oracle_quality", "best_single_quality"):
        results["table_facts"][key] = None
    text = plain(rendered(results, tmp_path))
    assert "None" not in text
    assert "nan" not in text


def test_many_methods_and_experts(tmp_path: Path) -> None:
    methods = {
        f"method_{i}": (("rl", "gate", "baseline")[i % 3], -0.002 * i, 0.3 + 0.01 * i) for i in range(25)
    }
    html = rendered(sample_results(methods, experts=64), tmp_path)
    assert len(html) < 2_000_000
    looks = {(one.colour, one.shape) for one in series_of(sample_results(methods)["summary"])}
    assert len(looks) == 25


def test_with_many_methods_those_that_validation_picks_lead(tmp_path: Path) -> None:
    results = sample_results(CROWD)
    for row in results["summary"]:
        row["validation_utility_mean"] = 1.5 if row["method"] == "rl_5" else row["utility_mean"]
        if row["method"] == "group_label":
            row["validation_utility_mean"] = 2.0  # has extra inputs, so it does not lead
    series = series_of(results["summary"])
    leading = {one.name for one in series if one.leading}
    assert leading == {"rl_5", "gate_0", "baseline_0", "best_single", "oracle"}
    html = rendered(results, tmp_path)
    assert set(re.findall(r'data-method="([a-z_0-9]+)" checked', html)) == leading
    shown = [param["value"] for param in specs_of(html)[0]["params"] if param["name"] == "shown"]
    assert set(shown[0]) == leading
    looks = [(one.colour, one.shape) for one in series if one.leading]
    assert len(set(looks)) == len(looks)


@pytest.mark.slow
def test_a_method_with_extra_inputs_has_a_dagger_and_is_never_the_best(tmp_path: Path) -> None:
    results = sample_results({"group_label": ("baseline", 0.03, 0.2), **METHODS})
    html = rendered(results, tmp_path)
    text = plain(html)
    assert "† uses extra inputs (group)" in text
    assert "group_label †" in text
    best = re.findall(r'<tr class="best"><th scope="row">.*?title="([^"]+)"', html)
    assert best == ["warm_exact_pg"] * len(WEIGHTS)
    assert "† uses" not in plain(rendered(sample_results(), tmp_path))


def test_the_iqm_is_shown_where_it_is_not_the_mean(tmp_path: Path) -> None:
    results = sample_results()
    assert "Utility, IQM" not in plain(rendered(results, tmp_path))
    text = plain(rendered(results | {"seeds": [0, 1, 2, 3]}, tmp_path))
    assert "Utility, IQM" in text
    assert f"{results['summary'][0]['utility_iqm']:.4f}" in text


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results = sample_results()
    before = copy.deepcopy(results)
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    write_report(results, first)
    write_report(json.loads(json.dumps(results)), second)
    assert first.read_bytes() == second.read_bytes()
    assert results == before


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = sample_results()
    del broken["summary"][3]["utility_mean"]
    with pytest.raises(KeyError):
        write_report(broken, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results\.schema_version=1.*read_results"):
        write_report(sample_results() | {"schema_version": 1}, tmp_path / "report.html")


@pytest.mark.parametrize("part", ["style", "script"])
def test_the_hash_of_style_sheet_and_script_is_the_one_allowed(part: str, tmp_path: Path) -> None:
    html = rendered(sample_results(), tmp_path)
    text = html.split(f"<{part}>")[1].split(f"</{part}>")[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{part}-src 'sha256-{digest}'" in html


def test_every_result_is_a_point_of_the_frontier(tmp_path: Path) -> None:
    results = sample_results()
    whole, close = specs_of(rendered(results, tmp_path))[:2]
    expected = {
        (row["method"], row["case"]): (row["compute_mean"], row["quality_mean"]) for row in results["summary"]
    }
    singles = {
        (one["expert"], "single expert"): (one["compute"], one["quality"]) for one in results["singles"]
    }
    for spec in (whole, close):
        points = {(row["name"], row["case"]): (row["compute"], row["quality"]) for row in rows_of(spec)}
        assert points == expected | singles
        assert [row["label"] for row in rows_of(spec) if row["name"] == "ridge"].count("ridge") == (
            spec is close
        )
    assert [(row["cost"], row["quality"]) for row in rows_of(whole, "line")] == [
        tuple(at) for at in results["zero_frontier"]
    ]


def test_the_frontier_needs_a_point_and_bears_a_single_one() -> None:
    nothing: dict[str, Any] = {"problem": {}, "singles": [], "zero_frontier": []}
    assert frontier_drawings(nothing, []) == []
    one = {"expert": "a", "compute": 1.0, "quality": 0.5}
    (single,) = frontier_drawings(nothing | {"singles": [one], "zero_frontier": [[1.0, 0.5]]}, [])
    assert [list(row) for row in single.rows] == [["a", "single expert", "0.500", "1.000"]]


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("usd", "US$ per 1,000 queries; compute 1 = 15.7 (log scale)"),
        ("flops", "FLOPs per query; compute 1 = 0.0157 (log scale)"),
    ],
)
def test_the_frontier_s_axis_is_what_a_user_pays(unit: str, label: str, tmp_path: Path) -> None:
    results = sample_results()
    spec = specs_of(rendered(results, tmp_path))[0]
    assert "compute (1 = most expensive expert)" in json.dumps(spec)
    results["table_facts"] |= {"cost_unit": unit, "compute_unit": 0.0157}
    html = rendered(results, tmp_path)
    assert "Quality against cost" in plain(html)
    spec = specs_of(html)[0]
    assert label in json.dumps(spec)
    factor = 15.7 if unit == "usd" else 0.0157
    assert all(row["cost"] == pytest.approx(factor * row["compute"]) for row in rows_of(spec))


def test_costs_that_differ_much_get_a_logarithmic_axis() -> None:
    assert cost_axis([1.0, 30.0], "").to_dict()["scale"]["type"] == "log"
    for costs in ([1.0, 5.0], [0.0, 30.0]):
        assert "type" not in cost_axis(costs, "").to_dict()["scale"]


def test_a_collapsed_router_does_not_end_the_close_up() -> None:
    results = sample_results()
    for row in results["summary"]:
        if row["method"] == "renormalised_gate":
            row["quality_mean"] = 0.1
    _, close = frontier_drawings(results, series_of(results["summary"]))
    assert close.spec["layer"][-1]["encoding"]["y"]["scale"]["domain"][0] > 0.5


def test_single_queries_show_what_each_expert_would_have_got(tmp_path: Path) -> None:
    results = sample_results()
    experts = results["problem"]["experts"]
    row = {"id": "q7", "prompt": "Why?<b>", "group": "law", "experts": [2], "quality": 0.25, "cost": 0.002}
    row |= {"each_quality": [0.125 * i for i in range(8)], "each_cost": [0.001 * i for i in range(8)]}
    results["queries"] = {"method": "ppo", "case": "compute weight 0.1", "total": 360, "rows": [row]}
    results["table_facts"]["cost_unit"] = "usd"
    text = plain(rendered(results, tmp_path))
    assert "1 of the 360 test queries, and where ppo (compute weight 0.1) sends them" in text
    assert f"Why?<b> law {experts[2]} 0.25 2 0.88 8 experts {experts[0]} 0.00 0" in text
    row |= {"experts": [0, 2], "prompt": None}
    assert f"q7 law {experts[0]}, {experts[2]} 0.25" in plain(rendered(results, tmp_path))


def test_an_interval_beyond_the_scale_gets_an_arrow() -> None:
    assert "circle" in interval_svg(0.0, [-0.1, 0.1], 1.0)
    beyond = interval_svg(-3.0, [-4.0, -2.0], 1.0)
    assert "circle" not in beyond
    assert 'class="interval worse"' in beyond
