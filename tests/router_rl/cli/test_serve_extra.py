"""The commands of `serve` without the packages of the extra `[serve]`: one line that says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--router", "router", "--models", "models.yaml"],
        ["promote", "router"],
        ["rollback"],
        ["log", "export", "--out", "log.parquet"],
    ],
)
def test_a_missing_package_is_one_line(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; "  # as if it were not installed
        "import train_router; sys.exit(train_router.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words[0]}='sqlalchemy")
    assert done.stderr.strip().endswith("pip install 'router-rl[serve]'")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
