"""Every module can be imported without `fcntl`, which Windows does not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Packages of optional extras: a module that needs one is left out where it is not installed.
OPTIONAL = ("triton", "onnx", "onnxruntime", "onnxscript", "gguf", "litellm", "ray", "transformers",
            "tokenizers", "accelerate", "peft", "fastapi", "uvicorn", "sqlalchemy", "psycopg", "optuna",
            "prometheus_client", "mlflow", "wandb", "aiolimiter")  # fmt: skip

SCRIPT = f"""
import importlib, sys
sys.modules["fcntl"] = None
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {OPTIONAL!r}:
            raise
        print("left out", name)
    else:
        print("imported", name)
"""


@pytest.mark.slow
def test_every_module_is_imported_without_fcntl() -> None:
    files = [path for package in ("experts", "envs", "router_rl") for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files)]
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(name.removesuffix(".__init__") for name in names)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    imported = [line for line in found.stdout.splitlines() if line.startswith("imported ")]
    assert len(imported) > 0.9 * len(names)
