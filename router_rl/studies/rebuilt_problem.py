"""The problem that a run was trained on, from its file and a table."""

from __future__ import annotations

from dataclasses import replace

from experts import InputError, OutcomeTable

from ..problems.options import options_from_json
from ..problems.routing.problem import RoutingProblem
from ..problems.routing.routing_options import RoutingOptions
from .runs import TrainedRun

__all__ = ["rebuilt_problem"]


def rebuilt_problem(run: TrainedRun, table: OutcomeTable) -> RoutingProblem:
    """Return the routing problem of a run, with its options and objectives, on a table.

    Args:
        run: a run of the routing problem.
        table: with the run's experts.

    Raises:
        InputError: the run is of another problem or of version 1, or the table has other experts.
    """
    facts, folder = run.facts, str(run.folder)
    name = facts["problem"]["name"]
    if name != "routing":
        raise InputError("run", folder, f"is a run of {name}", "use a routing run")
    kept = facts["problem"].get("options")
    if kept is None or "cases" not in facts:
        raise InputError("run", folder, "was written by version 1, which kept no options", "train again")
    if list(table.experts) != facts["experts"]:
        problem = f"has other experts than the run, which has {', '.join(facts['experts'])}"
        raise InputError("table", table.source, problem, "give the table that the run was trained on")
    base = run.objective
    weights = [each["values"].get("compute_weight", base.compute_weight) for each in facts["cases"]]
    objectives = [replace(base, compute_weight=weight) for weight in weights]
    return RoutingProblem(table, objectives, options=options_from_json(RoutingOptions, kept, nested=True))
