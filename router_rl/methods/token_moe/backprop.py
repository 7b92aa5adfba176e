"""Token-level gates trained by backpropagation through the frozen experts.

Each gate maps logits and the experts' outputs to the layer's output. The loss is that of the language model,
so the gradient flows back through all later layers.

A gate can be combined with the policy gradient (`Gate.policy`): the loss of the mixture, plus the expected
loss of a policy that samples one expert, by the outcome table. The first has the effect of each layer's
choice on this path, to first order. The second has the loss of whole paths with a single expert, as at
inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_measurement import Choose
from ...routing import Hard, Hierarchical, ScoredTopK, TopK, UnnormalisedTopK
from ...routing.selection.topk import largest, scattered
from .expert_mixtures import dense_mix, sparse_mix, straight_through_mix
from .path_outcomes import expected_loss
from .processes import processes
from .token_training import Fit, Training, train

__all__ = ["GATES", "Gate", "gate_of_rule", "gate_of_tree", "joint", "selected", "served", "train_gate"]


Mixes = Callable[[Tensor, Tensor], Tensor]
Mixture = Callable[[Tail, int, Tensor, Tensor], Tensor]


def softmax_shares(z: Tensor) -> Tensor:
    """Return the softmax of the logits [..., N]."""
    return z.softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Configuration of a gate.

    Attributes:
        mixes: maps logits [..., N] and the layer's selection bias [N] to dense weights [..., N], which carry
            the gradient.
        k: experts per token at inference.
        scaled: whether a single expert is scaled by its score, as in Switch.
        balance: coefficient of the auxiliary loss `N sum f_e P_e`.
        shares: maps logits [..., N] to the probabilities P [..., N] of the auxiliary loss; rows sum to 1.
        bias_speed: update speed gamma of DeepSeek-V3's selection bias, of sigmoid scores; 0 for none.
        mixture: maps the frozen layers, the layer number, gate inputs and weights to the mixture in training.
        policy: coefficient of the expected loss by the outcome table, averaged over layers; 0 for none.
        entropy: entropy bonus of the policy, nats per nat.
    """

    mixes: Mixes
    k: int = 1
    scaled: bool = False
    balance: float = 0.0
    shares: Callable[[Tensor], Tensor] = softmax_shares
    bias_speed: float = 0.0
    mixture: Mixture = dense_mix
    policy: float = 0.0
    entropy: float = 3e-2


def soft(z: Tensor, bias: Tensor) -> Tensor:
    """Return the dense mixture weights, `softmax(z)`."""
    return z.softmax(dim=-1)


def straight_through(z: Tensor, bias: Tensor) -> Tensor:
    """Return one-hot weights with the gradient of the dense mixture.

    Source: Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
    """
    p = z.softmax(dim=-1)
    return _one_hot(z) + p - p.detach()


def switch(z: Tensor, bias: Tensor) -> Tensor:
    """Return one-hot weights scaled by the probability (Fedus et al. 2021, eq. 2)."""
    return _one_hot(z) * z.softmax(dim=-1)


def renormalised(z: Tensor, bias: Tensor) -> Tensor:
    """Return the softmax over the largest logit: weights `p / p = 1`, which have no gradient.

    Dividing `p` by itself gives a gradient of rounding errors on some processors, which Adam scales up.
    """
    return _among(z, largest(z.detach(), 1)).softmax(dim=-1)


def mixtral(k: int) -> Mixes:
    """Return a gate with the softmax over the k largest logits (Jiang et al. 2024, section 2.1).

    Args:
        k: experts per token.
    """

    def mixes(z: Tensor, bias: Tensor) -> Tensor:
        return _among(z, largest(z.detach(), k)).softmax(dim=-1)

    return mixes


def deepseek_v3(z: Tensor, bias: Tensor) -> Tensor:
    """Return renormalized sigmoid scores of the top two by score plus bias (DeepSeek-AI 2024, eq. 13-16)."""
    s = z.sigmoid()
    kept = torch.zeros_like(s).scatter(-1, largest(s.detach() + bias, 2), 1.0) * s
    return kept / kept.sum(dim=-1, keepdim=True)


