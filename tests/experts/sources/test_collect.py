"""Outcomes are computed once, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from experts import Expert, ExpertPool, InputError, OutcomeTable, collect
from experts.sources import Queries
from experts.sources.collect import collected

ROWS, BATCH = 40, 4


class Recording(nn.Module):
    """Answers by a fixed matrix and writes the first number of each batch it sees to a file."""

    def __init__(self, log, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.log, self.seconds = log, seconds

    def forward(self, inputs):
        with open(self.log, "a") as file:
            file.write(f"{int(inputs[0, 0])}\n")
        time.sleep(self.seconds)
        return inputs @ self.weight


class Counted:
    """A source of 40 questions whose two experts can be slow."""

    name = "counted"

    def __init__(self, log, seconds=0.0, rows=ROWS):
        self.log, self.seconds, self.rows = log, seconds, rows

    def describe(self):
        return "numbers"

    def digest(self, seed):
        return f"{self.rows}-{seed}"

    def queries(self, seed):
        inputs = torch.stack([torch.arange(float(self.rows)), torch.full((self.rows,), -1.0 - seed)], dim=1)
        return Queries(
            query_id=np.array([f"q{i}" for i in range(self.rows)], dtype=object),
            inputs=inputs,
            features=inputs.numpy(),
            label=np.arange(self.rows) % 3,
            split=np.resize(["train", "validation", "test"], self.rows),
            group=np.array(["g"] * self.rows, dtype=object),
            base=np.arange(self.rows),
        )

    def pool(self, seed, *, progress=True):
        steady = nn.Linear(2, 3)
        with torch.no_grad():
            steady.weight.copy_(torch.arange(6.0).reshape(3, 2))
            steady.bias.zero_()
        return ExpertPool(
            [Expert("slow", Recording(self.log, self.seconds), 5.0), Expert("fast", steady, 1.0)]
        )


def batches(log):
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_collects_each_batch_once(tmp_path):
    log, out = tmp_path / "log", tmp_path / "t.parquet"
    table = collect(Counted(log), out, batch_size=BATCH)
    assert batches(log) == list(range(0, ROWS, BATCH))
    assert sorted(os.listdir(tmp_path)) == ["log", "t.parquet"]
    again = OutcomeTable.read(out)
    for name in ("quality", "cost", "probabilities", "confidence", "features", "label"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert again.experts == ("slow", "fast")
    assert again.cost_unit == "flops"
    assert again.source == "counted: numbers (seed 0)"
    np.testing.assert_array_equal(again.cost, np.tile(np.float32([5, 1]), (ROWS, 1)))


def test_the_batch_size_changes_no_outcome(tmp_path):
    tables = [
        collect(Counted(tmp_path / "log"), tmp_path / f"{size}.parquet", batch_size=size)
        for size in (1, 7, 100)
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(table.probabilities, tables[0].probabilities, atol=1e-6)
        np.testing.assert_array_equal(table.quality, tables[0].quality)


SCRIPT = """
import sys, pathlib
sys.path.insert(0, {folder!r})
import test_collect as t
t.collect(t.Counted(pathlib.Path({log!r}), seconds=0.2), {out!r}, batch_size=t.BATCH)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    log, out = tmp_path / "log", tmp_path / "t.parquet"
    parts = tmp_path / "t.parquet.parts"
    script = SCRIPT.format(folder=os.path.dirname(__file__), log=str(log), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while len(list(parts.glob("0*.safetensors"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = {int(path.stem) for path in parts.glob("0*.safetensors")}
    assert 3 <= len(kept) < ROWS // BATCH
    log.unlink()
    table = collect(Counted(log), out, batch_size=BATCH)
    assert sorted({*batches(log), *kept}) == list(range(0, ROWS, BATCH))
    assert not set(batches(log)) & kept  # nothing finished was computed again
    assert not parts.exists()
    whole = collect(Counted(tmp_path / "other"), tmp_path / "whole.parquet", batch_size=BATCH)
    np.testing.assert_array_equal(table.probabilities, whole.probabilities)


class Stopped(Exception):
    pass


def interrupt(source, out, after):
    """Collect, and stop after some batches."""

    def stop(*_):
        if len(batches(source.log)) > after:
            raise Stopped

    pool = source.pool(0)
    pool.experts[0].module.register_forward_pre_hook(stop)
    source.pool = lambda seed, progress=True: pool
    with pytest.raises(Stopped):
        collect(source, out, batch_size=BATCH)


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 5}, {}])
def test_parts_of_other_settings_are_thrown_away_and_this_is_said(tmp_path, capsys, change):
    log, out = tmp_path / "log", tmp_path / "t.parquet"
    interrupt(Counted(log), out, after=2)
    assert len(list((tmp_path / "t.parquet.parts").glob("0*"))) == 3
    log.unlink()
    collect(Counted(log), out, **{"batch_size": BATCH, **change})
    starts = list(range(0, ROWS, change.get("batch_size", BATCH)))
    said = capsys.readouterr().err
    if change:
        assert batches(log) == starts
        assert "starting again" in said
    else:
        assert batches(log) == starts[3:]
        assert said == ""


def test_a_damaged_manifest_means_afresh(tmp_path, capsys):
    log, out = tmp_path / "log", tmp_path / "t.parquet"
    interrupt(Counted(log), out, after=2)
    (tmp_path / "t.parquet.parts" / "manifest.json").write_text("{")
    log.unlink()
    collect(Counted(log), out, batch_size=BATCH)
    assert len(batches(log)) == ROWS // BATCH
    assert "starting again" in capsys.readouterr().err


def test_the_experts_stay_as_they_were(tmp_path):
    source = Counted(tmp_path / "log")
    pool = source.pool(0)
    before = pool.fingerprint()
    source.pool = lambda seed, progress=True: pool
    collect(source, tmp_path / "t.parquet")
    assert pool.fingerprint() == before


def test_the_cache_is_filled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTER_RL_CACHE", str(tmp_path / "cache"))
    log = tmp_path / "log"
    first = collected(Counted(log))
    count = len(batches(log))
    second = collected(Counted(log))
    assert len(batches(log)) == count
    np.testing.assert_array_equal(first.quality, second.quality)
    collected(Counted(log), seed=1)
    assert len(batches(log)) == 2 * count


def test_mistakes_are_named(tmp_path):
    source = Counted(tmp_path / "log")
    with pytest.raises(InputError, match="batch_size=0: is below 1"):
        collect(source, tmp_path / "t.parquet", batch_size=0)
    with pytest.raises(InputError, match=r"out=.*is a folder"):
        collect(source, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out=.*cannot be written"):
        collect(source, tmp_path / "file" / "t.parquet")


def test_a_folder_of_somebody_else_is_kept(tmp_path):
    parts = tmp_path / "t.parquet.parts"
    parts.mkdir()
    (parts / "thesis.safetensors").write_text("mine")
    with pytest.raises(
        InputError, match=r"holds files that this toolkit did not write \(thesis.safetensors\)"
    ):
        collect(Counted(tmp_path / "log"), tmp_path / "t.parquet", progress=False)
    assert (parts / "thesis.safetensors").read_text() == "mine"
