"""The README's Python runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "router" / "parity.json").exists()


def test_the_commands_in_the_readme_exist() -> None:
    import train_router

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"train_router\.py (\w+)", text))
    assert {"collect", "train", "compare", "evaluate", "export", "list"} <= named
    assert named <= set(train_router.COMMANDS)
