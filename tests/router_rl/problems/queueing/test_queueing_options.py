"""The options are those of the environment, and mistakes are named as the user spells them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from envs import QueueingConfig
from experts import InputError
from router_rl.problems.options import with_changes
from router_rl.problems.queueing.queueing_options import QueueingOptions

OWN = {"arrivals", "test_arrivals", "loads", "episodes", "features"}


def test_every_option_of_the_environment_is_there_with_its_default():
    environment = {each.name: each.default for each in fields(QueueingConfig)}
    del environment["load"], environment["compute_weight"]  # the cases, and the objective
    assert {
        each.name: each.default for each in fields(QueueingOptions) if each.name not in OWN
    } == environment


def test_the_environment_gets_every_value():
    options = QueueingOptions(window=7, replicas=(1, 2), batch=3, budget=0.4, values=(2.0,), mean_up=9.0)
    config = options.config(0.6, 0.2)
    assert config == QueueingConfig(
        load=0.6,
        compute_weight=0.2,
        window=7,
        replicas=(1, 2),
        batch=3,
        budget=0.4,
        values=(2.0,),
        mean_up=9.0,
    )


def test_one_load_a_list_and_a_path_are_accepted():
    options = with_changes(QueueingOptions(), {"loads": 0.5, "arrivals": Path("a/trace.parquet")})
    assert options.loads == (0.5,)
    assert options.arrivals == str(Path("a/trace.parquet"))
    assert with_changes(options, {"loads": [0.5, 1]}).loads == (0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lodes": [0.5]}, "problem='lodes': unknown; did you mean 'loads'"),
        ({"loads": "much"}, "problem.loads='much': is not a list of numbers"),
        ({"loads": []}, "problem.loads=.*are empty"),
        ({"loads": [0.5, 0.5]}, "problem.loads=.*are not distinct"),
        ({"loads": [0.5, 0.0]}, "problem.loads=.*use a list of numbers above 0"),
        ({"episodes": 1}, "problem.episodes=1: is out of range; use a whole number from 2"),
        ({"batch_slope": 3.0}, "problem.batch_slope=3.0: is out of range; use a number from 0 to 1"),
        ({"deadlines": [1.0, 2.0]}, "problem.values=.*do not match 2 deadlines"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        with_changes(QueueingOptions(), changes)
    assert caught.value.field == message.partition("=")[0]
