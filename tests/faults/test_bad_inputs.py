"""Every bad input is one line that names the field or the file, and changes no file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import train_router

from . import case_runner
from .bad_case import BadCase
from .bad_inputs import all_cases, count_defects, sampled
from .case_runner import Runner
from .good_inputs import LINES, make_inputs

CASES = 540
# Seconds each; the charts of tune reserve more address space than a case may.
SLOW = ("demo", "compare", "collect", "collect models", "train token_moe", "bench", "serve", "tune")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("good") / "inputs"
    folder.mkdir()
    make_inputs(folder)
    return Runner(folder)


def test_no_bad_input_is_a_defect(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    cases = sampled(all_cases(seed=0), CASES, seed=0)
    assert {case.command for case in cases} >= {line[0] for line in LINES.values()}
    assert {case.kind for case in cases} == {
        *("config", "file", "flipped", "option", "path", "table", "useless", "value")
    }
    lines: list[str] = []
    defects = count_defects(cases, tmp_path, lines.append)
    record_property("summary", lines[-1])
    assert not defects, "\n".join(lines)


@pytest.mark.parametrize("name", [name for name in LINES if name not in SLOW])
def test_the_good_line_of_a_command_is_accepted(name: str, runner: Runner) -> None:
    """So a bad input is refused for what is bad about it; and what is accepted is a defect."""
    defect = runner.defect(BadCase(kind="value", words=LINES[name], names=("x",)))
    assert defect is not None
    assert defect.startswith("accepted (exit status 0")


def _fails(error: BaseException) -> Callable[..., int]:
    def main(words: list[str]) -> int:
        raise error

    return main


def _prints(*lines: str, status: int = 2) -> Callable[..., int]:
    def main(words: list[str]) -> int:
        print("\n".join(lines), file=sys.stderr)
        return status

    return main


def _touches(words: list[str]) -> int:
    Path("table.parquet").write_bytes(b"")
    Path("litter").write_bytes(b"")
    print("error: k=1: bad; fix it", file=sys.stderr)
    return 2


def _loops(words: list[str]) -> int:
    while True:
        pass


@pytest.mark.parametrize(
    ("main", "defect"),
    [
        (_fails(TypeError("oops")), "traceback: TypeError"),
        (_fails(MemoryError()), "traceback: MemoryError"),
        (_prints("error: k=1: bad", "and more"), "2 lines"),
        (_prints("k=1: bad"), "no error"),
        (_prints("error: other=1: bad"), "names none of 'k'"),
        (_prints("error: k=\x1b[31m: bad"), "control characters"),
        (_prints("error: k" + "k" * 2000), "characters"),
        (_prints("error: k=1: bad", status=1), "exit status 1"),
        (_touches, "files changed: litter, table.parquet"),
        (_loops, "hangs"),
    ],
)
def test_each_defect_is_noticed(
    main: Callable[..., int], defect: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_router, "main", main)
    monkeypatch.setattr(case_runner, "_SECONDS", 0.2)
    found = runner.defect(BadCase(kind="value", words=("train",), names=("k",)))
    assert found is not None
    assert defect in found
    monkeypatch.setattr(train_router, "main", _prints("error: k=1: bad; fix it"))
    assert runner.defect(BadCase(kind="value", words=("train",), names=("k",))) is None