def scored(rule: ScoredTopK | UnnormalisedTopK) -> Mixes:
    """Return a gate with the weights of a rule, and the selection bias of its layer.

    Args:
        rule: the selection rule, without a selection bias.
    """

    def mixes(z: Tensor, bias: Tensor) -> Tensor:
        return scattered(z.shape[-1], _with_bias(rule, bias).select(z))

    return mixes


def straight_through_of(rule: ScoredTopK) -> Mixes:
    """Return a gate with one expert, chosen by a rule, and the gradient of the dense mixture of its policy.

    Args:
        rule: the selection rule of one expert, without a selection bias.
    """

    def mixes(z: Tensor, bias: Tensor) -> Tensor:
        own = _with_bias(rule, bias)
        p = own.probabilities(z)
        return scattered(z.shape[-1], own.select(z.detach())) + p - p.detach()

    return mixes


def sigmoid_shares(z: Tensor) -> Tensor:
    """Return the sigmoid scores over their sum (DeepSeek-AI 2024, eq. 19)."""
    s = z.sigmoid()
    return s / s.sum(dim=-1, keepdim=True)


def gate_of_rule(rule: TopK | ScoredTopK | UnnormalisedTopK) -> Gate:
    """Return the gate that mixes as a selection rule weights.

    Args:
        rule: without a selection bias.
    """
    if isinstance(rule, TopK):
        return Gate(mixes=mixtral(rule.k), k=rule.k, balance=0.02, mixture=sparse_mix)
    shares = sigmoid_shares if rule.score == "sigmoid" else softmax_shares
    if isinstance(rule, ScoredTopK) and rule.k == 1:
        return Gate(mixes=straight_through_of(rule), shares=shares, mixture=straight_through_mix)
    return Gate(
        mixes=scored(rule),
        k=rule.k,
        scaled=not rule.normalised,
        balance=0.02,
        shares=shares,
        mixture=sparse_mix,
    )


def gate_of_tree(rule: Hierarchical) -> Gate:
    """Return the hierarchical mixture of experts: each is weighted by the product along its path.

    Source: Jordan and Jacobs 1994, eq. 5-8, https://doi.org/10.1162/neco.1994.6.2.181.

    Args:
        rule: with the tree.
    """
    return Gate(mixes=lambda z, bias: rule.probabilities(z), shares=rule.probabilities)


GATES: dict[str, Gate] = {
    "soft_gate": Gate(mixes=soft),
    "straight_through": Gate(mixes=straight_through, mixture=straight_through_mix),
    "switch": Gate(mixes=switch, scaled=True, balance=0.01, mixture=sparse_mix),
    "renormalised_top1": Gate(mixes=renormalised, mixture=sparse_mix),
    "mixtral_top2": gate_of_rule(TopK(k=2)),
    "sigmoid_top2": gate_of_rule(ScoredTopK(k=2, score="sigmoid")),
    "deepseek_v3_top2": Gate(mixes=deepseek_v3, k=2, bias_speed=1e-3, mixture=sparse_mix),
}


def joint(gate: Gate) -> Gate:
    """Return the gate with the policy gradient on the outcome table in place of the balance loss.

    The coefficient was selected from 0.3, 0.9 and 3 on the validation part of the tiny pool.
    """
    return replace(gate, policy=0.9, balance=0.0)


