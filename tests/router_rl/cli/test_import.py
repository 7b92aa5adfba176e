"""`import` from the command line: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experts import OutcomeTable
from train_router import main

CSV = "prompt,weak,strong,weak_response\none,True,True,aaaa\ntwo,False,True,bbbb\nthree,False,False,cccc\n"


def test_import_prints_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "gsm8k_responses.csv", tmp_path / "t.parquet"
    source.write_text(CSV + "one,True,True,aaaa\n")
    (tmp_path / "p.yaml").write_text("date: 2024-01-01\nprices: {weak: {input: 1}, strong: {call: 0.5}}\n")
    words = ["import", str(source), "--out", str(out), "--prices", str(tmp_path / "p.yaml")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "4 of 4 queries (routellm)" in shown
    assert "Check: 1 rows repeat the prompt" in shown
    assert "Note: prices: p.yaml of 2024-01-01" in shown
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experts"]["strong"] == {"quality": 0.75, "cost": 0.5}
    assert OutcomeTable.read(out).experts == ("weak", "strong")


def test_what_the_printed_advice_says_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "wide.csv", str(tmp_path / "t.parquet")
    rows = [f"p{i % 9},{'train' if i < 9 else 'test'},{i % 2},{1 - i % 2},1,{i + 1}" for i in range(12)]
    source.write_text("prompt,split,quality/a,quality/b,cost/a,cost/b\n" + "\n".join(rows) + "\n")
    assert main(["import", str(source), "--out", out]) == 0
    shown = capsys.readouterr().out
    assert "with --drop-leaks, or read the table with --allow-leakage" in shown
    assert "cost per query" in shown
    assert "if it is US dollars, give --cost-unit usd" in " ".join(shown.split())
    assert main(["import", "--drop-leaks", str(source), "--out", out, "--cost-unit", "usd"]) == 0
    shown = capsys.readouterr().out
    assert "9 of 12 queries (wide), 3 left out: leaking prompt" in shown
    assert "usd per query" in shown
    assert "--cost-unit" not in shown


def test_import_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.csv"
    source.write_text(CSV)
    assert main(["import", str(source), "--out", str(tmp_path / "t.parquet")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: cost='weak'")
    assert not (tmp_path / "t.parquet").exists()
