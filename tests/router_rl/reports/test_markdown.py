"""A comparison as Markdown: every method once a weight, marks, and the goal in words."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from router_rl.reports.markdown import goal_line, markdown, table_rows

# The same made-up results as the report's tests, by path: the tests are no package.
SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


def sample(**changes: Any) -> dict[str, Any]:
    methods = {"group_label": ("baseline", 0.03, 0.2), **SAMPLES["METHODS"]}
    return SAMPLES["sample_results"](methods) | changes


def test_a_row_for_each_method_and_weight_by_falling_utility() -> None:
    results = sample()
    text = markdown(results, "digits")
    assert text.startswith("### digits\n\n360 test queries, 8 experts")
    assert "3 seeds (with fewer than 4 seeds the IQM is the mean)" in text
    lines = [
        line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "| family" not in line
    ]
    assert len(lines) == len(results["summary"])
    assert {len(line) for line in lines} == {10}
    first = [float(line[2].strip("*")) for line in lines[: len(lines) // 3]]
    assert first == sorted(first, reverse=True)
    for sentence in [*results["verdict"], *results["warnings"]]:
        assert sentence in text
    assert text.count("Goal at compute weight") == 3


def test_the_numbers_of_a_row() -> None:
    row = next(row for row in sample()["summary"] if row["method"] == "ppo")
    (line,) = table_rows([row | {"utility_mean": 0.5, "utility_ci95": [0.4, 0.6], "utility_iqm": 0.51}])[2:]
    assert line.startswith("| **ppo** | RL | **0.5000** | 0.4000 to 0.6000 | 0.5100 | -0.0")
    assert table_rows([])[0].count("|") == line.count("|") == 11


def test_bold_is_the_best_that_sees_what_all_see() -> None:
    text = markdown(sample(), "digits")
    assert text.count("| **warm_exact_pg** | RL |") == 3
    assert "| group_label † | baseline |" in text
    assert "**group_label" not in text
    assert "† told each query's group as well" in text
    assert "**oracle" not in text


def test_the_goal_in_words() -> None:
    goal = {"compute_weight": 0.1, "load_weight": 0.0, "rl": "ppo", "gate": "g", "mean": -0.001}
    goal |= {"ci95": [-0.003, 0.001], "margin": -0.002, "reached": False}
    assert goal_line(goal) == (
        "Goal at compute weight 0.1 not reached: ppo minus g is -0.0010, 95% interval -0.0030 to +0.0010; "
        "the lower end must lie above -0.002."
    )
    assert "load weight 0.05 reached" in goal_line(goal | {"load_weight": 0.05, "reached": True})
