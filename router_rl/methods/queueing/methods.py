"""The methods of the queueing environment by name. A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...problems.problem import Case, EnvMethod, Tell
from ...problems.queueing.problem import QueueProblem
from ...problems.queueing.queue_measurement import act_of, play_queues
from ...problems.queueing.queue_task import QueueTask
from . import queue_rules as rivals
from .queue_rules import QueuePolicy, routed
from .rollout_iteration import RolloutHyperparameters, fit_rollouts

__all__ = ["METHODS"]

# The first is the default; the others are tried in order.
_TRIES = (
    RolloutHyperparameters(),
    RolloutHyperparameters(follow=128),
    RolloutHyperparameters(states=9_000),
    RolloutHyperparameters(explore=0.2),
)

_Fit = Callable[[QueueProblem, Sequence[Case], int, int, Tell], Sequence[QueuePolicy]]


def _each(one: Callable[[QueueTask, int], QueuePolicy]) -> _Fit:
    """Fit for every load by itself."""

    def fit(
        problem: QueueProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[QueuePolicy]:
        policies: list[QueuePolicy] = []
        for case in cases:
            policies.append(one(problem.tasks[case.values["load"]], seed))
            tell(len(policies), len(cases), case.label)
        return policies

    return fit


def _rule(one: Callable[[QueueTask, int], QueuePolicy]) -> _Fit:
    """A rule that knows no seed, made once for every load."""

    def fit(
        problem: QueueProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[QueuePolicy]:
        for case in cases:
            key = (one.__name__, case.values["load"])
            if key not in problem.rules:
                problem.rules[key] = one(problem.tasks[case.values["load"]], 0)
        return [problem.rules[one.__name__, case.values["load"]] for case in cases]

    return fit


def _index(terms: tuple[str, ...]) -> _Fit:
    """The index of these terms, its weights tuned on the training half of the process, for every load."""

    def fit(
        problem: QueueProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[QueuePolicy]:
        policies: list[QueuePolicy] = []
        for case in cases:
            policies.append(routed(problem.index(case.values["load"], terms, seed)))
            tell(len(policies), len(cases), case.label)
        return policies

    return fit


def _rollouts(
    problem: QueueProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[QueuePolicy]:
    """Policy iteration for every load, the best of some settings on validation."""
    policies: list[QueuePolicy] = []
    for place, case in enumerate(cases):
        task = problem.tasks[case.values["load"]]
        found: list[tuple[float, QueuePolicy]] = []
        for settings in _TRIES[:tries]:

            def watch(done: int, rounds: int, best: float, index: float, place: int = place) -> None:
                said = f"{cases[place].label}: validation utility {best:.4f}, index rule {index:.4f}"
                tell(place * rounds + done, len(cases) * rounds, said)

            start = problem.index(case.values["load"], settings.index.terms, seed)
            router = fit_rollouts(task, settings, seed, watch, start)
            core = task.core("validation", problem.episodes, seed=600_000)
            found.append((float(play_queues(core, act_of(router)).utility.mean()), routed(router)))
        policies.append(max(found, key=lambda one: one[0])[1])
    return policies


METHODS: dict[str, EnvMethod] = {
    method.name: method
    for method in (
        EnvMethod(
            name="rollout_iteration",
            family="rl",
            about="prices learned by trying every expert and seeing what follows, from the tuned index rule",
            fit=_rollouts,
        ),
        EnvMethod(
            name="index_rule_late",
            family="baseline",
            about="predicted quality less compute, expected lateness, expected wait and jobs, weights tuned",
            fit=_index(("compute", "lateness", "wait", "jobs")),
        ),
        EnvMethod(
            name="index_rule_paced",
            family="baseline",
            about="index_rule_late, and compute priced by what is left of the budget, if there is one",
            fit=_index(("compute", "lateness", "wait", "jobs", "pace")),
        ),
        EnvMethod(
            name="index_rule",
            family="baseline",
            about="predicted quality less compute and expected wait, weights tuned",
            fit=_index(("compute", "wait")),
        ),
        EnvMethod(
            name="least_wait",
            family="baseline",
            about="the shortest expected wait",
            fit=_rule(rivals.least_wait),
        ),
        EnvMethod(
            name="shortest_queue",
            family="baseline",
            about="the fewest requests a replica",
            fit=_rule(rivals.shortest_queue),
        ),
        EnvMethod(
            name="power_of_two",
            family="baseline",
            about="the shorter queue of two drawn at random (Mitzenmacher 2001)",
            fit=_each(rivals.power_of_two),
        ),
        EnvMethod(
            name="round_robin",
            family="baseline",
            about="one expert after the other",
            fit=_rule(rivals.round_robin),
        ),
        EnvMethod(
            name="random",
            family="baseline",
            about="every expert with equal probability",
            fit=_each(rivals.random_expert),
        ),
        EnvMethod(
            name="best_single",
            family="baseline",
            about="one expert for every request",
            fit=_rule(rivals.best_single),
        ),
        EnvMethod(
            name="static_gate",
            family="gate",
            about="ridge: predicted quality less compute, blind to the queues",
            fit=_rule(rivals.static_gate),
        ),
        EnvMethod(
            name="softmax_gate",
            family="gate",
            about="mixture trained by its task loss, blind to the queues",
            fit=_each(rivals.softmax_gate),
        ),
    )
}
