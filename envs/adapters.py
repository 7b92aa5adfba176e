"""Adapters of one batched core: gymnasium.Env, gymnasium VectorEnv and Stable-Baselines3 VecEnv.

`environment_classes` makes the classes that `gymnasium.make` and `gymnasium.make_vec` construct.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnv

from experts import InputError

from .core import Core

__all__ = [
    "BuiltEnv",
    "BuiltVectorEnv",
    "MaskableCore",
    "MaskedEnv",
    "SB3VecEnv",
    "ScalarEnv",
    "VectorizedEnv",
    "environment_classes",
]


class ScalarEnv(gymnasium.Env[np.ndarray, Any]):
    """A core of one lane as a Gymnasium environment."""

    metadata = {"render_modes": []}  # noqa: RUF012 (the name and form that Gymnasium reads)

    def __init__(self, core: Core) -> None:
        self.core = core
        self.observation_space = core.observation_space
        self.action_space = core.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; a seed restarts the random stream."""
        super().reset(seed=seed, options=options)
        return self.core.reset(seed)[0].cpu().numpy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one action; `info` holds the parts of the reward."""
        step = self.core.step(_as_actions(action, self.core).unsqueeze(0))
        info = {name: part[0].cpu().numpy() for name, part in step.parts.items()}
        observation = self.core.observation()[0].cpu().numpy()
        return observation, float(step.reward[0]), bool(step.terminated[0]), False, info


@runtime_checkable
class MaskableCore(Core, Protocol):
    """A core that knows which actions are valid."""

    def action_mask(self) -> torch.Tensor:
        """The valid actions, [B, actions] bool."""
        ...

    def mask_columns(self) -> torch.Tensor:
        """The columns of an observation that make each action valid, [O, actions] bool.

        An action is valid if and only if at least one of its columns is positive, so a policy that sees the
        observation alone knows the mask.
        """
        ...


class VectorizedEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """A core as a Gymnasium vector environment; a lane that terminates restarts in the same step."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, core: Core) -> None:
        self.core = core
        self.num_envs = core.lanes
        self.single_observation_space = core.observation_space
        self.single_action_space = core.action_space
        self.observation_space = batch_space(core.observation_space, core.lanes)
        self.action_space = batch_space(core.action_space, core.lanes)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every lane; with a seed s, lane i restarts its random stream from s + i.

        Raises:
            InputError: a list of seeds is not s, s + 1, ...; the lanes support no other list.
        """
        first = _first_seed(seed, self.num_envs)
        super().reset(seed=first, options=options)
        return self.core.reset(first).cpu().numpy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Apply one action in every lane; `info` holds the parts of the reward, [B] or [B, N] each."""
        step = self.core.step(_as_actions(actions, self.core))
        info: dict[str, Any] = {name: part.cpu().numpy() for name, part in step.parts.items()}
        terminated = step.terminated.cpu().numpy()
        observation = self.core.observation().cpu().numpy()
        if terminated.any():
            final = np.full(self.num_envs, None, dtype=object)
            for lane in np.flatnonzero(terminated):
                final[lane] = observation[lane]
            info |= {"final_obs": final, "_final_obs": terminated}
            self.core.clear(step.terminated)
            observation = self.core.observation().cpu().numpy()
        reward = step.reward.cpu().numpy().astype(np.float64)
        return observation, reward, terminated, np.zeros_like(terminated), info


