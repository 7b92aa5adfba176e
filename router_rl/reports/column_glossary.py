"""Names, abbreviations and meanings of the measured columns of `results.json`."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Term", "term_of"]


class Term(NamedTuple):
    """How a measured column is printed.

    Attributes:
        label: in reports and documents.
        short: at the terminal, where width is scarce.
        meaning: one sentence; empty where nothing is known of the column.
        digits: decimals.
    """

    label: str
    short: str
    meaning: str = ""
    digits: int = 3


_TERMS: dict[str, Term] = {
    "quality": Term("quality", "quality", "mean quality of the answers, from 0 to 1."),
    "compute": Term("compute", "compute", "mean cost divided by the cost of the most expensive expert."),
    "load_cv": Term(
        "load CV",
        "CV",
        "coefficient of variation of the experts' shares: 0 when all experts work equally, "
        "√(N\N{MINUS SIGN}1) when one of N does everything.",
        2,
    ),
    "max_over_mean": Term(
        "max/mean share", "max/mean", "share of the busiest expert over the mean share.", 2
    ),
    "drops": Term("dropped", "dropped", "share of the decisions above the experts' capacity."),
    "asked": Term("asked", "asked", "experts asked per query.", 2),
    "unanswered": Term("unanswered", "unansw.", "share of the queries that end without an answer."),
    "missed": Term("missed", "missed", "share of the requests that finish after their deadline."),
    "late": Term("late", "late", "share of the requests that finish after their deadline."),
    "lateness": Term("lateness", "lateness", "mean time past the deadline, in deadlines, weighted by value."),
    "overspend": Term("overspend", "overspend", "compute above the budget."),
    "wait_s": Term("wait (s)", "wait s", "mean seconds that a request waits for an expert to be loaded."),
    "waited": Term("waited", "waited", "share of the requests that wait for an expert to be loaded."),
    "loaded_gb": Term("loaded (GB)", "GB", "gigabytes copied to GPU memory per request."),
    "perplexity": Term("perplexity", "perplex.", "exp of the mean loss per token.", 2),
    "gain_kept": Term(
        "gain kept", "kept", "share of the matching experts' gain over the base, on text of one domain.", 3
    ),
    "experts_run": Term("experts run", "experts", "experts run per token and layer.", 2),
}
_PARTS = {"_s": " (s)", "_gb": " (GB)"}  # units at the end of a name


def term_of(name: str) -> Term:
    """How a column is printed; a name that is not known is spelled out.

    Args:
        name: as in `results.json`, without `_mean`.

    >>> term_of("load_cv").label, term_of("wait_p95").label, term_of("p95_s").label, term_of("loss/law").label
    ('load CV', 'wait p95', 'p95 (s)', 'loss on law')
    """
    if name in _TERMS:
        return _TERMS[name]
    label = name
    for ending, unit in _PARTS.items():
        if label.endswith(ending):
            label = label.removesuffix(ending) + unit
    label = label.replace("_", " ").replace("/", " on ")
    return Term(label, label)
