"""Options of version 1 and their replacements."""

from __future__ import annotations

__all__ = ["OLD"]

OLD = {
    "tries": "n-trials",
    "method.gate": "method.start",
    "settings": "method",
    "options": "problem",
    "limit": "objective.max-cost",
    "objective.limit": "objective.max-cost",
    "load-weight": "objective.load-weight",
    "window": "objective.window",
    "budget": "objective.budget",
    "select": "problem.select",
    "k": "problem.k",
    "tree": "problem.tree",
    "scorer": "problem.scorer",
    "observe-load": "problem.observe-load",
    "feedback": "problem.feedback",
    "log": "problem.log",
    "features": "problem.features",
    "features.analyser": "problem.features.analyzer",
    "features.shortest": "problem.features.ngram-range",
    "features.longest": "problem.features.ngram-range",
    "features.terms": "problem.features.max-features",
    "features.least": "problem.features.min-df",
    "features.readouts": "problem.features.out-of-fold",
    "device": "problem.device",
    "compile": "problem.compile",
}
