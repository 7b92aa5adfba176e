"""Token-level routing over frozen FFN experts: policy gradients against backpropagated gates.

    python benchmarks/token_moe.py --out runs/token_moe/study
    python benchmarks/token_moe.py --pool runs/token_moe/pool --out runs/token_moe/study-smollm2 --tries 1

The first runs on the tiny pool of the package, the second on one made by `token_moe_pool.py`. Every trained
method starts from the same closed-form routers, which saw no domain labels, and reads the same training
sequences in as many passes; its learning rate is chosen on validation with seed 0. Prints Markdown; every
finished fit is kept, and a stopped study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonargparse
import numpy as np

from envs import TokenMoEConfig
from experts.moe.pool import TokenPool
from router_rl.token_moe import (
    GATES,
    CounterfactualSettings,
    LayerRouters,
    RidgeSettings,
    TokenReinforceSettings,
    Training,
    fit_ridge,
    measure,
    train_counterfactual,
    train_gate,
    train_reinforce,
)
from router_rl.token_moe.measure import Choose, Measured
from router_rl.token_moe.training import Fit

RATES = (3e-3, 1e-3, 1e-2)  # learning rates tried, in this order
RIDGES = [RidgeSettings(penalty=p, window=w) for p in (1e-3, 1e-2, 1e-1) for w in (4, 16)]
GROUP = 8  # sequences served together where load is charged
Learn = Callable[["Study", Training], tuple[Choose, Fit]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A trained method: how it is served, its family, and how it learns."""

    served: str
    family: str
    learn: Learn


class Study:
    """A pool, and the warm start that everybody gets.

    Args:
        pool: the frozen experts and the text.
        training: passes and batch of every method.
    """

    def __init__(self, pool: TokenPool, training: Training) -> None:
        self.pool = pool
        self.training = training

    @cached_property
    def ridge(self) -> LayerRouters:
        """Closed form without labels, its penalty and window chosen on validation: the warm start."""
        return self._best_ridge(RIDGES)

    @cached_property
    def labelled_ridge(self) -> LayerRouters:
        """Closed form on the domain labels of the training text."""
        return self._best_ridge([RidgeSettings(target="label", penalty=p) for p in (1e-3, 1e-2, 1e-1)])

    def ridge_for(self, rule: Any) -> LayerRouters:
        """The warm start for a rule with logits of its own."""
        return fit_ridge(self.pool.tail, self.pool.parts["train"], self._chosen, rule)

    def score(self, choose: Choose) -> Measured:
        """Validation."""
        return measure(self.pool.tail, self.pool.parts["validation"], choose)

    def _best_ridge(self, settings: Sequence[RidgeSettings]) -> LayerRouters:
        found = [fit_ridge(self.pool.tail, self.pool.parts["train"], each) for each in settings]
        losses = [float(self.score(routers.choose).loss.mean()) for routers in found]
        best = int(np.argmin(losses))
        if settings is RIDGES:
            self._chosen = settings[best]
        return found[best]


def gate(name: str, start: Callable[[Study], LayerRouters] = lambda study: study.ridge) -> Learn:
    """A gate trained by backpropagation."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        fit, serve = train_gate(study.pool, start(study), GATES[name], training)
        return serve(fit.routers), fit

    return learn


def reinforce(
    rule: Callable[[Study], LayerRouters] = lambda study: study.ridge,
    config: TokenMoEConfig | None = None,
    **settings: Any,
) -> Learn:
    """Policy gradient over whole paths."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        fit = train_reinforce(study.pool, rule(study), training, TokenReinforceSettings(**settings), config)
        return fit.routers.choose, fit

    return learn


def counterfactual(**settings: Any) -> Learn:
    """Exact policy gradient, a layer at a time."""

    def learn(study: Study, training: Training) -> tuple[Choose, Fit]:
        fit = train_counterfactual(study.pool, study.ridge, training, CounterfactualSettings(**settings))
        return fit.routers.choose, fit

    return learn


METHODS: dict[str, Method] = {
    # served: one expert a token and layer
    "soft_gate, top-1": Method(served="hard", family="gate", learn=gate("soft_gate")),
    "straight_through": Method(served="hard", family="gate", learn=gate("straight_through")),
    "switch": Method(served="hard, scaled by p", family="gate", learn=gate("switch")),
    "renormalised_top1": Method(served="hard", family="gate", learn=gate("renormalised_top1")),
    "reinforce": Method(served="hard", family="RL", learn=reinforce()),
    "counterfactual": Method(served="hard", family="RL", learn=counterfactual()),
    "outcome_table": Method(served="hard", family="RL", learn=counterfactual(credit="table", layers=0)),
}


def main() -> None:
    """Placeholder."""


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
