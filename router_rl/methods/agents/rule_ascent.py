"""Policy gradient that ascends from a rule: its scaled logits plus an MLP, which starts at zero.

    z(x) = b u(x) + MLP(x, state),    b the inverse temperature, u the rule's logits (such as mean utilities)

A rule that remembers its training rows knows their outcomes, so its logits on these rows are too good, and a
policy that trains on them learns to trust the rule where it should not. In training, u is therefore held out:
leave-one-out where the method has that form, else cross-fitted. At inference, u is the rule itself.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from experts import OutcomeTable

from ...problems.cross_fitting import held_out
from ...problems.routing.problem import RoutingProblem
from ...routing import MLPScorer, ResidualScorer, Router, Scorer
from ..budget import fit_method
from ..method import Method, Run
from .exact_pg import AscentHyperparameters
from .exact_pg import fit as ascend

__all__ = ["ascend_from_rule", "held_out_logits"]

_FOLDS = 5  # of cross-fitted logits, if the table has none


class _OffsetScorer(Scorer):
    """A residual scorer whose rule's logits are inputs, after the features; used in training only."""

    kind: ClassVar[str] = "offset"

    def __init__(self, inputs: int, features: int, correction: MLPScorer, inverse_temperature: float) -> None:
        super().__init__(inputs, correction.experts)
        self.features = features
        self.correction = correction
        self.inverse_temperature = inverse_temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits [T, N] float32 of features, rule's logits and state, [T, D + N + S]."""
        end = self.features + self.experts
        correction: Tensor = self.correction(torch.cat([x[:, : self.features], x[:, end:]], dim=1))
        return self.inverse_temperature * x[:, self.features : end].float() + correction

    def output_bias(self) -> nn.Parameter:
        """The bias [N] of the MLP's last layer."""
        return self.correction.output_bias()

    def spec(self) -> dict[str, Any]:
        """The shape as JSON, for messages: this scorer is never exported."""
        return {"kind": self.kind, "inputs": self.inputs, "experts": self.experts}


def ascend_from_rule(
    problem: RoutingProblem,
    hyperparameters: AscentHyperparameters,
    run: Run,
    rule: Router,
    held_out_logits: Tensor,
    inverse_temperature: float,
) -> Router:
    """Train the correction of a rule by exact policy gradient.

    Args:
        problem: training and validation rows, objective and selection rule.
        hyperparameters: of the policy gradient.
        run: seed, callback and checkpoint.
        rule: fitted router of the problem, without state.
        held_out_logits: [T, outputs] float, the rule's logits on the training rows, held out.
        inverse_temperature: b, above 0.

    Returns:
        the router of the epoch with the best validation utility.
    """
    assert problem.train.features is not None
    size, outputs = problem.train.features.shape[1], rule.scorer.experts
    state = problem.new_router(run.seed, observe_load=_observes_load(problem)).state
    hidden = problem.scorer.hidden if problem.scorer.kind == "mlp" else ()
    inputs = size + sum(part.size for part in state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        scorer = ResidualScorer(inputs, outputs, copy.deepcopy(rule.scorer), hidden, inverse_temperature)
    router = problem.wrap(scorer, state)
    offset = _OffsetScorer(inputs + outputs, size, copy.deepcopy(scorer.correction), inverse_temperature)
    allowed = None if problem.objective.max_cost is None else problem.affordable.tolist()
    start = Router(
        offset, router.rule, router.experts, state=state, fallback=router.fallback, allowed=allowed
    ).to(problem.device)
    extended = problem.replaced(
        train=_with_logits(problem.train, held_out_logits),
        validation=_with_logits(problem.validation, _logits(rule, problem.validation)),
        out_of_fold=None,
    )
    best = ascend(extended, hyperparameters, run, start)
    weights = {name.removeprefix("correction."): value for name, value in best.scorer.state_dict().items()}
    scorer.correction.load_state_dict(weights)
    router.rule = best.rule
    return router.eval()


def held_out_logits(
    method: Method, hyperparameters: Any, problem: RoutingProblem, router: Router, seed: int
) -> Tensor:
    """Return the logits [T, outputs] of a rule on the training rows; no row's own outcome affects its logits.

    Args:
        method: the rule's method.
        hyperparameters: of the rule.
        problem: holds the training rows.
        router: the rule, fitted to them.
        seed: random seed of the folds and fits.
    """
    if method.leave_one_out is not None:
        return method.leave_one_out(router)
    folds = [] if problem.out_of_fold is None else problem.out_of_fold.folds
    if len(folds) < 2:  # a part of a table with two folds has one
        problem, folds = problem.replaced(out_of_fold=None), held_out(problem.train, _FOLDS, seed)
    logits = torch.zeros(len(problem.train), router.scorer.experts, device=problem.device)
    for (part, away), (_, rows) in zip(problem.folds(folds), folds, strict=True):
        fitted = fit_method(method, part, hyperparameters, Run(seed=seed))
        logits[torch.from_numpy(rows).to(problem.device)] = _logits(fitted, away)
    return logits


def _logits(router: Router, table: OutcomeTable) -> Tensor:
    """Return the scorer's logits [T, outputs] of a table's rows."""
    device = router.fallback_logits.device
    with torch.no_grad():
        logits: Tensor = router.scorer(torch.from_numpy(np.array(table.features)).to(device))
    return logits


def _with_logits(table: OutcomeTable, logits: Tensor) -> OutcomeTable:
    """Return the table with logits [T, outputs] after its features."""
    assert table.features is not None
    return table.with_features(np.concatenate([table.features, logits.cpu().numpy()], axis=1))


def _observes_load(problem: RoutingProblem) -> bool:
    return problem.objective.load_weight > 0 and problem.observe_load
