"""Mixtral's gate with a threshold: the second expert of a token runs where its weight is large enough.

The gate is trained with two experts. The threshold is the one with the best utility on validation, the
price of the second expert included.

Source: Li et al. 2023, section 3, https://arxiv.org/abs/2310.07188, where a threshold on the difference of
the two probabilities decides; the gate: Jiang et al. 2024, section 2.1, https://arxiv.org/abs/2401.04088.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...problems.token_moe.token_measurement import Choose
from ...routing import Hard, TopK
from ..method import Method, Run
from .backprop import gate_of_rule, train_gate
from .closed_form_start import closed_form_start
from .token_fit import SPACE, LearningRate, training_of

__all__ = ["METHOD", "above"]

_THRESHOLDS = tuple(step / 20 for step in range(11))  # of the second weight, which is at most a half


def above(routers: LayerRouters, threshold: float) -> Choose:
    """Return the choice of the two best experts, the second only where its weight is at least a threshold.

    Args:
        routers: of all layers, with a rule of two experts.
        threshold: 0 to 1; above one half, one expert runs.
    """
    none = len(routers.experts)

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        experts, weights = routers.choose(layer, x)
        both = weights[..., 1:] >= threshold
        experts = torch.cat([experts[..., :1], torch.where(both, experts[..., 1:], none)], dim=-1)
        return experts, torch.where(both, weights, weights.new_tensor([1.0, 0.0]))

    return choose


def _fit(problem: TokenMoEProblem, hyperparameters: LearningRate, run: Run) -> LayerPolicy:
    rule, start = TopK(k=2), closed_form_start(problem, Hard())
    training = training_of(problem, hyperparameters, run)
    routers = train_gate(problem.pool, start, gate_of_rule(rule), training)[0].routers.copy(rule)
    policies = [LayerPolicy(choose=above(routers, threshold)) for threshold in (*_THRESHOLDS, 1.0)]
    return max(policies, key=lambda policy: float(problem.evaluate(policy, "validation").utility.mean()))


def _refuses(problem: TokenMoEProblem) -> str | None:
    return None if problem.options.select == "adaptive_k" else "is for select adaptive_k"


METHOD = Method(
    name="threshold_gate",
    family="gate",
    fit=_fit,
    hyperparameters=LearningRate,
    space=SPACE,
    refuses=_refuses,
    about="Mixtral's gate, its second expert above a threshold",
)
