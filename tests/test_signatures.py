"""No public function has more than 8 parameters; more belong in an options dataclass."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 8

# Arrays and sizes of one operation on a device, in the order of the operation.
KERNELS = "router_rl/routing/kernels/"


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> int:
    """How many arguments a caller can give by name or place; `self` and `cls` do not count."""
    arguments = node.args
    count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)
    return count - (method and not static)


def functions(node: ast.AST, owner: str = "") -> Iterator[tuple[str, int]]:
    """Public functions and methods, constructors included, with their numbers of parameters."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from functions(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (
            child.name == "__init__" or not child.name.startswith("_")
        ):
            yield owner + child.name, parameters(child, bool(owner))


def long_signatures() -> set[str]:
    """Return `file function` of each public function with too many parameters."""
    files = [ROOT / "train_router.py"]
    for package in ("router_rl", "envs", "experts"):
        files += sorted((ROOT / package).rglob("*.py"))
    found = set()
    for path in files:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(KERNELS):
            continue
        for name, count in functions(ast.parse(path.read_text(encoding="utf-8"))):
            if count > MOST:
                found.add(f"{place} {name}")
    return found


def test_no_public_function_has_more_than_8_parameters() -> None:
    assert long_signatures() == set()


def test_the_count_is_that_of_a_caller() -> None:
    source = (
        "class A:\n def f(self, a, /, b, *c, d, **e): ...\n @staticmethod\n def g(a): ...\ndef _h(a): ...\n"
    )
    assert dict(functions(ast.parse(source))) == {"A.f": 3, "A.g": 1}
