"""One policy for every trade-off: the compute weight is an input, drawn anew for each query while training.

The all-action policy gradient of `exact_pg` ascends `E_c E_q sum_a pi(a | q, c) (quality - c * compute)` with
c log-uniform over a range. It starts from a softmax gate trained at the range's middle, which the
conditions do not change until they are trained. The router keeps the weight as its second input, so a server
may change the trade-off from one call to the next; `router.at(compute_weight=0.1)` folds one in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from envs import Outcomes
from experts import InputError

from ...problems.objective import Objective
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement, Rows, measure_rows
from ...routing import ConditionedScorer, LinearScorer, MLPScorer, Router, StateInput
from ..gates import softmax_gate
from ..gates.gate_training import train_gate
from ..method import Method, Run
from .expectation import Payment, expected

__all__ = [
    "METHOD",
    "SPACE",
    "ConditionedPGHyperparameters",
    "declared",
    "fit",
    "grid",
    "over",
    "positive",
    "together",
]

_JUDGED = 5


@dataclass(frozen=True, kw_only=True)
class ConditionedPGHyperparameters:
    """Hyperparameters of the conditioned policy gradient.

    Attributes:
        lowest, highest: the compute weights trained for; None: an eighth of the objective's and eight times
            it. `compare` sets half the least and twice the greatest of those it is asked for.
        vary_load: make the load weight an input too, from an eighth to eight times the objective's.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        entropy: utility per nat of the policy's entropy.
        smoothing: share of the reward that is the right class's probability in place of the 0/1 outcome.
        epochs, patience, batch: of the training loop.
        gate_compute: the gate's own compute weight, as a multiple of the range's middle.
    """

    lowest: float | None = None
    highest: float | None = None
    vary_load: bool = False
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    entropy: float = 0.01
    smoothing: float = 0.0
    epochs: int = 60
    patience: int = 12
    batch: int = 256
    gate_compute: float = 1.0


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03),
    "smoothing": (0.0, 0.25, 0.5),
    "gate_compute": (0.5, 1.0, 2.0),
}


def over(
    hyperparameters: ConditionedPGHyperparameters, objectives: Sequence[Objective]
) -> ConditionedPGHyperparameters:
    """The settings of the one fit that serves objectives which differ in compute weight."""
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive(min(weights)) / 2.0, positive(max(weights)) * 2.0
    return replace(
        hyperparameters, lowest=hyperparameters.lowest or low, highest=hyperparameters.highest or high
    )


def fit(problem: RoutingProblem, hyperparameters: ConditionedPGHyperparameters, run: Run) -> Router:
    """Train the gate, then ascend from its weights with a compute weight drawn for each query.

    Load belongs to decisions taken together: where it is charged, the queries of a minibatch share a draw and
    the load is that of a policy that sees nothing, `N (1 - 1/W) sum_e P_e^2`.

    Raises:
        InputError: the range is not positive and rising, or the load weight cannot vary.
    """
    if len(problem.objectives) > 1:
        hyperparameters = over(hyperparameters, problem.objectives)
    objective = problem.objective
    ranges = _ranges(objective, hyperparameters)
    router = _start(problem, hyperparameters, run, ranges)
    outcomes = problem.outcomes()
    price = torch.zeros(outcomes.queries, device=problem.device)
    payment = Payment(outcomes, price, hyperparameters.smoothing)
    low = torch.tensor([pair[0] for pair in ranges.values()], device=problem.device)
    ratio = torch.tensor([pair[1] / pair[0] for pair in ranges.values()], device=problem.device)
    static = outcomes.experts * (1.0 - 1.0 / objective.window)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        draws = 1 if objective.load_weight else len(row)
        place = torch.rand((draws, len(ranges)), generator=generator, device=problem.device)
        conditions = (low * ratio**place).expand(len(row), -1)
        price[row] = conditions[:, 0]
        logits = router.scores(outcomes.features.index_select(0, row), conditions)
        earned, share, entropy = expected(router.rule, logits, payment, row, generator)
        value = (earned + hyperparameters.entropy * entropy).mean()
        if objective.load_weight:
            weight = conditions[0, 1] if hyperparameters.vary_load else objective.load_weight
            value = value - weight * static * share.mean(dim=0).square().sum()
        return -value

    judged = grid(objective, ranges)
    rows = Rows.of(problem.validation, problem.scale, problem.device)

    def judge(router: Router) -> RouterMeasurement:
        return together([measure_rows(router, rows, each) for each in judged])

    return train_gate(problem, hyperparameters, run, loss, router=router, judge=judge)


def _ranges(
    objective: Objective, hyperparameters: ConditionedPGHyperparameters
) -> dict[str, tuple[float, float]]:
    weight = positive(objective.compute_weight)
    low = weight / 8.0 if hyperparameters.lowest is None else hyperparameters.lowest
    high = weight * 8.0 if hyperparameters.highest is None else hyperparameters.highest
    if not 0.0 < low < high < math.inf:
        raise InputError(
            "settings.lowest",
            low,
            f"does not begin a range that ends at {high:g}",
            "use 0 < lowest < highest",
        )
    ranges = {"compute_weight": (low, high)}
    if hyperparameters.vary_load:
        load = objective.load_weight
        if not load:
            raise InputError("settings.vary_load", True, "load is not charged", "give objective.load_weight")
        ranges["load_weight"] = (load / 8.0, load * 8.0)
    return ranges


def positive(weight: float) -> float:
    """The weight, or what stands for 0 on a logarithmic scale."""
    return max(weight, 1e-3)


def _start(
    problem: RoutingProblem,
    hyperparameters: ConditionedPGHyperparameters,
    run: Run,
    ranges: dict[str, tuple[float, float]],
) -> Router:
    """A conditioned router that routes as the softmax gate of the range's middle, whatever its conditions."""
    low, high = ranges["compute_weight"]
    middle = replace(problem.objective, compute_weight=math.sqrt(low * high))
    gate_settings = softmax_gate.SoftmaxGateHyperparameters(own_compute=hyperparameters.gate_compute)
    gate = softmax_gate.fit(problem.with_objective(middle), gate_settings, Run(seed=run.seed)).scorer
    assert isinstance(gate, LinearScorer | MLPScorer)
    hidden = gate.hidden if isinstance(gate, MLPScorer) else ()
    scorer = ConditionedScorer(gate.inputs + len(ranges), gate.experts, hidden, list(ranges.values()))
    layers: Sequence[nn.Module] = [gate] if isinstance(gate, LinearScorer) else list(gate.layers)
    with torch.no_grad():
        for layer, trained in zip(scorer.layers, layers, strict=True):
            layer.get_parameter("weight").copy_(trained.get_parameter("weight"))
            layer.get_parameter("bias").copy_(trained.get_parameter("bias"))
        scorer.shift.copy_(gate.shift)
        scorer.scale.copy_(gate.scale)
    return problem.wrap(scorer, [declared(name, *pair) for name, pair in ranges.items()])


