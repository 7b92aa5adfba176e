"""The clipped surrogate by hand."""

from __future__ import annotations

import torch

from router_rl.methods.agents.router_ppo import clipped


def test_clipped_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # Good and already likelier: cut at 1.2. Bad and already rarer: cut at 0.8. Otherwise as it is.
    want = torch.tensor([1.2, -1.5, 0.5, -0.8, 2.2])
    torch.testing.assert_close(clipped(ratio, advantage, 0.2), want)


def test_the_gradient_stops_past_the_clip() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], requires_grad=True)
    clipped(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


def test_no_advantage_no_gradient() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    ratio = (logits.log_softmax(dim=-1)[:, 0] - 0.3).exp()
    clipped(ratio, torch.zeros(5), 0.2).mean().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
