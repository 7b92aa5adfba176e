"""SECURITY.md names every direct dependency, with the minimum versions of pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest needs it there
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
DEVELOPMENT = {  # "the other tools of development"
    *(
        "pytest-cov",
        "pytest-xdist",
        "pytest-timeout",
        "hypothesis",
        "import-linter",
        "selenium",
        "cosmic-ray",
    ),
    *("basedpyright", "build", "nox", "pre-commit", "ruff"),
}


def requirements() -> dict[str, set[str]]:
    """Minimum versions of every direct dependency, of the build and of the extras too."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = content["project"]
    lines = [*content["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    found: dict[str, set[str]] = {}
    for line in lines:
        match = re.match(r"([\w-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", line)
        assert match is not None, line
        if match[1] != "router-rl":
            assert match[2], f"{line} has no minimum"
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_minimum_versions_are_those_of_the_package() -> None:
    rows = dict(re.findall(r"(?m)^\| ([\w-]+) \| ([\d.]+) \| \[CVE-", PAGE))
    assert len(rows) >= 10
    minimums = requirements()
    assert rows == {name: ", ".join(sorted(minimums.get(name, {"absent"}))) for name in rows}


def test_every_dependency_is_named() -> None:
    rows = set(re.findall(r"(?m)^\| ([\w-]+) \| [\d.]+ \|", PAGE))
    others = re.search(r"sets the minimum of (.*?), and the other tools of development", PAGE, re.DOTALL)
    assert others is not None
    named = rows | set(re.split(r",\s+", others[1].strip()))
    assert named == set(requirements()) - DEVELOPMENT


def test_the_promises_on_pickles_hold() -> None:
    """No module of the package unpickles: no pickle, joblib.load, torch.load, and no numpy with pickles."""
    calls = re.compile(r"\bimport pickle\b|\bpickle\.load|\bjoblib\.load|\btorch\.load\(|allow_pickle=True")
    for package in ("router_rl", "envs", "experts"):
        for path in (ROOT / package).rglob("*.py"):
            assert not calls.search(path.read_text(encoding="utf-8")), path


def test_models_are_read_from_local_files_without_their_code() -> None:
    for package in ("router_rl", "experts"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "trust_remote_code=True" not in text, path
            for call in re.findall(r"\w\.from_pretrained\((?!\")[^)]*\)?", text):
                assert "local_files_only=True" in call or "**_LOCAL" in call, f"{path}: {call}"
