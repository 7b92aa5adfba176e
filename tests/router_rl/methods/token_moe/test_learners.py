"""Learners of layer routers: against slow twins, and on text whose best expert is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from envs.token_moe import TokenMoEConfig
from router_rl.methods.token_moe import token_bounds as bounds
from router_rl.methods.token_moe import token_ridge
from router_rl.methods.token_moe.backprop import (
    GATES,
    selected,
    train_gate,
)
from router_rl.methods.token_moe.balance import balanced_routers
from router_rl.methods.token_moe.expert_mixtures import dense_mix, sparse_mix, straight_through_mix
from router_rl.methods.token_moe.path_outcomes import train_outcome_table
from router_rl.methods.token_moe.token_reinforce import (
    TokenReinforceHyperparameters,
    later_tokens,
    train_reinforce,
)
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from router_rl.methods.token_moe.token_training import Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.token_measurement import measure
from router_rl.routing import AdaptiveK, Hard, Hierarchical, RouterError, Soft, TopK

TREE = ("all", (0, ("larger", (1, 2))))
TRAINING = Training(learning_rate=3e-2, epochs=30, batch=3, checks=3)


@pytest.fixture(scope="module")
def start(micro_pool):
    """Routers that know nothing: zero weights, standardised inputs."""
    ridge = fit_ridge(micro_pool.tail, micro_pool.parts["train"], RidgeHyperparameters(sweeps=1))
    with torch.no_grad():
        for scorer in ridge.scorers:
            scorer.weight.mul_(0.0)
            scorer.bias.mul_(0.0)
    return ridge


def loss_of(pool, choose, part="train"):
    return measure(pool.tail, pool.parts[part], choose).loss.mean()


def oracle_loss(pool, part="train"):
    s = pool.parts[part]
    return np.take_along_axis(s.path_loss, s.domain[:, None], axis=1).mean()


def test_the_pool_is_worth_routing(micro_pool):
    s = micro_pool.parts["test"]
    assert oracle_loss(micro_pool, "test") < s.path_loss.mean(axis=(0, 2)).min() - 0.3


def test_ridge_finds_the_domains(micro_pool):
    tail, s = micro_pool.tail, micro_pool.parts["train"]
    found = measure(tail, s, fit_ridge(tail, s, RidgeHyperparameters(penalty=1e-2)).choose)
    assert found.loss.mean() < s.path_loss.mean(axis=(0, 2)).min()
    assert (found.experts[..., 0] == s.domain).mean() > 0.6


def test_ridge_is_the_one_of_scikit_learn(micro_pool):
    tail, s = micro_pool.tail, micro_pool.parts["train"]
    routers = fit_ridge(tail, s, RidgeHyperparameters(penalty=0.1, window=2, sweeps=1))
    x = tail.attend(0, s.states(torch.arange(len(s))))[1].reshape(-1, tail.hidden).double()
    standard = (x - x.mean(0)) / x.std(0, unbiased=False)
    y = -torch.from_numpy(token_ridge.smoothed(s.path_loss, 2)).movedim(1, -1).reshape(-1, 3)
    y = y - y.mean(dim=-1, keepdim=True)
    theirs = Ridge(alpha=0.1 * len(x)).fit(standard.numpy(), y.numpy()).predict(standard.numpy())
    ours = routers.logits(0, x.float()).detach().numpy()
    scale = ours.std() / theirs.std()
    assert scale == pytest.approx(round(scale), abs=1e-3)  # the calibration multiplies by a power of two
    np.testing.assert_allclose(ours, theirs * scale, atol=2e-3)


def test_ridge_multiplies_the_logits_by_the_power_of_two_of_highest_likelihood(micro_pool, monkeypatch):
    tail, s, settings = micro_pool.tail, micro_pool.parts["train"], RidgeHyperparameters()
    scaled = fit_ridge(tail, s, settings)
    monkeypatch.setattr(token_ridge, "_SCALES", (1.0,))
    plain = fit_ridge(tail, s, settings)
    x = tail.attend(0, s.states(torch.arange(len(s))))[1]
    best = torch.from_numpy(token_ridge.smoothed(s.path_loss, settings.window).argmin(axis=1)).unsqueeze(-1)
    z = plain.logits(0, x).detach().double()
    scales = [2.0**power for power in range(8)]
    likelihood = [float((z * scale).log_softmax(dim=-1).gather(-1, best).sum()) for scale in scales]
    expected = scales[int(np.argmax(likelihood))]
    assert expected > 1.0
    torch.testing.assert_close(scaled.scorers[0].weight, expected * plain.scorers[0].weight)
    torch.testing.assert_close(scaled.scorers[0].bias, expected * plain.scorers[0].bias)


def test_pairs_are_the_routers_without_their_standardisation(micro_pool, start):
    routers = fit_ridge(micro_pool.tail, micro_pool.parts["train"], RidgeHyperparameters())
    x = torch.randn(7, micro_pool.tail.hidden)
    for layer, (weight, bias) in enumerate(routers.pairs()):
        assert weight.shape == (3, micro_pool.tail.hidden)
        torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias), routers.logits(layer, x))
        assert weight.dtype == bias.dtype == torch.float32


def test_copies_do_not_share_and_rules_must_fit(start):
    other = start.copy(TopK(k=2))
    with torch.no_grad():
        other.scorers[0].weight.add_(1.0)
    assert start.scorers[0].weight.eq(0).all()
    assert other.choose(0, torch.zeros(4, start.scorers[0].inputs))[0].shape == (4, 2)
    with pytest.raises(RouterError, match="needs 4 logits, the routers have 3"):
        start.copy(AdaptiveK(k=2))


def test_sparse_and_dense_mixtures_are_one(micro_pool):
    tail = micro_pool.tail
    x, z = torch.randn(5, 4, tail.hidden), torch.randn(5, 4, 3)
    for name, gate in GATES.items():
        logits = z.clone().requires_grad_()
        weights = gate.mixes(logits, torch.zeros(3))
        found = []
        for mix in (dense_mix, sparse_mix):
            out = mix(tail, 1, x, weights)
            found.append(
                (out.detach(), torch.autograd.grad(out.square().sum(), logits, retain_graph=True)[0])
            )
        torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
        if gate.mixture is sparse_mix:  # a dense gradient also asks those that were not chosen
            torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-3)
        if name == "renormalised_top1":
            assert found[0][1].abs().max() < 1e-3


def test_a_straight_through_mixture_has_the_dense_gradients(micro_pool):
    tail, x = micro_pool.tail, torch.randn(5, 4, micro_pool.tail.hidden)
    logits = torch.randn(5, 4, 3)
    logits[0, 0] = 0.0  # a tie
    found = []
    for mix in (dense_mix, straight_through_mix):
        inputs, z = x.clone().requires_grad_(), logits.clone().requires_grad_()
        out = mix(tail, 1, inputs, GATES["straight_through"].mixes(z, torch.zeros(3)))
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), (inputs, z))))
    for dense, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, dense, atol=1e-4, rtol=1e-4)
        assert dense.abs().max() > 0.1


@pytest.mark.parametrize(
    "name",
    ["soft_gate", "straight_through", "mixtral_top2", "sigmoid_top2", "deepseek_v3_top2", "switch"],
)
def test_gates_learn(micro_pool, start, name):
    fit, serve = train_gate(micro_pool, start, GATES[name], TRAINING)
    assert len(fit.curve) == 4
    assert fit.validation == min(fit.curve)
    choose = serve(fit.routers)
    assert loss_of(micro_pool, choose) < loss_of(micro_pool, serve(start)) - 0.02
    experts, _ = choose(0, torch.randn(2, 3, micro_pool.tail.hidden))
    assert experts.shape == (2, 3, GATES[name].k)


def test_a_joint_gate_adds_the_two_gradients(micro_pool, start):
    """One step of plain descent from the same start moves a joint gate by the sum of the two moves."""
    found = {}
    for name, change in {
        "gate": {},
        "joint": {"policy": 0.5, "entropy": 0.1},
        "more": {"policy": 1.0, "entropy": 0.1},
    }.items():
        gradients = []

        def watch(pool, routers, training, loss, gradients=gradients, **_):
            value = loss(routers, torch.arange(3), torch.Generator())
            gradients.append(torch.autograd.grad(value, list(routers.parameters())))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("router_rl.methods.token_moe.backprop.train", watch)
            train_gate(micro_pool, start, replace(GATES["soft_gate"], **change), TRAINING)
        found[name] = gradients[0]
    q = torch.from_numpy(micro_pool.parts["train"].path_loss[:3]).movedim(1, -1)
    for gate, joint, more in zip(found["gate"], found["joint"], found["more"], strict=True):
        torch.testing.assert_close(more - gate, 2 * (joint - gate), atol=1e-6, rtol=1e-4)
    # The start's logits are all 0, so the policy's part is known: dz = p (q - mean q), p = 1 / 3.
    slow = ((q - q.mean(-1, keepdim=True)) / 3).mean(dim=(0, 1))
    names = [name for name, _ in start.named_parameters()]
    for name, gate, more in zip(names, found["gate"], found["more"], strict=True):
        if name.endswith("bias"):
            torch.testing.assert_close(more - gate, slow / micro_pool.tail.depth, atol=1e-5, rtol=1e-4)


def test_a_renormalised_gate_stays_where_it_starts(micro_pool, start):
    fit, _ = train_gate(micro_pool, start, GATES["renormalised_top1"], TRAINING)
    assert max(float(s.weight.detach().abs().max()) for s in fit.routers.scorers) == 0.0


def test_the_outcome_table_teaches(micro_pool, start):
    fit = train_outcome_table(micro_pool, start, TRAINING)
    assert loss_of(micro_pool, fit.routers.choose) < loss_of(micro_pool, start.choose) - 0.1


def test_the_outcome_table_teaches_a_tree(micro_pool):
    routers = LayerRouters(2, micro_pool.tail.hidden, Hierarchical(tree=TREE), micro_pool.tail.names)
    fit = train_outcome_table(micro_pool, routers, TRAINING)
    assert loss_of(micro_pool, fit.routers.choose) < loss_of(micro_pool, routers.choose) - 0.1


def test_the_outcome_table_is_of_one_expert_a_token(micro_pool, start):
    with pytest.raises(RouterError, match="topk selects 2 experts"):
        train_outcome_table(micro_pool, start.copy(TopK(k=2)), TRAINING)


@pytest.mark.parametrize(
    "rule", [Hard(), TopK(k=2), Soft(k=3), Hierarchical(tree=TREE)], ids=lambda r: r.name
)
def test_reinforce_learns(micro_pool, start, rule):
    if rule.outputs(3) == 3:
        routers = start.copy(rule)
    else:
        routers = LayerRouters(2, micro_pool.tail.hidden, rule, micro_pool.tail.names)
    fit = train_reinforce(
        micro_pool, routers, TRAINING, TokenReinforceHyperparameters(rollouts=8, entropy=0.0)
    )
    assert loss_of(micro_pool, fit.routers.choose) < loss_of(micro_pool, routers.choose) - 0.02


def test_reinforce_pays_for_compute(micro_pool, start):
    tail = micro_pool.tail
    routers = LayerRouters(tail.depth, tail.hidden, AdaptiveK(k=2), tail.names)
    dear = TokenMoEConfig(compute_weight=20.0)

    def score(found):
        return measure(tail, micro_pool.parts["validation"], found.choose).compute

    fit = train_reinforce(micro_pool, routers, TRAINING, TokenReinforceHyperparameters(), dear, score=score)
    assert score(fit.routers) < 1.2


def test_learners_repeat_themselves(micro_pool, start):
    few = Training(epochs=2, batch=3, checks=1)
    for learn in (
        lambda: train_reinforce(micro_pool, start, few, TokenReinforceHyperparameters()),
        lambda: train_outcome_table(micro_pool, start, few),
    ):
        one, two = learn(), learn()
        torch.testing.assert_close(one.routers.state_dict(), two.routers.state_dict(), rtol=0, atol=0)


def test_later_tokens():
    reward = torch.randn(3, 6)
    slow = sum(0.5**d * torch.nn.functional.pad(reward, (0, d))[:, d:] for d in range(6))
    torch.testing.assert_close(later_tokens(reward, 0.5), slow)
    assert later_tokens(reward, 0.0) is reward


def test_measures(micro_pool):
    tail, s = micro_pool.tail, micro_pool.parts["test"]

    def first(layer, x):
        return torch.zeros((*x.shape[:-1], 1), dtype=torch.int64), torch.ones(*x.shape[:-1], 1)

    found = measure(tail, s, first, batch=4)
    np.testing.assert_allclose(found.loss, s.path_loss[:, 0], atol=1e-5)
    assert found.compute == 1.0
    assert found.load_cv() == pytest.approx(2**0.5)


def test_the_bounds_are_in_order(micro_pool):
    means = {
        name: getattr(bounds, name)(micro_pool, "test").mean()
        for name in ("hindsight", "label", "best_single", "average", "dense")
    }
    assert means["hindsight"] <= means["label"] < means["best_single"]
    s = micro_pool.parts["test"]
    assert means["dense"] == pytest.approx(s.dense_loss.mean())
    tail = micro_pool.tail
    x = torch.randn(2, 3, tail.hidden)
    even = tail.mix(0, x, *bounds.uniform(micro_pool)(0, x))
    torch.testing.assert_close(even, tail.outputs(0, x).mean(dim=2), atol=1e-5, rtol=1e-5)
    one, two = (bounds.random_choice(micro_pool, 3)(0, x)[0] for _ in range(2))
    assert one.equal(two)


def test_a_bias_evens_out_the_load(micro_pool):
    routers = fit_ridge(micro_pool.tail, micro_pool.parts["train"], RidgeHyperparameters())
    with torch.no_grad():
        for scorer in routers.scorers:
            scorer.bias[0] += 2.0
    before = measure(micro_pool.tail, micro_pool.parts["train"], routers.choose).load_cv()
    even = balanced_routers(micro_pool, routers)
    assert measure(micro_pool.tail, micro_pool.parts["train"], even.choose).load_cv() < min(before, 0.1)
    same = balanced_routers(micro_pool, routers, strength=0.0)
    assert measure(micro_pool.tail, micro_pool.parts["train"], same.choose).load_cv() == pytest.approx(
        before, abs=0.15
    )


def test_a_soft_mixture_is_counted_by_the_experts_it_will_be_served_by() -> None:
    dense = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    assert selected(dense, 1).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert selected(dense, 2).tolist() == [[1, 1, 0], [0, 1, 0]]  # one without weight does not run
