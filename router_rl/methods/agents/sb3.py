"""PPO, A2C and DQN of Stable-Baselines3, unmodified, on the batched routing environment.

The policy's action distribution is the selection rule, and its network is the scorer that is exported. The
weights with the best validation utility are kept. The discount is 0 without a load penalty, because a
decision then does not affect later rewards, and 0.9 with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from envs import RoutingCore, SB3VecEnv
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Size, Width

from ...problems.routing.problem import RoutingProblem
from ...routing import AdaptiveK, Router, Soft
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from ..training_loop import EarlyStopping
from .sb3_logger import without_log_folder
from .sb3_policies import RouterActorCriticPolicy, RouterDQNPolicy
from .sb3_state import agent_state, restore_agent

__all__ = [
    "A2C_SPACE",
    "DQN_SPACE",
    "METHODS",
    "PPO_SPACE",
    "A2CHyperparameters",
    "DQNHyperparameters",
    "PPOHyperparameters",
    "fit_a2c",
    "fit_dqn",
    "fit_ppo",
]

_LOAD_DISCOUNT = 0.9


class _TrainingLength(Protocol):
    @property
    def decisions(self) -> int: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def patience(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(Hyperparameters):
    """Hyperparameters of PPO.

    Attributes:
        learning_rate: learning rate of AdamW (SB3's learning_rate).
        epochs: epochs over each rollout (SB3's n_epochs).
        minibatch: decisions per gradient step (SB3's batch_size).
        clip: clip range of the probability ratio (SB3's clip_range).
        entropy: entropy bonus (SB3's ent_coef).
        weight_decay: weight decay of AdamW.
        lanes: parallel environments; a rollout is lanes x steps decisions.
        steps: decisions per lane in a rollout (SB3's n_steps).
        decisions: total number of training decisions.
        validate_every: decisions between two validations.
        patience: validations without improvement before training stops.
        critic_hidden: widths of the critic's hidden layers.
    """

    learning_rate: Positive = 3e-3
    epochs: Count = 4
    minibatch: Count = 512
    clip: Positive = 0.2
    entropy: NonNegative = 0.01
    weight_decay: NonNegative = 1e-2
    lanes: Size = 256
    steps: Size = 8
    decisions: Count = 200_000
    validate_every: Count = 8_192
    patience: Count = 10
    critic_hidden: tuple[Width, ...] = (64,)


PPO_SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "epochs": (2, 4, 8),
    "entropy": (0.0, 0.003, 0.01, 0.03),
}


@dataclass(frozen=True, kw_only=True)
class A2CHyperparameters(Hyperparameters):
    """Hyperparameters of A2C.

    Attributes:
        learning_rate: learning rate of AdamW (SB3's learning_rate).
        entropy: entropy bonus (SB3's ent_coef).
        weight_decay: weight decay of AdamW.
        lanes: parallel environments; a rollout is lanes x steps decisions.
        steps: decisions per lane in a rollout (SB3's n_steps).
        decisions: total number of training decisions.
        validate_every: decisions between two validations.
        patience: validations without improvement before training stops.
        critic_hidden: widths of the critic's hidden layers.
    """

    learning_rate: Positive = 3e-3
    entropy: NonNegative = 0.01
    weight_decay: NonNegative = 1e-2
    lanes: Size = 256
    steps: Size = 4
    decisions: Count = 200_000
    validate_every: Count = 8_192
    patience: Count = 10
    critic_hidden: tuple[Width, ...] = (64,)


A2C_SPACE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "steps": (2, 4, 8),
    "entropy": (0.0, 0.003, 0.01, 0.03),
}


@dataclass(frozen=True, kw_only=True)
class DQNHyperparameters(Hyperparameters):
    """Hyperparameters of DQN.

    Attributes:
        learning_rate: learning rate of AdamW (SB3's learning_rate).
        weight_decay: weight decay of AdamW.
        minibatch: transitions per gradient step (SB3's batch_size).
        exploration: share of training over which the exploration rate falls to 5% (SB3's
            exploration_fraction).
        target_every: environment steps between updates of the target network.
        memory: transitions in the replay buffer (SB3's buffer_size).
        updates: gradient steps after each environment step (SB3's gradient_steps).
        lanes: parallel environments.
        decisions: total number of training decisions.
        validate_every: decisions between two validations.
        patience: validations without improvement before training stops.
    """

    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    minibatch: Count = 256
    exploration: Fraction = 0.3
    target_every: Count = 50
    memory: Size = 50_000
    updates: Count = 2
    lanes: Size = 64
    decisions: Count = 200_000
    validate_every: Count = 8_192
    patience: Count = 10


DQN_SPACE = {
    "learning_rate": (3e-4, 1e-3, 3e-3),
    "weight_decay": (1e-4, 1e-2, 1e-1),
    "exploration": (0.1, 0.3, 0.6),
    "minibatch": (128, 256, 512),
}


def fit_ppo(problem: RoutingProblem, hyperparameters: PPOHyperparameters, run: Run) -> Router:
    """Train a router by proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347)."""
    env = _env(problem, hyperparameters.lanes)
    agent = PPO(
        RouterActorCriticPolicy,
        env,
        learning_rate=hyperparameters.learning_rate,
        n_steps=hyperparameters.steps,
        batch_size=hyperparameters.minibatch,
        n_epochs=hyperparameters.epochs,
        gamma=_discount(problem),
        clip_range=hyperparameters.clip,
        ent_coef=hyperparameters.entropy,
        policy_kwargs=_actor_critic(problem, hyperparameters, run),
        seed=run.seed,
        device=problem.device,
    )
    return _learn(agent, env, problem, hyperparameters, run)


def fit_a2c(problem: RoutingProblem, hyperparameters: A2CHyperparameters, run: Run) -> Router:
    """Train a router by advantage actor-critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783)."""
    env = _env(problem, hyperparameters.lanes)
    agent = A2C(
        RouterActorCriticPolicy,
        env,
        learning_rate=hyperparameters.learning_rate,
        n_steps=hyperparameters.steps,
        gamma=_discount(problem),
        ent_coef=hyperparameters.entropy,
        use_rms_prop=False,
        policy_kwargs=_actor_critic(problem, hyperparameters, run),
        seed=run.seed,
        device=problem.device,
    )
    return _learn(agent, env, problem, hyperparameters, run)


def fit_dqn(problem: RoutingProblem, hyperparameters: DQNHyperparameters, run: Run) -> Router:
    """Train a router of single experts by deep Q-learning (Mnih et al. 2015, https://doi.org/10.1038/nature14236)."""
    env = _env(problem, hyperparameters.lanes)
    agent = DQN(
        RouterDQNPolicy,
        env,
        learning_rate=hyperparameters.learning_rate,
        buffer_size=hyperparameters.memory,
        learning_starts=hyperparameters.lanes * 8,
        batch_size=hyperparameters.minibatch,
        gamma=_discount(problem),
        train_freq=1,
        gradient_steps=hyperparameters.updates,
        target_update_interval=hyperparameters.target_every * hyperparameters.lanes,
        exploration_fraction=hyperparameters.exploration,
        policy_kwargs={
            "make_router": _router_maker(problem, run),
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": hyperparameters.weight_decay},
        },
        seed=run.seed,
        device=problem.device,
    )
    return _learn(agent, env, problem, hyperparameters, run)


def _env(problem: RoutingProblem, lanes: int) -> SB3VecEnv:
    rule = problem.rule
    choose = "weights" if isinstance(rule, Soft) else "some" if isinstance(rule, AdaptiveK) else "experts"
    config = problem.objective.config(k=rule.k, observe_load=problem.observe_load, choose=choose)
    return SB3VecEnv(RoutingCore(problem.outcomes(), config, lanes))


def _discount(problem: RoutingProblem) -> float:
    return _LOAD_DISCOUNT if problem.objective.load_weight > 0 else 0.0


def _router_maker(problem: RoutingProblem, run: Run):
    return lambda: problem.new_router(run.seed, observe_load=problem.observe_load)


def _actor_critic(
    problem: RoutingProblem, hyperparameters: PPOHyperparameters | A2CHyperparameters, run: Run
) -> dict[str, Any]:
    return {
        "make_router": _router_maker(problem, run),
        "critic_hidden": hyperparameters.critic_hidden,
        "optimizer_class": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": hyperparameters.weight_decay},
    }


def _learn(
    agent: BaseAlgorithm, env: SB3VecEnv, problem: RoutingProblem, hyperparameters: _TrainingLength, run: Run
) -> Router:
    without_log_folder(agent)
    policy: Any = agent.policy
    router: Router = policy.router
    if problem.rule.k > 1 and not isinstance(problem.rule, Soft):
        env.core.weigh = policy.weigh  # type: ignore[attr-defined]
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback)
    saved = run.checkpoint.load()
    if saved is not None:
        restore_agent(agent, env, saved["agent"])
        stopping.load_state_dict(saved["stopping"])
    callback = _Validation(env, router, stopping, hyperparameters, run)
    remaining = hyperparameters.decisions - agent.num_timesteps
    agent.learn(remaining, callback=callback, reset_num_timesteps=saved is None)
    stopping.update(router, agent.num_timesteps, hyperparameters.decisions, _means(env))
    return stopping.best(router)


class _Validation(BaseCallback):
    """SB3 callback that measures validation utility between an update and the next rollout."""

    def __init__(
        self,
        env: SB3VecEnv,
        router: Router,
        stopping: EarlyStopping,
        hyperparameters: _TrainingLength,
        run: Run,
    ) -> None:
        super().__init__()
        self._env = env
        self._router = router
        self._stopping = stopping
        self._hyperparameters = hyperparameters
        self._run = run
        self._stop = False
        self._period = run.validate_every or hyperparameters.validate_every

    def _on_rollout_start(self) -> None:
        period = self._period
        # Derived from the number of timesteps alone, so that a resumed run validates at the same steps.
        lanes = self._env.num_envs
        played = self.num_timesteps
        if played and played // period == (played - self._played_in_rollout(lanes)) // period:
            return
        total = self._hyperparameters.decisions
        self._stop = self._stopping.update(self._router, played, total, _means(self._env))
        if self._run.checkpoint.due:
            state = {"agent": agent_state(self.model, self._env), "stopping": self._stopping.state_dict()}
            self._run.checkpoint.save(state)

    def _on_step(self) -> bool:
        return not self._stop

    def _played_in_rollout(self, lanes: int) -> int:
        return lanes * int(getattr(self.model, "n_steps", 1))


def _means(env: SB3VecEnv) -> dict[str, float]:
    return {name: float(value) for name, value in env.take_averages().items() if value.ndim == 0}


METHODS = (
    Method(
        name="ppo",
        family="rl",
        fit=fit_ppo,
        hyperparameters=PPOHyperparameters,
        space=PPO_SPACE,
        about="proximal policy optimization (Stable-Baselines3)",
    ),
    Method(
        name="a2c",
        family="rl",
        fit=fit_a2c,
        hyperparameters=A2CHyperparameters,
        space=A2C_SPACE,
        about="advantage actor-critic (Stable-Baselines3)",
    ),
    Method(
        name="dqn",
        family="rl",
        fit=fit_dqn,
        hyperparameters=DQNHyperparameters,
        space=DQN_SPACE,
        about="deep Q-learning (Stable-Baselines3)",
        selections=("hard",),
    ),
)
