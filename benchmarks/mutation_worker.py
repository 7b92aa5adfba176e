"""Runs tests in forks of a process that has imported the libraries, but nothing of the repository.

    python benchmarks/mutation_worker.py

Reads jobs from standard input, a JSON object a line: `module` to import, `tests` (node ids), `limit`
(seconds) and `log` (file for the output). Writes a word for each: `survived`, `killed`, `timeout`, or
`incompetent` if the module cannot be imported. To import torch and pytest's plugins takes longer than most
tests.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_LIBRARIES = (
    *("torch", "numpy", "scipy.stats", "sklearn.ensemble", "sklearn.linear_model", "sklearn.neighbors"),
    *("gymnasium", "stable_baselines3", "pyarrow.parquet", "safetensors.torch", "jsonargparse"),
    *("altair", "joblib", "filelock", "jinja2", "yaml", "rich.console", "optuna", "transformers"),
    *("hypothesis", "xdist", "pytest_timeout", "pytest_cov"),
)
_CANNOT_IMPORT = 70


def main() -> None:
    """Import the libraries, then run jobs until the input ends."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)


def run(module: str, tests: Sequence[str], limit: float, log: str) -> str:
    """Run tests in a fork and return the word for their result.

    Args:
        module: to import first.
        tests: node ids; none survive.
        limit: seconds after which the fork is killed.
        log: file for what it prints.
    """
    child = os.fork()
    if not child:
        os.setsid()
        _child(module, tests, Path(log))
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _kill(child)  # what it started
            code = os.waitstatus_to_exitcode(status)
            return {0: "survived", _CANNOT_IMPORT: "incompetent"}.get(code, "killed")
        time.sleep(0.02)
    _kill(child)
    os.waitpid(child, 0)
    return "timeout"


def _child(module: str, tests: Sequence[str], log: Path) -> Any:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        try:
            importlib.import_module(module)
        except BaseException:
            os._exit(_CANNOT_IMPORT)
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={log.with_suffix('')}"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins that were imported before
        code = int(pytest.main([*options, *tests])) if tests else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
