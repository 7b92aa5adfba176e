from __future__ import annotations

import json
import os
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experts import InputError, OutcomeTable
from experts.table import feature_column

FIELDS = ("query_id", "features", "quality", "cost", "split", "prompt", "group", "fold", "confidence")
FIELDS = (*FIELDS, "tokens_out", "latency_s", "probabilities", "label")


def minimal(rows=10, **changes):
    columns = {
        "query_id": [f"q{i}" for i in range(rows)],
        "quality/a": [0.5] * rows,
        "quality/b": [1.0] * rows,
        "cost/a": [1.0] * rows,
        "cost/b": [2.0] * rows,
    }
    columns.update(changes)
    return {name: values for name, values in columns.items() if values is not None}


def store(path, columns, metadata=None):
    table = pa.table(columns)
    if metadata is not None:
        raw = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
        table = table.replace_schema_metadata({b"router_rl": raw})
    pq.write_table(table, path)
    return path


def test_round_trip_of_every_field(table, tmp_path):
    path = tmp_path / "deep" / "t.parquet"
    table.write(path)
    again = OutcomeTable.read(path)
    assert (again.experts, again.cost_unit, again.source) == (table.experts, table.cost_unit, table.source)
    assert again.notes == table.notes
    for name in FIELDS:
        have, want = getattr(again, name), getattr(table, name)
        np.testing.assert_array_equal(have, want, err_msg=name)
        assert have.dtype == want.dtype, name
    assert again.extra.equals(table.extra)
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_the_file_is_as_designed(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    file = pq.ParquetFile(path)
    assert json.loads(file.schema_arrow.metadata[b"router_rl"]) == {
        "schema_version": 1,
        "cost_unit": "usd",
        "experts": ["small", "large-4.5"],
        "source": "made up",
        "notes": ["made by a test"],
    }
    assert file.schema_arrow.field("features").type == pa.list_(pa.float32(), 4)
    assert file.schema_arrow.field("probabilities/large-4.5").type == pa.list_(pa.float32(), 3)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    file.close()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**31))
def test_round_trip_of_any_size(tmp_path, rows, experts, seed):
    rng = np.random.default_rng(seed)
    table = OutcomeTable(
        experts=tuple(f"e/{i}" for i in range(experts)),
        query_id=np.array([f"ü{i}" for i in range(rows)], dtype=object),
        features=None,
        quality=rng.random((rows, experts)),
        cost=rng.random((rows, experts)) * 1e-6,
        split=rng.permutation(np.resize(["train", "validation", "test"], rows)),
    )
    path = tmp_path / "t.parquet"
    table.write(path)
    again = OutcomeTable.read(path)
    np.testing.assert_array_equal(again.quality, table.quality)
    np.testing.assert_array_equal(again.cost, table.cost)
    assert again.experts == table.experts


def test_many_chunks_keep_their_order(tmp_path):
    rows = 40_000
    features = np.arange(rows, dtype=np.float32)[:, None] * np.float32([1, -1])
    table = OutcomeTable(
        experts=("a", "b"),
        query_id=np.arange(rows),
        features=features,
        quality=np.zeros((rows, 2)),
        cost=np.ones((rows, 2)),
        split=np.resize(["train", "validation", "test"], rows),
        extra=pa.table({"place": np.arange(rows)}),
    )
    table.write(tmp_path / "t.parquet")
    again = OutcomeTable.read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(again.features, features)
    assert again.extra["place"].to_pylist() == list(range(rows))


def test_without_metadata_the_columns_tell(tmp_path):
    table = OutcomeTable.read(store(tmp_path / "mine.parquet", minimal(note=["x"] * 10)))
    assert table.experts == ("a", "b")
    assert table.cost_unit == "unknown"
    assert table.source == "mine.parquet"
    assert table.extra.column_names == ["note"]
    assert [len(table.part(name)) for name in ("train", "validation", "test")] == [6, 2, 2]


def test_metadata_orders_and_chooses_the_experts(tmp_path):
    columns = minimal(**{"quality/c": [0.0] * 10, "cost/c": [0.0] * 10})
    path = store(tmp_path / "t.parquet", columns, {"schema_version": 1, "experts": ["c", "a"]})
    table = OutcomeTable.read(path)
    assert table.experts == ("c", "a")
    assert table.extra.column_names == ["quality/b", "cost/b"]


