"""A comparison as Markdown: every method once a case, and marks."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from router_rl.reports.markdown import markdown, table_rows

# The same made-up results as the report's tests, by path: the tests are no package.
SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


def sample(**changes: Any) -> dict[str, Any]:
    methods = {"group_label": ("baseline", 0.03, 0.2), **SAMPLES["METHODS"]}
    return SAMPLES["sample_results"](methods) | changes


def table_lines(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| family" not in line]
    return [line.split(" | ") for line in lines]


def test_a_row_for_each_method_and_case_by_falling_utility() -> None:
    results = sample()
    text = markdown(results, "digits")
    assert text.startswith("### digits\n\nUse warm_exact_pg (compute weight 0.1)")
    assert "360 test queries, 8 experts" in text
    assert "utility = quality - compute weight x compute" in text
    lines = table_lines(text)
    assert len(lines) == len(results["summary"])
    assert {len(line) for line in lines} == {9}
    first = [float(line[2].strip("*")) for line in lines[: len(lines) // 3]]
    assert first == sorted(first, reverse=True)
    for sentence in [*results["verdict"], *results["warnings"]]:
        assert sentence in text


def test_the_iqm_is_shown_where_it_is_not_the_mean() -> None:
    assert "| IQM |" not in markdown(sample(), "digits")
    text = markdown(sample(seeds=[0, 1, 2, 3]), "digits")
    assert "| IQM |" in text
    assert {len(line) for line in table_lines(text)} == {10}


def test_the_numbers_of_a_row() -> None:
    results = sample()
    row = next(row for row in results["summary"] if row["method"] == "ppo")
    head, _, line = table_rows([row | {"utility_mean": 0.5, "utility_ci95": [0.4, 0.6]}], results)
    assert line.startswith("| **ppo** | RL | **0.5000** | 0.4000 to 0.6000 | -0.0")
    assert "| minus best gate | 95% CI | quality | compute | load CV |" in head
    assert head.count("|") == line.count("|") == 10


def test_an_environment_has_its_own_columns_and_one_difference() -> None:
    text = markdown(SAMPLES["environment_results"](), "queues")
    assert "Load 0.9:" in text
    head = next(line for line in text.splitlines() if "| family" in line)
    names = "minus index_rule | 95% CI | quality | compute"
    assert f"| {names} | US$ per 1,000 queries | missed | p95 (s) |" in head
    (line,) = [line for line in table_lines(text)[:5] if line[0] == "| index_rule"]
    assert line[4:6] == ["rival", ""]


def test_bold_is_the_best_without_extra_inputs() -> None:
    text = markdown(sample(), "digits")
    assert text.count("| **warm_exact_pg** | RL |") == 3
    assert "| group_label † | baseline |" in text
    assert "**group_label" not in text
    assert "† uses extra inputs (group)" in text
    assert "**oracle" not in text
