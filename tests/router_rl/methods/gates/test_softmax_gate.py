"""The softmax gate's loss, by hand and against a slow float64 twin, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from router_rl.methods.gates.softmax_gate import mixture_loss, soft_targets


def test_mixture_loss_by_hand() -> None:
    mixing = torch.tensor([[0.25, 0.75]])
    probabilities = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]])
    # P(y = 0) = 0.25 * 0.8 + 0.75 * 0.4 = 0.5, plus the floor of 1e-3 / 2
    assert float(mixture_loss(mixing, probabilities, torch.tensor([0]))) == pytest.approx(-math.log(0.5005))


def test_mixture_loss_equals_the_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    probabilities = torch.rand(5, 3, 4, generator=generator, dtype=torch.float64)
    probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    label = torch.tensor([0, 3, 1, 1, 2])
    loss = mixture_loss(logits.softmax(dim=-1), probabilities, label)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for t in range(5):
        z = [float(v) for v in logits.detach()[t]]
        g = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        p = [float(probabilities[t, e, label[t]]) for e in range(3)]
        mixture = sum(a * b for a, b in zip(g, p, strict=True))
        assert float(loss.detach()[t]) == pytest.approx(-math.log(mixture + 1e-3 / 4), rel=1e-9)
        for e in range(3):
            # d/dz_e of -log(sum g p + c) = -g_e (p_e - sum g p) / (sum g p + c)
            expected = -g[e] * (p[e] - mixture) / (mixture + 1e-3 / 4)
            assert float(gradient[t, e]) == pytest.approx(expected, rel=1e-9)


def test_the_responsibility_drives_the_gradient_towards_the_expert_that_is_right() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    probabilities = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    mixture_loss(logits.softmax(dim=-1), probabilities, torch.tensor([1])).sum().backward()
    assert logits.grad[0, 1] < 0 < logits.grad[0, 0]


def test_soft_targets_by_hand() -> None:
    targets = soft_targets(torch.tensor([[1.0, 0.8, 0.8]]), 0.2)
    e = math.e
    torch.testing.assert_close(targets, torch.tensor([[e / (e + 2), 1 / (e + 2), 1 / (e + 2)]]))