def test_other_number_types_and_partly_known_columns(tmp_path):
    columns = minimal(
        **{
            "quality/a": [True, False] * 5,
            "cost/b": pa.array([2**40 + 1] * 10, pa.int64()),
            "tokens_out/a": [3, None] * 5,
            "fold": pa.array([0, 1] * 5, pa.int8()),
            "group": pa.array(["g"] * 10).dictionary_encode(),
            "label": ["somebody else's"] * 10,
        }
    )
    table = OutcomeTable.read(store(tmp_path / "t.parquet", columns))
    assert table.quality[0, 0] == 1.0
    assert table.cost[0, 1] == np.float32(2**40)
    assert table.tokens_out[0, 0] == 3
    assert np.isnan(table.tokens_out[1, 0])
    assert np.isnan(table.tokens_out[:, 1]).all()
    assert table.group[0] == "g"
    assert table.label is None
    assert table.extra.column_names == ["label"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost/b": None}, r"cost/b=None: .*the column is missing; add it or drop the expert"),
        ({"quality/b": None}, r"quality/b=None: .*the column is missing"),
        ({"quality/b": None, "cost/b": None}, r"experts=\['a'\]: routing needs a choice"),
        ({"query_id": None}, r"query_id=None: .*the column is missing"),
        ({"quality/a": [0.5] * 9 + [None]}, r"quality/a=nan: row 9 .* is missing"),
        ({"quality/a": [2.0] + [0.5] * 9}, r"quality/a=2.0: row 0"),
        ({"quality/a": ["good"] * 10}, r"quality/a='string': is not numeric"),
        ({"quality/a": [[1.0]] * 10}, r"quality/a=.*is not numeric"),
        ({"cost/a": [-1.0] * 10}, r"cost/a=-1.0: row 0"),
        ({"query_id": ["same"] * 10}, r"query_id='same': rows 0 and 1"),
        ({"query_id": [None] + ["x"] * 9}, r"query_id=None: row 0 is missing"),
        ({"prompt": [None] + ["x"] * 9}, r"prompt=None: row 0 is missing"),
        ({"split": ["train"] * 9 + [None]}, r"split=None: row 9 is missing"),
        ({"split": ["dev"] * 10}, r"split='dev': row 0 is unknown"),
        ({"fold": [1, None] * 5}, r"fold=None: row 1 is missing"),
        ({"features": ["x"] * 10}, r"features='string': is not a list column"),
        ({"features": [["x"]] * 10}, r"features=.*is not numeric"),
        ({"features": [[]] * 10}, r"features=0: row 0 is empty"),
        ({"features": [[1.0, 2.0]] * 9 + [[1.0]]}, r"features=1: row 9 has 1 values, row 0 has 2"),
        ({"features": [[1.0, 2.0]] * 9 + [None]}, r"features=0: row 9 has 0 values"),
        ({"features": [[1.0, 2.0]] * 9 + [[1.0, None]]}, r"features\[1\]=nan: row 9 .* not finite"),
        (
            {"probabilities/a": [[1.0]] * 10, "probabilities/b": [[0.5, 0.5]] * 10, "label": [0] * 10},
            r"probabilities=\[1, 2\]: experts differ in classes",
        ),
        (
            {"probabilities/a": [1.0] * 10, "probabilities/b": [[0.5, 0.5]] * 10, "label": [0] * 10},
            r"probabilities/a='double': is not one list",
        ),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_column(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        OutcomeTable.read(store(tmp_path / "t.parquet", minimal(**changes)))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"schema_version": 2}, r"schema_version=2: .*reads schema_version 1; upgrade"),
        ({"cost_unit": "usd"}, r"schema_version=None"),
        ([1], r"schema_version=\[1\]"),
        (b"{", r"router_rl=.*is not JSON"),
        ({"schema_version": 1, "experts": "ab"}, r"experts='ab': .*should be a list of names"),
        ({"schema_version": 1, "experts": ["a", "z"]}, r"quality/z=None: .*missing"),
        ({"schema_version": 1, "cost_unit": "euro"}, r"cost_unit='euro': unknown"),
        ({"schema_version": 1, "notes": [3]}, r"notes=\[3\]: .*should be a list of sentences"),
    ],
)
def test_bad_metadata_is_an_error(tmp_path, metadata, message):
    with pytest.raises(InputError, match=message):
        OutcomeTable.read(store(tmp_path / "t.parquet", minimal(), metadata))


