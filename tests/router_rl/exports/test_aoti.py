"""The AOTInductor package answers as the router, from Python and from a C++ program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experts import InputError
from router_rl.exports import aoti, export
from router_rl.routing import Router

pytestmark = pytest.mark.timeout(1200)  # half a minute of compiling, where nothing else runs
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


# Rules that differ in what is compiled: an MLP with adaptive k and an expert that is barred; top-1; top-k
# renormalised; sigmoid with a bias and groups; a tree of choices.
CASES: dict[str, tuple[str, str, list[bool] | None]] = {
    "adaptive": ("mlp", "adaptive", [True, True, True, True, True, False]),
    "hard": ("linear", "hard", None),
    "softmax": ("linear", "softmax", None),
    "deepseek": ("linear", "deepseek", None),
    "tree": ("mlp", "tree", None),
}


@pytest.fixture(scope="module", params=list(CASES))
def router(request: pytest.FixtureRequest, made: Callable[..., Router]) -> Router:
    """Return a router of each case."""
    kind, rule, allowed = CASES[request.param]
    return made(kind, rule, allowed=allowed)


@pytest.fixture(scope="module")
def package(
    router: Router, holds: Callable[[Router, Path, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a checked export: compiling takes a while, so it is made once."""
    folder = tmp_path_factory.mktemp("aoti") / "router"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder.parent / "cache"))
        holds(router, folder, "aoti")
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the C++ program, built by the command in its own first lines."""
    folder, root = tmp_path_factory.mktemp("cpp"), Path(torch.__file__).parent
    shutil.copy(Path(aoti.__file__).with_name("route.cpp"), folder)
    recipe = (folder / "route.cpp").read_text().split("//   g++ ")[1].split("\n//   echo")[0]
    words = recipe.replace("\\\n//", "").replace("$ROOT", str(root)).replace("route.cpp", "-w -O0 route.cpp")
    subprocess.run(["g++", *words.split()], cwd=folder, check=True, capture_output=True, text=True)
    return folder / "route"


@needs_compiler
def test_the_package_says_what_it_was_built_for(package: Path) -> None:
    described = json.loads((package / "router.json").read_text())
    assert described["built_for"] == {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    assert sorted(path.name for path in package.iterdir()) == [
        "README.md",
        "parity.json",
        "route.cpp",
        "router.json",
        "router.pt2",
    ]


@needs_compiler
def test_a_cpp_program_routes_with_it(router: Router, package: Path, program: Path) -> None:
    k = router.rule.k
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
    features[2, 1], features[4, 0] = float("nan"), float("inf")
    one_dead = torch.tensor([True, False, True, True, True, True])
    nobody = torch.zeros(6, dtype=torch.bool)
    for mask in (None, one_dead, nobody):
        words = [] if mask is None else [str(int(value)) for value in mask]
        for rows in (features, features[:1], features[:0]):
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
            told = [line.split() for line in done.stdout.splitlines()]
            assert [[int(word) for word in line[0 : 2 * k : 2]] for line in told] == expected.experts.tolist()
            weights = [[float(word) for word in line[1 : 2 * k : 2]] for line in told]
            torch.testing.assert_close(
                torch.tensor(weights).reshape(-1, k), expected.weights, atol=1e-5, rtol=1e-4
            )
            assert [line[2 * k :] == ["fallback"] for line in told] == expected.fallback.tolist()


def test_without_a_compiler_it_says_so(
    made: Callable[..., Router], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        InputError, match=r"neither g\+\+ nor clang\+\+ is installed; install one, or use pt2"
    ):
        export(made(), tmp_path / "out", format="aoti")
    assert list(tmp_path.iterdir()) == []