class SB3VecEnv(VecEnv):
    """A core as a Stable-Baselines3 VecEnv.

    It sums the rewards and their parts on the core's device. `take_averages` returns the means and resets the
    sums, so a progress report costs one copy to the host, not one a step.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.render_mode = None  # SB3 reads it before its own constructor has set it
        self._actions = torch.zeros(core.lanes, dtype=torch.int64)
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        super().__init__(core.lanes, core.observation_space, core.action_space)

    def reset(self) -> np.ndarray:
        """Start an episode in every lane; after `seed`, with restarted random streams."""
        seed = self._seeds[0]
        self._reset_seeds()
        return self.core.reset(seed).cpu().numpy()

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for `step_wait`."""
        self._actions = _as_actions(actions, self.core)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Apply the stored actions; a lane that terminates restarts in the same step."""
        step = self.core.step(self._actions)
        for name, part in {"return": step.reward, **step.parts}.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.mean(dim=0)
        self._steps += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = step.terminated.cpu().numpy()
        observation = self.core.observation().cpu().numpy()
        if done.any():
            for lane in np.flatnonzero(done):
                infos[lane] = {"terminal_observation": observation[lane], "TimeLimit.truncated": False}
            self.core.clear(step.terminated)
            observation = self.core.observation().cpu().numpy()
        return observation, step.reward.cpu().numpy(), done, infos

    def take_averages(self) -> dict[str, np.ndarray]:
        """Means since the last call: `return`, the parts of the reward, and `share` [N]."""
        means = {name: (total / self._steps).cpu().numpy() for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of this object, once for each requested lane."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute for every lane.

        Raises:
            ValueError: for some lanes only; the lanes share one object.
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("the lanes share one object; set the attribute for all of them")
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of this object once and return its result for each requested lane."""
        result = getattr(self, method_name)(*args, **kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for every lane: no lane is wrapped."""
        return [False] * len(list(self._get_indices(indices)))


class BuiltEnv(ScalarEnv):
    """A Gymnasium environment that builds its own core; `environment_classes` makes its subclasses."""

    build: ClassVar[Callable[..., Core]]

    def __init__(self, *source: Any, **arguments: Any) -> None:
        super().__init__(_built(type(self).build, 1, source, arguments))


class MaskedEnv(BuiltEnv):
    """A `BuiltEnv` whose core has an action mask."""

    def action_masks(self) -> np.ndarray:
        """The valid actions, [actions] bool: the method that sb3-contrib's MaskablePPO calls."""
        return cast(MaskableCore, self.core).action_mask()[0].cpu().numpy()


class BuiltVectorEnv(VectorizedEnv):
    """A Gymnasium vector environment that builds its own core; `environment_classes` makes its subclasses."""

    build: ClassVar[Callable[..., Core]]

    def __init__(self, num_envs: int = 1, *source: Any, **arguments: Any) -> None:
        super().__init__(_built(type(self).build, num_envs, source, arguments))


Scalar = TypeVar("Scalar", bound=BuiltEnv)


def environment_classes(
    name: str, build: Callable[..., Core], doc: str | None, scalar: type[Scalar] = BuiltEnv
) -> tuple[type[Scalar], type[BuiltVectorEnv]]:
    """Make the two Gymnasium classes of an environment, `<name>Env` and `<name>VectorEnv`.

    Args:
        name: of the environment; assign the classes to these names in the module that defines `build`.
        build: builds the core; its first parameter is the data and has a default, its second is `lanes`, and
            the others are keywords. The classes take the same arguments without `lanes`.
        doc: the docstring of the scalar class: the specification of the environment.
        scalar: the base of the scalar class.
    """
    first, lanes, *others = inspect.signature(build).parameters.values()
    assert lanes.name == "lanes"
    count = inspect.Parameter("num_envs", lanes.kind, default=1, annotation="int")

    def made(
        base: type[Any], suffix: str, spec: str | None, parameters: list[inspect.Parameter]
    ) -> type[Any]:
        attributes = {
            "__doc__": spec,
            "__module__": build.__module__,
            "__signature__": inspect.Signature(parameters),
            "build": staticmethod(build),
        }
        return type(f"{name}{suffix}", (base,), attributes)

    vector = (
        f"Vector version of `{name}Env`: B lanes in one batch. Lane i of seed s is `{name}Env` of seed s + i."
    )
    return (
        made(scalar, "Env", doc, [first, *others]),
        made(BuiltVectorEnv, "VectorEnv", vector, [count, first, *others]),
    )


def _built(
    build: Callable[..., Core], lanes: int, source: tuple[Any, ...], arguments: dict[str, Any]
) -> Core:
    if "lanes" in arguments:
        problem, fix = "is not an argument of an environment", "use gymnasium.make_vec(id, num_envs=...)"
        raise InputError("lanes", arguments["lanes"], problem, fix)
    return build(*source, lanes=lanes, **arguments)


def _first_seed(seed: int | list[int | None] | None, lanes: int) -> int | None:
    if not isinstance(seed, list):
        return seed
    first = seed[0] if seed else None
    if seed != [None if first is None else first + lane for lane in range(lanes)]:
        raise InputError("seed", seed, "lane i uses random stream s + i", "give s only")
    return first


def _as_actions(actions: Any, core: Core) -> torch.Tensor:
    dtype = torch.float32 if isinstance(core.action_space, spaces.Box) else torch.int64
    return torch.as_tensor(np.asarray(actions), dtype=dtype, device=core.device)
