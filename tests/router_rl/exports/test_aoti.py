"""The AOTInductor package routes as the router does, from Python and from a C++ program.

Compiling takes several seconds of CPU a model, so each model is compiled once in a run, for any number of
workers: one package of both models, whose router has the most operators; and one model with the other rules.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch._inductor.package.package import load_package

from experts import InputError
from router_rl.exports import aoti, export
from router_rl.exports.program import export_program
from router_rl.routing import Router

# Half a minute of compiling, where nothing else runs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

# Rules that differ in what is compiled: top-1; top-k renormalised; sigmoid with a bias and groups; a tree.
RULES = {"hard": "linear", "softmax": "linear", "deepseek": "linear", "tree": "mlp"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that makes a folder once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / f"aoti-{name}"
        with FileLock(shared / f"aoti-{name}.lock"), pytest.MonkeyPatch.context() as patch:
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(shared / "aoti-cache"))
                make(folder)
                (folder / "complete").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def router(made: Callable[..., Router]) -> Router:
    """Return an MLP router with adaptive k and an expert that is not allowed."""
    return made("mlp", "adaptive", allowed=[True, True, True, True, True, False])


@pytest.fixture(scope="session")
def package(
    router: Router,
    holds: Callable[[Router, Path, str], None],
    built: Callable[[str, Callable[[Path], None]], Path],
) -> Path:
    """Return the folder of its export, compared with the router."""
    return built("package", lambda folder: holds(router, folder / "router", "aoti")) / "router"


@pytest.fixture(scope="session")
def program(built: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Return the C++ program, built by the command in its own first lines."""

    def make(folder: Path) -> None:
        root = Path(torch.__file__).parent
        shutil.copy(Path(aoti.__file__).with_name("route.cpp"), folder)
        recipe = (folder / "route.cpp").read_text().split("//   g++ ")[1].split("\n//   echo")[0]
        command = recipe.replace("\\\n//", "").replace("$ROOT", str(root))
        words = command.replace("route.cpp", "-w -O0 route.cpp").split()
        subprocess.run(["g++", *words], cwd=folder, check=True, capture_output=True, text=True)

    return built("program", make) / "route"


class _Several(nn.Module):
    """The masked programs of several routers of equal inputs as one."""

    def __init__(self, routers: list[Router]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(export_program(router, masked=True).module() for router in routers)

    def forward(self, features: Tensor, alive: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for part in self.parts for value in part(features, alive))


@needs_compiler
def test_the_package_says_what_it_was_built_for(package: Path) -> None:
    described = json.loads((package / "router.json").read_text())
    assert described["built_for"] == {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    assert sorted(path.name for path in package.iterdir()) == [
        ".router_rl.json",
        "README.md",
        "parity.json",
        "route.cpp",
        "router.json",
        "router.pt2",
    ]


@needs_compiler
def test_every_other_rule_compiles_to_the_same_choices(
    made: Callable[..., Router], built: Callable[[str, Callable[[Path], None]], Path]
) -> None:
    routers = [made(kind, rule) for rule, kind in RULES.items()]

    def make(folder: Path) -> None:
        rows = {0: torch.export.Dim("rows")}
        inputs = (torch.zeros(3, 4), torch.ones(6, dtype=torch.bool))
        several = torch.export.export(_Several(routers), inputs, dynamic_shapes=(rows, None))
        aoti.compile_package({"model": several}, folder / "rules.pt2")

    compiled = load_package(str(built("rules", make) / "rules.pt2"), "model")
    generator = torch.Generator().manual_seed(1)
    alive = torch.tensor([True, True, False, False, True, True])  # the fallback expert is dead
    for rows in (0, 1, 7):
        features = torch.randn(rows, 4, generator=generator)
        if rows == 7:
            features[3:] = 0.0  # ties, among routers without biases
            features[1, 1], features[2, 0] = float("nan"), float("inf")
        for mask in (torch.ones(6, dtype=torch.bool), alive, torch.zeros(6, dtype=torch.bool)):
            outputs = compiled(features, mask)
            for at, router in enumerate(routers):
                experts, weights, logits, fallback = outputs[4 * at : 4 * at + 4]
                with torch.no_grad():
                    expected = router(features, action_mask=mask)
                assert experts.equal(expected.experts), list(RULES)[at]
                assert fallback.equal(expected.fallback)
                torch.testing.assert_close(weights, expected.weights, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(logits, expected.logits, atol=1e-3, rtol=1e-4)


@needs_compiler
def test_a_cpp_program_routes_with_it(router: Router, package: Path, program: Path) -> None:
    k = router.rule.k
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
    features[2, 1], features[4, 0] = float("nan"), float("inf")
    one_dead = torch.tensor([True, False, True, True, True, True])
    none_alive = torch.zeros(6, dtype=torch.bool)
    calls = [(features, None), (features[:1], None), (features[:0], None)]
    for rows, mask in [*calls, (features, one_dead), (features, none_alive)]:  # libtorch loads in each
        words = [] if mask is None else [str(int(value)) for value in mask]
        done = subprocess.run(
            [str(program), str(package / "router.pt2"), "4", *words],
            input=" ".join(str(value) for value in rows.flatten().tolist()),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        with torch.no_grad():
            expected = router(rows, action_mask=mask)
        lines = [line.split() for line in done.stdout.splitlines()]
        experts = [[int(word) for word in line[0 : 2 * k : 2]] for line in lines]
        assert experts == expected.experts.tolist()
        weights = [[float(word) for word in line[1 : 2 * k : 2]] for line in lines]
        torch.testing.assert_close(
            torch.tensor(weights).reshape(-1, k), expected.weights, atol=1e-5, rtol=1e-4
        )
        assert [line[2 * k :] == ["fallback"] for line in lines] == expected.fallback.tolist()


def test_without_a_compiler_it_says_so(
    made: Callable[..., Router], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        InputError, match=r"neither g\+\+ nor clang\+\+ is installed; install one, or use pt2"
    ):
        export(made(), tmp_path / "out", format="aoti")
    assert list(tmp_path.iterdir()) == []
