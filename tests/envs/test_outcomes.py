from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import Outcomes, compute_scale
from experts import InputError


def test_the_scale_is_the_mean_cost_of_the_most_expensive_expert(make_table):
    cost = np.array([[1.0, 2.0], [3.0, 8.0]])
    table = make_table(
        2,
        probabilities=False,
        cost=cost,
        query_id=[0, 1],
        features=None,
        quality=cost / 8,
        split=["train"] * 2,
    )
    assert compute_scale(table) == 5.0
    free = make_table(cost=np.zeros((23, 3)))
    assert compute_scale(free) == 1.0
    assert (Outcomes.of(free, compute_scale(free)).compute == 0).all()


def test_holds_the_table(make_table):
    table = make_table()
    outcomes = Outcomes.of(table, 4.0)
    assert (outcomes.queries, outcomes.experts) == (23, 3)
    for name in ("features", "quality", "probabilities", "label"):
        np.testing.assert_array_equal(getattr(outcomes, name).numpy(), getattr(table, name))
    np.testing.assert_allclose(outcomes.compute.numpy(), table.cost / 4.0, rtol=1e-6)
    for name in ("features", "quality", "compute", "probabilities"):
        assert getattr(outcomes, name).dtype == torch.float32
    assert outcomes.label.dtype == torch.int64


def test_compute_is_1_on_average_for_the_most_expensive_expert(make_table):
    table = make_table()
    mean = Outcomes.of(table, compute_scale(table)).compute.mean(dim=0)
    assert mean[-1].item() == pytest.approx(1.0, abs=1e-6)
    assert (mean <= mean[-1]).all()


def test_writing_to_the_tensors_leaves_the_table_unchanged(make_table):
    table = make_table()
    before = {name: getattr(table, name).copy() for name in ("features", "quality", "cost", "label")}
    outcomes = Outcomes.of(table, 1.0)
    for tensor in (outcomes.features, outcomes.quality, outcomes.compute, outcomes.label):
        tensor.zero_()
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(table, name), value)


def test_a_table_without_probabilities(make_table):
    outcomes = Outcomes.of(make_table(probabilities=False), 1.0)
    assert outcomes.probabilities is None
    assert outcomes.label is None


def test_a_table_without_features_is_refused(make_table):
    with pytest.raises(InputError, match="table='made by hand': has no features; add a `features` column"):
        Outcomes.of(make_table(features=None), 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_unit_of_compute_that_is_none_is_refused(make_table, scale):
    with pytest.raises(InputError, match="scale="):
        Outcomes.of(make_table(), scale)
