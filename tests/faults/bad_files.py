"""Damaged tables, logs, results, runs, routers, models and patches, and paths of the wrong kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .bad_case import BadCase, Prepare, no_files
from .good_inputs import LINES

__all__ = ["flipped_cases", "path_cases", "table_cases", "text_cases"]

_DEEP = "[" * 200_000 + "]" * 200_000

# Every option and argument that is a file or a folder to read, with the line that it stands in.
_READ = (
    ("import", "results.csv", "source"),
    ("import", "--prices", "prices"),
    ("collect models", "--models", "models"),
    ("collect models", "--prompts", "prompts"),
    ("train", "--table", "table"),
    ("train cascade", "--table", "table"),
    ("train", "--problem.features.embedding", "embedding"),
    ("train queueing", "--problem.arrivals", "arrivals"),
    ("train queueing", "--problem.test-arrivals", "test_arrivals"),
    ("train caching", "--problem.profile", "profile"),
    ("train session", "--problem.sessions", "sessions"),
    ("train token_moe", "--problem.base", "base"),
    ("tune", "--table", "table"),
    ("tune", "--space", "space"),
    ("compare", "--table", "table"),
    ("evaluate", "run", "run"),
    ("evaluate", "--table", "table"),
    ("evaluate", "--prices", "prices"),
    ("evaluate log", "--log", "log"),
    ("monitor", "run", "run"),
    ("monitor", "--log", "log"),
    ("monitor", "--table", "table"),
    ("add-expert", "run", "run"),
    ("add-expert", "--table", "table"),
    ("add-expert", "--probes", "probes"),
    ("export", "run", "run"),
    ("export", "--table", "table"),
    ("profile", "model", "model"),
    ("assemble", "--base", "base"),
    ("assemble", "--experts", "experts"),
    ("handover", "--routers", "routers"),
    ("handover", "--model", "model"),
    ("handover", "--distil", "distil"),
    ("patch", "patch", "patch"),
    ("patch", "--model", "model"),
    ("patch gguf", "--gguf", "gguf"),
    ("patch gguf", "--router", "router"),
    ("serve", "--router", "router"),
    ("serve", "--models", "models"),
    ("serve", "--shadow", "shadow"),
    ("promote", "served", "router"),
)


def path_cases() -> list[BadCase]:
    """Return paths that do not exist or are of the wrong kind, for every file and folder that is read."""
    cases = []
    for name, option, field in _READ:
        for path, prepare in _PATHS.items():
            if field == "embedding":  # needs a table without features
                continue
            words = _with(LINES[name], option, path)
            cases.append(BadCase(kind="path", words=words, names=(field, path[:100]), prepare=prepare))
    for name in ("serve", "promote", "rollback", "log"):
        for path, prepare in _PATHS.items():
            if name == "serve" and path in ("missing", "missing.parquet", "bad/empty", "bad/dangling"):
                continue  # it makes the log
            words = _with(LINES[name], "--log", f"sqlite:///{path}")
            cases.append(BadCase(kind="path", words=words, names=("log",), prepare=prepare))
    for name, line in LINES.items():
        if "--out" not in line or name.startswith("train "):
            continue
        for path in ("table.parquet/x", "/dev/null/x", "/proc/x", "o" * 5000, "a\0b"):
            words = _with(line, "--out", path)
            cases.append(BadCase(kind="path", words=words, names=("out",)))
    return cases


def table_cases(rng: Random) -> list[BadCase]:
    """Return damaged tables and logs for every command that reads one.

    Args:
        rng: chooses where files are cut.
    """
    cases = []
    for name, option, field in _READ:
        if field not in ("table", "log") and option not in ("results.csv", "--problem.arrivals"):
            continue
        for about, change in _TABLES.items():
            if about in _NOT_FOR.get(name.split()[0], ()):
                continue
            if field == "log" and about in _NOT_FOR_LOGS:
                continue
            source = "log.parquet" if field == "log" else "table.parquet"
            words = _with(LINES[name], option, "bad/t.parquet")
            prepare = _table(source, change)
            names = (field, "t.parquet", *_COLUMNS)
            cases.append(BadCase(kind="table", words=words, names=names, about=about, prepare=prepare))
        for _ in range(3):
            cut = rng.random() * 0.98
            source = "log.parquet" if field == "log" else "table.parquet"
            words = _with(LINES[name], option, "bad/t.parquet")
            prepare = _cut(source, "t.parquet", cut)
            names = (field, "t.parquet")
            about = f"cut at {cut:.3f}"
            cases.append(BadCase(kind="table", words=words, names=names, about=about, prepare=prepare))
    return cases


def text_cases(rng: Random) -> list[BadCase]:
    """Return damaged results, prices, models, prompts, runs, routers, models and patches.

    Args:
        rng: chooses where files are cut.
    """
    cases = []
    for source, contents in _RESULTS.items():
        for content in contents:
            words = _with(LINES["import"], "results.csv", f"bad/{source}")
            prepare = _text(source, content)
            names = ("source", source, "expert", "query_id", "quality", "cost", "prompt")
            about = repr(content[:120])
            cases.append(BadCase(kind="file", words=words, names=names, about=about, prepare=prepare))
    for name, option, field in _READ:
        if field in ("prices", "models", "profile"):
            own = {"prices": _PRICES, "models": _MODELS, "profile": _PROFILES}[field]
            for content in (*_YAML, *own):
                words = _with(LINES[name], option, "bad/x.yaml")
                cases.append(
                    BadCase(
                        kind="file",
                        words=words,
                        names=(field, "x.yaml"),
                        about=repr(content[:120]),
                        prepare=_text("x.yaml", content),
                    )
                )
        if field == "prompts":
            for file, content in _PROMPTS:
                words = _with(LINES[name], option, f"bad/{file}")
                cases.append(
                    BadCase(
                        kind="file",
                        words=words,
                        names=(field, file, "query_id", "split"),
                        about=repr(content[:120]),
                        prepare=_text(file, content),
                    )
                )
    for name in ("serve", "promote", "rollback", "log"):
        for content in _LOGS:
            words = _with(LINES[name], "--log", "sqlite:///bad/x.db")
            prepare, about = _text("x.db", content), repr(content[:120])
            cases.append(
                BadCase(kind="file", words=words, names=("log", "x.db"), about=about, prepare=prepare)
            )
    for folder, uses in _FOLDERS.items():
        for file, changes in _parts_of(folder):
            for change in changes:
                for name, option in uses:
                    if name == "profile" and file.endswith("index.json"):
                        continue  # it reads the configuration only
                    words = _with(LINES[name], option, f"bad/{folder}")
                    names = (folder, option.removeprefix("--"), Path(file).name)
                    prepare = _damaged(folder, file, change)
                    about = f"{file}: {_named(change)}"
                    cases.append(BadCase(kind="file", words=words, names=names, about=about, prepare=prepare))
    return cases


def flipped_cases(rng: Random, count: int) -> list[BadCase]:
    """Return files with some bytes changed at random, which may leave them valid.

    Args:
        rng: chooses the file, the places and the bytes.
        count: number of cases.
    """
    files = {
        "table.parquet": ("train", "--table"),
        "log.parquet": ("monitor", "--log"),
        "probes.parquet": ("add-expert", "--probes"),
        "results.csv": ("import", "results.csv"),
        "prices.yaml": ("evaluate", "--prices"),
        "run/run.json": ("evaluate", "run"),
        "run/identity.json": ("train", "--out"),
        "run/router/router.json": ("evaluate", "run"),
        "run/router/router.safetensors": ("export", "run"),
        "model/config.json": ("profile", "model"),
        "model/model.safetensors.index.json": ("patch", "--model"),
        "model.gguf": ("patch gguf", "--gguf"),
        "base/model.safetensors": ("assemble", "--base"),
        "base/config.json": ("assemble", "--base"),
        "patch/router_patch.json": ("patch", "patch"),
        "patch/router_patch.safetensors": ("patch", "patch"),
        "routers/layer-0/router.json": ("handover", "--routers"),
        "routers/layer-1/router.safetensors": ("handover", "--routers"),
        "served/router.json": ("promote", "served"),
        "served/text.safetensors": ("promote", "served"),
        "decisions.db": ("log", "--log"),
    }
    cases = []
    for _ in range(count):
        file = rng.choice(sorted(files))
        name, option = files[file]
        folder = file.partition("/")[0]
        url = "sqlite:///" if folder.endswith(".db") else ""
        words = _with(LINES[name], option, f"{url}bad/{folder}")
        number = rng.getrandbits(32)
        prepare, about = _flipped(folder, file, number), f"{file}, bytes of seed {number}"
        cases.append(
            BadCase(kind="flipped", words=words, names=("",), about=about, prepare=prepare, may_pass=True)
        )
    return cases


def _with(line: tuple[str, ...], option: str, value: str) -> tuple[str, ...]:
    """Return a line with another value of an option, or of an argument (named by its good value)."""
    if not option.startswith("--"):
        place = line.index(option, 1)
        return (*line[:place], value, *line[place + 1 :])
    if option in line:
        place = line.index(option) + 1
        return (*line[:place], value, *line[place + 1 :])
    return (*line, option, value)


def _make_fifo(folder: Path) -> None:
    os.mkfifo(folder / "fifo")


def _make_empty(folder: Path) -> None:
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "new\nline").write_bytes(b"x")
    (folder / "red\x1b[31m").write_bytes(b"x")
    (folder / "junk.parquet").write_bytes(bytes(range(256)) * 4)
    (folder / "junk").write_text("junk")


_PATHS: dict[str, Prepare] = {
    "missing": no_files,
    "missing.parquet": no_files,
    "/dev/null": no_files,
    "/dev/zero": no_files,
    "a\0b": no_files,
    "n" * 5000: no_files,
    "bad/fifo": _make_fifo,
    **dict.fromkeys(
        (
            *("bad/empty", "bad/folder", "bad/loop", "bad/dangling", "bad/new\nline", "bad/red\x1b[31m"),
            *("bad/junk.parquet", "bad/junk", "bad/junk/x"),
        ),
        _make_empty,
    ),
}

Change = Callable[[dict[str, Any]], None]


def _set(name: str, value: Any, row: int | None = None) -> Change:
    """Return a change of a column's rows, or of one row."""

    def change(columns: dict[str, Any]) -> None:
        for key in [key for key in columns if key.partition("/")[0] == name][:1]:
            values = list(columns[key])
            columns[key] = (
                [value] * len(values) if row is None else [*values[:row], value, *values[row + 1 :]]
            )

    return change


