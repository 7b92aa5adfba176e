"""Count the bad inputs that are not refused in one line: a larger sample than the tests'.

    python benchmarks/bad_inputs.py --cases 5000 --seed 1

The generator is that of `tests/faults`. Prints a line for each defect, then `N cases, M defects`; the exit
status is 1 if there are defects.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests` has folders of the packages' names

from faults.bad_inputs import all_cases, count_defects, sampled


def main() -> int:
    """Run the cases of a seed; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="number of cases")
    parser.add_argument("--seed", type=int, default=1, help="of the random parts and of the sample")
    parser.add_argument(
        "--kind", help="cases of this kind only: config, file, flipped, option, path, table, ..."
    )
    options = parser.parse_args()
    cases = [case for case in all_cases(options.seed) if options.kind in (None, case.kind)]
    chosen = sampled(cases, options.cases, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROUTER_RL_CACHE"] = f"{folder}/cache"
        inputs = Path(folder) / "cases"
        inputs.mkdir()
        return int(bool(count_defects(chosen, inputs, partial(print, flush=True))))


if __name__ == "__main__":
    sys.exit(main())
