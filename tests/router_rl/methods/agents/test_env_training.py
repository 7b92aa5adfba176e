"""On-device RL in every environment: it solves tiny instances, resumes, and its updates are right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, solved_cascade, two_topic_cache
from served_replay import api_problem

from experts import OutcomeTable
from experts.llm.server_options import ContinuousOptions
from router_rl import Objective, fit
from router_rl.methods.agents import env_training
from router_rl.methods.agents.env_ppo import EnvPPOHyperparameters, ppo_ascent
from router_rl.methods.agents.env_reinforce import EnvReinforceHyperparameters, reinforce_ascent
from router_rl.methods.agents.env_rollout import EnvRollout, collect, evaluate_actions
from router_rl.methods.agents.env_training import EnvUpdate, batch_of, learn_env, new_policy
from router_rl.methods.agents.running_moments import RunningMoments
from router_rl.methods.checkpoint import Checkpoint
from router_rl.methods.method import Run
from router_rl.methods.queueing.price_search import PriceHyperparameters
from router_rl.methods.registry import find_method
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.problem import ActionPolicy
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing.policies.network_policy import NetworkPolicy

METHODS = ("router_ppo", "reinforce")
QUICK: dict[str, dict[str, Any]] = {  # on tiny instances; four seeds of four reach the optimum
    "router_ppo": {
        "learning_rate": 5e-3,
        "entropy": 0.03,
        "lanes": 64,
        "steps": 8,
        "epochs": 3,
        "minibatches": 4,
    },
    "reinforce": {"learning_rate": 1e-2, "entropy": 0.05, "lanes": 32, "steps": 8},
}


def one_server_queue() -> QueueingProblem:
    """A good expert with one slow server, and a quick one without a queue that is right on half."""
    rows = 600
    service = np.column_stack([np.random.default_rng(0).exponential(1.0, rows) + 1e-9, np.full(rows, 1e-3)])
    table = OutcomeTable(
        experts=["good", "quick"],
        query_id=range(rows),
        features=np.zeros((rows, 1)),
        quality=np.tile([1.0, 0.5], (rows, 1)),
        cost=np.ones((rows, 2)),
        latency_s=service,
        split=np.repeat(["train", "validation", "test"], rows // 3),
    )
    pace, unit = sum(1.0 / service[:200].mean(axis=0)), service[:200].mean()
    objective = Objective(compute_weight=0.0)
    return QueueingProblem(
        table, objective, loads=0.9 / pace, deadlines=(2.0 / unit,), window=64, episodes=48
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_solves_a_cascade(method: str) -> None:
    """The optimum is 0.65; the best single expert earns 0.5."""
    problem = CascadeProblem(solved_cascade(), [Objective(compute_weight=0.5)])
    policy = fit(method, problem, seed=1, hyperparameters={"decisions": 12_000, **QUICK[method]})
    assert problem.evaluate(policy, "test").means()["utility"] == pytest.approx(0.65, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_how_long_a_queue_to_join(method: str) -> None:
    """Its utility is that of the best limit on the queue, far above either expert alone."""
    problem = one_server_queue()

    def earned(limit: float) -> float:
        def actions(observation: torch.Tensor) -> torch.Tensor:
            return (observation[:, 1] + observation[:, 3] >= limit).long()

        return problem.evaluate(ActionPolicy(actions=actions), "test").means()["utility"]

    limits = [earned(limit) for limit in range(7)]
    best = max(limits)
    assert best > max(limits[0], earned(1e9)) + 0.1
    few = {"decisions": 16_000, "discount": 0.95, **QUICK[method]}
    policy = fit(method, problem, seed=0, hyperparameters=few)
    assert problem.evaluate(policy, "test").means()["utility"] > best - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_loads_an_expert_that_pays_off_later(method: str, tmp_path: Path) -> None:
    """A load costs more than the answer earns at once, so a policy without foresight earns half as much."""
    problem = two_topic_cache(tmp_path, persistence=0.9, window=32)

    def follow(observation: torch.Tensor) -> torch.Tensor:
        topic = (observation[:, 0] > 0).long()
        return torch.stack([topic, 1 - topic], dim=-1)

    best = problem.evaluate(ActionPolicy(actions=follow), "test").means()["utility"]
    few = {"decisions": 24_000, "discount": 0.95, **QUICK[method]}
    policy = fit(method, problem, seed=0, hyperparameters=few)
    earned = problem.evaluate(policy, "test").means()["utility"]
    assert best > 0.8
    assert earned > best - 0.02


def test_one_fit_serves_all_cases_of_a_cascade_and_one_case_of_the_others() -> None:
    for method in METHODS:
        assert find_method("cascade", method).amortizes
        assert not find_method("caching", method).amortizes
        assert not find_method("queueing", method).amortizes


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_one_policy_obeys_the_compute_weight_it_observes(method: str) -> None:
    weights = (0.02, 1.5)
    problem = CascadeProblem(solved_cascade(), [Objective(compute_weight=weight) for weight in weights])
    few = {"decisions": 16_000, **QUICK[method]}
    policy = fit(method, problem, seed=0, hyperparameters=few)
    cheap, expensive = (problem.evaluate(policy, "test", case).means() for case in problem.cases)
    assert cheap["quality"] == pytest.approx(
        1.0, abs=1e-6
    )  # both experts are worth asking, or the last alone
    assert expensive["compute"] == pytest.approx(0.2, abs=1e-6)  # the cheap one alone


@pytest.mark.slow
@pytest.mark.parametrize(("method", "stop_after"), [("router_ppo", 1), ("reinforce", 3)])
def test_a_stopped_run_ends_as_an_unstopped_one(method: str, stop_after: int, tmp_path: Path) -> None:
    """The first one is stopped while the observations are measured, the second one later."""
    problem = QueueingProblem(made_cascade(rows=100), loads=(0.9,), window=8, episodes=4)
    learner = find_method("queueing", method)
    hyperparameters = learner.configure({"lanes": 4, "steps": 4, "hidden": 16, "decisions": 256})

    def run(path: Path | None, stop_after: int | None = None) -> tuple[NetworkPolicy, list[Snapshot]]:
        snapshots: list[Snapshot] = []

        def callback(snapshot: Snapshot) -> None:
            snapshots.append(snapshot)
            if len(snapshots) == stop_after:
                raise InterruptedError

        checkpoint = Checkpoint(path, {}, seconds=0.0)
        policy = learner.fit(problem, hyperparameters, Run(seed=1, callback=callback, checkpoint=checkpoint))
        return policy.module, snapshots

    whole, snapshots = run(None)
    assert [snapshot.step for snapshot in snapshots] == list(range(32, 257, 32))
    assert len(snapshots[-1].curve) == 8
    assert snapshots[-1].best == max(point.utility for point in snapshots[-1].curve)
    with pytest.raises(InterruptedError):
        run(tmp_path / "checkpoint", stop_after)
    torch.manual_seed(999)
    resumed, remaining = run(tmp_path / "checkpoint")
    assert len(remaining) == 9 - stop_after
    assert remaining[-1].curve == snapshots[-1].curve
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name


def test_the_best_weights_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation sees the second policy as the best one of four."""
    problem = CascadeProblem(made_cascade(rows=100), [Objective(compute_weight=0.1)], max_experts=2)
    real, seen, weights = problem.evaluate, [0.1, 0.9, 0.3, 0.2], []

    def evaluate(policy: NetworkPolicy, split: str, case: Any) -> Any:
        assert split == "validation"
        measurement = real(policy, split, case)
        weights.append({name: value.clone() for name, value in policy.state_dict().items()})
        measurement.utility[:] = seen[len(weights) - 1]
        return measurement

    monkeypatch.setattr(problem, "evaluate", evaluate)
    hyperparameters = EnvPPOHyperparameters(lanes=16, steps=4, decisions=256)
    policy = find_method("cascade", "router_ppo").fit(problem, hyperparameters, Run(validate_every=64))
    assert len(weights) == 4
    for name, value in policy.module.state_dict().items():
        assert value.equal(weights[1][name]), name