def _drop(name: str) -> Change:
    def change(columns: dict[str, Any]) -> None:
        for key in [key for key in columns if key.partition("/")[0] == name][:1]:
            del columns[key]

    return change


def _no_rows(columns: dict[str, Any]) -> None:
    for key, values in columns.items():
        columns[key] = pa.array([], type=pa.array(values).type)


def _duplicate_ids(columns: dict[str, Any]) -> None:
    columns["query_id"] = [columns["query_id"][0]] * len(columns["query_id"])


def _leak(columns: dict[str, Any]) -> None:
    columns["prompt"] = ["the same prompt"] * len(columns["prompt"])


def _one_expert(columns: dict[str, Any]) -> None:
    for key in [key for key in columns if key.endswith("/right")]:
        del columns[key]


def _other_experts(columns: dict[str, Any]) -> None:
    for key in [key for key in columns if key.endswith("/right")]:
        columns[key.replace("right", "other")] = columns.pop(key)


def _ragged(columns: dict[str, Any]) -> None:
    columns["features"] = [list(row)[: 1 + place % 2] for place, row in enumerate(columns["features"])]


def _nan_feature(columns: dict[str, Any]) -> None:
    columns["features"] = [[float("nan"), 1.0], *map(list, columns["features"])][: len(columns["features"])]


