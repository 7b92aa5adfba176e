"""Kill each command that writes at every one of its file operations: the tests take a sample.

    python benchmarks/kills.py --points 0

Prints a line for each command, then `N kills, M defects`; the exit status is 1 if there are defects.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests` has folders of the packages' names

from faults.good_inputs import make_inputs
from faults.kill_case import defects
from faults.kill_commands import CASES


def main(points: int = 0, case: str | None = None) -> None:
    """Kill the commands, and exit with status 1 if there are defects.

    Args:
        points: kills of each command; 0 for every file operation.
        case: one command only, as `CASES` of `tests/faults/kill_commands.py` names it.
    """
    kills, wrong = 0, []
    with tempfile.TemporaryDirectory() as home:
        os.environ["ROUTER_RL_CACHE"] = f"{home}/cache"
        good = Path(home) / "good"
        good.mkdir()
        make_inputs(good)
        for name, (kills_of, setup) in CASES.items():
            if case not in (None, name):
                continue
            inputs = Path(home) / name / "inputs"
            shutil.copytree(good, inputs)
            os.chdir(inputs)
            setup(inputs)
            count, problems = defects(
                replace(kills_of, points=points or None), inputs, inputs.parent / "work"
            )
            os.chdir("/")
            print(f"{name}: {count} kills, {len(problems)} defects", flush=True)
            for problem in problems:
                print(f"  {problem}", flush=True)
            kills, wrong = kills + count, wrong + problems
    print(f"{kills} kills, {len(wrong)} defects")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    auto_cli(main)
