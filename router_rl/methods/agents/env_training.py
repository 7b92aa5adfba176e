"""The training loop of on-device RL in any environment: act in the core, update, validate, keep the best.

The policy is a network on the whole observation, with the mask of invalid actions that the observation holds.
Observations are standardised by running means and variances, which are fixed after the first tenth of the
decisions; the first rollout only measures them. Rewards are divided by the standard deviation of the returns,
likewise. Learning rate and entropy bonus decay linearly to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn

from envs import BatchedCore, Core
from envs.adapters import MaskableCore
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size, Width

from ...problems.problem import ActionPolicy, Case, Problem
from ...routing.policies.network_policy import NetworkPolicy
from ..hyperparameters import Hyperparameters
from ..method import Fit, Run
from ..training_loop import adamw, optimizer_state, restore_optimizer
from .env_rollout import EnvRollout, advantages, collect
from .env_validation import BestPolicy
from .running_moments import RunningMoments

__all__ = [
    "SHORT_SPACE",
    "SPACE",
    "Batch",
    "EnvAscent",
    "EnvHyperparameters",
    "EnvUpdate",
    "Rule",
    "batch_of",
    "env_fit",
    "learn_env",
    "new_policy",
]

_WARM_UP = 0.1  # of the decisions
_VALIDATIONS = 8
_LARGEST_GRADIENT = 0.5  # norm


@dataclass(frozen=True, kw_only=True)
class EnvHyperparameters(Hyperparameters):
    """Hyperparameters of every on-device learner that acts in an environment.

    Attributes:
        decisions: number of environment steps, over all lanes.
        lanes: B, environments that step together.
        steps: steps per lane in a rollout.
        learning_rate: initial learning rate of AdamW; decays linearly to 0.
        weight_decay: weight decay of AdamW.
        entropy: initial entropy bonus, in standard deviations of the advantage per nat; decays linearly to 0.
        discount: discount of later rewards.
        hidden: width of the two hidden layers of the policy and of the critic.
    """

    decisions: Count = 200_000
    lanes: Size = 128
    steps: Size = 32
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    entropy: NonNegative = 0.01
    discount: Fraction = 0.95
    hidden: Width = 64


class EnvUpdate(NamedTuple):
    """What one update of the policy uses.

    Attributes:
        policy: the policy.
        critic: maps standardised observations [..., O] to values [..., 1].
        optimizer: of the weights of both.
        reward_scale: what rewards are multiplied by.
        entropy: current entropy bonus, in standard deviations of the advantage per nat.
        generator: random generator of the run.
    """

    policy: NetworkPolicy
    critic: nn.Module
    optimizer: torch.optim.Optimizer
    reward_scale: float
    entropy: float
    generator: torch.Generator

    def values(self, observation: Tensor) -> Tensor:
        """Return the critic's values [...] of observations [..., O]."""
        return cast(Tensor, self.critic(self.policy.standardised(observation))).squeeze(-1)

    def ascend(self, value: Tensor) -> None:
        """Take one gradient step that increases a scalar; the gradient's norm is clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        (-value).backward()
        for module in (self.policy, self.critic):
            nn.utils.clip_grad_norm_(module.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()


EnvAscent = Callable[[EnvUpdate, EnvRollout], None]
SPACE = {"discount": (0.9, 0.95, 0.99), "entropy": (0.0, 0.01, 0.03), "weight_decay": (1e-3, 1e-1)}
SHORT_SPACE = {**SPACE, "discount": (0.99, 1.0)}  # of short episodes


class Rule(NamedTuple):
    """A rule that a policy starts from.

    Attributes:
        scores: maps observations [T, O] to scores of all actions [T, sum A_i]; it is frozen.
        inverse_temperature: scale of the scores.
    """

    scores: nn.Module
    inverse_temperature: float


class Batch(NamedTuple):
    """M decisions of a rollout.

    Attributes:
        observation: [M, O] float32.
        action: [M] or [M, k] int64.
        log_prob: [M] float32, under the policy that acted.
        advantage: [M] float32, in scaled rewards.
        returns: [M] float32, what the critic is trained on, in scaled rewards.
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor

    def part(self, index: Tensor) -> Batch:
        """Return the decisions at indices [m] int64."""
        return Batch(*(column[index] for column in self))


def batch_of(update: EnvUpdate, rollout: EnvRollout, *, discount: float, trace: float) -> Batch:
    """Return the decisions of a rollout with their advantages.

    Args:
        update: gives the critic and the scale of the rewards.
        rollout: S steps in each of B lanes.
        discount: discount of later rewards.
        trace: lambda of the advantages.
    """
    with torch.no_grad():
        value = update.values(rollout.observation)
    reward = rollout.reward * update.reward_scale
    advantage, returns = advantages(reward, value, rollout.last, discount=discount, trace=trace)
    columns = (rollout.observation[:-1], rollout.action, rollout.log_prob, advantage, returns)
    return Batch(*(column.flatten(0, 1) for column in columns))