_COLUMNS = (
    "quality",
    "cost",
    "features",
    "split",
    "query_id",
    "prompt",
    "expert",
    "propensity",
    "group",
    "fold",
)

_TABLES: dict[str, Change] = {
    "no rows": _no_rows,
    "no quality": _drop("quality"),
    "no cost": _drop("cost"),
    "no query_id": _drop("query_id"),
    "NaN quality": _set("quality", float("nan"), 3),
    "NaN cost": _set("cost", float("nan"), 3),
    "infinite cost": _set("cost", float("inf"), 3),
    "huge cost": _set("cost", 1e300, 3),
    "negative cost": _set("cost", -1.0, 3),
    "negative quality": _set("quality", -0.5, 3),
    "quality above 1": _set("quality", 1.5, 3),
    "missing quality": _set("quality", None, 3),
    "missing id": _set("query_id", None, 3),
    "text quality": _set("quality", "good"),
    "list quality": _set("quality", [1.0]),
    "text cost": _set("cost", "cheap"),
    "unknown split": _set("split", "holdout", 3),
    "missing split": _set("split", None, 3),
    "number split": _set("split", 3),
    "duplicate ids": _duplicate_ids,
    "leak": _leak,
    "one expert": _one_expert,
    "other experts": _other_experts,
    "ragged features": _ragged,
    "NaN features": _nan_feature,
    "text features": _set("features", "x"),
    "number features": _set("features", 1.0),
    "missing features": _set("features", None, 3),
    "empty features": _set("features", []),
}

