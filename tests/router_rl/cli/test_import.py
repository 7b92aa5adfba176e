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
    assert "--drop-leaks" not in shown
    assert "leakage" not in shown
    assert OutcomeTable.read(out).notes
    assert "usd per query" in shown
    assert "--cost-unit" not in shown


def test_import_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.csv"
    source.write_text(CSV)
    assert main(["import", str(source), "--out", str(tmp_path / "t.parquet")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: cost='weak'")
    assert not (tmp_path / "t.parquet").exists()


def test_prices_are_printed_filled_in_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, prices = tmp_path / "r.csv", tmp_path / "t.parquet", tmp_path / "p.yaml"
    long = "organisation/a-model-with-a-name-that-is-wider-than-a-terminal-" + "x" * 60
    header, rows = f"prompt,gpt-4o-mini,{long}\n", [f"p{i},{i % 2},1\n" for i in range(6)]
    source.write_text(header + "".join(rows))
    assert main(["import", str(source), "--print-prices"]) == 0
    printed = capsys.readouterr().out
    assert "  gpt-4o-mini: {input: 0.15, output: 0.6}\n" in printed
    assert not out.exists()
    assert main(["import", str(source), "--print-prices", "--out", str(prices)]) == 0
    assert "Fill in the prices of 1 experts in" in capsys.readouterr().out
    assert prices.read_text().strip() == printed.strip()
    prices.write_text(
        printed.replace("{input: null, output: null}", "{call: 2}").replace("output: 0.6", "call: 1")
    )
    prices.write_text(prices.read_text().replace("input: 0.15", "input: 0"))
    assert main(["import", str(source), "--prices", str(prices), "--out", str(out)]) == 0
    table = OutcomeTable.read(out)
    assert table.experts == ("gpt-4o-mini", long)
    assert table.cost[0].tolist() == [1.0, 2.0]
    assert main(["import", str(source)]) == 2
    assert capsys.readouterr().err == "error: out=None: is missing; give --out table.parquet\n"


def test_names_from_a_file_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "r.jsonl"
    names = ("[bold red]a[/]", "b\x1b[31m\n")
    row = {f"{kind}/{name}": 1 for kind in ("quality", "cost") for name in names}
    source.write_text("".join(json.dumps({**row, "query_id": i}) + "\n" for i in range(6)))
    assert main(["import", str(source), "--out", str(tmp_path / "t.parquet")]) == 0
    shown = capsys.readouterr().out
    assert "[bold red]a[/]" in shown
    assert "\x1b" not in shown
    assert r"b\x1b[31m\n" in shown
