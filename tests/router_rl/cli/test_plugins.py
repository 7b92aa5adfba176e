"""An installed package adds a method, an environment, a source and an export format.

The package is `tests/fixtures/plugin/router_rl_toy`. Its files and its lines in `entry_points.txt` are what
an addition costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from router_rl.routing import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = Path(__file__).resolve().parents[2] / "fixtures" / "plugin"
Run = Callable[..., list[str]]

# Runs commands, and prints what each wrote to stdout. The last line of stderr names the imported modules.
PROGRAM = """
import contextlib, io, json, sys
import train_router
printed = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert train_router.main(words) == 0
    printed.append(out.getvalue())
print(json.dumps(printed))
found = [name for name in ("torch", "router_rl_toy") if name in sys.modules]
print(" ".join(["imported:", *found]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package as pip does: its folder, and a `.dist-info` with its entry points."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "router_rl_toy", site / "router_rl_toy", ignore=shutil.ignore_patterns("__py*"))
    info = site / "router_rl_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: router-rl-toy\nVersion: 1.0\n")
    shutil.copy(PLUGIN / "entry_points.txt", info)
    return site


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs commands where the package is installed; it returns what each printed."""
    cache = tmp_path_factory.mktemp("cache")

    def commands(*lines: Sequence[object], imported: str | None = None) -> list[str]:
        paths = os.pathsep.join([str(installed), str(ROOT)])
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            "ROUTER_RL_CACHE": str(cache),
            "OMP_NUM_THREADS": "1",
        }
        program = [sys.executable, "-c", PROGRAM, json.dumps([list(map(str, words)) for words in lines])]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if imported is not None:
            assert done.stderr.splitlines()[-1].split()[1:] == imported.split()
        return list(json.loads(done.stdout))

    return commands


def test_its_names_are_listed_without_importing_it(run: Run) -> None:
    names = json.loads(run(["list", "--json"], imported="")[0])
    assert names["problems"][-1] == "battery"
    assert names["methods"]["battery"] == ["saver", "spender"]
    assert names["methods"]["routing"][-1] == "always_last"
    assert names["sources"][-1] == "parity"
    assert names["formats"][-1] == "npz"
    about = json.loads(run(["list", "--env", "battery", "--json"])[0])
    assert about["methods"]["saver"] == {
        "family": "baseline",
        "full_information": False,
        "about": "strong while there is charge",
    }


def test_its_names_are_not_listed_where_it_is_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "train_router.py", "list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "routing" in done.stdout
    assert not any(name in done.stdout for name in ("battery", "always_last", "npz", "parity"))


def test_its_method_is_trained_on_its_source_and_exported_in_its_format(run: Run, tmp_path: Path) -> None:
    folder, words = tmp_path / "run", ["--table", "parity", "--method", "always_last"]
    trained, exported = run(
        ["train", *words, "--method.margin", "2", "--out", folder, "--json"],
        ["export", folder, "--out", tmp_path / "npz", "--format", "npz", "--json"],
    )
    facts = json.loads(trained)
    assert facts["hyperparameters"] == {"margin": 2.0}
    assert facts["experts"] == ["guess", "last-bit"]
    assert facts["test"]["shares"] == [0.0, 1.0]
    assert facts["test"]["quality"] == 1.0  # the last bit is the parity
    assert json.loads(exported)["passed"]
    assert (tmp_path / "npz" / "router.npz").exists()


def test_its_environment_is_trained_compared_exported_and_loaded(run: Run, tmp_path: Path) -> None:
    weak, folder = "--problem.weak", tmp_path / "c"
    words = ["compare", "--env", "battery", weak, "[0.5,0.25]", "--seeds", "2", "--n-trials", "1"]
    trained, exported, compared, shown = run(
        ["train", "--env", "battery", weak, "[0.5]", "--out", tmp_path / "run", "--json"],
        ["export", tmp_path / "run", "--out", tmp_path / "router", "--json"],
        [*words, "--out", folder, "--json"],
        [*words, "--out", folder],
    )
    facts = json.loads(trained)
    assert facts["method"] == "saver"
    assert facts["test"]["utility"] == (1 + 1 + 0.5 + 0.5) / 4
    assert json.loads(exported)["passed"]
    router = load(tmp_path / "router")
    assert router.experts == ("weak", "strong")
    results = json.loads(compared)
    earned = {(row["method"], row["case"]): row["utility_mean"] for row in results["summary"]}
    assert earned == {
        ("saver", "weak 0.5"): 0.75,
        ("saver", "weak 0.25"): 0.625,
        ("spender", "weak 0.5"): 0.5,
        ("spender", "weak 0.25"): 0.5,
    }
    assert results["recommendation"]["method"] == "saver"
    assert (folder / "report.html").exists()
    assert "saver" in shown


def test_what_an_addition_costs() -> None:
    """One file and one line each; an environment is three files: its core, its problem and its methods."""
    files = {
        "method": ["always_last.py"],
        "environment": ["battery_core.py", "battery_problem.py", "battery_rules.py"],
        "source": ["parity_source.py"],
        "format": ["npz_format.py"],
    }
    here = {path.name for path in (PLUGIN / "router_rl_toy").glob("*.py")}
    assert here == {"__init__.py", *(name for names in files.values() for name in names)}
    lines = [line for line in (PLUGIN / "entry_points.txt").read_text().splitlines() if "=" in line]
    modules = [line.partition("router_rl_toy.")[2].partition(":")[0] for line in lines]
    for names in files.values():
        stems = {name.removesuffix(".py") for name in names}
        registered = [module for module in modules if module in stems]
        # The core needs no line; two methods of one file have one each.
        assert len(registered) == (3 if len(names) == 3 else 1)
