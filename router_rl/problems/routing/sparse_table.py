"""What the routing problem asks of a sparse table, and what it says about it."""

from __future__ import annotations

from experts import InputError, OutcomeTable
from experts.table.missing_outcomes import complete_rows, missing_text
from experts.table.splitting import SPLITS

__all__ = ["check_complete", "sparse_notes"]


def check_complete(table: OutcomeTable, feedback: str) -> None:
    """Check that outcomes are missing of training rows only.

    Args:
        table: the table.
        feedback: `full` or `bandit`, which hides outcomes itself and needs all of them.

    Raises:
        InputError: other outcomes are missing; says how many.
    """
    missing = table.missing
    if not missing:
        return
    complete = complete_rows(table.quality)
    for name in SPLITS[1:]:
        rows = table.split == name
        lacking = int((rows & ~complete).sum())
        if lacking:
            problem = f"{lacking:,} of {int(rows.sum()):,} rows lack the outcome of some expert"
            fix = (
                "put incomplete rows in train, or leave them out as `import --missing keep` does; without a "
                "column `split`, complete rows are chosen"
            )
            raise InputError("split", name, problem, fix)
    if feedback == "bandit":
        problem = (
            f"is simulated from every expert's outcomes, and {missing_text(missing, table.quality.size)}"
        )
        raise InputError("problem.feedback", feedback, problem, "use full feedback")


def sparse_notes(missing: int, total: int) -> tuple[str, ...]:
    """Return the note that every output shows, if training outcomes are missing.

    Args:
        missing: how many are.
        total: number of pairs of training query and expert.
    """
    if not missing:
        return ()
    return (
        f"sparse table, training rows: {missing_text(missing, total)}; they are estimated from the features "
        "and the other experts' outcomes. Validation, tuning and test rows are complete",
    )
