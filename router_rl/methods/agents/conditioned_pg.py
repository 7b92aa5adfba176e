"""Conditioned policy gradient: one policy for all compute weights, with the weight as an input.

The all-action policy gradient of `exact_pg` maximizes `E_c E_q sum_a pi(a | q, c) (quality - c * compute)`.
The compute weight c is sampled for each query, log-uniformly over a range. Training starts from a softmax
gate that is trained at the geometric mean of the range; its routing does not depend on c at first. The
exported router keeps the compute weight as its second input, so that a server can change the trade-off at
every call; `router.at(compute_weight=0.1)` fixes it. A call without it is served at the weight of the
training.
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
from experts.io.value_range import Count, Fraction, NonNegative, Positive

from ...problems.objective import Objective
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement, Rows, measure_rows
from ...routing import ConditionedScorer, LinearScorer, MLPScorer, Router, StateInput
from ..gates import softmax_gate
from ..gates.gate_training import train_gate
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .expectation import RewardTable, expected_utility

__all__ = [
    "METHOD",
    "SPACE",
    "ConditionedPGHyperparameters",
    "concatenate_measurements",
    "fit",
    "for_objectives",
    "middle_objective",
    "objective_grid",
    "positive_weight",
    "weight_input",
]

_N_EVALUATED = 5  # objectives that validation averages over


@dataclass(frozen=True, kw_only=True)
class ConditionedPGHyperparameters(Hyperparameters):
    """Hyperparameters of the conditioned policy gradient.

    Attributes:
        lowest: lowest compute weight to train for; by default an eighth of the objective's. In `compare`,
            half of the lowest compute weight that is compared.
        highest: highest compute weight to train for; by default eight times the objective's. In `compare`,
            twice the highest compute weight that is compared.
        vary_load: also make the load weight an input, from an eighth to eight times the objective's.
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        entropy: entropy bonus, utility per nat.
        smoothing: share of the reward given by the correct class's probability instead of 0/1 correctness.
        epochs: maximum number of epochs.
        patience: epochs without improvement on validation before training stops.
        batch: queries per gradient step.
        gate_compute: compute weight of the initial gate, as a multiple of the geometric mean of the range.
    """

    lowest: Positive | None = None
    highest: Positive | None = None
    vary_load: bool = False
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    entropy: NonNegative = 0.01
    smoothing: Fraction = 0.0
    epochs: Count = 60
    patience: Count = 12
    batch: Count = 256
    gate_compute: NonNegative = 1.0


SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "entropy": (0.0, 0.01, 0.03),
    "smoothing": (0.0, 0.25, 0.5),
    "gate_compute": (0.5, 1.0, 2.0),
}


def for_objectives(
    hyperparameters: ConditionedPGHyperparameters, objectives: Sequence[Objective]
) -> ConditionedPGHyperparameters:
    """Return the hyperparameters of one fit that serves several objectives.

    Args:
        hyperparameters: values of `lowest` and `highest` that are set are kept.
        objectives: objectives that differ in compute weight only.
    """
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive_weight(min(weights)) / 2.0, positive_weight(max(weights)) * 2.0
    return replace(
        hyperparameters, lowest=hyperparameters.lowest or low, highest=hyperparameters.highest or high
    )


def fit(problem: RoutingProblem, hyperparameters: ConditionedPGHyperparameters, run: Run) -> Router:
    """Train a softmax gate, then improve it by policy gradient with a compute weight sampled for each query.

    Load is a property of a whole window. If load is charged, all queries of a minibatch share one sample of
    the weights, and the load is that of a policy that does not observe the window, `N (1 - 1/W) sum_e P_e^2`.

    Args:
        problem: training and validation rows, objectives and selection rule.
        hyperparameters: the compute weight range and the optimizer's options.
        run: seed, callback and checkpoint.

    Returns:
        a router with the compute weight (and the load weight, with `vary_load`) as a second input.

    Raises:
        InputError: the range is not positive and increasing, or `vary_load` is set and load is not charged.
    """
    if len(problem.objectives) > 1:
        hyperparameters = for_objectives(hyperparameters, problem.objectives)
    objective = problem.objective
    ranges = _ranges(objective, hyperparameters)
    router = _start(problem, hyperparameters, run, ranges)
    outcomes = problem.outcomes()
    compute_weight = torch.zeros(outcomes.queries, device=problem.device)
    rewards = RewardTable(outcomes, compute_weight, hyperparameters.smoothing)
    low = torch.tensor([pair[0] for pair in ranges.values()], device=problem.device)
    ratio = torch.tensor([pair[1] / pair[0] for pair in ranges.values()], device=problem.device)
    static = outcomes.experts * (1.0 - 1.0 / objective.window)

    def loss(router: Router, outcomes: Outcomes, row: Tensor, generator: torch.Generator) -> Tensor:
        draws = 1 if objective.load_weight else len(row)
        position = torch.rand((draws, len(ranges)), generator=generator, device=problem.device)
        conditions = (low * ratio**position).expand(len(row), -1)
        compute_weight[row] = conditions[:, 0]
        logits = router.scores(outcomes.features.index_select(0, row), conditions)
        earned, share, entropy = expected_utility(router.rule, logits, rewards, row, generator)
        value = (earned + hyperparameters.entropy * entropy).mean()
        if objective.load_weight:
            weight = conditions[0, 1] if hyperparameters.vary_load else objective.load_weight
            value = value - weight * static * share.mean(dim=0).square().sum()
        return -value

    objectives = objective_grid(objective, ranges)
    rows = Rows.of(problem.validation, problem.scale, problem.device)

    def evaluate(router: Router) -> RouterMeasurement:
        return concatenate_measurements([measure_rows(router, rows, each) for each in objectives])

    return train_gate(problem, hyperparameters, run, loss, router=router, evaluate=evaluate)


def _ranges(
    objective: Objective, hyperparameters: ConditionedPGHyperparameters
) -> dict[str, tuple[float, float]]:
    weight = positive_weight(objective.compute_weight)
    low = weight / 8.0 if hyperparameters.lowest is None else hyperparameters.lowest
    high = weight * 8.0 if hyperparameters.highest is None else hyperparameters.highest
    if not 0.0 < low < high < math.inf:
        raise InputError(
            "method.lowest",
            low,
            f"is not below the highest compute weight, {high:g}",
            "use 0 < lowest < highest",
        )
    ranges = {"compute_weight": (low, high)}
    if hyperparameters.vary_load:
        load = objective.load_weight
        if not load:
            raise InputError("method.vary_load", True, "load is not charged", "give objective.load_weight")
        ranges["load_weight"] = (load / 8.0, load * 8.0)
    return ranges


def positive_weight(weight: float) -> float:
    """Return the weight, with 0 replaced by 0.001 so that it has a logarithm."""
    return max(weight, 1e-3)


def _start(
    problem: RoutingProblem,
    hyperparameters: ConditionedPGHyperparameters,
    run: Run,
    ranges: dict[str, tuple[float, float]],
) -> Router:
    """Return a conditioned router that routes like a softmax gate trained at the middle of the range."""
    low, high = ranges["compute_weight"]
    centre = replace(problem.objective, compute_weight=math.sqrt(low * high))
    gate_hyperparameters = softmax_gate.SoftmaxGateHyperparameters(own_compute=hyperparameters.gate_compute)
    gate = softmax_gate.fit(problem.with_objective(centre), gate_hyperparameters, Run(seed=run.seed)).scorer
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
    middle = middle_objective(problem.objectives)
    inputs = [weight_input(name, *pair, getattr(middle, name)) for name, pair in ranges.items()]
    return problem.wrap(scorer, inputs)


def middle_objective(objectives: Sequence[Objective]) -> Objective:
    """Return the objective that a router serves unless it is given another: the middle one, or the only one.

    Args:
        objectives: one per case, at least one.
    """
    return objectives[(len(objectives) - 1) // 2]


def weight_input(name: str, low: float, high: float, default: float) -> StateInput:
    """Describe a weight that is an input of the router.

    Args:
        name: `compute_weight` or `load_weight`.
        low: lowest value of the training range.
        high: highest value of the training range.
        default: value of a call that gives none.
    """
    meaning = (
        f"the {name.replace('_', ' ')} to route for, in utility per unit; it can change at every call; "
        f"trained from {low:g} to {high:g}, and clipped to this range"
    )
    return StateInput(name, 1, meaning, default=default)


def objective_grid(objective: Objective, ranges: dict[str, tuple[float, float]]) -> list[Objective]:
    """Return objectives whose weights are spaced evenly on a logarithmic scale, both ends included.

    Args:
        objective: gives everything but the weights.
        ranges: lowest and highest value of each weight, by name.
    """
    positions = np.linspace(0.0, 1.0, _N_EVALUATED)
    return [
        replace(objective, **{name: low * (high / low) ** position for name, (low, high) in ranges.items()})
        for position in positions.tolist()
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _ConcatenatedMeasurement(RouterMeasurement):
    """Measurements under several objectives, concatenated along the rows. Each has its own windows."""

    members: Sequence[RouterMeasurement]

    @cached_property
    def load(self) -> np.ndarray:
        return np.concatenate([each.load for each in self.members])

    @cached_property
    def drops(self) -> float:
        return float(np.mean([each.drops for each in self.members]))


def concatenate_measurements(measurements: Sequence[RouterMeasurement]) -> RouterMeasurement:
    """Concatenate measurements of the same rows under several objectives into one."""

    def rows(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in measurements])

    return _ConcatenatedMeasurement(
        parts={"quality": rows("quality"), "compute": rows("compute")},
        utility=rows("utility"),
        share=rows("share"),
        window=measurements[0].window,
        entropy=float(np.mean([each.entropy for each in measurements])),
        fallbacks=sum(each.fallbacks for each in measurements),
        members=measurements,
    )


METHOD = Method(
    name="conditioned_pg",
    family="rl",
    full_information=True,
    fit=fit,
    hyperparameters=ConditionedPGHyperparameters,
    space=SPACE,
    about="one policy whose input is the compute weight",
    sparse=True,
    amortizes=True,
)
