"""Training on two processes gives the routers of one process; only the first one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_router
from experts import InputError
from router_rl.cli.launched import options_of_process
from router_rl.methods.token_moe.processes import ONE, Processes, processes

ROOT = Path(__file__).resolve().parents[4]
_TEXT = "--problem.length 16 --problem.train 18 --problem.validation 6 --problem.test 6 --problem.epochs 1"
_ANSWERS = (
    "--problem.pool answers --problem.train 12 --problem.validation 12 --problem.test 12 --problem.epochs 1"
)
LINES = {
    "softmax_gate": _TEXT,
    "softmax_gate, two experts": f"{_TEXT} --problem.experts-per-token 2",  # has a balance loss
    "joint": _TEXT,
    "outcome_table": _TEXT,
    "reinforce": _TEXT,
    "grpo": f"{_ANSWERS} --method.iterations 3 --method.prompts 5 --method.group 4 --method.compute-weight 0.1",
    "right_answers": f"{_ANSWERS} --method.rounds 1",
}


def words(name: str, out: Path) -> list[str]:
    method = name.partition(",")[0]
    return ["train", "--env", "token_moe", "--method", method, *LINES[name].split(), "--out", str(out)]


def launch(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on two processes."""
    program = Path(sys.executable).with_name("accelerate")
    start = [str(program), "launch", "--num_processes", "2", "--cpu", str(ROOT / "train_router.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.run(
        [*start, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_two_processes_train_what_one_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    assert train_router.main(words(name, tmp_path / "one")) == 0
    done = launch(words(name, tmp_path / "two"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test utility") == 1
    one, two = (load_file(tmp_path / run / "router" / "routers.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, atol=2e-4, rtol=2e-4)
    results = [
        json.loads((tmp_path / run / "run.json").read_text(encoding="utf-8")) for run in ("one", "two")
    ]
    assert results[1]["test"]["utility"] == pytest.approx(results[0]["test"]["utility"], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    assert not list(tmp_path.glob("router-rl-process-*"))
    if name == "softmax_gate":  # the same command finds the finished run in both processes
        again = launch(words(name, tmp_path / "two"), tmp_path)
        assert again.returncode == 0, again.stderr
        assert {
            key: value.tolist()
            for key, value in load_file(tmp_path / "two" / "router" / "routers.safetensors").items()
        } == {key: value.tolist() for key, value in two.items()}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_a_batch_make_it_whole(size: int) -> None:
    rows = torch.arange(7)
    shares = [Processes(rank, size).own(rows) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == rows.tolist()
    few = torch.arange(size - 1)
    assert all(torch.equal(Processes(rank, size).own(few), few) for rank in range(size))


def test_one_process_changes_nothing() -> None:
    assert processes() == ONE
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ONE.row_mean(values), values.mean(dim=0))
    assert torch.equal(ONE.std(values), values.std())
    assert ONE.weight(3) == 1.0
    ONE.refuse("method.temperature", 1.0, (0.0,))
    ONE.check(1, 1)


def test_what_several_processes_cannot_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method\.temperature=1\.0: cannot be trained on 2 processes"):
        Processes(0, 2).refuse("method.temperature", 1.0, (0.0,))
    with pytest.raises(InputError, match=r"problem\.batch=8: gives a batch of 1 sequences to 2"):
        Processes(0, 2).check(9, 8)
    with pytest.raises(InputError, match=r"command='compare'.*train --env token_moe only"):
        options_of_process("compare", {"env": "token_moe", "out": tmp_path})
