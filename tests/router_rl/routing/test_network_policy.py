"""The network policy: standardised inputs, masked actions, several parts of an action, odd observations."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing import RouterError
from router_rl.routing.policies.network_policy import NetworkPolicy


def made(choices: tuple[int, ...], *, masked: bool = False) -> NetworkPolicy:
    """A policy of 2 features and 3 other inputs; with a mask, input 2 + i makes action i valid."""
    policy = NetworkPolicy(("a", "b"), 2, 5, choices, (6,))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    if masked:
        policy.valid_columns[2:, :3] = torch.eye(3, dtype=torch.bool)
    return policy


def test_the_logits_are_those_of_the_standardised_observation() -> None:
    policy = made((3,))
    policy.shift.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
    policy.scale.copy_(torch.tensor([2.0, 1.0, 1.0, 1.0, 1e6]))
    observation = torch.tensor([[1.5, 0.2, -0.3, 0.0, 4.0]])
    first, last = policy.layers
    x = torch.tensor([[1.0, 0.2, -0.3, 0.0, 10.0]])  # clipped to 10 standard deviations
    torch.testing.assert_close(policy(observation), last(first(x).tanh()))


def test_each_part_of_an_action_takes_its_most_probable_choice() -> None:
    policy, observation = made((3, 2)), torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    logits = policy(observation)
    actions = policy.act(observation)
    assert (actions.dtype, tuple(actions.shape)) == (torch.int64, (7, 2))
    assert actions.equal(torch.stack([logits[:, :3].argmax(1), logits[:, 3:].argmax(1)], dim=1))
    assert policy.decide(observation).actions.equal(actions)


def test_an_action_is_valid_where_one_of_its_columns_is_positive() -> None:
    policy = made((3,), masked=True)
    with torch.no_grad():
        policy.layers[-1].bias.copy_(torch.tensor([50.0, 0.0, -50.0]))
    observation = torch.tensor([[0.0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [9, 9, -1, 0.5, 1]])
    assert policy.valid(observation).tolist() == [
        [True] * 3,
        [False, True, True],
        [False, False, True],
        [False, True, True],
    ]
    assert policy.act(observation).tolist() == [0, 1, 2, 1]
    assert made((3,)).valid(observation).all()  # no mask


def test_ties_go_to_the_first_action() -> None:
    policy = made((3,))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    assert policy.act(torch.randn(4, 5)).tolist() == [0, 0, 0, 0]


def test_entries_that_are_not_finite_are_replaced_by_zero() -> None:
    policy = made((3,))
    observation = torch.tensor(
        [[1.0, 2, 3, 4, 5], [1.0, float("nan"), 3, 4, 5], [1.0, 2, float("inf"), 4, 5]]
    )
    clean = torch.tensor([[1.0, 2, 3, 4, 5], [1.0, 0, 3, 4, 5], [1.0, 2, 0, 4, 5]])
    step = policy.decide(observation)
    assert step.fallback.tolist() == [False, True, True]
    assert step.actions.equal(policy.act(clean))


def test_an_observation_is_the_features_and_the_state() -> None:
    policy = made((3,))
    features, state = torch.randn(4, 2), torch.randn(4, 3)
    assert policy.observe(features, state).equal(torch.cat([features, state], dim=1))
    with pytest.raises(
        RouterError, match=r"features must be \[T, 2\], the state \[T, 3\], not \[\[4, 2\], \[4, 2\]"
    ):
        policy.observe(features, features)


@pytest.mark.parametrize(
    "sizes", [(6, 5, (3,), (4,)), (2, 5, (), (4,)), (2, 5, (0,), (4,)), (2, 5, (3,), (0,))]
)
def test_sizes_must_fit(sizes: tuple[int, int, tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(RouterError, match="sizes of a network policy do not fit"):
        NetworkPolicy(("a", "b"), *sizes)


def test_its_spec_makes_the_same_policy() -> None:
    policy = made((3, 2), masked=True)
    again = NetworkPolicy.from_spec(policy.spec())
    again.load_state_dict(policy.state_dict())
    observation = torch.rand(9, 5)
    assert again(observation).equal(policy(observation))
    assert again.experts == ("a", "b")
