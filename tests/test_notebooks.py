"""The notebooks run, and print what is committed with them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from printed_numbers import alike

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "run_notebooks.py"))
NOTEBOOKS: list[Path] = SCRIPT["NOTEBOOKS"]


def printed(notebook: Any) -> list[str]:
    """Return what each cell prints."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(each.text for each in cell.outputs if each.get("name") == "stdout") for cell in cells]


def pictures(notebook: Any) -> int:
    """Return the number of pictures."""
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    return sum("image/svg+xml" in each.get("data", {}) for each in outputs)


def test_there_are_two() -> None:
    assert [path.name for path in NOTEBOOKS] == ["request_level.ipynb", "token_level.ipynb"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute of an idle core
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_prints_what_is_committed(path: Path, tmp_path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    again = SCRIPT["executed"](path, tmp_path)
    pairs = zip(printed(committed), printed(again), strict=True)
    assert [(before, after) for before, after in pairs if not alike(before, after)] == []
    assert pictures(committed) == pictures(again) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_run_in_order_and_nothing_failed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {(each.output_type, each.get("name", "")) for cell in cells for each in cell.outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", ""), ("execute_result", "")}


def test_other_numbers_and_words_are_noticed() -> None:
    assert alike("loss 0.70, 3 rows", "loss 0.71,\n3 rows")
    assert not alike("loss 0.70", "loss 0.78")
    assert not alike("use knn", "use ridge")
