"""Text and names use the field's words, not those of version 1."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("router_rl", "envs", "experts")
# Left: what version 1 wrote. Right: what the field writes.
PHRASES = {
    r"\bdearest\b": "most expensive",
    r"\breadouts?\b": "out-of-fold predictions",
    r"\bsurely (better|ahead|behind|worse|above|below)\b": "significantly better, worse",
    r"\blevel with\b": "no significant difference from",
    r"\bpurse\b": "budget",
    r"\bto hold against\b": "to compare with",
    r"\bblind mixture\b": "zero router",
    r"\b(\d+|four|three|two|of) tries\b": "trials",
    r"--tries\b": "--n-trials",
    r"\bremarks\b": "messages",
    r"\basks nothing twice\b": "resumes without repeating requests",
}
NAMES = {
    "found": "the thing's own name",
    "told": "the thing's own name",
    "tell": "callback, report",
    "Tell": "Callback",
    "Watch": "Callback",
    "remarks": "messages",
    "tries": "n_trials",
    "readouts": "out_of_fold",
}
# They name what version 1 wrote, to read it or to say what stands in its place.
EXEMPT = {
    "router_rl/cli/old_options.py",
    "router_rl/studies/runs.py",
    "router_rl/studies/results_reader.py",
    "router_rl/routing/text.py",
    "router_rl/routing/storage.py",
    "CHANGELOG.md",
}


def python_files() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [*files, ROOT / "train_router.py"]


def texts() -> list[Path]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    templates = sorted((ROOT / "router_rl").rglob("*.j2"))
    return [*python_files(), *pages, *templates, *sorted((ROOT / "examples").glob("*.py"))]


@pytest.mark.parametrize("pattern", PHRASES)
def test_phrases(pattern: str) -> None:
    expression = re.compile(pattern, re.IGNORECASE)
    hits = [
        f"{name}:{number}: {line.strip()}"
        for path in texts()
        if (name := str(path.relative_to(ROOT))) not in EXEMPT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if expression.search(line)
    ]
    assert not hits, f"write {PHRASES[pattern]}:\n" + "\n".join(hits)


def test_names() -> None:
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {name} ({NAMES[name]})"
        for path in python_files()
        if str(path.relative_to(ROOT)) not in EXEMPT
        for name, line in _defined(ast.parse(path.read_text(encoding="utf-8")))
        if name in NAMES
    ]
    assert not hits, "\n".join(hits)


def _defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file defines: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
