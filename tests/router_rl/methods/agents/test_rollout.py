"""A rollout steps the environment that `gymnasium.make_vec` makes; the baseline has no bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import gymnasium
import pytest
import torch
from environment_tables import made_cascade

from envs import Outcomes, compute_scale
from router_rl import Objective
from router_rl.methods.agents.rollout import collect_rollout, leave_one_out, rewards_to_go, rollout_core
from router_rl.routing import AdaptiveK, Hard, LinearScorer, Router, Selection, StateInput, TopK

STEPS, LANES, GROUP = 11, 6, 3


def _router(rule: Selection, features: int, *, observes_load: bool) -> Router:
    state = (StateInput("load", 4, ""),) if observes_load else ()
    scorer = LinearScorer(features + 4 * observes_load, rule.outputs(4))
    with torch.no_grad():
        scorer.weight.normal_(generator=torch.Generator().manual_seed(1))
    return Router(scorer, rule, [f"e{i}" for i in range(4)], state=state)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("observes_load", [False, True])
@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), AdaptiveK(k=2)], ids=lambda rule: rule.name)
def test_a_rollout_equals_the_environment_of_gymnasium(
    rule: Selection, observes_load: bool, classes: bool
) -> None:
    table = made_cascade(rows=40)
    if not classes:
        table = replace(table, probabilities=None, label=None)
    train = table.part("train")
    router = _router(rule, 2, observes_load=observes_load)
    objective = Objective(compute_weight=0.3, load_weight=0.2, window=4)
    core = rollout_core(Outcomes.of(train, compute_scale(train)), objective, rule, LANES, 1, seed=2)
    trajectory = collect_rollout(router, core, STEPS, torch.Generator().manual_seed(0))

    env: Any = gymnasium.make_vec("RouterRL/Routing-v0", LANES, table=table, **asdict(core.config)).unwrapped

    def weigh(observation: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        features, counts = observation[:, :2], observation[:, 2:]
        return rule.weigh(router.logits(features, counts if observes_load else None)[0], experts).detach()

    env.core.weigh = weigh  # the mixture weights of a decision are those of the router
    observation, _ = env.reset(seed=2)
    for step in range(STEPS):
        seen = torch.cat([core.outcomes.features[trajectory.row[step]], trajectory.counts[step]], dim=-1)
        torch.testing.assert_close(torch.from_numpy(observation), seen)
        observation, reward, terminated, truncated, info = env.step(trajectory.action[step].numpy())
        torch.testing.assert_close(trajectory.reward[step].double(), torch.from_numpy(reward))
        torch.testing.assert_close(trajectory.share[step], torch.from_numpy(info["share"]))
        assert terminated.tolist() == trajectory.last[step].tolist() == [step % 4 == 3] * LANES
        assert not truncated.any()
    torch.testing.assert_close(core.observation(), torch.from_numpy(observation))


def test_smoothing_pays_for_the_probability_of_the_label(outcomes_of: Callable[..., Outcomes]) -> None:
    outcomes, router = outcomes_of(17, 4, classes=True), _router(Hard(), 3, observes_load=False)
    plain, smooth = (
        collect_rollout(
            router,
            rollout_core(outcomes.smoothed(share), Objective(compute_weight=0.3), Hard(), LANES, 1, 0),
            STEPS,
            torch.Generator().manual_seed(0),
        )
        for share in (0.0, 0.25)
    )
    assert smooth.action.equal(plain.action)
    assert outcomes.probabilities is not None
    assert outcomes.label is not None
    expert = plain.action.squeeze(-1)
    given = outcomes.probabilities[plain.row, expert, outcomes.label[plain.row]]
    cost = 0.3 * outcomes.compute[plain.row, expert]
    torch.testing.assert_close(smooth.reward, 0.75 * (plain.reward + cost) + 0.25 * given - cost)


def test_the_lanes_of_a_group_are_asked_the_same(outcomes_of: Callable[..., Outcomes]) -> None:
    core = rollout_core(outcomes_of(101, 2), Objective(), Hard(), LANES, GROUP, seed=0)
    row = core.state.row.reshape(-1, GROUP)
    assert (row == row[:, :1]).all()
    assert row[0, 0] != row[1, 0]


def test_a_query_scored_once_gives_what_every_lane_would(outcomes_of: Callable[..., Outcomes]) -> None:
    outcomes, router = outcomes_of(17, 4), _router(Hard(), 3, observes_load=False)
    grouped, alone = (
        rollout_core(outcomes, Objective(), Hard(), LANES, group, seed=0) for group in (GROUP, 1)
    )
    alone.load_state_dict(grouped.state_dict())
    one, many = (
        collect_rollout(router, core, 3, torch.Generator().manual_seed(0)) for core in (grouped, alone)
    )
    assert one.action.equal(many.action)
    torch.testing.assert_close(one.log_prob, many.log_prob)
    torch.testing.assert_close(one.reward, many.reward)


def test_rewards_to_go_by_hand() -> None:
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    last = torch.tensor([[False, True], [False, False], [True, False]])
    # Lane 0: 4, 2 + 4/2, 1 + 4/2. Lane 1: its window ends after the first decision.
    assert rewards_to_go(reward, last, 0.5).tolist() == [[3.0, 1.0], [4.0, 4.0], [4.0, 4.0]]
    assert rewards_to_go(reward, last, 0.0) is reward


def test_leave_one_out_by_hand() -> None:
    # 3 against the mean of 0 and 6, 0 against 4.5, 6 against 1.5; and a group that earned alike.
    found = leave_one_out(torch.tensor([[3.0, 0.0, 6.0, 2.0, 2.0, 2.0]]), 3)
    assert found.tolist() == [[0.0, -4.5, 4.5, 0.0, 0.0, 0.0]]


def test_leave_one_out_has_no_bias() -> None:
    logits = torch.tensor([0.3, -0.5, 1.0], requires_grad=True)
    utility = torch.tensor([1.0, 0.2, 0.5])
    log_p = logits.log_softmax(dim=0)
    (exact,) = torch.autograd.grad((log_p.exp() * utility).sum(), logits, retain_graph=True)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # every outcome of two draws
    chance = log_p.exp().detach()[pairs].prod(dim=1)
    advantage = leave_one_out(utility[pairs], 2)
    (drawn,) = torch.autograd.grad((chance * (log_p[pairs] * advantage).mean(dim=1)).sum(), logits)
    torch.testing.assert_close(drawn, exact)
