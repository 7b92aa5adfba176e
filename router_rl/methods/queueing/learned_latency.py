"""A router of language model servers whose expected times are corrected by a network.

The network learns from times that requests of training episodes took. It is a part of the scorer, so that an
exported policy has it; the boosted trees of `latency_tuned` are not.
"""

from __future__ import annotations

import torch

from ...problems.queueing.problem import QueueingProblem
from ...routing import Hard, Router, ServerScorer
from ..training_loop import descend
from .index_router import index_router
from .latency_samples import LatencySamples, latency_samples
from .server_rules import server_scorer

__all__ = ["fit_latency", "learned_router"]

_HIDDEN, _BATCH, _STEPS, _RATE = 32, 512, 600, 3e-3
_LEAST = 1e-4  # seconds


def learned_router(problem: QueueingProblem, seed: int) -> Router:
    """Return the router of `index_router` with corrected expected times; every weight and price is 0.

    Args:
        problem: with one case, of model servers.
        seed: of the episodes and of the network.
    """
    plain, router = server_scorer(problem), index_router(problem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = ServerScorer(plain.inputs, plain.experts, plain.server, latency_hidden=_HIDDEN)
    scorer.load_state_dict(plain.state_dict(), strict=False)
    fit_latency(scorer, latency_samples(problem, plain, seed), seed)
    return Router(scorer, Hard(), router.experts, state=router.state).eval()


def fit_latency(scorer: ServerScorer, samples: LatencySamples, seed: int) -> None:
    """Train a scorer's correction of the expected times, by least squares of logarithms.

    Args:
        scorer: with a correction, which is changed.
        samples: the requests.
        seed: of the order of the samples.
    """
    assert scorer.latency is not None
    with torch.no_grad():
        parts = scorer.server_parts(samples.observation)
        plain, rows = scorer.computed(parts), torch.arange(len(samples.expert))
        computed = [scorer.least_first(plain), (plain.finish - plain.first).clamp(min=_LEAST)]
        took = [samples.first_s, samples.whole_s - samples.first_s]
        target = torch.stack(
            [
                now.clamp(min=_LEAST).log() - expected[rows, samples.expert].log()
                for now, expected in zip(took, computed, strict=True)
            ],
            dim=-1,
        )
        quantities = scorer.latency_quantities(parts)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(scorer.latency.parameters(), lr=_RATE)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1.0 - step / _STEPS)
        batch = torch.randint(len(rows), (_BATCH,), generator=generator)
        factors = scorer.latency(quantities[batch])[torch.arange(len(batch)), samples.expert[batch]]
        descend(optimizer, (factors - target[batch]).square().mean())
    scorer.requires_grad_(False)
