"""The mutants of a folder in a seeded order, each at a place of its own; cosmic-ray makes them.

A mutant is viable if it compiles, its module can be imported, and it changes code that runs. Annotations,
the arguments of dataclass decorators (`frozen`, `kw_only`) and `strict=` of `zip` do not count: they guard
against mistakes of programmers and change no result.
"""

from __future__ import annotations

import ast
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec

__all__ = ["changes_what_runs", "identifier", "mutants_in", "mutated"]


def mutants_in(tree: Path, room: str, seed: int) -> list[MutationSpec]:
    """Return the mutants of a folder in a random order, at most one at each place of the text.

    Args:
        tree: root of the repository.
        room: folder below it, such as `router_rl/studies`.
        seed: of the order.
    """
    found: list[MutationSpec] = []
    for path in sorted((tree / room).rglob("*.py")):
        found += _mutants_of(path, path.relative_to(tree))
    random.Random(seed).shuffle(found)
    places: set[tuple[Path, tuple[int, int]]] = set()
    kept: list[MutationSpec] = []
    for one in found:
        place = (one.module_path, one.start_pos)
        if place not in places:
            places.add(place)
            kept.append(one)
    return kept


def mutated(source: str, mutant: MutationSpec) -> str | None:
    """Return the source with the mutant planted; None if the mutant does not apply to it."""
    operator = get_operator(mutant.operator_name)()
    return mutate_code(source, operator, mutant.occurrence)


def identifier(mutant: MutationSpec) -> str:
    """Return the same 16 hexadecimal digits for the same mutant in every run."""
    name = f"{mutant.module_path.as_posix()} {mutant.operator_name} {mutant.occurrence}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def changes_what_runs(source: str, changed: str) -> bool:
    """Return whether a mutant compiles and differs from the source in more than annotations.

    >>> changes_what_runs("def f(x: int | None): return x + 1", "def f(x: int & None): return x + 1")
    False
    >>> changes_what_runs("x = 1 + 2", "x = 1 - 2")
    True
    """
    try:
        compile(changed, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return _what_runs(source) != _what_runs(changed)


def _mutants_of(path: Path, name: Path) -> Iterator[MutationSpec]:
    nodes = list(ast_nodes(get_ast(path.read_text(encoding="utf-8"))))
    for operator_name in sorted(operator_names()):
        operator_class = get_operator(operator_name)
        if operator_class.arguments():  # asks for names of variables
            continue
        operator = operator_class()
        places = ((node, place) for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (node, (start, end)) in enumerate(places):
            yield MutationSpec(
                module_path=name,
                operator_name=operator_name,
                occurrence=occurrence,
                start_pos=start,
                end_pos=end,
                definition_name=ASTQuery(node).get_definition_name(),
            )


def _what_runs(source: str) -> str:
    return ast.dump(_WithoutGuards().visit(ast.parse(source)))


class _WithoutGuards(ast.NodeTransformer):
    """Takes out what changes no result of a correct program."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name):
            if node.func.id == "dataclass":
                return node.func
            if node.func.id == "zip":
                node.keywords = []
        return self.generic_visit(node)
