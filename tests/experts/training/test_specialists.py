from __future__ import annotations

import pytest
import torch
from torch import nn

from experts import InputError
from experts.training import Recipe, train_classifier


def two_blobs(generator):
    labels = torch.arange(200) % 2
    return torch.randn(200, 2, generator=generator) + 4.0 * labels[:, None], labels


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_what_can_be_learned(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = two_blobs(generator)
    losses = []
    module = nn.Linear(2, 2)
    done = train_classifier(
        module,
        lambda _: inputs,
        labels,
        Recipe(epochs=40, learning_rate=0.05),
        seed=seed,
        on_epoch=lambda epoch, loss: losses.append((epoch, loss)),
    )
    assert done is module
    assert not module.training
    assert [epoch for epoch, _ in losses] == list(range(1, 41))
    assert losses[-1][1] < losses[0][1]
    fresh, _ = two_blobs(torch.Generator().manual_seed(99))
    assert (module(fresh).argmax(1) == labels).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights():
    def weights(seed):
        module = nn.Linear(2, 2)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        train_classifier(
            module,
            lambda generator: two_blobs(generator)[0],
            torch.arange(200) % 2,
            Recipe(epochs=2),
            seed=seed,
        )
        return module.weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_leaves_the_global_generator_alone():
    module = nn.Linear(2, 2)
    state = torch.get_rng_state()
    train_classifier(
        module,
        lambda generator: two_blobs(generator)[0],
        torch.arange(200) % 2,
        Recipe(epochs=1),
        seed=0,
    )
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("weight_decay", -1.0),
        ("learning_rate", float("nan")),
    ],
)
def test_a_recipe_that_cannot_train_is_an_error(field, value):
    with pytest.raises(InputError, match=rf"Recipe\.{field}="):
        Recipe(**{field: value})