# A log has one quality and cost a decision, and neither splits, prompts nor one column for each expert.
_NOT_FOR_LOGS = {
    *("unknown split", "missing split", "number split", "leak", "one expert", "other experts"),
    *("duplicate ids", "negative quality", "quality above 1"),
    *("no quality", "no cost", "NaN quality", "NaN cost", "missing quality", "missing features"),  # may lack
}


# `import` leaves rows without all outcomes out, and says how many.
_NOT_FOR_IMPORT = {
    *("leak", "one expert", "other experts", "missing id", "missing quality", "NaN quality", "duplicate ids"),
    *("no query_id", "missing split", "missing features"),
}

_NOT_FOR = {"import": _NOT_FOR_IMPORT, "train": {"other experts"}, "compare": {"other experts"}}


def _table(source: str, change: Change) -> Prepare:
    def prepare(folder: Path) -> None:
        table = pq.read_table(folder.parent / source)
        columns: dict[str, Any] = {name: table[name].to_pylist() for name in table.column_names}
        change(columns)
        pq.write_table(pa.table(columns), folder / "t.parquet")

    return prepare


def _cut(source: str, name: str, share: float) -> Prepare:
    def prepare(folder: Path) -> None:
        content = (folder.parent / source).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return prepare


def _text(name: str, content: str | bytes) -> Prepare:
    def prepare(folder: Path) -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return prepare


def _flipped(folder_name: str, file: str, seed: int) -> Prepare:
    def prepare(folder: Path) -> None:
        source = folder.parent / folder_name
        if source.is_dir():
            shutil.copytree(source, folder / folder_name)
        else:
            shutil.copy(source, folder / folder_name)
        path = folder / file
        content, rng = bytearray(path.read_bytes()), Random(seed)
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)

    return prepare


def _damaged(folder_name: str, file: str, change: bytes | Callable[[bytes], bytes] | None) -> Prepare:
    """Return the preparation of a copy of a folder in which one file is changed, or removed (None)."""

    def prepare(folder: Path) -> None:
        shutil.copytree(folder.parent / folder_name, folder / folder_name)
        path = folder / file
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()) if callable(change) else change)

    return prepare


_ROW = "query_id,model,prompt,score,cost\n"
_RESULTS: dict[str, tuple[str | bytes, ...]] = {
    "x.csv": (
        "",
        "\n\n",
        _ROW,
        _ROW + "q0,left,p,1\n",
        _ROW + "q0,left,p,1,1,1,1\n",
        _ROW + "q0,left,p,good,1\nq0,right,p,1,1\n",
        _ROW + "q0,left,p,nan,1\nq0,right,p,nan,1\n",
        _ROW + "q0,left,p,1,-5\nq0,right,p,1,1\n",
        _ROW + "q0,left,p,1,nan\nq0,right,p,1,1\n",
        _ROW + "q0,left,p,2,1\nq0,right,p,7,1\n",
        _ROW + "q0,left,p,1,1\nq1,right,p,1,1\n",
        _ROW + 'q0,"left,p,1,1\n',
        _ROW + "q0,,p,1,1\n",
        _ROW.encode() + b"q0,l\xff,p,1,1\n",
        b"\0" * 1000,
        bytes(range(256)) * 3,
        "a,b,c\n1,2,3\n",
        "query_id,query_id,score\n1,2,3\n",
    ),
    "x.jsonl": (
        "",
        "{\n",
        "[1]\n",
        "1\n",
        "null\n",
        '{"query_id": "q0"}\n',
        '{"query_id": "q0", "model": "left", "score": 1, "cost": 1}\n{broken\n',
        '{"query_id": "q0", "model": ["left"], "score": {"a": 1}, "cost": []}\n',
        '{"query_id": "q0", "model": "left", "score": NaN, "cost": 1}\n',
        '{"query_id": "q0", "model": "left", "score": 1e999, "cost": 1}\n',
        '{"a": ' + _DEEP + "}\n",
        b"\xff\xfe{}\n",
        '{"query_id": ' + "9" * 10_000 + ', "model": "l", "score": 1}\n',
    ),
    "x.json": (
        "",
        "{",
        "[]",
        "{}",
        "[1, 2]",
        '"text"',
        "null",
        _DEEP,
        '{"a": ' + _DEEP + "}",
        '[{"a": 1}]',
        "[" * 100_000,
    ),
    "x.parquet": (b"", b"PAR1", b"PAR1" + bytes(200) + b"PAR1", b"PAR1\x15\x04" * 40 + b"PAR1"),
    "x.txt": ("hello",),
    "x.xlsx": (b"PK\x03\x04",),
}

