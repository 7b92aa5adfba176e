"""The house: its rooms and floors, file names, and the picture in CONTRIBUTING.md."""

from __future__ import annotations

import runpy
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docs" / "house.py"
SHARED_NAMES = {"__init__.py", "registry.py", "problem.py"}


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(SCRIPT))


def test_the_house_has_few_rooms_and_no_upward_import(script: dict[str, object]) -> None:
    counts = script["house"]()  # type: ignore[operator]
    assert counts["rooms"] <= 13
    assert counts["floors"] <= 9
    assert (counts["upward"], counts["circles"]) == (0, 0)


def test_the_picture_is_that_of_the_code(script: dict[str, object]) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert script["picture"]() in page, "run python docs/house.py --write"  # type: ignore[operator]


def test_rooms_hold_the_files() -> None:
    assert [path.name for path in (ROOT / "router_rl").glob("*.py")] == ["__init__.py"]
    assert [path.name for path in (ROOT / "experts").glob("*.py")] == ["__init__.py"]
    rooms = [path for path in (ROOT / "experts").iterdir() if (path / "__init__.py").exists()]
    assert len(rooms) <= 9


def test_file_names_are_unique() -> None:
    files = [path for top in ("router_rl", "envs", "experts") for path in (ROOT / top).rglob("*.py")]
    names = Counter(path.name for path in files if path.name not in SHARED_NAMES)
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short() -> None:
    files = [path for top in ("router_rl", "envs", "experts") for path in (ROOT / top).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_file_is_part_of_a_circle() -> None:
    graph = grimp.build_graph("router_rl", "envs", "experts", cache_dir=None)
    packages = {module for module in graph.modules if graph.find_children(module)}
    files = {
        module: graph.find_modules_directly_imported_by(module) - packages
        for module in graph.modules - packages
    }
    TopologicalSorter(files).prepare()  # raises CycleError, which names the files
