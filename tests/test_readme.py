"""The README is short and names every command; `test_code_blocks.py` runs what stands in it."""

from __future__ import annotations

from pathlib import Path

from train_router import COMMANDS

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readme_is_short_and_names_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    missing = [name for name in COMMANDS if f"`{name}`" not in text and f"make {name}" not in text]
    assert missing == []