_YAML = (
    *("", "[1, 2]\n", "hello\n", "7\n", "null\n", "a: [1\n", "a:\n\tb: 1\n", "? [a]\n: 1\n", "1: 2\n"),
    "a: &a [*a]\n",
    "x: !!python/object/apply:os.system ['touch hacked']\n",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
    "a: " + "[" * 20_000 + "]" * 20_000 + "\n",
    b"a: \xff\xfe\n",
    b"a: \0\n",
)
_PRICES = (
    "prices: {left: {input: -1, output: 1}, right: {input: 1, output: 1}}\n",
    "prices: {left: {input: .nan, output: 1}, right: {input: 1, output: 1}}\n",
    "prices: {left: {input: cheap, output: 1}, right: {input: 1, output: 1}}\n",
    "prices: {left: {nope: 1}, right: {input: 1, output: 1}}\n",
    "prices: {left: [], right: {input: 1, output: 1}}\n",
    "prices: {left: {input: 1, output: 1}}\n",
    "prices: [1]\n",
    "date: someday\nprices: {left: {input: 1, output: 1}, right: {input: 1, output: 1}}\n",
    "date: [1]\nprices: {left: {input: 1, output: 1}, right: {input: 1, output: 1}}\n",
    "prices: {left: {litellm: no/such/model}, right: {input: 1, output: 1}}\n",
)
_MODEL = "model: openai/m, api_base: 'http://127.0.0.1:9/v1', retries: 0, price: {call: 0.001}"
_MODELS = (
    "models: []\n",
    "models: 7\n",
    "models: [left, right]\n",
    f"models: [{{name: left, {_MODEL}}}]\n",
    f"models: [{{name: left, {_MODEL}}}, {{name: left, {_MODEL}}}]\n",
    f"models: [{{name: left, nope: 1, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, timeout: -1, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, timeout: .nan, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, timeout: soon, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, max_tokens: 1.5, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, options: 3, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: [1], {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: '', {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    f"models: [{{name: left, api_key_env: NO_SUCH_VARIABLE, {_MODEL}}}, {{name: right, {_MODEL}}}]\n",
    "models: [{name: left, model: nope/m}, {name: right, model: nope/m}]\n",
    f"models: [{{name: left, {_MODEL}}}, {{name: right, {_MODEL}}}]\njudge: 3\n",
    f"models: [{{name: left, {_MODEL}}}, {{name: right, {_MODEL}}}]\nnope: 3\n",
)
_PROFILES = (
    "gpu_bandwidth: -1\n",
    "gpu_bandwidth: .nan\n",
    "gpu_bandwidth: .inf\n",
    "gpu_bandwidth: fast\n",
    "gpu_latency: -1\n",
    "gpu_bandwidth: [1]\n",
    "nope: 1\n",
    "gpu_bandwidth: true\n",
)
_LOGS = (b"junk" * 100, b"SQLite format 3\0" + b"junk" * 1000, b"SQLite format 3\0" + bytes(4080))
_PROMPTS: tuple[tuple[str, str | bytes], ...] = (
    ("p.csv", ""),
    ("p.csv", "prompt\n"),
    ("p.csv", "question\nwhat?\n"),
    ("p.csv", "prompt,query_id\na,q0\nb,q0\n"),
    ("p.csv", "prompt,query_id\na,q0\nb,\n"),
    ("p.csv", "prompt,reference\n,2\n"),
    ("p.csv", "prompt,reference,split\na,1,holdout\nb,2,train\n"),
    ("p.csv", b"\xff\xfe\0"),
    ("p.jsonl", "{\n"),
    ("p.jsonl", "[1]\n"),
    ("p.jsonl", '{"prompt": ' + _DEEP + "}\n"),
    ("p.parquet", b"PAR1"),
    ("p.xyz", "prompt\na\n"),
)

