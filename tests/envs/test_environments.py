"""Every registered environment: its classes, its documentation, and the errors of a wrong argument."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle

import gymnasium
import pytest

import envs
from envs import ENVS, BatchedCore, SB3VecEnv, build_queueing
from envs.adapters import BuiltEnv, BuiltVectorEnv, environment_classes
from experts import InputError

SECTIONS = [
    "Description",
    "Action space",
    "Observation space",
    "Rewards",
    "Starting state",
    "Episode end",
    "Arguments",
]
IDS = sorted(ENVS)
POOLS = {"RouterRL/TokenMoE-v0": "micro_pool", "RouterRL/TokenGeneration-v0": "asked_pool"}
TABLES = [name for name in IDS if name not in POOLS]


def classes_of(name):
    return [
        getattr(importlib.import_module(module), cls) for module, cls in (e.split(":") for e in ENVS[name])
    ]


def options_of(scalar):
    """The fields of the configuration that the builder of an environment takes."""
    module = inspect.getmodule(scalar.build)
    (config,) = (
        value
        for name, value in vars(module).items()
        if name.endswith("Config") and name != "LoadRule" and dataclasses.is_dataclass(value)
    )
    return [field.name for field in dataclasses.fields(config)]


@pytest.mark.parametrize("name", IDS)
def test_the_factory_makes_two_classes_of_one_builder(name):
    scalar, vector = classes_of(name)
    assert issubclass(scalar, BuiltEnv)
    assert issubclass(vector, BuiltVectorEnv)
    assert scalar.build is vector.build
    module = inspect.getmodule(scalar.build)
    for cls in (scalar, vector):
        assert getattr(module, cls.__name__) is cls
        assert pickle.loads(pickle.dumps(cls)) is cls  # AsyncVectorEnv sends the class to its workers
    assert "lanes" not in inspect.signature(scalar).parameters
    assert next(iter(inspect.signature(vector).parameters)) == "num_envs"


@pytest.mark.parametrize("name", IDS)
def test_the_docstring_specifies_the_environment(name):
    scalar, _ = classes_of(name)
    headings = [line[3:] for line in scalar.__doc__.splitlines() if line.startswith("## ")]
    assert headings == SECTIONS
    arguments = scalar.__doc__.split("## Arguments\n")[1]
    given = [name for name in inspect.signature(scalar).parameters if name != "options"]
    for argument in [*given, *options_of(scalar)]:
        assert f"`{argument}`" in arguments, argument


@pytest.mark.parametrize("name", IDS)
def test_the_docstring_names_every_part_of_the_reward(name, request, make_table):
    scalar, _ = classes_of(name)
    env = scalar(make_table() if name in TABLES else request.getfixturevalue(POOLS[name]))
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = scalar.__doc__.split("## Rewards\n")[1].split("## ")[0]
    for part in env.step(env.action_space.sample())[4]:
        assert f"`{part}`" in rewards or f'["{part}"]' in rewards, part


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec], ids=["make", "make_vec"])
@pytest.mark.parametrize("name", TABLES)
def test_a_wrong_argument_is_named_and_the_table_is_not_printed(name, make, make_table):
    table = make_table()
    with pytest.raises(
        InputError, match=r"argument='tabel': unknown; did you mean 'table'\? Known: "
    ) as error:
        make(name, tabel=table)
    assert len(str(error.value)) < 400
    assert "array(" not in str(error.value)
    with pytest.raises(InputError, match="argument='compute_wieght': unknown; did you mean 'compute_weight"):
        make(name, table=table, compute_wieght=0.2)


def test_a_wrong_argument_of_the_token_level_environment_is_named():
    with pytest.raises(InputError, match=r"argument='pol': unknown; did you mean 'pool'\?"):
        gymnasium.make("RouterRL/TokenMoE-v0", pol="tiny")


def test_a_value_of_a_wrong_type_is_named(make_table):
    with pytest.raises(InputError, match="window='many': is not a whole number"):
        gymnasium.make("RouterRL/Routing-v0", table=make_table(), window="many")


def test_a_table_is_short_in_an_error_that_gymnasium_extends(make_table):
    assert repr(make_table()) == "OutcomeTable(23 queries, 3 experts, source='made by hand')"


@pytest.mark.parametrize("name", TABLES)
def test_lanes_are_the_num_envs_of_make_vec(name, make_table):
    with pytest.raises(
        InputError, match=r"lanes=3: is not an argument.*use gymnasium.make_vec\(id, num_envs="
    ):
        gymnasium.make(name, table=make_table(), lanes=3)


def test_a_builder_names_a_wrong_argument_too(make_table):
    with pytest.raises(InputError, match="argument='bacth': unknown; did you mean 'batch'"):
        build_queueing(make_table(), 2, bacth=3)


def test_an_environment_is_a_builder_and_a_line(make_table):
    """A new environment from a core and a builder, registered as the others are."""

    def build_short(table="digits", lanes=1, *, window=2):
        return envs.build_routing(table, lanes, window=window)

    short, many = environment_classes("Short", build_short, "Short.")
    assert (short.__name__, many.__name__, short.__doc__) == ("ShortEnv", "ShortVectorEnv", "Short.")
    gymnasium.register("RouterRL/Short-v0", entry_point=short, vector_entry_point=many)
    try:
        env = gymnasium.make("RouterRL/Short-v0", table=make_table(), window=1)
        env.reset(seed=0)
        assert env.step(0)[2]
        vector = gymnasium.make_vec("RouterRL/Short-v0", num_envs=3, table=make_table())
        assert vector.num_envs == 3
        assert isinstance(vector.unwrapped.core, BatchedCore)
        assert SB3VecEnv(vector.unwrapped.core).num_envs == 3
    finally:
        del gymnasium.registry["RouterRL/Short-v0"]
