"""The gate as a module, for mixture-of-experts layers; `Gate.of` makes one from a linear router."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..router import Router
from ..router_error import RouterError
from ..selection import Hard, ScoredTopK, TopK
from .kernel_rule import GateRule, Routed
from .operator import Path, route

__all__ = ["Gate"]


class Gate(nn.Module):
    """Routes rows of hidden states: a linear layer and a rule.

    Args:
        hidden: H.
        experts: E, up to 512.
        rule: how logits are scored, chosen and weighted.
        bias: whether the linear layer has one.
        correction: whether a bias is added to the scores to choose experts, as DeepSeek-V3's
            `e_score_correction_bias`.
        dispatch: whether to sort the slots by expert too.
        logits: whether to return the logits.
        ids: int64 or int32.
        path: see `route`.

    Raises:
        RouterError: the rule does not fit the experts.
    """

    bias: nn.Parameter | None
    correction: Tensor | None
    allowed: Tensor | None

    def __init__(
        self,
        hidden: int,
        experts: int,
        rule: GateRule,
        *,
        bias: bool = False,
        correction: bool = False,
        dispatch: bool = False,
        logits: bool = True,
        ids: torch.dtype = torch.int64,
        path: Path = "auto",
    ) -> None:
        super().__init__()
        rule.check(experts)
        self.rule = rule
        self.dispatch = dispatch
        self.logits = logits
        self.ids = ids
        self.path: Path = path
        self.weight = nn.Parameter(torch.zeros(experts, hidden))
        self.register_parameter("bias", nn.Parameter(torch.zeros(experts)) if bias else None)
        self.register_buffer("correction", torch.zeros(experts) if correction else None)
        self.register_buffer("allowed", None)

    @classmethod
    def of(cls, router: Router, *, dispatch: bool = False, ids: torch.dtype = torch.int64) -> Gate:
        """The gate with the same experts and weights as a linear router.

        Args:
            router: linear, deterministic, of features alone.
            dispatch: whether to sort the slots by expert too.
            ids: int64 or int32.

        Raises:
            RouterError: the router is not a linear one with hard, topk or scored_topk selection, or it has a
                state or draws at random.
        """
        linear = router.scorer.linear_form()
        if linear is None or router.state or router.stochastic:
            raise RouterError(
                f"only a linear, deterministic router without state is a gate, not this {router.scorer.kind} "
                "one; train with a linear scorer, or use the router as it is"
            )
        selection = router.rule
        if isinstance(selection, ScoredTopK) and selection.score != "relu":
            rule = GateRule(
                k=selection.k,
                score="sigmoid" if selection.score == "sigmoid" else "softmax",
                groups=selection.groups,
                kept=selection.kept,
                judged_by=min(selection.judged_by, len(router.experts) // selection.groups),
                fallback=router.fallback,
            )
        elif isinstance(selection, Hard | TopK):
            rule = GateRule(k=selection.k, fallback=router.fallback)
        else:
            raise RouterError(
                f"{selection.name} selection is not a gate's; use hard, topk, or scored_topk "
                "by softmax or sigmoid"
            )
        corrected = isinstance(selection, ScoredTopK) and bool(selection.bias)
        experts, hidden = linear.weight.shape
        gate = cls(hidden, experts, rule, bias=True, correction=corrected, dispatch=dispatch, ids=ids)
        with torch.no_grad():
            gate.weight.copy_(linear.weight)
            cast(nn.Parameter, gate.bias).copy_(linear.bias)
            if isinstance(selection, ScoredTopK) and gate.correction is not None:
                gate.correction.copy_(torch.tensor(selection.bias))
        if router.allowed is not None:
            gate.allowed = router.allowed.clone()
        return gate.eval()

    def forward(self, hidden: Tensor, alive: Tensor | None = None) -> Routed:
        """Route T rows.

        Args:
            hidden: [T, H] float.
            alive: [E] bool, False where an expert may not be chosen; None: all may.

        Returns:
            what `route` returns.
        """
        # Direct look-ups: a module's attribute look-up takes as long as a small matrix product.
        parameters, buffers = self._parameters, self._buffers
        allowed = buffers["allowed"]
        if allowed is not None:
            alive = allowed if alive is None else allowed & alive
        return route(
            hidden,
            cast(Tensor, parameters["weight"]),
            parameters["bias"],
            buffers["correction"],
            alive,
            rule=self.rule,
            ids=self.ids,
            dispatch=self.dispatch,
            logits=self.logits,
            path=self.path,
        )