def test_entropy_and_learning_rate_decay_and_observations_are_fixed_after_the_warm_up() -> None:
    problem = CascadeProblem(made_cascade(rows=100), [Objective(compute_weight=0.1)], max_experts=2)
    hyperparameters = EnvPPOHyperparameters(
        lanes=64, steps=1, decisions=1_280, entropy=0.8, learning_rate=0.5
    )
    entropies: list[float] = []
    rates: list[float] = []
    shifts: list[torch.Tensor] = []
    scales: list[float] = []

    def watch(update: EnvUpdate, rollout: EnvRollout) -> None:
        entropies.append(update.entropy)
        rates.append(update.optimizer.param_groups[0]["lr"])
        shifts.append(update.policy.shift.clone())
        scales.append(update.reward_scale)

    policy = learn_env(problem, problem.case, hyperparameters, Run(), watch)
    left = [1.0 - rollout / 20 for rollout in range(1, 20)]  # the first of 20 rollouts only measures
    assert entropies == pytest.approx([0.8 * each for each in left])
    assert rates == pytest.approx([0.5 * each for each in left])
    assert shifts[0].any()
    assert not shifts[1].equal(shifts[0])  # 3 rollouts begin in the first tenth of the decisions
    assert all(shift.equal(shifts[2]) for shift in shifts[3:])
    assert scales[2] == scales[-1] != scales[1]
    assert isinstance(policy.module, NetworkPolicy)
    assert policy.module.shift.equal(shifts[-1])
    assert (policy.module.scale > 0.0).all()
    assert not policy.module.scale.equal(torch.ones_like(policy.module.scale))