_FOLDERS: dict[str, tuple[tuple[str, str], ...]] = {
    "run": (
        ("evaluate", "run"),
        ("evaluate log", "run"),
        ("monitor", "run"),
        ("add-expert", "run"),
        ("export", "run"),
    ),
    "model": (("profile", "model"), ("handover", "--model"), ("patch", "--model")),
    "base": (("assemble", "--base"),),
    "patch": (("patch", "patch"),),
    "routers": (("handover", "--routers"),),
    "served": (("serve", "--router"), ("serve", "--shadow"), ("promote", "served")),
}


def _parts_of(folder: str) -> Iterator[tuple[str, tuple[bytes | Callable[[bytes], bytes] | None, ...]]]:
    """Yield the files of a folder with the changes that damage them."""
    junk = (
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        _DEEP.encode(),
        b'{"a": ' + _DEEP.encode() + b"}",
    )
    tensors = (b"", b"junk", bytes(8), b"\xff" * 8 + b"{}", _shortened, _longer, _huge_header)
    tensors += () if folder == "base" else (_not_finite,)
    for file in _JSON_FILES[folder]:
        yield file, (None, *junk, *(_edited(edit) for edit in _EDITS.get(file, ())))
    for file in _TENSOR_FILES[folder]:
        yield file, (None, *tensors)


_JSON_FILES = {
    "run": ("run/run.json", "run/router/router.json"),
    "model": ("model/config.json", "model/model.safetensors.index.json"),
    "base": ("base/config.json",),
    "patch": ("patch/router_patch.json",),
    "routers": ("routers/layer-0/router.json",),
    "served": ("served/router.json", "served/text.json"),
}
_TENSOR_FILES = {
    "run": ("run/router/router.safetensors",),
    "model": (),
    "base": ("base/model.safetensors",),
    "patch": ("patch/router_patch.safetensors",),
    "routers": ("routers/layer-0/router.safetensors",),
    "served": ("served/router.safetensors", "served/text.safetensors"),
}
_EDITS: dict[str, tuple[dict[str, Any], ...]] = {
    "run/run.json": (
        {"schema_version": 99},
        {"schema_version": "2"},
        {"problem": 3},
        {"problem": {"name": "nope"}},
    ),
    "run/router/router.json": (
        {"schema_version": 99},
        {"experts": ["left"]},
        {"experts": 3},
        {"features": -1},
    ),
    "patch/router_patch.json": (
        *({"experts_per_token": value} for value in (-1, 0, 99, 1.5, "2", None)),
        {"schema_version": 99},
    ),
    "model/config.json": (
        {"model_type": "nope"},
        {"model_type": 3},
        {"hidden_size": -1},
        {"num_local_experts": "x"},
    ),
    "base/config.json": ({"model_type": "nope"}, {"hidden_size": 0}, {"num_hidden_layers": 1e9}),
    "routers/layer-0/router.json": ({"schema_version": 99}, {"experts": []}),
}


def _edited(edit: dict[str, Any]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **edit}).encode()

    change.__name__ = f"with {edit}"
    return change


def _named(change: bytes | Callable[[bytes], bytes] | None) -> str:
    """Return what a change does to a file."""
    return "removed" if change is None else change.__name__ if callable(change) else repr(change[:40])


def _shortened(content: bytes) -> bytes:
    return content[:-4]


def _longer(content: bytes) -> bytes:
    return content + b"more"


def _not_finite(content: bytes) -> bytes:
    """Return a safetensors file whose last four numbers are NaN."""
    return content[:-16] + np.full(4, np.nan, dtype="<f4").tobytes()


def _huge_header(content: bytes) -> bytes:
    return (1 << 50).to_bytes(8, "little") + content[8:]
