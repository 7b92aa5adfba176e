"""Group lookup with an inferred group: the classifier's probabilities times the groups' means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, compare, export, fit
from router_rl.problems.group_classifier import fit_temperature
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import LookupScorer, load_router

OBJECTIVE = Objective(compute_weight=0.05)


def test_it_equals_the_group_lookup_where_features_tell_the_group(kinds: OutcomeTable) -> None:
    """Features tell the four groups apart; the router takes no state."""
    router = fit("inferred_group", RoutingProblem(kinds, OBJECTIVE))
    assert router.state == ()
    test = kinds.part("test")
    found = measure(router, replace(test, group=None), OBJECTIVE, 10.0).utility.mean()
    known = measure(fit("group_label", RoutingProblem(kinds, OBJECTIVE)), test, OBJECTIVE, 10.0)
    assert found == pytest.approx(known.utility.mean(), abs=0.01)


def test_logits_are_means_weighted_by_probabilities(kinds: OutcomeTable) -> None:
    router = fit("inferred_group", RoutingProblem(kinds, OBJECTIVE), hyperparameters={"strength": 2.0})
    scorer = router.scorer
    assert isinstance(scorer, LookupScorer)
    train = kinds.part("train")
    assert train.group is not None
    utility = train.quality.astype(float) - 0.05 * train.cost / 10
    overall = utility.mean(axis=0)
    for row, label in enumerate(("blue", "green", "grey", "red")):
        own = utility[train.group == label]
        expected = (own.sum(axis=0) + 2.0 * overall) / (len(own) + 2.0)
        np.testing.assert_allclose(scorer.values[row].detach().numpy(), expected, atol=1e-6)
    x = torch.tensor(kinds.features)
    logits = router(x).logits
    torch.testing.assert_close(logits, scorer.probabilities(x) @ scorer.values)


def test_the_temperature_recovers_the_scale_of_the_logits() -> None:
    """Groups drawn from softmax(z): logits 3 z are three times too sure."""
    rng = np.random.default_rng(0)
    z = 2.0 * rng.normal(size=(20_000, 3))
    group = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    assert fit_temperature(3.0 * z, group) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(0.5 * z, group) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_one_group_and_two_groups(kinds: OutcomeTable, count: int) -> None:
    assert kinds.group is not None
    group = np.where(kinds.group == "red", "x", "y" if count == 2 else "x").astype(object)
    router = fit("inferred_group", RoutingProblem(replace(kinds, group=group), OBJECTIVE))
    scorer = router.scorer
    assert isinstance(scorer, LookupScorer)
    assert scorer.groups == count
    probability = scorer.probabilities(torch.tensor(kinds.features)).detach().numpy()
    labels = np.array(["x", "y"])[probability.argmax(axis=1)]
    assert (labels == group).mean() > 0.98


def test_tables_without_groups(kinds: OutcomeTable) -> None:
    problem = RoutingProblem(replace(kinds, group=None), OBJECTIVE)
    with pytest.raises(InputError, match=r"needs a column that the table lacks \(group\)"):
        fit("inferred_group", problem)
    results = compare(problem, ["hash"], seeds=1, n_trials=1).results
    assert "inferred_group needs a column that the table lacks (group): left out" in results["notes"]


def test_it_has_no_extra_inputs(kinds: OutcomeTable) -> None:
    results = compare(RoutingProblem(kinds, OBJECTIVE), ["hash"], seeds=1, n_trials=1).results
    extra = {row["method"]: row["extra_inputs"] for row in results["summary"]}
    assert extra["inferred_group"] == []
    assert extra["group_label"] == ["group"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2", "onnx"])
def test_it_is_exported(kinds: OutcomeTable, tmp_path: Path, format: str) -> None:
    router = fit("inferred_group", RoutingProblem(kinds, OBJECTIVE))
    assert export(router, tmp_path / "out", format=format, rows=kinds).passed
    if format == "safetensors":
        x = torch.tensor(kinds.features)
        torch.testing.assert_close(load_router(tmp_path / "out")(x).logits, router(x).logits)