def new_policy(problem: Problem, core: Core, hidden: int, seed: int) -> NetworkPolicy:
    """Return an untrained policy of a core's observations, with its actions and their mask.

    All valid actions are about equally likely.

    Args:
        problem: gives the experts.
        core: the environment.
        hidden: width of the two hidden layers.
        seed: random seed of the weights.
    """
    space = core.action_space
    assert not isinstance(space, spaces.Box)
    choices = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(size) for size in space.nvec]
    size = core.observation_space.shape[0]
    features = problem.table.features.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = NetworkPolicy(problem.experts, features, size, choices, (hidden, hidden)).to(core.device)
    with torch.no_grad():
        last = cast(nn.Linear, policy.layers[-1])
        last.weight.mul_(0.01)
        last.bias.zero_()
        if isinstance(core, MaskableCore):
            policy.valid_columns.copy_(core.mask_columns())
    return policy


def learn_env(
    problem: Problem,
    case: Case | None,
    hyperparameters: EnvHyperparameters,
    run: Run,
    ascent: EnvAscent,
    rule: Rule | None = None,
) -> ActionPolicy:
    """Alternate between acting in the environment and updating the policy.

    Args:
        problem: gives the training environment and the validation.
        case: case of the environment; None for a core that draws a case for each episode.
        hyperparameters: lanes, number of decisions and the optimizer's options.
        run: seed, callback and checkpoint.
        ascent: updates policy and critic from one rollout.
        rule: the policy starts as this rule and learns a correction; None: from random weights.

    Returns:
        the policy with the best mean validation utility over the problem's cases, and its module.
    """
    total, lanes, steps = hyperparameters.decisions, hyperparameters.lanes, hyperparameters.steps
    core: Core = cast(Any, problem).core("train", case, lanes=lanes, seed=1_000_000 * (run.seed + 1))
    core = core.immediate() if isinstance(core, BatchedCore) else core
    policy = new_policy(problem, core, hyperparameters.hidden, run.seed)
    if rule is not None:
        policy.follow(*rule)
    critic = _critic(policy.observation_size, hyperparameters.hidden, run.seed).to(core.device)
    weights = [each for each in (*policy.parameters(), *critic.parameters()) if each.requires_grad]
    optimizer = adamw(weights, hyperparameters.learning_rate, hyperparameters.weight_decay)
    generator = torch.Generator(device=core.device).manual_seed(run.seed)
    moments, returns = (RunningMoments.of(size, core.device) for size in (policy.observation_size, 1))
    best = BestPolicy(problem, run.callback)
    period = run.validate_every or max(1, total // _VALIDATIONS)
    played = 0
    saved = run.checkpoint.load()
    if saved is not None:
        played = saved["played"]
        policy.load_state_dict(saved["policy"])
        critic.load_state_dict(saved["critic"])
        restore_optimizer(optimizer, saved["optimizer"])
        generator.set_state(saved["generator"])
        moments, returns = RunningMoments(**saved["moments"]), RunningMoments(**saved["returns"])
        best.load_state_dict(saved["best"])
        core.load_state_dict(saved["core"])
    elif rule is not None:
        best.update(policy, 0, total, {})
    while played < total:
        rollout = collect(policy, core, steps, generator)
        left = 1.0 - played / total
        if played > 0:
            optimizer.param_groups[0]["lr"] = hyperparameters.learning_rate * left
            entropy = hyperparameters.entropy * left
            reward_scale = 1.0 / float(returns.deviation())
            ascent(EnvUpdate(policy, critic, optimizer, reward_scale, entropy, generator), rollout)
        before, played = played, played + lanes * steps
        if before <= _WARM_UP * total:
            moments = moments.updated(rollout.observation[:-1].flatten(0, 1))
            returns = returns.updated(_returns(rollout, hyperparameters.discount))
            policy.shift.copy_(moments.mean)
            policy.scale.copy_(1.0 / moments.deviation())
        if before // period != played // period or played >= total:
            best.update(policy, min(played, total), total, {"return": float(rollout.reward.mean())})
        if run.checkpoint.due:
            run.checkpoint.save(
                {
                    "played": played,
                    "policy": policy.state_dict(),
                    "critic": critic.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "generator": generator.get_state(),
                    "moments": moments._asdict(),
                    "returns": returns._asdict(),
                    "best": best.state_dict(),
                    "core": core.state_dict(),
                }
            )
    policy.load_state_dict(best.weights)
    policy.requires_grad_(False).eval()
    return ActionPolicy(actions=policy.act, module=policy)


def env_fit(ascent: Callable[[Any, EnvUpdate, EnvRollout], None], *, amortized: bool) -> Fit:
    """Return the fit of a method that acts in an environment.

    Args:
        ascent: updates policy and critic from hyperparameters and one rollout.
        amortized: train one policy for all cases, in a core that draws a case for each episode; else train on
            the problem's only case.
    """

    def fit(problem: Problem, hyperparameters: EnvHyperparameters, run: Run) -> ActionPolicy:
        case = None if amortized else problem.case
        return learn_env(problem, case, hyperparameters, run, partial(ascent, hyperparameters))

    return fit


def _critic(inputs: int, hidden: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        layers = [nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(hidden, 1))


def _returns(rollout: EnvRollout, discount: float) -> Tensor:
    """Return the discounted rewards-to-go of a rollout, [S B, 1]."""
    value = torch.zeros(len(rollout.observation), rollout.reward.shape[1], device=rollout.reward.device)
    returns = advantages(rollout.reward, value, rollout.last, discount=discount, trace=1.0)[1]
    return returns.reshape(-1, 1)