def test_rewards_are_divided_by_the_deviation_of_the_returns() -> None:
    """The rollouts are of one step, so the returns are the rewards."""
    problem = CascadeProblem(made_cascade(rows=100), [Objective(compute_weight=0.1)], max_experts=2)
    hyperparameters = EnvPPOHyperparameters(lanes=64, steps=1, decisions=1_280)
    core = problem.core("train", problem.case, lanes=64, seed=1_000_000)
    policy = new_policy(problem, core, hyperparameters.hidden, 0)
    first = collect(policy, core, 1, torch.Generator().manual_seed(0)).reward
    seen: list[tuple[float, torch.Tensor]] = []
    learn_env(
        problem,
        problem.case,
        hyperparameters,
        Run(),
        lambda update, rollout: seen.append((update.reward_scale, rollout.reward)),
    )
    assert seen[0][0] == pytest.approx(1.0 / first.std(correction=0).item())
    both = torch.cat([first, seen[0][1]])
    assert seen[1][0] == pytest.approx(1.0 / both.std(correction=0).item())


def test_running_moments_are_those_of_all_rows() -> None:
    rows = (
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 0.0]) + 4.0
    )
    moments = RunningMoments.of(3)
    for part in rows.split([1, 20, 29]):
        moments = moments.updated(part)
    torch.testing.assert_close(moments.mean, rows.double().mean(dim=0))
    expected = rows.double().std(dim=0, correction=0)
    torch.testing.assert_close(moments.deviation()[:2], expected[:2])
    assert float(moments.deviation()[2]) == 1.0  # a constant column


ADVANTAGE = torch.tensor([1.0, -2.0, 0.5, 3.0])


@pytest.fixture
def setting() -> tuple[EnvUpdate, EnvRollout, list[torch.Tensor]]:
    """An update that records what it ascends, and a rollout of four lanes whose advantages are known.

    The critic is 0 and every episode ends at once, so that an advantage is the reward.
    """
    problem = CascadeProblem(made_cascade(rows=100), [Objective(compute_weight=0.1)], max_experts=2)
    core = problem.core("train", problem.case, lanes=4, seed=0)
    policy = new_policy(problem, core, 8, seed=0)
    critic = torch.nn.Linear(policy.observation_size, 1)
    torch.nn.init.zeros_(critic.weight)
    torch.nn.init.zeros_(critic.bias)
    ascended: list[torch.Tensor] = []

    class Recorded(EnvUpdate):
        def ascend(self, value: torch.Tensor) -> None:
            ascended.append(value)

    observation = core.observation()
    action = torch.tensor([0, 1, 2, 3])
    rollout = EnvRollout(
        observation=observation.expand(2, -1, -1),
        action=action.unsqueeze(0),
        log_prob=evaluate_actions(policy, observation, action).log_prob.detach().unsqueeze(0),
        reward=ADVANTAGE.unsqueeze(0),
        last=torch.ones(1, 4, dtype=torch.bool),
    )
    optimizer = torch.optim.SGD(policy.parameters())
    update = Recorded(policy, critic, optimizer, 1.0, 0.0, torch.Generator().manual_seed(0))
    return update, rollout, ascended


