"""Every command that writes, apart from `patch`, killed at some of its file operations."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import FaultServer
from optuna.study import _optimize

from experts.io import owned_folder
from experts.sources import SOURCES
from router_rl.methods.checkpoint import Checkpoint

from .good_inputs import LINES, make_inputs
from .kill_case import KillCase, defects, train
from .kill_commands import CASES, READERS
from .kill_points import Killed, counted


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with valid inputs of every command."""
    folder = tmp_path_factory.mktemp("good")
    make_inputs(folder)
    return folder


@pytest.fixture
def inputs(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the inputs, which is the working folder."""
    shutil.copytree(good, tmp_path / "inputs")
    monkeypatch.chdir(tmp_path / "inputs")
    return tmp_path / "inputs"


@pytest.fixture(autouse=True)
def _optuna_hides_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Optuna's `finally` raises another error while a kill passes through it, the kill goes on."""
    run = _optimize._run_trial

    def run_or_die(*args: Any) -> int:
        try:
            return run(*args)
        except UnboundLocalError as error:
            if isinstance(error.__context__, Killed):
                raise error.__context__ from None
            raise

    monkeypatch.setattr(_optimize, "_run_trial", run_or_die)


@pytest.mark.parametrize("name", CASES)
def test_the_same_command_again_gives_the_undisturbed_result(name: str, inputs: Path) -> None:
    case, setup = CASES[name]
    setup(inputs)
    points, wrong = defects(case, inputs, inputs.parent / "work")
    assert points >= 2
    assert wrong == []


def test_a_system_that_cannot_exchange_folders(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old folder is renamed away first, and comes back if the process is killed then."""
    monkeypatch.setattr(owned_folder, "_exchanged", lambda *_: False)
    case, setup = CASES["export again"]
    setup(inputs)
    _, wrong = defects(replace(case, between=("out",)), inputs, inputs.parent / "work")
    assert wrong == []


def test_a_training_with_checkpoints(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It resumes from each of them, and returns the same router; the curve begins at the checkpoint."""
    monkeypatch.setattr(Checkpoint, "due", property(lambda self: self._path is not None))
    words = ("train", "--table", "table.parquet", "--method", "softmax_gate", "--method.epochs", "3")
    volatile = CASES["train"][0].volatile | {"curve", "figures"}  # one of the figures is the curve
    case = KillCase(words=(*words, "--out", "out"), volatile=volatile, points=12)
    operations = counted(inputs, lambda: train(case.words))
    shutil.rmtree(inputs / "out")
    assert len([name for name in operations if name.startswith("write") and "checkpoint" in name]) == 3
    _, wrong = defects(case, inputs, inputs.parent / "work")
    assert wrong == []


def test_outcomes_of_a_source(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are done are not computed again."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fixtures" / "plugin"))
    monkeypatch.setitem(SOURCES.own, "parity", "router_rl_toy.parity_source:ParitySource")
    words = ("collect", "--source", "parity", "--batch-size", "40", "--out", "out.parquet")
    points, wrong = defects(KillCase(words=words), inputs, inputs.parent / "work")
    assert points > 20
    assert wrong == []


def test_answers_of_language_models(inputs: Path) -> None:
    """Journaled answers are not asked for again, so the table is the same."""
    words = ("collect", "--models", "models.yaml", "--prompts", "prompts.csv", "--out", "out.parquet")
    volatile, journal = frozenset({"latency_s"}), ("out.parquet.journal.jsonl",)
    case = KillCase(words=words, volatile=volatile, ignored=journal)
    with FaultServer(lambda model, prompt: "2" if model == "left" else "4") as server:
        common = {"api_base": server.url, "timeout": 20, "price": {"call": 0.001}}
        models = [{"name": name, "model": f"openai/{name}", **common} for name in ("left", "right")]
        (inputs / "models.yaml").write_text(yaml.safe_dump({"models": models}))
        points, wrong = defects(case, inputs, inputs.parent / "work")
    assert points > 10
    assert wrong == []


@pytest.mark.parametrize("name", READERS)
def test_commands_that_write_nothing(name: str, inputs: Path) -> None:
    def work() -> None:
        assert train(LINES[name])[0] == 0

    assert counted(inputs, work) == []
