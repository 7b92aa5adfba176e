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
from router_rl.exports import export
from router_rl.routing import Router

pytestmark = pytest.mark.timeout(1200)  # half a minute of compiling, where nothing else runs
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def router(made: Callable[..., Router]) -> Router:
    """Return a router with most there is: an MLP, adaptive k, an expert that is barred."""
    return made("mlp", "adaptive", allowed=[True, True, True, True, True, False])


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
def test_a_cpp_program_routes_with_it(router: Router, package: Path, tmp_path: Path) -> None:
    # Built by the command in its own first lines.
    root = Path(torch.__file__).parent
    source = (package / "route.cpp").read_text()
    recipe = source.split("//   g++ ")[1].split("\n//   echo")[0]
    words = recipe.replace("\\\n//", "").replace("$ROOT", str(root)).replace("route.cpp", "-w -O0 route.cpp")
    shutil.copy(package / "route.cpp", tmp_path)
    subprocess.run(["g++", *words.split()], cwd=tmp_path, check=True, capture_output=True, text=True)

    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
    features[2, 1] = float("nan")
    alive = torch.tensor([True, False, True, True, True, True])
    for mask, words in ((None, []), (alive, ["1", "0", "1", "1", "1", "1"])):
        for rows in (features, features[:1], features[:0]):
            done = subprocess.run(
                [str(tmp_path / "route"), str(package / "router.pt2"), "4", *words],
                input=" ".join(str(value) for value in rows.flatten().tolist()),
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
            with torch.no_grad():
                expected = router(rows, action_mask=mask)
            told = [line.split() for line in done.stdout.splitlines()]
            assert [[int(word) for word in line[0:6:2]] for line in told] == expected.experts.tolist()
            weights = torch.tensor([[float(word) for word in line[1:6:2]] for line in told]).reshape(-1, 3)
            torch.testing.assert_close(weights, expected.weights, atol=1e-5, rtol=1e-4)
            assert [line[6:] == ["fallback"] for line in told] == expected.fallback.tolist()


def test_without_a_compiler_it_says_so(
    router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        InputError, match=r"neither g\+\+ nor clang\+\+ is installed; install one, or use pt2"
    ):
        export(router, tmp_path / "out", format="aoti")
    assert list(tmp_path.iterdir()) == []
