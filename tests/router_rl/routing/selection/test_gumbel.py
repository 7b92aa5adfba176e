from __future__ import annotations

import torch
from scipy import stats

from router_rl.routing import gumbel
from router_rl.routing.selection.gumbel import gumbel_like


def test_follows_the_gumbel_distribution():
    noise = gumbel((20_000,), torch.Generator().manual_seed(3))
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 0.01


def test_the_generator_decides():
    first = gumbel((5, 3), torch.Generator().manual_seed(3))
    assert first.equal(gumbel((5, 3), torch.Generator().manual_seed(3)))
    assert not first.equal(gumbel((5, 3), torch.Generator().manual_seed(4)))


def test_is_finite_where_the_uniform_draw_is_0(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    assert gumbel_like(torch.zeros(4), None).isfinite().all()


def test_given_noise_is_used_as_it_is():
    noise = torch.randn(2, 3)
    assert gumbel_like(torch.zeros(2, 3), noise) is noise
