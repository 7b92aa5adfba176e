"""Draws the house: rooms, floors and the imports between them, as Mermaid in CONTRIBUTING.md.

    python docs/house.py           print the picture and the counts
    python docs/house.py --write   put them into CONTRIBUTING.md

A room is a first-level folder of `router_rl/`, or `envs`, `experts`, `train_router.py`. A room's floor is one
above the highest room that it imports, so that imports go down unless there is a circle.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

__all__ = ["floors", "house", "imports_between_rooms", "picture"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- house: python docs/house.py --write -->", "<!-- end of house -->"
PROGRAM = "train_router.py"


@cache
def imports_between_rooms() -> dict[str, set[str]]:
    """Each room, and the rooms that its files import."""
    graph = grimp.build_graph("router_rl", "envs", "experts", cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        room = _room(module)
        if room is None:
            continue
        others = {_room(other) for other in graph.find_modules_directly_imported_by(module)}
        found.setdefault(room, set()).update(other for other in others if other not in (None, room))
    found[PROGRAM] = _imported_by_program()
    return found


def floors() -> dict[str, int]:
    """The floor of each room, from 1.

    Raises:
        CycleError: rooms import each other in a circle.
    """
    rooms = imports_between_rooms()
    found: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        found[room] = 1 + max((found[other] for other in rooms[room]), default=0)
    return found


def house() -> dict[str, int]:
    """Counts: rooms, floors, imports between rooms, those that go up, and circles."""
    rooms = imports_between_rooms()
    try:
        levels, circles = floors(), 0
    except CycleError:
        levels, circles = {}, 1
    upward = sum(levels[other] >= levels[room] for room in levels for other in rooms[room])
    return {
        "rooms": len(rooms),
        "floors": max(levels.values(), default=0),
        "imports": sum(map(len, rooms.values())),
        "upward": upward,
        "circles": circles,
    }


def picture() -> str:
    """The house as Mermaid, and its counts in one sentence."""
    rooms, levels = imports_between_rooms(), floors()
    lines = ["```mermaid", "flowchart TB"]
    for level in sorted(set(levels.values()), reverse=True):
        names = sorted(room for room in rooms if levels[room] == level)
        lines.append(f"    subgraph floor{level}[floor {level}]")
        lines += [f'        {_id(name)}["{name}"]' for name in names]
        lines.append("    end")
    for room in sorted(rooms, key=lambda name: (-levels[name], name)):
        # Rooms that are reached through another import are left out, so that the picture can be read.
        direct = {
            other
            for other in rooms[room]
            if not any(other in _below(rooms, via) for via in rooms[room] - {other})
        }
        lines += [f"    {_id(room)} --> {_id(other)}" for other in sorted(direct)]
    counts = house()
    return "\n".join(
        [
            *lines,
            "```",
            "",
            f"{counts['rooms']} rooms on {counts['floors']} floors, {counts['imports']} imports between "
            f"rooms, {counts['upward']} upward, {counts['circles']} circles. An arrow is left out where a "
            "longer path stands for it.",
        ]
    )


def _below(rooms: dict[str, set[str]], room: str) -> set[str]:
    """Every room that a room imports, directly or not."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        for other in rooms[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def _room(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "router_rl":
        return parts[0]
    return parts[1] if len(parts) > 1 else None


def _imported_by_program() -> set[str]:
    tree = ast.parse((ROOT / PROGRAM).read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    rooms = {_room(module) for module in modules if module.split(".")[0] in ("router_rl", "envs", "experts")}
    return {room for room in rooms if room is not None}


def _id(room: str) -> str:
    return room.replace(".", "_")


def main() -> None:
    """Print the picture, or put it into CONTRIBUTING.md."""
    if "--write" not in sys.argv[1:]:
        print(picture())
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{picture()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
