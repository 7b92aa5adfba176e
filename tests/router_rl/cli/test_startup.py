"""Help, names and the version cost little, and import nothing that they do not need."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest

import router_rl
import train_router
from router_rl.cli import COMMANDS
from router_rl.exports.registry import find_format
from router_rl.methods.registry import find_method, method_names
from router_rl.problems.registry import find_options, find_problem, problem_names
from router_rl.problems.rule_names import RULES

ROOT = Path(__file__).resolve().parents[3]
SLOW = ("torch", "sklearn", "scipy", "gymnasium", "stable_baselines3", "transformers")
HEAVY = ("torch", "numpy", "pyarrow", "gymnasium", "sklearn")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_router.main(["--version"]) == 0
    assert capsys.readouterr().out == f"router-rl {version('router-rl')}\n"
    assert router_rl.__version__ == version("router-rl")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], ["list", "--json"]])
def test_help_and_names_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, train_router; status = train_router.main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_imports_no_torch(name: str) -> None:
    check_help([name])


@pytest.mark.slow
@pytest.mark.parametrize("problem", problem_names())
def test_the_options_of_a_problem_are_listed_without_torch(problem: str) -> None:
    help = check_help(["train", "--env", problem])
    assert all(
        f"--problem.{each.name.replace('_', '-')}" in help
        for each in fields(find_problem(problem).options_type)
    )
    assert find_options(problem) is find_problem(problem).options_type
    assert "--method NAME --help" in " ".join(help.split())


def test_the_help_with_a_method_lists_its_hyperparameters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_router.main(["train", "--method", "ridge", "--help"])
    assert "--method.penalty" in capsys.readouterr().out


def check_help(words: list[str]) -> str:
    """Return the help, which must be printed without importing what takes seconds."""
    code = f"""if True:
        import sys, train_router
        try:
            train_router.main(sys.argv[1:])
        finally:
            print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)
    """
    command = [sys.executable, "-c", code, *words, "--help"]
    narrow = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=narrow)
    assert done.stderr.strip() == "[]"
    assert "<class" not in done.stdout
    # argparse does not break an option's name and its value.
    long = [line for line in done.stdout.splitlines() if len(line) > 80]
    assert [line for line in long if not line.startswith("  --") and line.count("--") != 1] == []
    return done.stdout


def test_help_takes_little_time() -> None:
    """In CPU seconds, which other processes of the machine hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "train_router.py", "--help"], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_router.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80
    assert train_router.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("problem", problem_names())
def test_each_method_of_a_problem_is_one_line_of_80_columns(
    problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert train_router.main(["list", "--env", problem]) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, shown)) <= 80
    assert shown[0] == f"{problem}: {find_problem(problem).about}"
    for name in method_names(problem):
        (line,) = (line for line in shown if line.startswith(f"  {name} "))
        assert line.endswith(f" {find_method(problem, name).about}")


def test_every_name_of_list_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Version 1 printed `methods of token moe`, which no option takes."""
    assert train_router.main(["list", "--json"]) == 0
    names = json.loads(capsys.readouterr().out)
    for problem in names["problems"]:
        assert find_problem(problem).name == problem
        for method in names["methods"].pop(problem):
            assert find_method(problem, method).name == method
    assert names["methods"] == {}
    for format in names["formats"]:
        assert find_format(format).write
    assert tuple(names["selections"]) == RULES
    assert train_router.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"methods of {problem} " in shown for problem in names["problems"])
    assert "RouterRL/" not in shown
