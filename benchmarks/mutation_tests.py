"""The tests that are nearest to a source file.

1. The doctests of the source file.
2. The mirror: `tests/A/B/test_C.py` of `A/B/C.py`.
3. Test files that import the source file, directly or through a name that a package re-exports. Strings
   in registries that name a module count as imports.
4. Where these are fewer than `LEAST` test files: test files that import a file that imports the source
   file; then those one more import away, and so on.

Within a rule, files whose folder is nearer to the mirror come first, then by name. At most `LIMIT` test
files are kept.
"""

from __future__ import annotations

import ast
import re
from functools import cache, cached_property
from pathlib import Path

__all__ = ["LEAST", "LIMIT", "NearestTests"]

LEAST, LIMIT = 2, 5
"""Test files for one source file."""

_OURS = ("router_rl", "envs", "experts", "train_router")
_ENTRY = re.compile(r"((?:router_rl|envs|experts)(?:\.\w+)+)(?::\w+)?")


class NearestTests:
    """Finds the tests of source files by imports, which it reads from the text.

    Args:
        tree: root of the repository.
        limit: most test files for one source file.
    """

    def __init__(self, tree: Path, limit: int = LIMIT) -> None:
        self._tree, self._limit = tree, limit
        self._exports = cache(self._read_exports)

    def of(self, source: str) -> list[str]:
        """Return the nearest tests, nearest first, as paths from the root; [] if there are none.

        Args:
            source: path from the root, such as `router_rl/studies/compare.py`.
        """
        path = Path(source)
        mirror = Path("tests") / path.parent / f"test_{path.name}"
        found = [mirror] if mirror in self._tests else []
        doctests = [source] if ">>> " in (self._tree / path).read_text(encoding="utf-8") else []
        reached = {source}
        while True:
            importers = [test for test, files in self._tests.items() if files & reached and test not in found]
            found += _by_distance(importers, mirror)
            between = {name for name, files in self._sources.items() if files & reached} | reached
            if len(found) >= LEAST or between == reached:
                return [*doctests, *(test.as_posix() for test in found[: self._limit])]
            reached = between

    @cached_property
    def _tests(self) -> dict[Path, set[str]]:
        """Source files that each test file imports."""
        return {
            path.relative_to(self._tree): self._imports(path)
            for path in sorted((self._tree / "tests").rglob("test_*.py"))
            if "fixtures" not in path.parts
        }

    @cached_property
    def _sources(self) -> dict[str, set[str]]:
        """Source files that each source file imports."""
        return {
            path.relative_to(self._tree).as_posix(): self._imports(path)
            for name in _OURS
            for path in [*sorted((self._tree / name).rglob("*.py")), *self._tree.glob(f"{name}.py")]
            if path.name != "__init__.py"
        }

    def _imports(self, path: Path) -> set[str]:
        """Source files of the names that a file imports."""
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = self._module(node, path.parent)
                found |= {file for name in node.names if (file := self._file(module, name.name))}
            elif isinstance(node, ast.Import):
                found |= {file for name in node.names if (file := self._file_of(name.name.split(".")))}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if named := _ENTRY.fullmatch(node.value):
                    parts = named[1].split(".")
                elif path.name == "registry.py" and node.value.isidentifier():
                    parts = [*path.parent.relative_to(self._tree).parts, node.value]
                else:
                    continue
                if file := self._file_of(parts):
                    found.add(file)
        return found

    def _module(self, node: ast.ImportFrom, folder: Path) -> tuple[str, ...]:
        """The absolute module that an import names."""
        named = tuple(node.module.split(".")) if node.module else ()
        if not node.level:
            return named
        for _ in range(node.level - 1):
            folder = folder.parent
        return (*folder.relative_to(self._tree).parts, *named)

    def _file(self, module: tuple[str, ...], name: str) -> str | None:
        """The file where a name of a module is defined, if it is ours."""
        if not module or module[0] not in _OURS:
            return None
        return (
            self._file_of([*module, name])
            or (self._exports(module).get(name) if (self._tree / Path(*module)).is_dir() else None)
            or self._file_of(list(module))
        )

    def _file_of(self, parts: list[str]) -> str | None:
        path = Path(*parts).with_suffix(".py")
        return path.as_posix() if parts[0] in _OURS and (self._tree / path).is_file() else None

    def _read_exports(self, package: tuple[str, ...]) -> dict[str, str]:
        """Files of the names that a package re-exports."""
        path = self._tree / Path(*package) / "__init__.py"
        found: dict[str, str] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")):
            if isinstance(node, ast.ImportFrom):
                module = self._module(node, path.parent)
                for name in node.names:
                    if file := self._file(module, name.name):
                        found[name.asname or name.name] = file
        return found


def _by_distance(tests: list[Path], mirror: Path) -> list[Path]:
    """Test files by the steps between their folder and the mirror's, then by name."""

    def distance(test: Path) -> tuple[int, Path]:
        ours, theirs = mirror.parent.parts, test.parent.parts
        shared = next(
            (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
        )
        common = min(len(ours), len(theirs)) if shared is None else shared
        return len(ours) + len(theirs) - 2 * common, test

    return sorted(tests, key=distance)
