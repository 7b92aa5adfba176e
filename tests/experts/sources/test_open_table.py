"""A path or a source's name opens a table; `OutcomeTable.read` takes paths only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experts import InputError, OutcomeTable, open_table


def test_a_path_is_read_as_it_is(table: OutcomeTable, tmp_path: Path) -> None:
    table.write(tmp_path / "t.parquet")
    for path in (tmp_path / "t.parquet", str(tmp_path / "t.parquet")):
        np.testing.assert_array_equal(open_table(path).quality, table.quality)


def test_leakage_is_allowed_on_request_only(columns, tmp_path: Path) -> None:
    fields = columns(prompt=np.array(["same"] * 6, dtype=object), notes=("leakage allowed: all",))
    OutcomeTable(**fields).write(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="same prompt"):
        open_table(tmp_path / "t.parquet")
    assert any("leakage" in note for note in open_table(tmp_path / "t.parquet", allow_leakage=True).notes)


def test_a_source_is_collected(digits: OutcomeTable) -> None:
    assert digits.source.startswith("digits:")


def test_a_file_of_a_sources_name_needs_a_path(
    digits: OutcomeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert open_table("digits", progress=False).source == digits.source
    with pytest.raises(InputError, match="is a folder"):
        open_table("./digits/")
    with pytest.raises(InputError, match="is a folder"):
        open_table(tmp_path / "digits")


def test_unknown_names_and_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="table='digit': unknown; did you mean 'digits'"):
        open_table("digit")
    with pytest.raises(InputError, match=r"no such file; give a Parquet file or .* digits, fashion-mnist"):
        open_table(str(tmp_path / "none.parquet"))


@pytest.mark.parametrize("name", ["digits", "fashion-mnist:/path"])
def test_reading_a_sources_name_as_a_path_says_what_to_use(name: str) -> None:
    with pytest.raises(InputError, match=r"use experts\.open_table"):
        OutcomeTable.read(name)


PLUGIN = """
import numpy as np, torch
from experts import Expert, ExpertPool
from experts.sources import Queries

class Toy:
    name = "toy"
    def __init__(self, argument):
        self.rows = int(argument or 6)
    def describe(self): return "a toy"
    def digest(self, seed): return f"{seed}-{self.rows}"
    def queries(self, seed):
        rows = np.arange(self.rows)
        text = np.array([f"q{row}" for row in rows], dtype=object)
        split = np.array(["train", "validation", "test"], dtype=object)[rows % 3]
        inputs = torch.ones(self.rows, 2)
        return Queries(query_id=text, inputs=inputs, features=inputs.numpy(), label=rows % 2, split=split,
                       group=text, base=rows)
    def pool(self, seed, *, progress=True):
        return ExpertPool([Expert(name, torch.nn.Linear(2, 2), 1.0) for name in ("one", "two")])
"""
SCRIPT = """
import sys
from experts import SOURCES
print(list(SOURCES), "torch" in sys.modules, "toy_source" in sys.modules)
from experts import open_table
print(len(open_table("toy:9", progress=False)), open_table("toy").experts)
"""


@pytest.mark.slow
def test_an_installed_package_adds_a_source(tmp_path: Path) -> None:
    (tmp_path / "toy_source.py").write_text(PLUGIN)
    info = tmp_path / "toy_source-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[router_rl.sources]\ntoy = toy_source:Toy\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ROUTER_RL_CACHE": str(tmp_path / "cache")}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment
    )
    listed, opened = found.stdout.splitlines()
    assert listed == "['digits', 'fashion-mnist', 'routellm_gsm8k', 'toy'] False False"
    assert opened == "9 ('one', 'two')"
