"""Comparisons on an environment: rows, paired differences, finished fits kept, a report, the command line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from experts import InputError
from router_rl.methods.environments import KINDS
from router_rl.problems.problem import Case, EnvKind, EnvMethod, Figure, Played
from router_rl.reports.env_view import env_markdown, env_view
from router_rl.studies import env_compare as module
from router_rl.studies.env_compare import compare_env, train_env

FITTED = []


def method(name, family, gain):
    def fit(problem, cases, seed, tries, tell):
        FITTED.append((name, seed))
        tell(1, 1, "fitted")
        return [gain] * len(cases)

    return EnvMethod(name=name, family=family, about="", fit=fit)


def play(problem, policy, case, split):
    utility = np.linspace(0.0, 0.1, 50) + policy - case.values["load"] / 10.0
    return Played(utility=utility, parts={"quality": utility + 1.0}, facts={"p95": 2.5})


TOY = EnvKind(
    name="toy",
    environment="Toy-v0",
    about="",
    prepare=lambda table, options: options["shift"],
    options={"shift": 0.0},
    cases=lambda problem: [Case(label=f"load {load:g}", values={"load": load}) for load in (0.5, 0.8)],
    methods={
        one.name: one
        for one in (
            method("learned", "rl", 0.3),
            method("rule", "baseline", 0.25),
            method("poor", "gate", 0.1),
            method("oracle", "bound", 0.5),
        )
    },
    always=("oracle",),
    play=play,
    trace=lambda problem, policy, case: {"at": case.label, "gain": policy},
    figures=lambda traces, summary: [Figure("Gains", "a <note>", f"<svg><text>{len(traces)}</text></svg>")],
)


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(KINDS, "toy", TOY)
    FITTED.clear()


def test_a_comparison_and_its_resumption(tmp_path):
    results = compare_env("toy", ["learned", "rule", "poor"], seeds=2, out=tmp_path, command="it <was> typed")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert len(results["rows"]) == 4 * 2 * 2 * 2  # methods, seeds, splits, cases
    row = next(r for r in results["rows"] if (r["method"], r["split"], r["load"]) == ("learned", "test", 0.8))
    assert row["utility"] == pytest.approx(0.27)
    assert row["p95"] == 2.5
    summary = {(r["method"], r["load"]): r for r in results["summary"]}
    found = summary["learned", 0.5]["paired_difference_to_best_rival"]
    assert found["method"] == "rule"
    assert found["mean"] == pytest.approx(0.05)
    assert found["ci95"] == pytest.approx([0.05, 0.05])
    assert summary["rule", 0.5]["paired_difference_to_best_rival"] is None
    assert summary["learned", 0.5]["quality_mean"] == pytest.approx(1.3)
    page = (tmp_path / "report.html").read_text()
    assert "<svg><text>4</text></svg>" in page
    assert "a &lt;note&gt;" in page
    assert "it &lt;was&gt; typed" in page
    assert len(FITTED) == 8
    again = compare_env("toy", ["learned", "rule", "poor"], seeds=2, out=tmp_path, command="it <was> typed")
    assert len(FITTED) == 8  # nothing was fitted again
    for before, after in zip(results["summary"], again["summary"], strict=True):
        assert after["utility_ci95"] == pytest.approx(before["utility_ci95"])
    compare_env("toy", ["rule"], options={"shift": 1.0}, seeds=1, out=tmp_path)
    assert len(FITTED) == 10  # other options are another comparison


def test_a_named_rival_comes_first(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "toy", dataclasses.replace(TOY, rival="poor"))
    results = compare_env("toy", seeds=1, out=tmp_path)
    learned = next(r for r in results["summary"] if r["method"] == "learned")
    assert learned["paired_difference_to_rival"]["method"] == "poor"
    assert learned["paired_difference_to_best_rival"]["method"] == "rule"
    text = env_markdown(results, "Toy")
    assert "| learned | RL | 0.3000 |" in text
    assert "Best rival on validation: rule." in text
    shown = Console(width=80)
    with shown.capture() as captured:
        shown.print(env_view(results))
    assert "learned" in captured.get()
    assert max(map(len, captured.get().splitlines())) <= 80


def test_what_does_not_fit_a_terminal_is_left_out_whole(tmp_path, monkeypatch):
    def wide(problem, policy, case, split):
        one = play(problem, policy, case, split)
        return dataclasses.replace(one, facts={f"a long name of a fact, {i}": 1234.5 for i in range(3)})

    monkeypatch.setitem(KINDS, "toy", dataclasses.replace(TOY, play=wide))
    results = compare_env("toy", seeds=1, out=tmp_path)
    results["cases"][0]["label"] = "a case whose name is as long as it is clear to everybody who reads it"
    for row in results["summary"]:
        row["case"] = row["case"].replace("load 0.5", results["cases"][0]["label"])
    shown = Console(width=80)
    with shown.capture() as captured:
        shown.print(env_view(results))
    text = captured.get()
    assert results["cases"][0]["label"] in text
    assert "a long name of a fact, 0" in text
    assert "a long name of a fact, 1" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_one_fit(tmp_path):
    facts = train_env("toy", out=tmp_path)
    assert facts["method"] == "learned"
    assert "utility 0.3" in facts["load 0.5"]
    assert "policy" not in facts
    assert module.SCHEMA_VERSION == 1


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="env"):
        compare_env("tyo", out=tmp_path)
    with pytest.raises(InputError, match="methods"):
        compare_env("toy", ["ruel"], out=tmp_path)
