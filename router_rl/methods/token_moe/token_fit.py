"""What the trained methods of token-level routing share: the start, the hyperparameter, and the text.

The start is a closed form on the text, without labels, or the gates of an existing mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experts.io.value_range import Positive

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ..hyperparameters import Hyperparameters
from ..method import Family, Fit, Method, Refuses, Run
from .closed_form_start import closed_form_start
from .own_gates import own_gates
from .token_training import Training

__all__ = ["SPACE", "Learn", "LearningRate", "trained", "training_of"]

SPACE = {"learning_rate": (1e-2, 3e-2, 3e-3, 1e-1)}

Learn = Callable[[TokenMoEProblem, LayerRouters, Training], LayerRouters]
"""Trains a copy of some routers; those that it returns have the selection rules that they are served with."""

_CHECKS = 2


@dataclass(frozen=True, kw_only=True)
class LearningRate(Hyperparameters):
    """The hyperparameter of every token-level method.

    Attributes:
        learning_rate: initial learning rate of AdamW; decays to zero (cosine).
    """

    learning_rate: Positive = 1e-2


def trained(
    name: str,
    family: Family,
    learn: Learn,
    about: str,
    *,
    full_information: bool = False,
    refuses: Refuses | None = None,
) -> Method:
    """Return a trained method; all have the same hyperparameter and search space.

    Args:
        name, family, about, full_information, refuses: as in `Method`.
        learn: trains routers.
    """
    return Method(
        name=name,
        family=family,
        fit=_fit_of(learn),
        hyperparameters=LearningRate,
        space=SPACE,
        about=about,
        full_information=full_information,
        refuses=refuses,
    )


def _fit_of(learn: Learn) -> Fit:

    def fit(problem: TokenMoEProblem, hyperparameters: LearningRate, run: Run) -> LayerPolicy:
        start = closed_form_start(problem) if problem.pool.gates is None else own_gates(problem)
        routers = learn(problem, start, training_of(problem, hyperparameters, run))
        return LayerPolicy(choose=routers.choose, routers=routers)

    return fit


def training_of(problem: TokenMoEProblem, hyperparameters: LearningRate, run: Run) -> Training:
    """Return the options of the training loop that all trained methods share.

    Args:
        problem: has the epochs and the batch size.
        hyperparameters: has the learning rate.
        run: has the seed, the progress callback and the checkpoint.
    """
    return Training(
        epochs=problem.options.epochs,
        batch=problem.options.batch,
        checks=_CHECKS,
        learning_rate=hyperparameters.learning_rate,
        seed=run.seed,
        report=run.report,
        checkpoint=run.checkpoint,
    )
