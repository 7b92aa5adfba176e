from __future__ import annotations

import pytest
import torch

from experts.sources.conditions import clean, conditions, inverted, noisy, occluded, rotated

ALL = conditions(noise=0.3, patch=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(50, 8, 8, generator=seeded(1))


def test_by_hand():
    image = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    assert clean(image, seeded()).equal(image)
    assert rotated(image, seeded()).equal(torch.tensor([[[0.25, 1.0], [0.0, 0.5]]]))
    assert inverted(image, seeded()).equal(torch.tensor([[[1.0, 0.75], [0.5, 0.0]]]))


def test_four_turns_and_two_inversions_change_nothing(images):
    turned = images
    for _ in range(4):
        turned = rotated(turned, seeded())
    assert turned.equal(images)
    torch.testing.assert_close(inverted(inverted(images, seeded()), seeded()), images)


def test_noise_has_the_stated_deviation():
    difference = noisy(torch.zeros(500, 8, 8), seeded(), 0.3)
    assert abs(float(difference.std()) - 0.3) < 0.01
    assert abs(float(difference.mean())) < 0.01


def test_occlusion_hides_one_square_and_nothing_else():
    hidden = occluded(torch.ones(400, 8, 8), seeded(), 3) == 0
    assert (hidden.sum(dim=(1, 2)) == 9).all()
    assert (hidden.any(dim=1).sum(dim=1) == 3).all()  # three columns
    assert (hidden.any(dim=2).sum(dim=1) == 3).all()  # three rows
    assert hidden.any(dim=0).all()  # every place is hidden now and then


@pytest.mark.parametrize("name", ALL)
def test_is_pure_seeded_and_keeps_the_shape(name, images):
    before = images.clone()
    state = torch.get_rng_state()
    first = ALL[name](images, seeded(5))
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert first.equal(ALL[name](images, seeded(5)))
    assert images.equal(before)
    assert torch.get_rng_state().equal(state)
