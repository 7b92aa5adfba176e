"""Every benchmark command that the documents name is understood by its script."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import jsonargparse
import pytest
from benchmark_scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if not path.stem.startswith("golden")]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *SCRIPTS]
COMMAND = re.compile(r"python benchmarks/(\w+)\.py([^`]*)")


def _blocks(text: str) -> list[str]:
    """Indented blocks and text between backticks, each on one line."""
    inline = re.findall(r"`(python benchmarks/[^`]+)`", text)
    indented = re.findall(r"(?:^(?: {4}|> ).*\n?)+", text, flags=re.MULTILINE)
    lines: list[str] = []
    for block in indented:
        joined = block.replace("\\\n", " ")
        # A line that starts another command ends the one before.
        lines += [" ".join(part.split()) for part in re.split(r"\n(?= {4}python )", joined)]
    return [*(" ".join(part.split()) for part in inline), *lines]


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Scripts and arguments of the benchmark commands in a text."""
    found: list[tuple[str, list[str]]] = []
    for block in _blocks(text):
        match = COMMAND.match(block)
        if match is not None:
            found.append((match[1], shlex.split(match[2])))
    return found


def _text(path: Path) -> str:
    """A page, or the docstring of a script."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else ast.get_docstring(ast.parse(text)) or ""


COMMANDS = {
    f"{path.relative_to(ROOT)}: {script} {' '.join(arguments)}": (script, arguments)
    for path in PAGES
    for script, arguments in commands_of(_text(path))
}


def _understands(script: str, arguments: list[str]) -> None:
    """Parse the arguments as the script does, without a run.

    Raises:
        SystemExit: an option is unknown or a value has the wrong type.
    """
    jsonargparse.auto_parser(benchmark(script).main).parse_args(arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_understands_the_command_of_a_document(name: str) -> None:
    script, arguments = COMMANDS[name]
    _understands(script, arguments)


def test_an_option_of_version_1_is_found() -> None:
    (command,) = commands_of("    python benchmarks/load.py --out runs/load --tries 1\n")
    with pytest.raises(SystemExit):
        _understands(*command)


def test_commands_over_several_lines_are_read_whole() -> None:
    first = "    python benchmarks/cascade.py --seeds 1 \\\n        --tables '[digits]'\n"
    text = f"{first}    python benchmarks/em.py\n"
    assert commands_of(text) == [
        ("cascade", ["--seeds", "1", "--tables", "[digits]"]),
        ("em", []),
    ]
