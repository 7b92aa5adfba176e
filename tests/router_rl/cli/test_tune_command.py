"""`tune` on the command line: its summary, its best configuration, and every problem."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_methods
import tuning_toys
import yaml
from environment_tables import made_cascade
from rich.console import Console
from toy_methods import disagreeing_table

import train_router
from router_rl.reports.tuning_view import tuning_view


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    disagreeing_table().write("table.parquet")
    with toy_methods.installed(), tuning_toys.installed():
        yield


def _tune(*words: str) -> int:
    line = ["tune", "--table", "table.parquet", "--method", "toy_curve", "--track", "none", "--out", "out"]
    return train_router.main([*line, *words])


@pytest.mark.slow
def test_train_takes_the_best_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("skill: [0.4, 0.2]\n")
    words = ("--n-trials", "3", "--space", "space.yaml", "--objective.compute-weight", "0.05")
    assert _tune(*words, "--problem.select", "topk") == 0
    said = capsys.readouterr()
    assert "train_router.py train --config out/best.yaml --out out/run" in said.out
    assert "3/3 trials: validation utility" in said.err
    assert yaml.safe_load(Path("out/best.yaml").read_text()) == {
        "table": "table.parquet",
        "method": "toy_curve",
        "seed": 0,
        "hyperparameters": {"skill": 0.2, "label": "a"},
        "problem": {"select": "topk"},
        "objective": {"compute_weight": 0.05},
    }
    assert train_router.main(["train", "--config", "out/best.yaml", "--out", "out/run"]) == 0
    tuned, run = (json.loads(Path(name).read_text()) for name in ("out/tuning.json", "out/run/run.json"))
    assert run["validation"]["utility"] == tuned["best"]["validation_utility"]
    assert run["hyperparameters"] == tuned["hyperparameters"]


def test_the_summary_fits_in_80_columns() -> None:
    assert _tune("--n-trials", "10", "--pruner", "NopPruner") == 0
    facts = json.loads(Path("out/tuning.json").read_text())
    facts["errors"], facts["counts"]["failed"], facts["counts"]["running"] = ["the loss is nan"], 2, 1
    stream = io.StringIO()
    Console(file=stream, width=80).print(tuning_view(facts))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    best = facts["best"]["validation_utility"]
    for part in (
        f"best validation utility  {best:.4f} (+",
        "10 complete, 2 failed, 1 running",
        "TPESampler, NopPruner, seed 0",
        "0 to 1",
        "100%",
        "the loss is nan (2 failed)",
        "The best of 12 trials",
    ):
        assert part in text, text
    for name in ("history", "importance"):
        assert Path(f"out/{name}.svg").read_text().startswith("<svg")


def test_a_best_configuration_that_somebody_changed_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert _tune("--n-trials", "1") == 0
    best = Path("out/best.yaml")
    best.write_text(best.read_text().replace("0.5", "0.25"))
    edited = best.read_text()
    fits = len(tuning_toys.FITS)
    assert _tune("--n-trials", "2") == 2
    assert "out='out/best.yaml': was not written by this command, or changed since" in capsys.readouterr().err
    assert (best.read_text(), len(tuning_toys.FITS)) == (edited, fits)
    best.unlink()
    assert _tune("--n-trials", "2") == 0
    assert best.exists()


def test_another_problem(capsys: pytest.CaptureFixture[str]) -> None:
    made_cascade(rows=100).write("cascade.parquet")
    words = ["tune", "--env", "cascade", "--table", "cascade.parquet", "--method", "ridge"]
    assert train_router.main([*words, "--n-trials", "2", "--out", "cascade"]) == 0
    assert "ridge, cascade" in capsys.readouterr().out
    assert yaml.safe_load(Path("cascade/best.yaml").read_text())["env"] == "cascade"
    assert list(Path("cascade/tensorboard").rglob("events*"))


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("router_rl.studies.tuning.optuna_extra.find_spec", lambda _: None)
    assert _tune() == 2
    assert "optuna is not installed; pip install 'router-rl[tune]'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_compare_takes_a_tuning_budget() -> None:
    words = ["compare", "--table", "table.parquet", "--methods", "toy_curve", "--seeds", "1"]
    words += ["--compute-weights", "0.1", "--tune-budget", "3", "--track", "none", "--out", "study"]
    assert train_router.main(words) == 0
    assert len(tuning_toys.FITS) == 3
    assert json.loads(Path("study/results.json").read_text())["n_trials"] == 3
