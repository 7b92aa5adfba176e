"""The Python of the README and of the guide runs as written, and their commands are parsed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/guide.md")  # docs/serve.md has a test of its own


def blocks_of(page: str, language: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page, least in zip(PAGES, (2, 1), strict=True):
        blocks = blocks_of(page, "python")
        assert len(blocks) >= least
        names: dict[str, object] = {"__name__": "readme"}
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    assert (tmp_path / "router" / "parity.json").exists()


def test_the_three_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the table that the README describes: the small model knows one word, the large one nearly all."""
    import train_router

    monkeypatch.chdir(tmp_path)
    rows = [
        f"what is {word} {row},{int(word == 'red')},0.001,{int(word == 'blue' or row % 4 > 0)},0.01"
        for row in range(60)
        for word in ("red", "blue")
    ]
    header = "prompt,quality/small,cost/small,quality/large,cost/large"
    Path("results.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    lines = blocks_of("README.md", "sh")[0].splitlines()
    assert lines[0] == "pip install ."
    assert len(lines) == 4
    for line in lines[1:]:
        program, *words = shlex.split(line)
        assert program == "train-router"
        extra = ["--seeds", "1", "--n-trials", "1"] if words[0] == "compare" else []
        assert train_router.main([*words, *extra]) == 0, line
    assert (tmp_path / "router" / "router.json").exists()
    (block,) = blocks_of("docs/tutorial.md", "python")  # it goes on from these commands
    exec(compile(block, "tutorial.md", "exec"), {"__name__": "tutorial"})


@pytest.mark.parametrize("page", [*PAGES, "docs/tutorial.md"])
def test_the_commands_exist(page: str) -> None:
    import train_router

    lines = [line for block in blocks_of(page, "sh") for line in block.splitlines()]
    named = {shlex.split(line)[1] for line in lines if line.startswith(("train_router.py ", "train-router "))}
    assert named
    assert named <= set(train_router.COMMANDS)


def test_the_readme_is_short_and_names_every_command() -> None:
    import train_router

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    missing = [
        name for name in train_router.COMMANDS if f"`{name}`" not in text and f"make {name}" not in text
    ]
    assert missing == []
