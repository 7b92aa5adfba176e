"""The packaged pool: small, offline, and worth routing."""

from __future__ import annotations

import numpy as np
import pytest

from experts.moe.tiny import WEIGHTS, tiny_pool
from experts.moe.tiny_text import DOMAINS, document, encode, token_rows


@pytest.fixture(scope="module")
def pool():
    return tiny_pool(4, 6)


def test_the_weights_are_under_a_megabyte():
    files = [WEIGHTS, WEIGHTS.with_name("tiny_experts.safetensors")]
    assert sum(path.stat().st_size for path in files) < 1_000_000


def test_every_expert_is_best_at_home(pool):
    s = pool.parts["test"]
    pure = ~s.mixed
    home = np.stack(
        [s.path_loss[(s.domain[:, 0] == d) & pure].mean(axis=(0, 2)) for d in range(len(DOMAINS))]
    )
    assert (home.argmin(axis=1) == np.arange(len(DOMAINS))).all()
    np.testing.assert_allclose(s.path_loss[:, -1], s.dense_loss, atol=1e-5)  # the general expert is the base
    dense = np.array([s.dense_loss[(s.domain[:, 0] == d) & pure].mean() for d in range(len(DOMAINS))])
    assert (home.diagonal() < dense).all()
    assert s.mixed.sum() == 6
    assert pool.domains == DOMAINS


@pytest.mark.parametrize("domain", DOMAINS)
def test_text_is_the_same_for_everybody(domain):
    assert document(domain, 3) == document(domain, 3) != document(domain, 4)
    ids = encode(document(domain, 3))
    assert len(ids) > 400
    assert max(ids) < 128
    rows = token_rows(domain, 3, 2, 50)
    assert rows.shape == (2, 51)
    assert bytes(rows[0].tolist()).decode() in document(domain, 3)
