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
TOOLS = ("test", "dev", "docs")  # extras with "the other tools of development"


def requirements() -> dict[str, dict[str, set[str]]]:
    """Minimum versions of every direct dependency by where it is declared: `build`, `core` or an extra."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = content["project"]
    groups = {"build": content["build-system"]["requires"], "core": project["dependencies"]}
    found: dict[str, dict[str, set[str]]] = {}
    for group, lines in {**groups, **project["optional-dependencies"]}.items():
        for line in lines:
            match = re.match(r"([\w-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", line)
            assert match is not None, line
            if match[1] != "router-rl":
                assert match[2], f"{line} has no minimum"
                found.setdefault(group, {}).setdefault(match[1], set()).add(match[2])
    return found


def test_minimum_versions_are_those_of_the_package() -> None:
    rows = dict(re.findall(r"(?m)^\| ([\w-]+) \| ([\d.]+) \| \[CVE-", PAGE))
    assert len(rows) >= 10
    minimums: dict[str, set[str]] = {}
    for group in requirements().values():
        for name, versions in group.items():
            minimums.setdefault(name, set()).update(versions)
    assert rows == {name: ", ".join(sorted(minimums.get(name, {"absent"}))) for name in rows}


def test_every_dependency_is_named() -> None:
    rows = set(re.findall(r"(?m)^\| ([\w-]+) \| [\d.]+ \|", PAGE))
    others = re.search(r"sets the minimum of (.*?), and the other tools of development", PAGE, re.DOTALL)
    assert others is not None
    named = rows | set(re.split(r",\s+", others[1].strip()))
    groups = requirements()
    used = {name for group, own in groups.items() if group not in TOOLS for name in own}
    tools = {name for group in TOOLS for name in groups.get(group, {})}
    assert used <= named <= used | tools


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
