"""The state of an agent of Stable-Baselines3 and its environment, for checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm

from envs import SB3VecEnv

from ..training_loop import optimizer_state, restore_optimizer

__all__ = ["agent_state", "restore_agent"]

_MEMORY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def agent_state(agent: BaseAlgorithm, env: SB3VecEnv) -> dict[str, Any]:
    """Return everything that the agent's next step depends on, for a checkpoint.

    Args:
        agent: in training.
        env: its environment.
    """
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (SB3 draws from numpy's global generator)
    assert isinstance(numpy_state, dict)
    twister: dict[str, Any] = numpy_state["state"]
    state: dict[str, Any] = {
        "played": agent.num_timesteps,
        "policy": agent.policy.state_dict(),
        "optimizer": optimizer_state(agent.policy.optimizer),
        "lanes": env.core.state_dict(),
        "episode_starts": torch.from_numpy(np.array(agent._last_episode_starts)),  # pyright: ignore[reportPrivateUsage]
        "torch_random": torch.get_rng_state(),
        "numpy_random": torch.from_numpy(np.array(twister["key"], dtype=np.int64)),
        "numpy_position": int(twister["pos"]),
    }
    if isinstance(agent, DQN):
        buffer = agent.replay_buffer
        assert buffer is not None
        state["exploration"] = agent.exploration_rate
        state["action_random"] = agent.action_space.np_random.bit_generator.state
        state["calls"] = agent._n_calls  # pyright: ignore[reportPrivateUsage]
        state["position"], state["full"] = buffer.pos, buffer.full
        state["memory"] = {name: torch.from_numpy(getattr(buffer, name)) for name in _MEMORY}
    return state


def restore_agent(agent: BaseAlgorithm, env: SB3VecEnv, state: dict[str, Any]) -> None:
    """Restore the state of a checkpoint.

    Args:
        agent: a new agent with the same hyperparameters.
        env: its environment.
        state: as returned by `agent_state`.
    """
    agent.policy.load_state_dict(state["policy"])
    restore_optimizer(agent.policy.optimizer, state["optimizer"])
    env.core.load_state_dict(state["lanes"])
    agent.num_timesteps = state["played"]
    agent._last_obs = env.core.observation().cpu().numpy()  # pyright: ignore[reportPrivateUsage]
    agent._last_episode_starts = state["episode_starts"].numpy()  # pyright: ignore[reportPrivateUsage]
    if isinstance(agent, DQN):
        buffer = agent.replay_buffer
        assert buffer is not None
        agent.exploration_rate = state["exploration"]
        agent.action_space.np_random.bit_generator.state = state["action_random"]
        agent._n_calls = state["calls"]  # pyright: ignore[reportPrivateUsage]
        buffer.pos, buffer.full = state["position"], state["full"]
        for name in _MEMORY:
            getattr(buffer, name)[:] = state["memory"][name].numpy()
    torch.set_rng_state(state["torch_random"])
    keys = state["numpy_random"].numpy().astype(np.uint32)
    twister = {"bit_generator": "MT19937", "state": {"key": keys, "pos": state["numpy_position"]}}
    np.random.set_state({**twister, "has_gauss": 0, "gauss": 0.0})  # noqa: NPY002