def _standardised() -> torch.Tensor:
    return (ADVANTAGE - ADVANTAGE.mean()) / ADVANTAGE.std()


def test_both_ascend_the_policy_gradient(
    setting: tuple[EnvUpdate, EnvRollout, list[torch.Tensor]],
) -> None:
    """The first gradient of PPO is that of REINFORCE: the advantage times the score, with its sign."""
    update, rollout, ascended = setting
    once = EnvPPOHyperparameters(epochs=1, minibatches=1)
    ppo_ascent(once, update, rollout)
    reinforce_ascent(EnvReinforceHyperparameters(baseline_steps=1), update, rollout)
    weights = list(update.policy.parameters())
    log_prob = evaluate_actions(update.policy, rollout.observation[0], rollout.action[0]).log_prob
    expected = torch.autograd.grad((log_prob * _standardised()).mean(), weights)
    for value in ascended[:2]:
        torch.testing.assert_close(torch.autograd.grad(value, weights, retain_graph=True), expected)


def test_the_ratio_is_to_the_policy_that_acted_and_is_clipped(
    setting: tuple[EnvUpdate, EnvRollout, list[torch.Tensor]],
) -> None:
    update, rollout, ascended = setting
    ratio = torch.tensor([1.5, 1.5, 0.5, 1.1])
    rollout = rollout._replace(log_prob=rollout.log_prob - ratio.log())
    ppo_ascent(EnvPPOHyperparameters(epochs=1, minibatches=1), update, rollout)
    advantage = _standardised()
    assert advantage.sign().tolist() == [1.0, -1.0, -1.0, 1.0]
    wanted = (torch.tensor([1.2, 1.5, 0.8, 1.1]) * advantage).mean()
    error = 0.5 * ADVANTAGE.square().mean()
    torch.testing.assert_close(ascended[0].detach(), wanted - error)


def test_the_entropy_bonus_is_added_and_the_critic_descends_its_error(
    setting: tuple[EnvUpdate, EnvRollout, list[torch.Tensor]],
) -> None:
    update, rollout, ascended = setting
    bonus: Any = type(update)(*update[:4], 0.5, update.generator)
    once = EnvPPOHyperparameters(epochs=1, minibatches=1)
    plain = EnvReinforceHyperparameters(baseline_steps=1)
    for ascend in (partial(ppo_ascent, once), partial(reinforce_ascent, plain)):
        ascended.clear()
        ascend(update, rollout)
        ascend(bonus, rollout)
        acts = evaluate_actions(update.policy, rollout.observation[0], rollout.action[0])
        half = len(ascended) // 2
        torch.testing.assert_close(ascended[half] - ascended[0], 0.5 * acts.entropy.mean())
    (gradient,) = torch.autograd.grad(ascended[1], [update.critic.bias])  # the baseline's step
    assert float(gradient) == pytest.approx(2.0 * float(ADVANTAGE.mean()))


def test_rewards_are_scaled_before_the_critic_sees_them(
    setting: tuple[EnvUpdate, EnvRollout, list[torch.Tensor]],
) -> None:
    update, rollout, _ = setting
    batch = batch_of(update._replace(reward_scale=10.0), rollout, discount=0.9, trace=0.9)
    torch.testing.assert_close(batch.returns, 10.0 * ADVANTAGE)


@pytest.mark.parametrize("name", [*METHODS, "residual_ppo"])
def test_training_has_rewards_that_are_not_delayed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines pay when the tokens come, long after the decision; the training core charges at once."""
    problem = api_problem("continuous", continuous=ContinuousOptions(max_seqs=4), window=16)
    collected: list[bool] = []

    def seen(policy: NetworkPolicy, core: Any, *more: Any) -> EnvRollout:
        collected.append(core._pending is not None)
        return collect(policy, core, *more)

    monkeypatch.setattr(env_training, "collect", seen)
    few: dict[str, Any] = {"decisions": 64, "lanes": 4, "steps": 8}
    if name == "residual_ppo":
        few["rule"] = PriceHyperparameters(population=4, elite=2, generations=1, lanes=2, validation_lanes=2)
    fit(name, problem, hyperparameters=few)
    assert collected
    assert all(collected)
    assert problem.core("train", problem.case, lanes=1, seed=0)._pending is None
