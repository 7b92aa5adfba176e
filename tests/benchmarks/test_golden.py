"""The committed numbers still hold, and what compares them finds every difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]


golden: Any = benchmark("golden")
golden_rows: Any = benchmark("golden_rows")
golden_set: Any = benchmark("golden_set")
golden_tables: Any = benchmark("golden_tables")
QUICK = {one.name: one for one in golden_set.COMPARISONS if one.quick}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    golden_tables.write_files(folder)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_numbers_are_those_that_are_committed(name, files, tmp_path):
    committed = golden.Committed.read()
    if other := golden.mismatch(committed.machine):
        pytest.skip(f"golden numbers need {', '.join(other)}")
    one = QUICK[name]
    after = golden.numbers_of(ROOT, replace(one, methods=one.quick), files, tmp_path)
    run = {key.split("/")[0] for key in after} | set(one.quick)
    before = {key: row for key, row in committed.rows[name].items() if key.split("/")[0] in run}
    equal, lines = golden.verdict_on(name, before, after)
    assert equal, lines


def test_the_file_holds_every_comparison(tmp_path):
    committed = golden.Committed.read()
    assert set(committed.rows) == {one.name for one in (*golden_set.COMPARISONS, golden_set.DEMO)}
    for name, rows in committed.rows.items():
        assert all("utility" in row for row in rows.values()), name
    committed.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == golden.COMMITTED.read_bytes()


def test_other_versions_and_processors_are_named_but_not_another_python():
    here = golden.machine()
    assert golden.mismatch({**here, "python": "2.7"}) == []
    assert golden.mismatch({**here, "torch": "1.0"}) == [f"torch 1.0 (here {here['torch']})"]


ROW = {"method": "knn", "compute_weight": 0.1, "seed": 0, "split": "test", "utility": 0.5, "fit_seconds": 2.0}


def test_rows_of_every_schema():
    static = {**ROW, "load_weight": 0.0, "shares": [0.25, 0.75], "collapsed": False, "settings": {"k": 3}}
    numbers = {"utility": 0.5, "share 0": 0.25, "share 1": 0.75}
    expected = {"knn/compute_weight=0.1/0/test": numbers}
    assert golden_rows.rows_of({"schema_version": 1, "rows": [static]}) == expected
    assert (
        golden_rows.rows_of({"schema_version": 2, "problem": {"name": "routing"}, "rows": [static]})
        == expected
    )
    queueing = {"method": "knn", "load": 0.8, "seed": 0, "split": "test", "utility": 0.5, "p95_s": 3.0}
    found = golden_rows.rows_of({"schema_version": 1, "env": "queueing", "rows": [queueing]})
    assert found == {"knn/load=0.8/0/test": {"utility": 0.5, "p95_s": 3.0}}
    with pytest.raises(ValueError, match="two rows"):
        golden_rows.rows_of({"schema_version": 1, "rows": [static, static]})


@pytest.mark.parametrize(
    ("before", "after", "places"),
    [
        ({"a": {"utility": 0.5}}, {"a": {"utility": 0.5 + 1e-10}}, []),
        ({"a": {"utility": 0.5}}, {"a": {"utility": 0.5 + 1e-8}}, ["x/a/utility"]),
        ({"a": {"cost": 1e9}}, {"a": {"cost": 1e9 + 0.5}}, []),
        ({"a": {"cost": 1e9}}, {"a": {"cost": 1e9 + 5.0}}, ["x/a/cost"]),
        ({"a": {"utility": 0.5}}, {}, ["x/a/row"]),
        ({}, {"a": {"utility": 0.5}}, ["x/a/row"]),
        ({"a": {"utility": 0.5, "load_cv": 1.0}}, {"a": {"utility": 0.5}}, ["x/a/load_cv"]),
        ({"a": {"utility": 0.5}}, {"a": {"utility": 0.5, "load_cv": 1.0}}, []),
        ({"a": {"utility": 0.5}}, {"a": {"utility": float("nan")}}, ["x/a/utility"]),
    ],
)
def test_differences(before, after, places):
    found = golden_rows.compare_rows("x", before, after, {})
    assert [one.place for one in found] == places
    assert all(one.reason is None for one in found)


def test_an_expected_difference_does_not_fail_and_is_reported(monkeypatch):
    before, after = {"a/0/test": {"utility": 0.5}}, {"a/0/test": {"utility": 0.6}}
    assert not golden.verdict_on("x", before, after)[0]
    monkeypatch.setitem(golden.EXPECTED, "x/a/*", "another setting is chosen")
    equal, lines = golden.verdict_on("x", before, after)
    assert equal
    assert "another setting is chosen" in lines


@pytest.mark.slow
def test_a_tree_that_imports_another_trees_packages_is_refused(tmp_path):
    for name in ("router_rl", "envs", "train_router"):  # no `experts`
        (tmp_path / f"{name}.py").write_text("")
    with pytest.raises(golden.CommandFailed, match="experts"):
        golden.check_imports(tmp_path, tmp_path)
    golden.check_imports(ROOT, tmp_path)


def test_both_languages(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "router_rl" / "evaluation").mkdir(parents=True)
    new.mkdir()
    one = replace(QUICK["cascade"], table="digits")
    first = golden_set.words_of(old, one, tmp_path, tmp_path / "out")
    second = golden_set.words_of(new, one, tmp_path, tmp_path / "out")
    assert {"--tries=1", "--options.limit=2", "--options.compute_weights=[0.05, 0.2]"} <= set(first)
    assert {"--n-trials=1", "--problem.max_experts=2", "--compute-weights=0.05,0.2"} <= set(second)
    assert "--table=digits" in first
