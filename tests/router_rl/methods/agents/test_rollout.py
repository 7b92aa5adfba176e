"""Playing on device is playing the environment; the baseline has no bias."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from envs import Outcomes, RoutingCore
from router_rl import Objective
from router_rl.methods.agents.expectation import RewardTable
from router_rl.methods.agents.rollout import collect_rollout, initial_lanes, leave_one_out, rewards_to_go
from router_rl.routing import AdaptiveK, Hard, LinearScorer, Router, Selection, StateInput, TopK

STEPS, LANES, GROUP = 11, 6, 3


def _router(rule: Selection, experts: int, *, observes_load: bool) -> Router:
    state = (StateInput("load", experts, ""),) if observes_load else ()
    scorer = LinearScorer(3 + experts * observes_load, rule.outputs(experts))
    with torch.no_grad():
        scorer.weight.normal_(generator=torch.Generator().manual_seed(1))
    return Router(scorer, rule, [f"e{i}" for i in range(experts)], state=state)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("observes_load", [False, True])
@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), AdaptiveK(k=2)], ids=lambda rule: rule.name)
def test_play_earns_what_the_environment_pays(
    outcomes_of: Callable[..., Outcomes], rule: Selection, observes_load: bool, classes: bool
) -> None:
    outcomes = outcomes_of(17, 4, classes=classes)
    router = _router(rule, 4, observes_load=observes_load)
    objective = Objective(compute_weight=0.3, load_weight=0.2, window=4)
    rewards = RewardTable(outcomes, 0.3)
    start = initial_lanes(outcomes, LANES, GROUP, seed=2)
    end, trajectory = collect_rollout(
        router, rewards, objective, start, STEPS, torch.Generator().manual_seed(0), GROUP
    )

    choose = "some" if isinstance(rule, AdaptiveK) else "experts"
    config = objective.config(k=rule.k, observe_load=True, choose=choose)

    def weigh(observation: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        features, counts = observation[:, :3], observation[:, 3:]
        return rule.weigh(router.logits(features, counts if observes_load else None)[0], experts).detach()

    core = RoutingCore(outcomes, config, LANES, weigh=weigh)
    core.load_state_dict(start._asdict())
    for step in range(STEPS):
        assert core.state.row.equal(trajectory.row[step])
        torch.testing.assert_close(core.state.counts / 4, trajectory.counts[step])
        played = core.step(trajectory.action[step])
        torch.testing.assert_close(trajectory.reward[step], played.reward)
        torch.testing.assert_close(trajectory.share[step], played.parts["share"])
        assert played.terminated.equal(trajectory.last[step])
        core.clear(played.terminated)
    for mine, theirs in zip(end, core.state, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_lanes_of_a_group_are_asked_the_same(outcomes_of: Callable[..., Outcomes]) -> None:
    row = initial_lanes(outcomes_of(101, 2), LANES, GROUP, seed=0).row.reshape(-1, GROUP)
    assert (row == row[:, :1]).all()
    assert row[0, 0] != row[1, 0]


def test_a_query_scored_once_gives_what_every_lane_would(outcomes_of: Callable[..., Outcomes]) -> None:
    outcomes, router = outcomes_of(17, 4), _router(Hard(), 4, observes_load=False)
    start, rewards = initial_lanes(outcomes, LANES, GROUP, seed=0), RewardTable(outcomes, 0.1)
    one, many = (
        collect_rollout(router, rewards, Objective(), start, 3, torch.Generator().manual_seed(0), group)[1]
        for group in (GROUP, 1)
    )
    assert one.action.equal(many.action)
    torch.testing.assert_close(one.log_prob, many.log_prob)


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
