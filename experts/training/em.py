"""The classic mixture of experts, trained by expectation-maximisation.

Jacobs, Jordan, Nowlan and Hinton 1991, https://doi.org/10.1162/neco.1991.3.1.79; Jordan and Jacobs 1994,
https://doi.org/10.1162/neco.1994.6.2.181 (the tree of gates). E-step: the responsibility of each expert for
each row. M-step: experts by responsibility-weighted maximum likelihood, gates by weighted logistic
regression. The log-likelihood never decreases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..io.errors import InputError
from .em_experts import EMExpert
from .em_gates import GateTree

__all__ = ["EMFit", "Mixture", "e_step", "fit_em"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """`P(y | x) = sum_e g_e(x) P(y | x, e)`.

    Args:
        gate: a flat gate or a tree of gates.
        experts: N experts in the order of the gate's leaves.

    Raises:
        InputError: the number of experts is not the gate's number of leaves.
    """

    gate: GateTree
    experts: Sequence[EMExpert]

    def __post_init__(self) -> None:
        if len(self.experts) != self.gate.experts:
            problem = f"the gate has {self.gate.experts} leaves"
            raise InputError("experts", len(self.experts), problem, "give one expert per leaf")

    def log_joint(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `log(g_te P(y_t | x_t, e))`.

        Args:
            x: [T, D] float64.
            y: [T] int64 or [T, M] float64, as the experts take it.

        Returns:
            [T, N] float64.
        """
        likelihood = torch.stack([expert.log_likelihood(x, y) for expert in self.experts], dim=1)
        return self.gate.log_probabilities(x) + likelihood

    def objective(self, x: Tensor, y: Tensor, *, hard: bool = False) -> float:
        """Return the objective of EM: `sum_t log sum_e g_te P_te` minus the penalties of gate and experts.

        Args:
            x: [T, D] float64.
            y: [T] int64 or [T, M] float64, as the experts take it.
            hard: return the classification likelihood `sum_t max_e log(g_te P_te)`, the objective of hard EM
                (Celeux and Govaert 1992, https://doi.org/10.1016/0167-9473(92)90042-E).
        """
        joint = self.log_joint(x, y)
        total = joint.amax(dim=1) if hard else joint.logsumexp(dim=1)
        penalty = self.gate.penalty() + sum(expert.penalty() for expert in self.experts)
        return float(total.sum()) - penalty

    def maximise(self, x: Tensor, y: Tensor, responsibilities: Tensor) -> None:
        """Run the M-step.

        Args:
            x: [T, D] float64.
            y: [T] int64 or [T, M] float64, as the experts take it.
            responsibilities: [T, N] float64, rows sum to 1.
        """
        for number, expert in enumerate(self.experts):
            expert.maximise(x, y, responsibilities[:, number])
        self.gate.maximise(x, responsibilities)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class EMFit:
    """The result of a fit.

    Attributes:
        history: the objective after each M-step; it never decreases after the last tempered iteration.
        responsibilities: [T, N] float64, of the fitted mixture.
    """

    history: tuple[float, ...]
    responsibilities: Tensor


def e_step(log_joint: Tensor, *, hard: bool = False, temperature: float = 1.0) -> Tensor:
    """Return the responsibilities `h_te = g_te P_te / sum_j g_tj P_tj`.

    Args:
        log_joint: [T, N] float, `log(g_te P_te)`.
        hard: assign each row to the expert with the largest value, ties to the lowest id.
        temperature: above 1, use `(g P)^(1/temperature)`: deterministic annealing (Ueda and Nakano 1998,
            https://doi.org/10.1016/S0893-6080(97)00133-0).

    Returns:
        [T, N] float, rows sum to 1.

    >>> e_step(torch.tensor([[0.6 * 0.1, 0.4 * 0.6]]).log())
    tensor([[0.2000, 0.8000]])
    """
    if hard:
        return functional.one_hot(log_joint.argmax(dim=1), log_joint.shape[1]).to(log_joint)
    return (log_joint / temperature).softmax(dim=1)


def fit_em(
    mixture: Mixture,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    hard: bool = False,
    iterations: int = 100,
    tolerance: float = 1e-8,
    temperatures: Sequence[float] = (),
) -> EMFit:
    """Train a mixture in place by expectation-maximisation.

    Args:
        mixture: gate and experts.
        x: [T, D] float64.
        y: [T] int64 or [T, M] float64, as the experts take it.
        start: [T, N] float64, responsibilities of the first M-step. They must differ between experts, because
            equal experts stay equal.
        hard: assign each row to one expert (hard EM).
        iterations: maximum number of E- and M-steps.
        tolerance: stop when an iteration improves the objective by less than this fraction of it.
        temperatures: of the first E-steps; later ones use 1.

    Returns:
        The history of the objective and the last responsibilities.
    """
    mixture.maximise(x, y, start)
    history = [mixture.objective(x, y, hard=hard)]
    for iteration in range(iterations):
        tempered = iteration < len(temperatures)
        temperature = temperatures[iteration] if tempered else 1.0
        mixture.maximise(x, y, e_step(mixture.log_joint(x, y), hard=hard, temperature=temperature))
        history.append(mixture.objective(x, y, hard=hard))
        if not tempered and history[-1] - history[-2] <= tolerance * abs(history[-2]):
            break
    return EMFit(history=tuple(history), responsibilities=e_step(mixture.log_joint(x, y), hard=hard))
