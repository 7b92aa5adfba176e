"""Training on two processes gives the routers of one process; only the first one writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trained_on_processes import trained

import train_router
from experts import InputError
from router_rl.cli.launched import options_of_process
from router_rl.methods.token_moe.processes import ONE, Processes, processes

ROOT = Path(__file__).resolve().parents[4]
LINE = (
    "train --env token_moe --method softmax_gate --problem.length 16 --problem.train 18 --problem.epochs 1 "
    "--problem.validation 6 --problem.test 6 --out"
)


def launch(arguments: list[str], folder: Path) -> str:
    """Run a program on two processes, and return what it prints."""
    pytest.importorskip("accelerate")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "TMPDIR": str(folder)}
    options: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([*start, *arguments], timeout=280, check=False, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.slow
def test_every_method_learns_on_two_processes_what_it_learns_on_one(tmp_path: Path) -> None:
    launch([str(ROOT / "tests" / "trained_on_processes.py"), str(tmp_path / "two.safetensors")], tmp_path)
    one, two = trained(), load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    starts = [weight for name, weight in one.items() if name.startswith("start")]
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=1e-4, msg=name)
        if not name.startswith("start"):
            same = [start for start in starts if start.shape == weight.shape]
            assert min(float((weight - start).abs().max()) for start in same) > 1e-2, name


@pytest.mark.slow
def test_the_first_process_writes_and_prints(tmp_path: Path) -> None:
    assert train_router.main([*LINE.split(), str(tmp_path / "one")]) == 0
    for _ in range(2):  # the second time both processes find the finished run
        said = launch([str(ROOT / "train_router.py"), *LINE.split(), str(tmp_path / "two")], tmp_path)
        assert said.count("test utility") == 1
    one, two = (load_file(tmp_path / run / "router" / "routers.safetensors") for run in ("one", "two"))
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, atol=1e-4, rtol=1e-4)
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
    assert not list(tmp_path.glob("router-rl-process-*"))


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


def test_means_deviations_and_shares_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process has three rows; its sums are added to those of the first."""
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    own, other = values[:2], values[2:]

    def added(*parts: Any) -> None:
        left = list(parts)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda sum_: sum_.add_(left.pop(0)))

    two = Processes(0, 2)
    added(other.sum(dim=0), float(len(other)))
    torch.testing.assert_close(two.row_mean(own), values.mean(dim=0))
    mean = values.double().mean()
    added(float(other.numel()), other.double().sum(), (other.double() - mean).square().sum())
    torch.testing.assert_close(two.std(own), values.std())
    added(3.0)
    assert two.weight(2) == pytest.approx(2 / 5)
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.tensor([1.0, 2.0])
    added(torch.arange(8.0))
    two.sum_gradients(layer, 0.25)
    torch.testing.assert_close(layer.weight.grad, 0.25 + torch.arange(6.0).reshape(2, 3))
    torch.testing.assert_close(layer.bias.grad, torch.tensor([6.25, 7.5]))


def test_what_several_processes_cannot_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method\.temperature=1\.0: cannot be trained on 2 processes"):
        Processes(0, 2).refuse("method.temperature", 1.0, (0.0,))
    with pytest.raises(InputError, match=r"problem\.batch=8: gives a batch of 1 sequences to 2"):
        Processes(0, 2).check(9, 8)
    with pytest.raises(InputError, match=r"command='compare'.*train --env token_moe only"):
        options_of_process("compare", {"env": "token_moe", "out": tmp_path})
