"""Expected load of a policy, as a differentiable function of its probabilities.

Tokens sample their experts independently, so the count of an expert is a sum of independent Bernoulli
variables. Its mean and variance are known, and with hundreds of tokens it is nearly normal. Counts have no
gradient; the expected count has one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.layer_load import LoadRule
from experts import InputError

__all__ = ["expected_load"]


def expected_load(rule: LoadRule, p: Tensor) -> Tensor:
    """Return the expectation of `envs.layer_load` over one sample per token, a float32 scalar.

    Exact for `share`: `N sum_e (mu_e^2 + var_e) / M^2 - 1`. For `tiles`:

        sum_e sum_j P(n_e > tile j) / ceil(M / tile) - 1,    n_e ~ Normal(mu_e, var_e)

    with the continuity correction of half a token.

    Args:
        rule: definition of load.
        p: [M, N] float32, probabilities of each token.

    Raises:
        InputError: the rule has a placement.

    >>> expected_load(LoadRule(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(1.)
    """
    if rule.placement is not None:
        raise InputError("load.placement", list(rule.placement), "has no expected load", "leave it out")
    tokens, experts = p.shape
    mean, variance = p.sum(dim=0), (p * (1.0 - p)).sum(dim=0)
    if rule.kind == "share":
        return experts * (mean.square() + variance).sum() / tokens**2 - 1.0
    edges = torch.arange(0, tokens, rule.tile, dtype=p.dtype, device=p.device) + 0.5
    spread = variance.clamp(min=1e-2).sqrt().unsqueeze(-1)
    above = 0.5 * (1.0 + torch.erf((mean.unsqueeze(-1) - edges) / (spread * math.sqrt(2.0))))
    return above.sum() / math.ceil(tokens / rule.tile) - 1.0
