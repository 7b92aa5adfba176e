"""Measuring, against the environment itself and a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import Outcomes, RoutingCore
from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.problems.load import drops
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import charges, measure
from router_rl.routing import ExpertChoice, Hard, LinearScorer, Router, RouterError, StateInput, TopK


def _router(rule: Hard | TopK | ExpertChoice, *, observe_load: bool, seed: int = 0) -> Router:
    state = (StateInput("load", 4, "counts / W"),) if observe_load else ()
    scorer = LinearScorer(4 + 4 * observe_load, 4)
    with torch.no_grad():
        scorer.weight.copy_(
            torch.randn(scorer.weight.shape, generator=torch.Generator().manual_seed(seed)) * 3
        )
    return Router(scorer, rule, ("red", "green", "blue", "grey"), state=state).eval()


def _slow(router: Router, table: OutcomeTable, objective: Objective, scale: float) -> dict[str, np.ndarray]:
    """One query after the other, in float64, in the documented order."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(20_000)).tolist()
    window = min(objective.window, len(table))
    out = {name: np.zeros(len(table)) for name in ("quality", "compute", "load", "utility")}
    counts, t = np.zeros(4), 0
    for row in order:
        features = torch.tensor(table.features[row : row + 1])
        state = torch.tensor(counts[None] / window, dtype=torch.float32) if router.state else None
        routing = router(features, state)
        chosen, weights = routing.experts[0].tolist(), routing.weights[0].tolist()
        if len(chosen) == 1:
            quality = table.quality[row, chosen[0]]
        elif table.probabilities is None:
            quality = sum(w * table.quality[row, e] for e, w in zip(chosen, weights, strict=True))
        else:
            mixture = sum(w * table.probabilities[row, e] for e, w in zip(chosen, weights, strict=True))
            quality = float(np.argmax(mixture) == table.label[row])
        compute = sum(table.cost[row, e] for e in chosen) / scale
        after = counts.copy()
        for e in chosen:
            after[e] += 1 / len(chosen)
        load = ((4 * (after**2).sum() - (t + 1) ** 2) - (4 * (counts**2).sum() - t**2)) / window
        out["quality"][row], out["compute"][row], out["load"][row] = quality, compute, load
        out["utility"][row] = quality - objective.compute_weight * compute - objective.load_weight * load
        counts, t = after, t + 1
        if t == window:
            counts, t = np.zeros(4), 0
    return out


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), TopK(k=4)])
@pytest.mark.parametrize("observe_load", [False, True])
@pytest.mark.parametrize("window", [1, 16, 10_000])
@pytest.mark.parametrize("with_probabilities", [True, False])
def test_equals_the_slow_loop(
    request: pytest.FixtureRequest,
    rule: Hard | TopK,
    observe_load: bool,
    window: int,
    with_probabilities: bool,
) -> None:
    name = "kinds" if with_probabilities else "kinds_without_probabilities"
    table: OutcomeTable = request.getfixturevalue(name).part("test")
    objective = Objective(compute_weight=0.3, load_weight=0.2, window=window)
    router = _router(rule, observe_load=observe_load)
    found = measure(router, table, objective, 10.0)
    for part, expected in _slow(router, table, objective, 10.0).items():
        np.testing.assert_allclose(getattr(found, part), expected, atol=2e-4, err_msg=part)


def test_equals_what_the_environment_pays(kinds: OutcomeTable) -> None:
    """The same router playing the environment's own windows of the same queries earns the same mean."""
    objective = Objective(compute_weight=0.3, load_weight=0.2, window=8)
    router = _router(Hard(), observe_load=True)
    outcomes = Outcomes.of(kinds, 10.0)
    core = RoutingCore(outcomes, objective.config(k=1, observe_load=True), lanes=64, seed=0)
    earned = []
    for _ in range(8 * 20):
        observation = core.observation()
        step = core.step(router(observation[:, :4], observation[:, 4:]).experts)
        core.clear(step.terminated)
        earned.append(float(step.reward.mean()))
    assert np.mean(earned) == pytest.approx(
        measure(router, kinds, objective, 10.0).means()["utility"], abs=0.02
    )


def test_the_mean_charge_is_the_load_of_the_window() -> None:
    share = torch.eye(4)[torch.randint(0, 4, (64,), generator=torch.Generator().manual_seed(0))]
    counts = share.sum(dim=0).double().numpy()
    expected = 4 * np.square(counts / 64).sum() - 1
    assert float(charges(share, 64).mean()) == pytest.approx(expected, abs=1e-5)
    assert float(charges(share, 1000).mean()) == pytest.approx(expected, abs=1e-5)


def test_drops_are_counted_in_the_order_played(kinds: OutcomeTable) -> None:
    found = measure(_router(Hard(), observe_load=False), kinds, Objective(window=16), 10.0)
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(20_000)).numpy()
    assert found.drops == drops(found.share[order] > 0, 1.25, 16)
    assert found.drops > 0
    assert found.means()["drops"] == found.drops


def test_another_table_is_refused(kinds: OutcomeTable) -> None:
    router = Router(LinearScorer(4, 4), Hard(), ("a", "b", "c", "d"))
    with pytest.raises(RouterError, match="a, b, c, d but the table has red, green, blue, grey"):
        measure(router, kinds, Objective(), 10.0)


def test_fallback_rows_are_counted(kinds: OutcomeTable) -> None:
    router = fit("ridge", RoutingProblem(kinds, Objective()))
    assert measure(router, kinds, Objective(), 10.0).fallbacks == 0
    with torch.no_grad():
        router.scorer.bias.fill_(float("nan"))  # type: ignore[operator, union-attr]
    found = measure(router, kinds, Objective(), 10.0)
    assert found.fallbacks == len(kinds)
    assert found.shares[router.fallback] == 1.0


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_parts_of_the_rows_are_measured_as_all_at_once(rule, kinds, monkeypatch):
    router, objective = _router(rule, observe_load=False), Objective(compute_weight=0.2)
    whole = measure(router, kinds, objective, 2.0)
    monkeypatch.setattr("router_rl.problems.routing.router_measurement._CHUNK", 7)
    parts = measure(router, kinds, objective, 2.0)
    assert len(kinds) % 7
    np.testing.assert_array_equal(parts.share, whole.share)
    np.testing.assert_allclose(parts.utility, whole.utility, atol=1e-6)
    assert parts.entropy == pytest.approx(whole.entropy)


def test_experts_choose_among_all_rows_at_once(kinds: OutcomeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within parts of 7 rows, every expert would have its best two of each part."""
    monkeypatch.setattr("router_rl.problems.routing.router_measurement._CHUNK", 7)
    router = _router(ExpertChoice(k=4), observe_load=False)
    found = measure(router, kinds, Objective(), 2.0).share > 0
    with torch.inference_mode():
        expected = router(torch.tensor(kinds.features)).experts.numpy()
    for row, chosen in enumerate(expected):
        assert sorted(np.flatnonzero(found[row])) == sorted(chosen[chosen < 4])
