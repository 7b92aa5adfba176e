"""Results become a table on disk whole or not at all; what is left out and what is odd is told."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experts import InputError, OutcomeTable, import_results
from experts.readers import FORMATS, ReaderOptions, find_format, result_files


def _rows(queries: int = 10, experts: str = "ab", **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "query_id": f"q{query}",
            "prompt": f"prompt {query}",
            "split": ("train", "validation", "test")[query % 3],
            "model": expert,
            "score": (query + index) % 2,
            "cost": 0.1 * (index + 1) * (1 + query % 3),
            **changes,
        }
        for query in range(queries)
        for index, expert in enumerate(experts)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_table_that_reads_back(tmp_path: Path) -> None:
    source, out = _write(tmp_path / "r.jsonl", _rows()), tmp_path / "t.parquet"
    report = import_results(source, out, cost_unit="usd", progress=False)
    assert (report.format, report.queries, report.kept, report.dropped) == ("long", 10, 10, {})
    assert report.findings == ()
    table = OutcomeTable.read(out)
    assert table.experts == ("a", "b")
    assert table.cost_unit == "usd"
    assert table.query_id.tolist() == [f"q{query}" for query in range(10)]
    np.testing.assert_array_equal(table.quality[:2], [[0, 1], [1, 0]])
    assert (report.best_single, report.oracle) == (0.5, 1.0)


def test_costs_from_prices(tmp_path: Path) -> None:
    rows = _rows(cost=None, input_tokens=1_000_000, output_tokens=0)
    source = _write(tmp_path / "r.jsonl", rows)
    (tmp_path / "p.yaml").write_text("prices: {a: {input: 1}, b: {input: 2, call: 1}}")
    with pytest.raises(InputError, match=r"cost='a'.*--prices"):
        import_results(source, tmp_path / "t.parquet", progress=False)
    import_results(source, tmp_path / "t.parquet", prices=tmp_path / "p.yaml", progress=False)
    table = OutcomeTable.read(tmp_path / "t.parquet")
    np.testing.assert_allclose(table.cost[0], [1.0, 3.0])
    assert table.cost_unit == "usd"
    assert any(note.startswith("prices: p.yaml") for note in table.notes)
    (tmp_path / "p.yaml").write_text("prices: {a: {input: 1}, b: {output: 2}}")
    for row in rows:
        del row["output_tokens"]
    with pytest.raises(InputError, match=r"prices='b'.*has no token counts"):
        import_results(
            _write(source, rows), tmp_path / "t.parquet", prices=tmp_path / "p.yaml", progress=False
        )


def test_holes_cost_rows_or_experts(tmp_path: Path) -> None:
    rows = [row for row in _rows(experts="abc") if (row["query_id"], row["model"]) != ("q3", "c")]
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, progress=False)
    assert (report.kept, report.dropped) == (9, {"an expert is missing": 1})
    assert [finding.kind for finding in report.findings] == ["missing"]
    report = import_results(source, out, missing="experts", progress=False)
    assert (report.kept, report.dropped, list(report.experts)) == (10, {}, ["a", "b"])
    apart = _rows(5, "a") + [{**row, "query_id": "x" + row["query_id"]} for row in _rows(5, "b")]
    with pytest.raises(InputError, match="no query has every expert"):
        import_results(_write(source, apart), out, progress=False)
    with pytest.raises(InputError, match="leaves 0 experts"):
        import_results(source, out, missing="experts", progress=False)
    assert len(OutcomeTable.read(out)) == 10  # what failed left it as it was


def test_holes_are_kept_on_request(tmp_path: Path) -> None:
    def holes(row: dict[str, Any]) -> bool:
        return (row["query_id"], row["model"]) in {("q3", "c"), ("q4", "a"), ("q6", "b")}

    rows = [row for row in _rows(experts="abc") if not holes(row)]
    rows += [{**_rows(1)[0], "query_id": "unanswered", "score": None}]
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, missing="keep", progress=False)
    dropped = {"no expert answered": 1, "an expert is missing in validation or test": 1}
    assert (report.queries, report.kept, report.dropped, report.missing) == (11, 9, dropped, 2)
    table = OutcomeTable.read(out)
    assert [(int(t), int(e)) for t, e in np.argwhere(np.isnan(table.quality))] == [(3, 2), (5, 1)]
    assert np.isnan(table.cost[3, 2])
    assert "q4" not in table.query_id  # of the validation rows
    known = [row["score"] for row in rows if row["model"] == "c" and row["query_id"] != "q4"]
    assert report.experts["c"]["quality"] == pytest.approx(np.mean(known))


@pytest.mark.parametrize("text", ["prompt,quality/s,cost/s,quality/l,cost/l\n{}", "prompt,s,l\n{}"])
def test_empty_cells_are_missing_and_not_zero(tmp_path: Path, text: str) -> None:
    cells = "p{0},0.5,2,1,4\n" if "cost" in text else "p{0},0.5,1\n"
    holed = cells.replace("1,4", ",") if "cost" in text else cells.replace(",1\n", ",\n")
    lines = [(holed if row < 5 else cells).format(row) for row in range(40)]
    (tmp_path / "r.csv").write_text(text.format("".join(lines)))
    (tmp_path / "p.yaml").write_text("{s: {call: 2}, l: {call: 4}}")
    prices = None if "cost" in text else tmp_path / "p.yaml"
    report = import_results(
        tmp_path / "r.csv", tmp_path / "t.parquet", missing="keep", prices=prices, progress=False
    )
    assert (report.kept, report.missing, report.oracle) == (40, 5, (35 + 2.5) / 40)
    assert report.experts["l"] == {"quality": 1.0, "cost": pytest.approx(4.0)}
    table = OutcomeTable.read(tmp_path / "t.parquet")
    assert set(table.split[np.isnan(table.quality[:, 1])]) == {"train"}
    assert (
        import_results(tmp_path / "r.csv", tmp_path / "u.parquet", prices=prices, progress=False).kept == 35
    )


def test_leaks_are_told_and_dropped_on_request(tmp_path: Path) -> None:
    rows = _rows()
    for row in rows:
        if row["query_id"] == "q0":  # a training row with a test row's prompt
            row["prompt"] = "prompt  2"
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, progress=False)
    assert [finding.kind for finding in report.findings] == ["duplicate_prompts", "leakage"]
    with pytest.raises(InputError, match="the same prompt is in split"):
        OutcomeTable.read(out)
    report = import_results(source, out, drop_leaks=True, progress=False)
    assert report.dropped == {"leaking prompt": 1}
    assert "q0" not in OutcomeTable.read(out).query_id


def test_scales_and_repeats(tmp_path: Path) -> None:
    rows = [{**row, "score": 10 * row["score"]} for row in _rows()]
    source, out = _write(tmp_path / "r.jsonl", [*rows, rows[0]]), tmp_path / "t.parquet"
    with pytest.raises(InputError, match=r"quality/b=10.0.*--full-marks"):
        import_results(source, out, progress=False)
    assert not out.exists()
    report = import_results(source, out, full_marks=10, progress=False)
    assert [(finding.kind, finding.count) for finding in report.findings] == [("repeated", 1)]
    assert OutcomeTable.read(out).quality.max() == 1.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "prompt,quality/s,cost/s,quality/l,cost/l\n{0} 1,0,1,1,2\n{0} 2,1,1,1,2\n"),
        ("mmlu_x.csv", "prompt,s,l\n{0} 1,True,False\n{0} 2,True,True\n"),
        ("x.json", '[{{"question": "{0} 1", "scores": {{"s": 0, "l": 1}}}}]'),
    ],
)
def test_files_of_one_name_hold_different_queries(tmp_path: Path, name: str, text: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / "results" / folder).mkdir(parents=True)
        (tmp_path / "results" / folder / name).write_text(text.format(folder))
    files = result_files(tmp_path / "results")
    outcomes = list(FORMATS[find_format("auto", files)].read(files, ReaderOptions()))
    assert len({outcome.query for outcome in outcomes}) == len({outcome.prompt for outcome in outcomes}) > 1


def test_out_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out='.*': is a folder; name a file"):
        import_results(_write(tmp_path / "r.jsonl", _rows()), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "holdout"}, r"split='holdout'"),
        ({"cost": -1}, "cost/a=-1.0"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_results(_write(tmp_path / "r.jsonl", _rows(**changes)), tmp_path / "t.parquet", progress=False)
    assert not (tmp_path / "t.parquet").exists()


def test_answers_are_never_held_together(tmp_path: Path) -> None:
    answers = 8_000_000
    rows = [{**row, "response": "x" * (answers // 400)} for row in _rows(200)]
    source = _write(tmp_path / "r.jsonl", rows)
    del rows
    tracemalloc.start()
    import_results(source, tmp_path / "t.parquet", progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < answers / 4


def test_features_come_along(tmp_path: Path) -> None:
    wide = [
        {"features": [q, 0.5], "quality/a": q % 2, "quality/b": 0, "cost/a": 1, "cost/b": 2}
        for q in range(10)
    ]
    source, out = _write(tmp_path / "r.jsonl", wide), tmp_path / "t.parquet"
    import_results(source, out, progress=False)
    features = OutcomeTable.read(out).features
    assert features is not None
    np.testing.assert_array_equal(features, [[q, 0.5] for q in range(10)])
    wide[3]["features"] = [1.0]
    with pytest.raises(InputError, match="features"):
        import_results(_write(source, wide), out, progress=False)


def test_a_real_table_keeps_the_tokens_that_prices_need(
    tmp_path: Path, shared_table: Callable[[str], Path]
) -> None:
    out = tmp_path / "t.parquet"
    import_results(shared_table("zeroeval_pool27.parquet"), out, progress=False)
    table = OutcomeTable.read(out)
    assert table.tokens_in is not None
    assert np.isfinite(table.tokens_in).all()
    assert table.tokens_out is not None
    assert np.isfinite(table.tokens_out).all()


@pytest.mark.parametrize("name", ["routellm_mtbench", "llmrouter_pool9"])
def test_real_tables_survive(tmp_path: Path, shared_table: Callable[[str], Path], name: str) -> None:
    source = shared_table(f"{name}.parquet")
    report = import_results(source, tmp_path / "t.parquet", progress=False)
    before, after = OutcomeTable.read(source), OutcomeTable.read(tmp_path / "t.parquet")
    assert report.kept == len(before)
    assert {finding.kind for finding in report.findings} <= {"duplicate_prompts", "constant_cost"}
    order = [before.experts.index(expert) for expert in after.experts]
    np.testing.assert_array_equal(after.quality, before.quality[:, order])
    np.testing.assert_array_equal(after.cost, before.cost[:, order])
    np.testing.assert_array_equal(after.fold, before.fold)


@pytest.mark.parametrize("name", ["prompt", "group", "split", "fold"])
def test_a_column_with_an_empty_value_is_kept_and_the_value_is_counted(tmp_path: Path, name: str) -> None:
    rows = _rows(12, group="g", fold=0)
    for query in range(12):
        for row in rows[2 * query : 2 * query + 2]:
            row["fold"] = query % 4
    for row in rows[6:8]:  # query 3, a training row
        row[name] = "  " if name != "fold" else None
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, progress=False)
    (finding,) = (one for one in report.findings if one.kind == "missing_values")
    assert (finding.count, finding.examples) == (1, ("q3",))
    assert finding.message.startswith(f"1 of 12 rows have no {name}; they are ")
    table = OutcomeTable.read(out)
    values = getattr(table, name)
    assert len(values) == 12
    assert values[4] == {"prompt": "prompt 4", "group": "g", "split": "validation", "fold": 0}[name]
    assert values[3] == {"prompt": "", "group": "", "split": "train", "fold": values[3]}[name]
    assert table.fold is not None
    assert set(table.fold) == set(range(4))


def test_a_missing_split_and_fold_are_those_of_the_same_prompt(tmp_path: Path) -> None:
    rows = _rows(9, fold=3)
    for row in rows[2:4]:  # query 1, a validation row
        row |= {"prompt": "prompt 2", "split": None, "fold": None}
    for row in rows[4:6]:  # query 2, a test row
        row["fold"] = 7
    import_results(_write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet", progress=False)
    table = OutcomeTable.read(tmp_path / "t.parquet")  # no prompt leaks
    assert table.fold is not None
    assert (table.split[1], table.fold[1]) == ("test", 7)


def test_missing_prompts_are_no_duplicates_and_decide_no_split(tmp_path: Path) -> None:
    rows = _rows(100)
    for row in rows:
        del row["split"]
    for row in rows[: 2 * 60]:
        row["prompt"] = ""
    report = import_results(_write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet", progress=False)
    assert [(one.kind, one.count) for one in report.findings] == [("missing_values", 60)]
    table = OutcomeTable.read(tmp_path / "t.parquet")
    assert {name: int((table.split[:60] == name).sum()) for name in ("train", "validation", "test")} != {
        name: 60 if table.split[0] == name else 0 for name in ("train", "validation", "test")
    }
    assert (table.split == "test").sum() == 20
    assert any("by prompt (query_id where it is missing)" in note for note in report.notes)


def test_one_empty_prompt_does_not_hide_a_leak(tmp_path: Path) -> None:
    rows = _rows()
    rows[0]["prompt"] = rows[1]["prompt"] = "prompt 2"
    rows[6]["prompt"] = rows[7]["prompt"] = ""
    report = import_results(_write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet", progress=False)
    assert "leakage" in {one.kind for one in report.findings}
    with pytest.raises(InputError, match="the same prompt is in split"):
        OutcomeTable.read(tmp_path / "t.parquet")


def test_rows_without_features_are_left_out_and_counted(tmp_path: Path) -> None:
    wide: list[dict[str, Any]] = [
        {"features": [q, 0.5], "quality/a": q % 2, "quality/b": 0, "cost/a": 1, "cost/b": 2}
        for q in range(10)
    ]
    wide[3]["features"], wide[4]["features"] = None, ""
    report = import_results(_write(tmp_path / "r.jsonl", wide), tmp_path / "t.parquet", progress=False)
    assert (report.kept, report.dropped) == (8, {"features are missing": 2})
    features = OutcomeTable.read(tmp_path / "t.parquet").features
    assert features is not None
    assert features[:, 0].tolist() == [0, 1, 2, 5, 6, 7, 8, 9]


def test_dropped_leaks_leave_a_table_that_can_be_read(tmp_path: Path) -> None:
    rows = _rows(12, fold=0)
    for query, prompt in ((0, "prompt 1"), (3, "prompt 2"), (4, "prompt 5")):
        for row in rows[2 * query : 2 * query + 2]:
            row["prompt"] = prompt
    for row in rows[12:14]:  # query 6, a training row
        row |= {"prompt": "prompt 9", "fold": 1}
    source, out = _write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet"
    report = import_results(source, out, drop_leaks=True, progress=False)
    assert report.dropped == {"leaking prompt": 4}
    assert report.findings == ()
    left = OutcomeTable.read(out).query_id.tolist()
    assert left == ["q1", "q2", "q5", "q6", "q7", "q8", "q10", "q11"]


def test_confidences_answers_and_latencies_are_kept(tmp_path: Path) -> None:
    wide = [
        {
            **{f"quality/{name}": q % 2 for name in "ab"},
            **{f"cost/{name}": 1 for name in "ab"},
            "confidence/a": q / 10,
            "answer/a": f"answer {q}",
            "answer/b": "",
            "latency_s/b": q + 0.5,
        }
        for q in range(10)
    ]
    wide[2]["answer/a"] = None
    out = tmp_path / "t.parquet"
    import_results(_write(tmp_path / "r.jsonl", wide), out, progress=False)
    table = OutcomeTable.read(out)
    assert table.confidence is not None
    np.testing.assert_allclose(table.confidence[:, 0], np.arange(10) / 10, rtol=1e-6)
    assert np.isnan(table.confidence[:, 1]).all()
    assert table.latency_s is not None
    assert table.latency_s[3, 1] == 3.5
    assert table.extra is not None
    answers = table.extra["answer/a"].to_pylist()
    assert answers[:4] == ["answer 0", "answer 1", None, "answer 3"]
    assert table.extra.column_names == ["answer/a"]
    long = [{**row, "confidence": 0.25} for row in _rows()]
    import_results(_write(tmp_path / "r.jsonl", long), out, progress=False)
    confidence = OutcomeTable.read(out).confidence
    assert confidence is not None
    assert (confidence == 0.25).all()


def test_bare_model_columns_are_read(tmp_path: Path) -> None:
    header = "prompt,group,weak,strong,weak_cost,strong_cost,comment\n"
    lines = [f"p{i},g,{i % 2},0.5,{i + 1},{2 * i + 1},\n" for i in range(6)]
    source, out = tmp_path / "r.csv", tmp_path / "t.parquet"
    source.write_text(header + "".join(lines))
    report = import_results(source, out, progress=False)
    assert (report.format, list(report.experts)) == ("wide", ["weak", "strong"])
    table = OutcomeTable.read(out)
    assert table.quality[:2].tolist() == [[0.0, 0.5], [1.0, 0.5]]
    assert table.cost[:2].tolist() == [[1.0, 1.0], [2.0, 3.0]]
    source.write_text("prompt,weak,strong,fast,cost/weak,cost/strong\np,1,0,1,1,1\n")
    with pytest.raises(InputError, match=r"quality='fast': .* has no column cost/fast, .* quality/<expert>"):
        import_results(source, out, progress=False)
    source.write_text("prompt,weak,strong\np,1,0\n")
    with pytest.raises(InputError, match=r"cost='weak': .* the column cost/weak\), or give --prices"):
        import_results(source, out, progress=False)


def test_a_text_in_a_later_row_makes_no_expert_of_its_column(tmp_path: Path) -> None:
    rows = [{"id": i, "a": 1, "b": 0, "c": i if i < 3 else "x", "cost/a": 1, "cost/b": 1} for i in range(6)]
    report = import_results(_write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet", progress=False)
    assert list(report.experts) == ["a", "b"]


def test_options_without_a_use_are_errors(tmp_path: Path) -> None:
    source, out = _write(tmp_path / "r.jsonl", _rows()), tmp_path / "t.parquet"
    with pytest.raises(
        InputError, match=r"metric='nope': has no use.*format long.*lm-eval: acc, exact_match"
    ):
        import_results(source, out, metric="nope", progress=False)
    for prices in (None, "litellm"):
        with pytest.raises(InputError, match=r"on='2024-07-01': has no use without prices"):
            import_results(source, out, on="2024-07-01", prices=prices, progress=False)
    logs = tmp_path / "m" / "samples_t.jsonl"
    logs.parent.mkdir()
    logs.write_text(json.dumps({"doc_id": 0, "resps": [["x"]], "acc": 1.0, "metrics": ["acc"]}) + "\n")
    with pytest.raises(InputError, match=r"metric='nope': .*; name one with --metric; the row has acc"):
        import_results(logs, out, metric="nope", progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 10**400}, r"score=.*r.jsonl: row 2: is not a number"),
        ({"cost": [1]}, r"cost=\[1\]: .*r.jsonl: row 2: is not a number"),
        ({"fold": "a"}, r"fold='a': .*r.jsonl: row 2: is not a number"),
        ({"fold": 1.5}, r"fold=1.5: .*r.jsonl: row 2: is not a whole number"),
        ({"fold": 1e300}, r"fold=1e\+300: .*r.jsonl: row 2: is not a whole number"),
        ({"prompt": "\ud800"}, r"prompt='\\ud800': query 'q1' holds half a surrogate pair"),
        ({"model": "\ud800"}, r"expert='\\ud800': query 'q1' holds half a surrogate pair"),
        ({"query_id": "\ud800"}, r"query_id='\\ud800': .* holds half a surrogate pair"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = _rows()
    rows[2] |= change
    with pytest.raises(InputError, match=message):
        import_results(_write(tmp_path / "r.jsonl", rows), tmp_path / "t.parquet", progress=False)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([1.0], r"features=1: query 'r.jsonl:3': the first row has 2"),
        (["1", "2"], r"features=.*r.jsonl: row 3: is not a list of finite numbers"),
        ([1.0, None], "is not a list of finite numbers"),
        ([1.0, 1e300], "is not a list of finite numbers"),
        ([1.0, 10**400], "is not a list of finite numbers"),
        ([[1.0, 2.0]], "is not a list of finite numbers"),
        ("[1", "is not a list of finite numbers"),
        ([], "is not a list of finite numbers"),
        (5, "is not a list of finite numbers"),
    ],
)
def test_wrong_features_are_named_with_their_place(tmp_path: Path, features: Any, message: str) -> None:
    wide = [{"features": [q, 1], "quality/a": 1, "quality/b": 0, "cost/a": 1, "cost/b": 2} for q in range(5)]
    wide[3]["features"] = features
    with pytest.raises(InputError, match=message):
        import_results(_write(tmp_path / "r.jsonl", wide), tmp_path / "t.parquet", progress=False)


def test_features_of_csv_are_json(tmp_path: Path) -> None:
    source = tmp_path / "r.csv"
    lines = [f'"[{q}, 0.5]",1,0,1,2\n' for q in range(6)]
    source.write_text("features,quality/a,quality/b,cost/a,cost/b\n" + "".join(lines))
    import_results(source, tmp_path / "t.parquet", progress=False)
    features = OutcomeTable.read(tmp_path / "t.parquet").features
    assert features is not None
    assert features.tolist() == [[q, 0.5] for q in range(6)]


def test_a_column_that_no_row_fills_is_named(tmp_path: Path) -> None:
    source = _write(tmp_path / "r.jsonl", _rows(prompt="", split=None))
    report = import_results(source, tmp_path / "t.parquet", progress=False)
    assert [(one.kind, one.count, one.message) for one in report.findings] == [
        ("missing_values", 10, f"no row has a {name}; the column is left out") for name in ("prompt", "split")
    ]
    assert OutcomeTable.read(tmp_path / "t.parquet").prompt is None
