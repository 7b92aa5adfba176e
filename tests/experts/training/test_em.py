"""EM: one iteration by hand, a likelihood that never falls, and known regimes found again."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts import InputError
from experts.training import (
    GateTree,
    LinearGaussianExpert,
    LogisticExpert,
    Mixture,
    e_step,
    fit_em,
    random_responsibilities,
)

TREES = {"flat": (0, 1, 2, 3), "two levels": ((0, 1), (2, 3)), "uneven": (0, (1, (2, 3)))}


def test_one_e_step_by_hand():
    # g = (.25, .75), P = (.6, .2): joint .15 and .15; then (.5, .5) and (.9, .1).
    joint = torch.tensor([[0.25 * 0.6, 0.75 * 0.2], [0.5 * 0.9, 0.5 * 0.1]], dtype=torch.float64).log()
    torch.testing.assert_close(e_step(joint), torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64))
    assert e_step(joint, hard=True).tolist()[1] == [1.0, 0.0]
    tempered = e_step(joint, temperature=2.0)[1]  # roots of .9 and .1 are 3 to 1
    assert tempered.tolist() == pytest.approx([0.75, 0.25])


def test_one_m_step_by_hand():
    # Constant input 0: the gate learns shares, an expert the weighted mean and variance.
    x = torch.zeros(2, 1, dtype=torch.float64)
    y = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    mixture = Mixture(GateTree((0, 1), 1), [LinearGaussianExpert(1), LinearGaussianExpert(1)])
    mixture.maximise(x, y, torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64))
    one, two = mixture.experts
    assert (float(one.weights[0, 1]), float(two.weights[0, 1])) == pytest.approx((1.0, 3.0))
    assert (one.variance, two.variance) == pytest.approx((3.0, 3.0))
    assert mixture.gate.log_probabilities(x).exp()[0].tolist() == pytest.approx([0.5, 0.5])
    each = [0.5 * math.exp(-d * d / 6) / math.sqrt(6 * math.pi) for d in (1, 3)]
    assert mixture.objective(x, y) == pytest.approx(2 * math.log(sum(each)))
    assert mixture.objective(x, y, hard=True) == pytest.approx(2 * math.log(each[0]))


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
def test_the_likelihood_never_falls(tree, hard, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    if kind == "gaussian":
        y = torch.randn(40, 2, generator=generator, dtype=torch.float64)
        experts = [LinearGaussianExpert(2, 2) for _ in range(4)]
    else:
        y = torch.randint(0, 3, (40,), generator=generator)
        experts = [LogisticExpert(2, 3) for _ in range(4)]
    mixture = Mixture(GateTree(TREES[tree], 2), experts)
    start = random_responsibilities(40, 4, generator)
    history = fit_em(mixture, x, y, start, hard=hard, iterations=5, tolerance=0.0).history
    for before, after in itertools.pairwise(history):
        assert after >= before - 1e-8 * abs(before)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("hard", [False, True])
def test_two_linear_regimes_are_recovered(seed, hard):
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(300, 1, generator=generator, dtype=torch.float64) - 1
    noise = 0.05 * torch.randn(300, 1, generator=generator, dtype=torch.float64)
    y = torch.where(x < 0, 2 * x + 1, -3 * x - 1) + noise
    # EM finds a maximum near its start, so the best of a few random starts is taken.
    tries = []
    for _ in range(4):
        mixture = Mixture(GateTree((0, 1), 1, ridge=1e-3), [LinearGaussianExpert(1), LinearGaussianExpert(1)])
        fit = fit_em(mixture, x, y, random_responsibilities(300, 2, generator), hard=hard)
        tries.append((fit.history[-1], mixture, fit))
    _, mixture, fit = max(tries, key=lambda one: one[0])
    found = sorted(expert.weights[0].tolist() for expert in mixture.experts)
    assert found[0] == pytest.approx([-3.0, -1.0], abs=0.05)
    assert found[1] == pytest.approx([2.0, 1.0], abs=0.05)
    assert [expert.variance for expert in mixture.experts] == pytest.approx([0.0025] * 2, rel=0.4)
    right = fit.responsibilities.argmax(dim=1) == fit.responsibilities[x[:, 0].argmin()].argmax()
    assert float((right == (x[:, 0] < 0)).double().mean()) > 0.98


def test_what_starts_alike_stays_alike():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    mixture = Mixture(GateTree((0, 1), 1), [LinearGaussianExpert(1), LinearGaussianExpert(1)])
    fit = fit_em(mixture, x, x.abs(), torch.full((20, 2), 0.5, dtype=torch.float64))
    torch.testing.assert_close(fit.responsibilities, torch.full((20, 2), 0.5, dtype=torch.float64))


def test_a_gate_needs_an_expert_for_every_leaf():
    with pytest.raises(InputError, match="experts=1: the gate has 2 leaves"):
        Mixture(GateTree((0, 1), 1), [LinearGaussianExpert(1)])
