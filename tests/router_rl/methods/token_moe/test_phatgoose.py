"""PHATGOOSE learns where each expert helps on its own text, and routes tokens by what it learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.method import Run
from router_rl.methods.token_moe.phatgoose import (
    METHOD,
    PhatgooseHyperparameters,
    gate_vectors,
    phatgoose_scores,
)

FEW = PhatgooseHyperparameters(learning_rate=0.05, steps=8)


def test_scores_are_products_of_standardised_vectors() -> None:
    rng = np.random.default_rng(0)
    tokens, vectors = rng.normal(size=(5, 7)), rng.normal(size=(3, 7))
    vectors[1] = 0.0
    found = phatgoose_scores(torch.from_numpy(tokens), torch.from_numpy(vectors))
    for row, x in enumerate(tokens):
        for expert, v in enumerate(vectors):
            expected = -np.inf
            if v.any():
                expected = ((x - x.mean()) / x.std()) @ ((v - v.mean()) / v.std())
            assert float(found[row, expert]) == pytest.approx(expected)


def test_a_gate_opens_where_its_expert_is_better_than_the_base(micro_pool: TokenPool) -> None:
    """One expert breaks the model, and its gate closes; only its own text is read."""
    base, names = micro_pool.base, micro_pool.domains
    broken = [{part: 3.0 * weight for part, weight in layer.items()} for layer in base.dense()]
    experts = {names[0]: broken, **{name: base.dense() for name in names[1:]}}
    pool = replace(micro_pool, tail=base.tail(experts))
    before = pool.tail.fingerprint()
    vectors = gate_vectors(pool, FEW, batch=4, seed=0)
    assert pool.tail.fingerprint() == before
    assert not vectors[:, 1:].any()  # a copy of the base: the gate has no gradient
    rows = torch.from_numpy((pool.parts["train"].domain == 0).all(axis=1).nonzero()[0])[:4]
    _, x = pool.tail.attend(0, pool.parts["train"].states(rows))
    assert torch.sigmoid(x @ vectors[0, 0]).mean() < 0.5
    part = pool.parts["train"]
    other = replace(part, tokens=np.where((part.domain == 0).all(axis=1)[:, None], part.tokens, 0))
    again = gate_vectors(replace(pool, parts={**pool.parts, "train": other}), FEW, batch=4, seed=0)
    assert again[:, 0].equal(vectors[:, 0])


@pytest.mark.parametrize("k", [1, 2])
def test_tokens_go_to_the_best_scores(micro_pool: TokenPool, k: int) -> None:
    problem = TokenMoEProblem(length=8, train=6, validation=4, test=6, experts_per_token=k)
    problem.pool = micro_pool
    choose = METHOD.fit(problem, FEW, Run(seed=0)).choose
    vectors = gate_vectors(micro_pool, FEW, problem.options.batch, seed=0)
    x = torch.randn(20, micro_pool.tail.hidden, generator=torch.Generator().manual_seed(0))
    experts, weights = choose(0, x)
    for row in range(len(x)):
        scores = phatgoose_scores(x[row], vectors[0])
        best = sorted(range(len(scores)), key=lambda expert, scores=scores: (-float(scores[expert]), expert))[
            :k
        ]
        assert experts[row].tolist() == best
        expected = (scores[best] / micro_pool.tail.hidden**0.5).softmax(dim=0)
        torch.testing.assert_close(weights[row], expected)
    assert int(experts.max()) < len(micro_pool.domains)  # an expert without text of its own is never chosen


def test_experts_without_text_of_their_own_are_refused(micro_pool: TokenPool) -> None:
    problem = TokenMoEProblem(length=8, train=6, validation=4, test=6)
    problem.pool = replace(micro_pool, domains=())
    assert METHOD.refuses is not None
    assert METHOD.refuses(problem) == "needs experts that have text of their own"
