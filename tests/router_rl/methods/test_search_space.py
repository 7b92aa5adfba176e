"""Ranges that the values of a method span, and a user's own in their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experts import InputError
from experts.io.value_range import Count, Fraction, NonNegative, Positive
from router_rl.methods.hyperparameters import Hyperparameters
from router_rl.methods.method import Method
from router_rl.methods.registry import METHODS, find_method
from router_rl.methods.search_space import Choices, Interval, changed_space, read_space, search_space


@dataclass(frozen=True, kw_only=True)
class _Toy(Hyperparameters):
    rate: Positive = 0.003
    share: Fraction = 0.0
    bonus: NonNegative = 0.0
    batch: Count = 128
    ratio: float = 1.5
    name: str = "a"
    layers: tuple[int, ...] = (8,)
    width: int | None = None


TOY = Method(
    name="toy",
    family="gate",
    fit=lambda *_: None,
    hyperparameters=_Toy,
    space={
        "rate": (1e-3, 1e-2),
        "share": (0.0, 0.25, 0.5),
        "bonus": (0.0, 0.001, 0.01),
        "batch": (64, 256),
        "ratio": (1, 2),
        "name": ("b", "a"),
    },
)


def test_ranges_of_the_values_and_the_default() -> None:
    assert search_space(TOY) == {
        "rate": Interval(low=1e-3, high=1e-2, log=True),
        "share": Interval(low=0.0, high=0.5),
        "bonus": Choices(values=(0.0, 0.001, 0.01)),  # a linear range would hardly draw 0.001
        "batch": Interval(low=64, high=256, log=True, whole=True),
        "ratio": Interval(low=1, high=2),
        "name": Choices(values=("b", "a")),
    }


@pytest.mark.parametrize("entry", list(METHODS))
def test_every_range_holds_the_default_and_the_values_and_makes_hyperparameters(entry: str) -> None:
    problem, _, name = entry.partition(".")
    method = find_method(problem, name)
    if not isinstance(method, Method):
        return
    space = search_space(method)
    default = method.hyperparameters()
    for name, values in method.space.items():
        assert all(value in space[name] for value in (*values, getattr(default, name)))
    for end in (0, -1):
        corner = {
            name: (each.low, each.high)[end] if isinstance(each, Interval) else each.values[end]
            for name, each in space.items()
        }
        method.configure(corner)  # raises InputError for a value out of range


def test_a_file_overrides_ranges_fixes_values_and_adds_hyperparameters(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "rate: {low: 1.0e-5, high: 1, log: true}\nbatch: {low: 10, high: 100, step: 10}\n"
        "name: [c, d]\nshare: 0.25\nlayers: [[8], [8, 8]]\nwidth: {low: 1, high: 4}\n"
    )
    assert read_space(path, TOY) == {
        **search_space(TOY),
        "rate": Interval(low=1e-5, high=1.0, log=True),
        "batch": Interval(low=10, high=100, step=10, whole=True),
        "name": Choices(values=("c", "d")),
        "share": Choices(values=(0.25,)),
        "layers": Choices(values=((8,), (8, 8))),
        "width": Interval(low=1, high=4, whole=True),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rat": 1}, "space.rat='rat': unknown; did you mean 'rate'"),
        ({"rate": {"low": 0.0, "high": 1.0}}, "space.rate.low=0.0: is out of range; use a number above 0"),
        ({"rate": {"low": 1.0, "high": 0.5}}, "space.rate.high=0.5: is not above low, 1.0"),
        ({"rate": {"low": 0.1}}, "space.rate={'low': 0.1}: has no high; write {low"),
        ({"rate": {"low": 0.1, "hi": 1}}, "space.rate.hi='hi': unknown; did you mean 'high'"),
        ({"share": {"low": 0, "high": 1, "log": True}}, "space.share.low=0.0: has no logarithm"),
        ({"share": {"low": 0, "high": 1, "step": 2}}, "space.share.step=2.0: does not fit the range"),
        ({"share": {"low": 0, "high": 1, "log": "no"}}, "space.share.log='no': is not true or false"),
        ({"batch": {"low": 1, "high": 1.5}}, "space.batch.high=1.5: is not a whole number"),
        ({"batch": [0, 1]}, "space.batch=0: is out of range; use a whole number of at least 1"),
        ({"name": {"low": "a", "high": "b"}}, "space.name={'low': 'a', 'high': 'b'}: is a range of values"),
        ({"name": []}, "space.name=[]: has no value"),
        ({"name": ["a", "a"]}, "space.name=['a', 'a']: has a value twice"),
        ({1: 2}, "space.1='1': unknown"),
    ],
)
def test_wrong_ranges(content: dict[Any, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        changed_space(content, TOY)
    assert str(error.value).startswith(message)


def test_a_file_that_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"space=.*is not a mapping of hyperparameters"):
        read_space(tmp_path / "space.yaml", TOY)