def test_no_file_no_table(tmp_path):
    with pytest.raises(InputError, match=r"no such file; .* use experts\.open_table"):
        OutcomeTable.read(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="is a folder"):
        OutcomeTable.read(tmp_path)
    (tmp_path / "text.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        OutcomeTable.read(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="has no quality/<expert> column"):
        OutcomeTable.read(store(tmp_path / "t.parquet", {"query_id": ["a"]}))
    empty = pa.table(minimal()).slice(0, 0)
    with pytest.raises(InputError, match="has no rows"):
        OutcomeTable.read(store(tmp_path / "t.parquet", {n: empty[n] for n in empty.column_names}))


def test_a_truncated_file_is_an_error(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        OutcomeTable.read(path)


def test_a_damaged_column_is_an_error(table, tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path)
    raw = bytearray(path.read_bytes())
    raw[4:400] = bytes(396)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        OutcomeTable.read(path)


def test_leakage_must_be_allowed_by_the_reader_and_is_noted(tmp_path):
    split = ["train"] * 5 + ["validation"] * 3 + ["test"] * 2
    prompts = [f"p{i}" for i in range(9)] + ["p0"]
    path = store(tmp_path / "t.parquet", minimal(split=split, prompt=prompts))
    with pytest.raises(InputError, match="allow-leakage"):
        OutcomeTable.read(path)
    table = OutcomeTable.read(path, allow_leakage=True)
    assert table.notes == ("leakage allowed: 1 prompts occur in more than one split",)
    assert table.part("test").notes == table.notes
    table.write(tmp_path / "again.parquet")
    with pytest.raises(InputError, match="allow-leakage"):
        OutcomeTable.read(tmp_path / "again.parquet")
    assert OutcomeTable.read(tmp_path / "again.parquet", allow_leakage=True).notes == table.notes


def test_allowing_leakage_where_there_is_none_leaves_no_note(table, tmp_path):
    table.write(tmp_path / "t.parquet")
    assert OutcomeTable.read(tmp_path / "t.parquet", allow_leakage=True).notes == table.notes


def test_empty_row_groups_do_no_harm(tmp_path):
    whole = pa.table(minimal(features=pa.array([[1.0, 2.0]] * 10, pa.list_(pa.float32(), 2))))
    with pq.ParquetWriter(tmp_path / "t.parquet", whole.schema) as writer:
        for start, count in ((0, 0), (0, 4), (4, 0), (4, 6)):
            writer.write_table(whole.slice(start, count))
    table = OutcomeTable.read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.features, np.float32([[1, 2]] * 10))


def test_large_features_are_mapped_and_extracted_once(table, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_column, "MAP_FROM_BYTES", 0)
    path = tmp_path / "t.parquet"
    table.write(path)
    first = OutcomeTable.read(path, progress=False)
    assert isinstance(first.features, np.memmap)
    assert not first.features.flags.writeable
    np.testing.assert_array_equal(first.features, table.features)
    [cached] = (tmp_path / "cache" / "features").iterdir()
    stamp = cached.stat().st_mtime_ns
    OutcomeTable.read(path, progress=False)
    assert cached.stat().st_mtime_ns == stamp
    OutcomeTable(**{**fields_of(table), "features": table.features + 1}).write(path)
    again = OutcomeTable.read(path, progress=False)
    np.testing.assert_array_equal(again.features, table.features + 1)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1


def fields_of(table):
    return {
        name: getattr(table, name) for name in (*FIELDS, "experts", "cost_unit", "source", "extra", "notes")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality/a": ["1"] * 10}, r"quality/a='string': is not numeric; store float32"),
        ({"quality/a": [date(2024, 1, 1)] * 10}, r"quality/a='date32\[day\]': is not numeric"),
        ({"fold": ["x"] * 10}, r"fold='string': is not numeric"),
        ({"fold": [1.5] * 10}, r"fold='double': .*is not a column of integers"),
        ({"fold": [[1]] * 10}, r"fold=.*is not a column of integers"),
        ({"prompt": [{"a": 1}] * 10}, r"prompt='struct<a: int64>': .*is not a column of texts"),
        ({"prompt": [b"\xff"] * 10}, r"prompt='binary': .*is not a column of texts"),
        ({"features": [[["x"]]] * 10}, r"features=.*is not a list column"),
        ({"features": [["1", "2"]] * 10}, r"features=.*is not numeric"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path, changes, message):
    columns = {
        "query_id": [f"q{i}" for i in range(10)],
        **{f"{k}/{e}": [1.0] * 10 for k in ("quality", "cost") for e in "ab"},
    }
    pq.write_table(pa.table({**columns, **changes}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        OutcomeTable.read(tmp_path / "t.parquet", progress=False)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"[" * 100_000, "router_rl=.*is not JSON"),
        (b'{"schema_version": true}', "schema_version=True"),
        (b'{"schema_version": 1, "source": [1]}', r"source=\[1\]: .*should be a text"),
        (b'{"schema_version": 1, "cost_unit": 5}', r"cost_unit=5: .*should be a text"),
    ],
)
def test_wrong_metadata_is_named(tmp_path, metadata, message):
    columns = {
        "query_id": [f"q{i}" for i in range(10)],
        **{f"{k}/{e}": [1.0] * 10 for k in ("quality", "cost") for e in "ab"},
    }
    table = pa.table(columns).replace_schema_metadata({b"router_rl": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        OutcomeTable.read(tmp_path / "t.parquet", progress=False)


def test_a_damaged_file_is_one_line_and_stays_as_it_is(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {"query_id": [f"q{i}" for i in range(10)], "features": [[1.0, 2.0]] * 10}
    columns |= {f"{k}/{e}": [1.0] * 10 for k in ("quality", "cost") for e in "ab"}
    pq.write_table(pa.table(columns), path)
    whole = path.read_bytes()
    failed = 0
    for at in range(4, len(whole), 61):
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        path.write_bytes(damaged)
        try:
            OutcomeTable.read(path, progress=False)
        except InputError as error:
            failed += 1
            assert str(error).isprintable()  # noqa: PT017 (a value that is read as another one is no error)
        assert path.read_bytes() == damaged
    assert failed > 10


def test_only_a_regular_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.parquet")
    for path, problem in (
        (tmp_path / "fifo.parquet", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (tmp_path / "a\0b", "no such file"),
    ):
        with pytest.raises(InputError, match=problem):
            OutcomeTable.read(path, progress=False)
