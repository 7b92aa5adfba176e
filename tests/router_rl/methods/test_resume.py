"""A run that is stopped anywhere goes on to the result it would have had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from routing_methods import METHODS
from safetensors import safe_open

from experts import InputError, OutcomeTable
from router_rl import Objective
from router_rl.methods.checkpoint import Checkpoint
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, Router

SHORT: dict[str, dict[str, Any]] = {
    "ppo": {"decisions": 10_240, "validate_every": 2_048, "lanes": 64, "steps": 8},
    "a2c": {"decisions": 10_240, "validate_every": 2_048, "lanes": 64},
    "dqn": {"decisions": 5_120, "validate_every": 1_024, "lanes": 32, "memory": 4_096},
    "conditioned_pg": {"epochs": 5},
    **{name: {"epochs": 5} for name in METHODS if name.endswith("_gate") and name != "em_gate"},
    "em_gate": {"iterations": 5},
    **{name: {"decisions": 81_920} for name in ("reinforce", "router_ppo")},
    "exact_pg": {"epochs": 5, "decisions": 81_920},
}


class _Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("method", SHORT)
@pytest.mark.parametrize("load_weight", [0.0, 0.1])
def test_a_stopped_run_ends_as_an_unstopped_one(
    kinds: OutcomeTable, tmp_path: Path, method: str, load_weight: float
) -> None:
    task = RoutingProblem(kinds, Objective(load_weight=load_weight, window=16), Hard())
    hyperparameters = METHODS[method].configure(SHORT[method])

    def run(path: Path | None, stop_after: int | None = None) -> tuple[Router, int]:
        seen = 0

        def callback(snapshot: Snapshot) -> None:
            nonlocal seen
            seen += 1
            if stop_after is not None and seen > stop_after:
                raise _Stopped

        checkpoint = Checkpoint(path, {"method": method}, seconds=0.0)
        return METHODS[method].fit(
            task, hyperparameters, Run(seed=1, callback=callback, checkpoint=checkpoint)
        ), seen

    whole, measured = run(None)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(_Stopped):
        run(path, stop_after=3)
    assert path.exists()
    torch.manual_seed(999)  # whatever happened in between
    resumed, remaining = run(path)
    assert remaining < measured
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.rule == resumed.rule


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", {"seed": 0}).save({"step": 1})
    with pytest.raises(InputError, match="belongs to a run with other hyperparameters"):
        Checkpoint(tmp_path / "c", {"seed": 1}).load()


def test_a_checkpoint_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"garbage")
    with pytest.raises(InputError, match="cannot be read"):
        Checkpoint(tmp_path / "c", {}).load()


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    state = {
        "best": -float("inf"),
        "seed": 2**127,
        "step": 3,
        "weight": torch.arange(6.0),
        "done": torch.ones(()),
    }
    checkpoint = Checkpoint(path, {})
    checkpoint.save(state)
    content = path.read_bytes()
    loaded = checkpoint.load()
    assert loaded is not None
    assert (loaded["best"], loaded["seed"]) == (-float("inf"), 2**127)
    for changed in (
        content.replace(b'\\"step\\": 3', b'\\"step\\": 4'),
        content[:-1] + bytes([content[-1] ^ 1]),
        content[:-9],
        b"",
    ):
        assert changed != content
        path.write_bytes(changed)
        with pytest.raises(
            InputError, match=r"checkpoint=.*: cannot be read .*; delete it to start"
        ) as caught:
            checkpoint.load()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c")
    with pytest.raises(InputError, match="it is not a file"):
        Checkpoint(tmp_path / "c", {}).load()


def test_a_checkpoint_keeps_nested_values(tmp_path: Path) -> None:
    state = {"a": {"b": torch.arange(3), "c": 1.5, "d": None}, "e": True, "f": "text", "g": {}}
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.save(state)
    found = checkpoint.load()
    assert found is not None
    assert torch.equal(found["a"]["b"], torch.arange(3))
    assert found["a"]["c"] == 1.5
    assert found["a"]["d"] is None
    assert (found["e"], found["f"], found["g"]) == (True, "text", {})
    checkpoint.clear()
    assert checkpoint.load() is None


@pytest.mark.slow
def test_training_survives_kill_9(kinds: OutcomeTable, tmp_path: Path) -> None:
    """`train` is killed in the middle; the same command goes on from the checkpoint and finishes."""
    table = tmp_path / "kinds.parquet"
    kinds.write(table)
    command = [
        *(sys.executable, "train_router.py", "train", "--table", str(table), "--out", str(tmp_path / "run")),
        *("--method.decisions", "150000", "--method.patience", "1000"),
    ]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not any(map(_played, (tmp_path / "run").glob("trials/*/checkpoint.safetensors"))):
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "run.json").exists()
    again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "run.json").exists()
    assert not list((tmp_path / "run").glob("trials/*/checkpoint.safetensors"))
    first = next(line for line in again.stderr.splitlines() if "training" in line)
    assert not first.startswith("0/"), "started over instead of going on"


def _played(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"])["agent"]["played"]
