"""Runs the notebooks of the documentation and writes them with their outputs.

python docs/run_notebooks.py
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """Return a notebook with its outputs, without times, progress and warnings, which differ from run to run.

    Args:
        path: the notebook; it is not changed.
        folder: where it runs, and where it writes files.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # more threads are slower, and round otherwise
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
    client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return CoalesceStreamsPreprocessor().preprocess(notebook, {})[0]


if __name__ == "__main__":
    for notebook in NOTEBOOKS:
        with TemporaryDirectory() as home:
            nbformat.write(executed(notebook, Path(home)), notebook)