def train_gate(
    pool: TokenPool,
    start: LayerRouters,
    gate: Gate,
    training: Training,
    *,
    score: Callable[[Choose], float] | None = None,
) -> tuple[Fit, Callable[[LayerRouters], Choose]]:
    """Train a gate from a warm start.

    Args:
        pool: frozen experts and text.
        start: routers to start from.
        gate: the gate.
        training: options of the training loop.
        score: validation score of a choice at inference, lower is better; the mean loss if None.

    Returns:
        the fit, and a function from its routers to the choice at inference. Routers of a gate with a
        selection bias have it in their rules.
    """
    tail, sequences = pool.tail, pool.parts["train"]
    several, bias = processes(), selection_biases(start)
    tree = isinstance(start.rule, Hierarchical)
    policy = start.rule if tree else Hard()
    loads = torch.zeros(tail.depth, tail.experts)

    def loss(routers: LayerRouters, rows: Tensor, generator: torch.Generator) -> Tensor:
        hidden = sequences.states(rows)
        outcomes = torch.from_numpy(sequences.path_loss[rows.numpy()]).movedim(1, -1)
        extra, expected = torch.zeros(()), torch.zeros(())
        for layer in range(tail.depth):
            hidden, x = tail.attend(layer, hidden)
            z = routers.logits(layer, x)
            dense = gate.mixes(z, bias[layer])
            running = selected(dense.detach(), gate.k).flatten(0, -2)
            load = several.row_mean(running) / gate.k
            loads[layer] = load
            if gate.balance:
                extra = extra + balance(gate.shares(z).flatten(0, -2), load)
            if gate.policy:
                expected = expected + expected_loss(policy, z, outcomes, gate.entropy)
            hidden = hidden + gate.mixture(tail, layer, x, dense)
        mixed = tail.loss(hidden, sequences.targets(rows)).mean()
        return mixed + (gate.balance * extra + gate.policy * expected) / tail.depth

    def move_bias(routers: LayerRouters) -> None:
        bias.sub_(gate.bias_speed * (loads - 1.0 / tail.experts).sign())

    own = tree or bool(bias.any())  # routers select by their own rules, a mixture's or a tree's

    def serve(routers: LayerRouters) -> Choose:
        return routers.choose if own else served(routers, gate, bias)

    def scored(routers: LayerRouters) -> float:
        assert score is not None
        return score(serve(routers))

    validated = None if score is None else scored
    moved = {"bias": bias}
    fit = train(pool, start, training, loss, serve=serve, score=validated, after=move_bias, moved=moved)
    if gate.bias_speed:
        rules = [ScoredTopK(k=gate.k, score="sigmoid", bias=tuple(row)) for row in bias.tolist()]
        fit = replace(fit, routers=fit.routers.copy(rules))
    return fit, serve


def selection_biases(routers: LayerRouters) -> Tensor:
    """Return the selection biases of each layer's rule, [L, N] float32; 0 for a rule without.

    Args:
        routers: of all layers.
    """
    none = (0.0,) * len(routers.experts)
    return torch.tensor([getattr(rule, "bias", none) or none for rule in routers.rules])


def selected(dense: Tensor, k: int) -> Tensor:
    """Return which experts [..., N] float32 are among the top k and have positive weight."""
    best = torch.zeros_like(dense).scatter(-1, largest(dense, k), 1.0)
    return best * (dense > 0)


def served(routers: LayerRouters, gate: Gate, bias: Tensor) -> Choose:
    """Return the choice of a gate at inference: its top k; a single expert has weight 1 unless `scaled`."""

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            dense = gate.mixes(routers.logits(layer, x), bias[layer])
            experts = largest(dense, gate.k)
            weights = dense.gather(-1, experts)
            if gate.k == 1 and not gate.scaled:
                weights = torch.ones_like(weights)
            return torch.where(weights > 0, experts, dense.shape[-1]), weights

    return choose


def balance(p: Tensor, load: Tensor) -> Tensor:
    """Return `N sum_e f_e P_e` of probabilities [T, N] and loads [N] (Fedus et al. 2021, eq. 4)."""
    return p.shape[-1] * (load * p.mean(dim=0)).sum()


Rule = TypeVar("Rule", bound=ScoredTopK | UnnormalisedTopK)


def _with_bias(rule: Rule, bias: Tensor) -> Rule:
    return replace(rule, bias=tuple(bias.tolist())) if bool(bias.any()) else rule


def _one_hot(z: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter(-1, largest(z.detach(), 1), 1.0)


def _among(z: Tensor, experts: Tensor) -> Tensor:
    """Return the logits of the given experts, minus infinity for others."""
    return torch.full_like(z, float("-inf")).scatter(-1, experts, z.gather(-1, experts))
