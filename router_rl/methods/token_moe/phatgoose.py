"""PHATGOOSE: each expert learns on its own text alone which tokens it helps, and tokens go to the best fits.

Expert e and the model are frozen, and a vector v of each layer is trained to open the expert where it lowers
the loss: the layer's output is `base(x) + sigmoid(v x) (E_e(x) - base(x))`. Afterwards, v and the tokens are
standardised over their H coordinates; a token's score is their product (section 3.2), and the k largest have
the weights `softmax(scores / sqrt(H))`. No expert needs the text of another.

Source: Muqeeth et al. 2024, "Learning to Route Among Specialized Experts for Zero-Shot Generalization",
https://arxiv.org/abs/2402.05859. Differences: experts are whole FFNs, not modules that are added to each
linear layer, and one without text of its own is never chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.io.progress import track
from experts.io.value_range import Count, Positive
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...routing.selection.topk import largest
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from .refusals import needs_topk_paths

__all__ = ["METHOD", "PhatgooseHyperparameters", "gate_vectors", "phatgoose_scores"]


@dataclass(frozen=True, kw_only=True)
class PhatgooseHyperparameters(Hyperparameters):
    """Hyperparameters of the gates.

    Attributes:
        learning_rate: learning rate of AdamW.
        steps: gradient steps for each expert.
    """

    learning_rate: Positive = 5e-3
    steps: Count = 100


def gate_vectors(pool: TokenPool, hyperparameters: PhatgooseHyperparameters, batch: int, seed: int) -> Tensor:
    """Train the vectors of each expert with a domain on the training sequences of that domain, [L, N, H].

    Args:
        pool: experts with a common ancestor.
        hyperparameters: learning rate and steps.
        batch: sequences per gradient step.
        seed: of the batches.

    Returns:
        float32; 0 for an expert without a domain.
    """
    tail, sequences, base = pool.tail, pool.parts["train"], pool.base.dense()
    vectors = torch.zeros(tail.depth, tail.experts, tail.hidden)
    generator = torch.Generator().manual_seed(seed)
    for expert in track(range(len(pool.domains)), "gates of experts", len(pool.domains)):
        own = torch.from_numpy((sequences.domain == expert).all(axis=1).nonzero()[0])
        if not len(own):
            continue
        vector = torch.zeros(tail.depth, tail.hidden, requires_grad=True)
        optimizer = torch.optim.AdamW([vector], lr=hyperparameters.learning_rate, weight_decay=0.0)
        for _ in range(hyperparameters.steps):
            rows = own[torch.randint(len(own), (min(batch, len(own)),), generator=generator)]
            hidden = sequences.states(rows)
            for layer in range(tail.depth):
                hidden, x = tail.attend(layer, hidden)
                before = _ffn(base[layer], x)
                opened = torch.sigmoid(x @ vector[layer]).unsqueeze(-1)
                hidden = hidden + before + opened * (tail.run(layer, expert, x) - before)
            optimizer.zero_grad()
            tail.loss(hidden, sequences.targets(rows)).mean().backward()
            optimizer.step()
        vectors[:, expert] = vector.detach()
    return vectors


def phatgoose_scores(x: Tensor, vectors: Tensor) -> Tensor:
    """Return the score of each expert, [..., N]; minus infinity for an expert whose vector is 0.

    Args:
        x: [..., H] float, tokens.
        vectors: [N, H] float, the experts' vectors in this layer.
    """
    scores = _standardised(x) @ _standardised(vectors).T
    return scores.masked_fill(~vectors.any(dim=-1), float("-inf"))


def _standardised(values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:], eps=1e-12)


def _ffn(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    opened = F.silu(F.linear(x, weights["gate_proj"])) * F.linear(x, weights["up_proj"])
    return F.linear(opened, weights["down_proj"])


def _refuses(problem: TokenMoEProblem) -> str | None:
    without = None if problem.pool.domains else "needs experts that have text of their own"
    return needs_topk_paths(problem) or without


def _fit(problem: TokenMoEProblem, hyperparameters: PhatgooseHyperparameters, run: Run) -> LayerPolicy:
    vectors = gate_vectors(problem.pool, hyperparameters, problem.options.batch, run.seed)
    k, temperature = problem.experts_per_token, vectors.shape[-1] ** 0.5

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = phatgoose_scores(x, vectors[layer])
        experts = largest(scores, k)
        weights = (scores.gather(-1, experts) / temperature).softmax(dim=-1)
        return torch.where(weights > 0, experts, scores.shape[-1]), weights

    return LayerPolicy(choose=choose)


METHOD = Method(
    name="phatgoose",
    family="gate",
    fit=_fit,
    hyperparameters=PhatgooseHyperparameters,
    space={"learning_rate": (5e-3, 2e-2, 5e-2)},
    refuses=_refuses,
    about="each expert's gate trained on its own text alone",
)
