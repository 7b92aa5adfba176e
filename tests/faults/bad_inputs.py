"""Generator of bad inputs over every command, and the count of defects.

A bad input passes if the command ends with exit status 2 within seconds, prints one line on stderr that
begins with `error: ` and names the bad field or file, and changes no file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from .bad_case import BadCase
from .bad_configs import config_cases
from .bad_files import flipped_cases, path_cases, table_cases, text_cases
from .bad_values import option_cases, value_cases
from .case_runner import Runner
from .good_inputs import make_inputs

__all__ = ["all_cases", "count_defects", "sampled"]


def all_cases(seed: int) -> list[BadCase]:
    """Return every case.

    Args:
        seed: of the random parts: where values stand, where files are cut, which bits are flipped.
    """
    rng = Random(seed)
    return [
        *option_cases(),
        *config_cases(),
        *path_cases(),
        *table_cases(rng),
        *text_cases(rng),
        *value_cases(rng),
        *flipped_cases(rng, 500),
    ]


def sampled(cases: Sequence[BadCase], count: int, seed: int) -> list[BadCase]:
    """Return some of the cases, as evenly over commands and kinds as there are cases.

    Args:
        cases: the cases.
        count: how many to return, at most.
        seed: of the sample.
    """
    rng = Random(seed)
    groups: dict[tuple[str, str], list[BadCase]] = defaultdict(list)
    for case in cases:
        groups[case.command, case.kind].append(case)
    for group in groups.values():
        rng.shuffle(group)
    chosen: list[BadCase] = []
    while len(chosen) < count and any(groups.values()):
        for key in sorted(groups):
            if groups[key] and len(chosen) < count:
                chosen.append(groups[key].pop())
    return chosen


def count_defects(cases: Sequence[BadCase], folder: Path, report: Callable[[str], None] = print) -> list[str]:
    """Run cases; returns a line for each defect, and reports `N cases, M defects`.

    Args:
        cases: the cases.
        folder: an empty folder.
        report: is called with each line of text.
    """
    inputs = folder / "inputs"
    inputs.mkdir()
    make_inputs(inputs)
    runner = Runner(inputs)
    defects = []
    for case in cases:
        problem = runner.defect(case)
        if problem is not None:
            about = f" ({case.about[:200]})" if case.about else ""
            defects.append(f"{case.kind}: {' '.join(map(repr, case.words))[:400]}{about}: {problem}")
            report(defects[-1])
    report(f"{len(cases)} cases, {len(defects)} defects")
    return defects
