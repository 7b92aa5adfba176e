"""Hierarchical selection, by hand on general -> coding -> python | c | javascript."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from router_rl.routing import Hierarchical, RouterError, gumbel, selection_from_spec

# Experts: 0 prose, 1 python, 2 c, 3 javascript.
RULE = Hierarchical(tree=("general", (0, ("coding", (("script", (1, 3)), 2)))))
LOGITS = torch.tensor([[0.2, 0.7, 1.0, -0.5, 0.1, 0.4]])  # prose, coding | script, c | python, javascript


def test_branches_stand_family_by_family() -> None:
    assert RULE.branches == ("0", "coding", "script", "2", "1", "3")
    assert RULE.outputs(4) == 6


def test_probabilities_are_products_along_the_paths() -> None:
    top, middle, low = LOGITS[0, :2].softmax(0), LOGITS[0, 2:4].softmax(0), LOGITS[0, 4:].softmax(0)
    expected = torch.stack(
        [top[0], top[1] * middle[0] * low[0], top[1] * middle[1], top[1] * middle[0] * low[1]]
    )
    torch.testing.assert_close(RULE.probabilities(LOGITS)[0], expected)
    found = RULE.log_prob(LOGITS.expand(4, -1), torch.arange(4).unsqueeze(1))
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(RULE.entropy(LOGITS)[0], -(expected * expected.log()).sum())


def test_greedy_follows_the_levels_not_the_likeliest_leaf() -> None:
    # Coding is likelier than prose, though each of its leaves is less likely than prose.
    logits = torch.tensor([[0.0, 0.1, 0.0, 0.0, 0.0, 0.0]])
    assert RULE.probabilities(logits)[0].argmax() == 0
    assert RULE.select(logits).experts.tolist() == [[1]]  # ties go to the child that stands first
    assert RULE.select(logits).weights.tolist() == [[1.0]]


def test_every_leaf_is_found() -> None:
    for signs in itertools.product([-1.0, 1.0], repeat=3):
        a, b, c = signs
        logits = torch.tensor([[0.0, a, b, 0.0, 0.0, c]])
        expected = 0 if a < 0 else 2 if b < 0 else 1 if c < 0 else 3
        assert int(RULE.select(logits).experts) == expected


def test_sampling_follows_log_prob() -> None:
    count = 20_000
    noise = gumbel((count, 6), torch.Generator().manual_seed(0))
    drawn = RULE.sample(LOGITS.expand(count, -1), noise).flatten()
    expected = RULE.probabilities(LOGITS)[0].double() * count
    seen = torch.bincount(drawn, minlength=4)
    assert stats.chisquare(seen.numpy(), (expected * count / expected.sum()).numpy()).pvalue > 1e-3


def test_the_score_function_gradient_is_the_gradient_of_the_expectation() -> None:
    value = torch.tensor([1.0, -2.0, 0.5, 3.0])
    logits = LOGITS.clone().requires_grad_()
    (exact,) = torch.autograd.grad((RULE.probabilities(logits)[0] * value).sum(), logits)
    log_p = RULE.log_prob(logits.expand(4, -1), torch.arange(4).unsqueeze(1))
    (score,) = torch.autograd.grad((log_p.detach().exp() * value * log_p).sum(), logits)
    torch.testing.assert_close(score, exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "allowed", [[False, True, True, True], [True, False, True, False], [True, True, False, True]]
)
def test_masked_experts_are_never_chosen(allowed: list[bool]) -> None:
    mask = torch.tensor(allowed)
    logits = RULE.mask(LOGITS.expand(300, -1), mask)
    drawn = RULE.sample(logits, gumbel((300, 6), torch.Generator().manual_seed(0)))
    assert mask[drawn.flatten()].all()
    assert mask[RULE.select(logits).experts.flatten()].all()
    probabilities = RULE.probabilities(logits)
    assert (probabilities[:, ~mask] == 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(300))
    grad = logits.detach().clone().requires_grad_()
    RULE.entropy(grad).sum().backward()
    assert grad.grad is not None
    assert grad.grad.isfinite().all()


def test_lifting_keeps_a_law_and_finds_the_best() -> None:
    law = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    torch.testing.assert_close(RULE.probabilities(RULE.lift(law.log())), law)
    for best in range(4):
        values = torch.full((1, 4), 0.5)
        values[0, best] = 0.6
        assert int(RULE.select(RULE.lift(values, temperature=0.0)).experts) == best


def test_prefer_chooses_the_expert_alone() -> None:
    for expert in range(4):
        row = RULE.prefer(expert, 4)[None]
        assert int(RULE.select(row).experts) == expert
        assert float(RULE.probabilities(row)[0, expert]) == pytest.approx(1.0)


def test_spec_round_trip() -> None:
    assert selection_from_spec(RULE.spec()) == RULE


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (("root", (0, 1, 1)), r"leaves \[0, 1, 1\] but there are 3 experts; give each of 0 to 2 once"),
        (("root", (0, 1)), "leaves"),
        (0, "one expert"),
        (("root", ()), "neither"),
        (("root", (0, "c")), "neither"),
        (["root"], "neither"),
        (("root", (0, 1, 2), (0, 1, 2)), "neither"),
        ((0, (0, 1, 2)), "neither"),
        (True, "neither"),
    ],
)
def test_a_tree_that_does_not_fit(tree: object, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        Hierarchical(tree=tree).check(3)  # type: ignore[arg-type]


def test_a_batch_of_sequences_is_the_sequences_one_by_one() -> None:
    logits = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    action = RULE.sample(logits)
    for function in (RULE.log_prob, RULE.weigh):
        found = function(logits, action)
        torch.testing.assert_close(found, torch.stack([function(logits[n], action[n]) for n in range(2)]))
    torch.testing.assert_close(RULE.entropy(logits), torch.stack([RULE.entropy(each) for each in logits]))
