"""Fit the beliefs that all cascade methods share, and cross-fit them on their own rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from ...routing.policies.cascade_beliefs import Beliefs

__all__ = ["FittedBeliefs", "fit_beliefs"]

_HIDDEN, _FOLDS, _EPOCHS, _BATCH = 64, 5, 60, 128
_RATE, _DECAY = 3e-3, 0.1
_EXCHANGES = 240  # steps


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedBeliefs:
    """Beliefs, and their out-of-fold predictions on the rows they were fitted on.

    Attributes:
        beliefs: for new rows: the mean of the folds' networks.
        fold: [T] int64, the fold of each row: the network that was fitted without it.
        prior: [T, N] float32 log-odds, out-of-fold predictions.
        posterior: [T, N] float32 log-odds, from that prior and the confidence.
    """

    beliefs: Beliefs
    fold: Tensor
    prior: Tensor
    posterior: Tensor


def fit_beliefs(
    features: Tensor, confidence: Tensor, quality: Tensor, seed: int, same: Tensor | None = None
) -> FittedBeliefs:
    """Fit a network for each fold on the other folds, keep the epoch of lowest held-out loss, and calibrate.

    Args:
        features: [T, D] float32.
        confidence: [T, N] float32 in [0, 1].
        quality: [T, N] float32 in [0, 1], taken as the probability of being right.
        seed: of the folds, the weights and the batches.
        same: [T, N, N] float, 1 where two answers are equal, if agreement moves the beliefs; else None.
    """
    rows, experts = quality.shape
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(rows, generator=generator) % _FOLDS
    beliefs = Beliefs(features.shape[1], experts, _FOLDS, _HIDDEN, agreement=same is not None)
    deviation = features.std(dim=0)
    beliefs.shift.copy_(features.mean(dim=0))
    beliefs.scale.copy_(torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=1e-6), 0.0))
    with torch.no_grad():
        for weight in (beliefs.first, beliefs.last):
            weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    learned = [beliefs.first, beliefs.first_bias, beliefs.last, beliefs.last_bias]
    optimizer = torch.optim.AdamW(learned, lr=_RATE, weight_decay=_DECAY)
    best, kept = float("inf"), [weight.detach().clone() for weight in learned]
    own = fold == torch.arange(_FOLDS).unsqueeze(-1)  # [M, T]
    for _ in range(_EPOCHS):
        for batch in torch.randperm(rows, generator=generator).split(_BATCH):
            logits = beliefs.members(features[batch])
            loss = functional.binary_cross_entropy_with_logits(
                logits, quality[batch].expand_as(logits), reduction="none"
            )
            loss = (loss * (~own[:, batch]).unsqueeze(-1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            prior = _held_out(beliefs, features, fold)
            held_out_loss = float(functional.binary_cross_entropy_with_logits(prior, quality))
        if held_out_loss < best:
            best, kept = held_out_loss, [weight.detach().clone() for weight in learned]
    with torch.no_grad():
        for weight, value in zip(learned, kept, strict=True):
            weight.copy_(value)
        prior = _held_out(beliefs, features, fold)
        _calibrate(beliefs, prior, confidence, quality)
        posterior = beliefs.posterior(prior, confidence)
    _exchange(beliefs, prior, posterior, quality, same, generator)
    return FittedBeliefs(
        beliefs=beliefs.requires_grad_(False).eval(), fold=fold, prior=prior, posterior=posterior
    )


def _held_out(beliefs: Beliefs, features: Tensor, fold: Tensor) -> Tensor:
    """Return out-of-fold predictions of the prior, [T, N] float32 log-odds."""
    members = beliefs.members(features)
    return members[fold, torch.arange(len(features))]


def _calibrate(beliefs: Beliefs, prior: Tensor, confidence: Tensor, quality: Tensor) -> None:
    """Set the calibration of each expert by weighted logistic regression."""
    odds = confidence.clamp(1e-4, 1.0 - 1e-4).logit()
    for expert in range(quality.shape[1]):
        inputs = torch.stack([odds[:, expert], prior[:, expert]], dim=1).double().numpy()
        right = quality[:, expert].double().numpy()
        # A quality between 0 and 1 counts partly as right and partly as wrong.
        both = np.concatenate([inputs, inputs])
        label = np.repeat([1, 0], len(right))
        weight = np.concatenate([right, 1.0 - right])
        if weight[label == 1].sum() == 0.0 or weight[label == 0].sum() == 0.0:
            beliefs.calibration[expert] = torch.tensor([0.0, 1.0, 0.0])
            continue
        fitted = LogisticRegression(C=10.0).fit(both, label, sample_weight=weight)
        coefficients = torch.tensor([*fitted.coef_[0], *fitted.intercept_])
        beliefs.calibration[expert] = coefficients.float()


def _exchange(
    beliefs: Beliefs,
    prior: Tensor,
    posterior: Tensor,
    quality: Tensor,
    same: Tensor | None,
    generator: torch.Generator,
) -> None:
    """Fit how the experts asked change the beliefs in the others, on random sets of up to three experts."""
    learned = [beliefs.influence, beliefs.agreeing, beliefs.differing]
    optimizer = torch.optim.Adam([weight for weight in learned if weight is not None], lr=0.03)
    rows, experts = quality.shape
    known = torch.zeros(rows, experts, experts) if same is None else same
    for step in range(_EXCHANGES):
        order = torch.rand(rows, experts, generator=generator).argsort(dim=-1)
        asked = order < 1 + step % min(3, experts)
        agree = known * asked.unsqueeze(-1) * asked.unsqueeze(-2)
        logits = beliefs.current(prior, posterior, asked, agree)
        loss = functional.binary_cross_entropy_with_logits(logits, quality)
        optimizer.param_groups[0]["lr"] = 0.03 * (1.0 - step / _EXCHANGES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