def declared(name: str, low: float, high: float) -> StateInput:
    """A weight as a part of the router's second input."""
    meaning = (
        f"the {name.replace('_', ' ')} to route for, utility per unit; free to change with every call; "
        f"trained from {low:g} to {high:g}, and taken as the nearest of these outside"
    )
    return StateInput(name, 1, meaning)


def grid(objective: Objective, ranges: dict[str, tuple[float, float]]) -> list[Objective]:
    """Objectives evenly over the logarithm of the ranges, the ends among them."""
    places = np.linspace(0.0, 1.0, _JUDGED)
    return [
        replace(objective, **{name: low * (high / low) ** place for name, (low, high) in ranges.items()})
        for place in places.tolist()
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Several(RouterMeasurement):
    """Measurements under several objectives as one over all their rows; each has windows of its own."""

    members: Sequence[RouterMeasurement]

    @cached_property
    def load(self) -> np.ndarray:
        return np.concatenate([each.load for each in self.members])

    @cached_property
    def drops(self) -> float:
        return float(np.mean([each.drops for each in self.members]))


def together(found: Sequence[RouterMeasurement]) -> RouterMeasurement:
    """Measurements of the same rows under several objectives as one."""

    def rows(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in found])

    return _Several(
        parts={"quality": rows("quality"), "compute": rows("compute")},
        utility=rows("utility"),
        share=rows("share"),
        window=found[0].window,
        entropy=float(np.mean([each.entropy for each in found])),
        fallbacks=sum(each.fallbacks for each in found),
        members=found,
    )


METHOD = Method(
    name="conditioned_pg",
    family="rl",
    fit=fit,
    hyperparameters=ConditionedPGHyperparameters,
    space=SPACE,
    about="one policy for every compute weight, which is its input",
    amortizes=True,
)
