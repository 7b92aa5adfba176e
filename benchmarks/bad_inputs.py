"""Count the bad inputs that are not refused in one line: a larger sample than the tests'.

    python benchmarks/bad_inputs.py --cases 5000 --seed 1

The generator is that of `tests/faults`. Prints a line for each defect, then `N cases, M defects`; the exit
status is 1 if there are defects.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests` has folders of the packages' names

from faults.bad_inputs import all_cases, count_defects, sampled


def main(cases: int = 5000, seed: int = 1, kind: str | None = None) -> None:
    """Run the cases of a seed, and exit with status 1 if there are defects.

    Args:
        cases: number of cases.
        seed: of the random parts and of the sample.
        kind: cases of this kind only: config, file, flipped, option, path, table, useless, value.
    """
    every = [case for case in all_cases(seed) if kind in (None, case.kind)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROUTER_RL_CACHE"] = f"{folder}/cache"
        inputs = Path(folder) / "cases"
        inputs.mkdir()
        sys.exit(bool(count_defects(sampled(every, cases, seed), inputs, partial(print, flush=True))))


if __name__ == "__main__":
    auto_cli(main)
