"""The oracle of the cascade: it knows the outcomes, and asks the one expert that pays best."""

from __future__ import annotations

from collections.abc import Sequence

from ...problems.cascade.problem import CascadeProblem
from ...problems.problem import Case, EnvMethod, Played, Tell

__all__ = ["ORACLE", "OracleMark", "play_oracle"]


class OracleMark:
    """Stands for the oracle where a policy would; it has no actions, since no policy of observations has."""

    module = None


def play_oracle(problem: CascadeProblem, case: Case, split: str) -> Played:
    """What asking the best expert for each query earns: the most that any cascade could."""
    outcomes = problem.rows[split].outcomes
    utility = outcomes.quality - case.values["compute_weight"] * outcomes.compute
    best = utility.argmax(dim=-1, keepdim=True)
    found = {"quality": outcomes.quality, "compute": outcomes.compute}
    parts = {name: part.gather(-1, best).squeeze(-1).numpy() for name, part in found.items()}
    parts["asked"] = (best.squeeze(-1) >= 0).float().numpy()
    return Played(utility=utility.amax(dim=-1).numpy(), parts=parts)


def _marks(
    problem: CascadeProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[OracleMark]:
    return [OracleMark()] * len(cases)


ORACLE = EnvMethod(
    name="oracle", family="bound", about="knows every outcome and asks the best expert", fit=_marks
)
