"""Values of options are checked against the types and ranges of their fields, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest

from experts import InputError
from experts.io.checked_options import CheckedOptions, check_fields, checked_value
from experts.io.value_range import Count, Fraction, NonNegative, Positive, Range, Share, Width
from router_rl.methods.method import Method
from router_rl.methods.registry import find_method, method_names
from router_rl.problems.registry import find_options, problem_names


@dataclass(frozen=True, kw_only=True)
class Inner(CheckedOptions):
    prefix: ClassVar[str] = "outer.inner"

    size: Count = 1


@dataclass(frozen=True, kw_only=True)
class Outer(CheckedOptions):
    prefix: ClassVar[str] = "outer"

    rate: Positive = 1.0
    weight: NonNegative = 0.0
    chance: Fraction = 0.5
    share: Share = 1.0
    open: Annotated[float, Range(0.0, 1.0, below=True)] = 0.0
    count: Count = 1
    widths: tuple[Width, ...] = (64,)
    pair: tuple[int, int] = (1, 2)
    kind: Literal["left", "right"] | None = None
    names: dict[str, Any] | None = None
    path: Path | None = None
    switch: bool = False
    either: Positive | tuple[Positive, ...] = 1.0
    text: str = ""
    inner: Inner = field(default_factory=Inner)


BAD = {
    "rate": ("abc", True, None, -1, 0, math.nan, math.inf, 10**400, [1.0], "1"),
    "weight": (-1e-9, -math.inf),
    "chance": (-0.1, 1.1),
    "share": (0.0, 1.1),
    "open": (1.0, -0.1),
    "count": (1.5, 0, True, "1", 1e20, 10**20, 10**400, None, 2.0),
    "widths": ([10**11], [0], [1.5], 64, "64", None, [[64]]),
    "pair": ([1], [1, 2, 3], 1),
    "kind": ("up", 1, True),
    "names": ([1], {1: 2}, "a"),
    "path": (1, ["a"]),
    "switch": (1, "true", None),
    "either": ("a", -1.0, [0.0], None),
    "text": (1, None),
    "inner": (1, None, {"length": 1}),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_a_bad_value_names_the_field_and_the_fix(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^outer\.{name}=.*: .*; ") as caught:
        Outer(**{name: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=rf"^outer\.{name}="):
        replace(Outer(), **{name: value})


def test_every_field_has_a_bad_value() -> None:
    assert set(BAD) == {each.name for each in fields(Outer)}


def test_the_message_says_the_range() -> None:
    expected = "outer.rate='abc': is not a number; use a number above 0"
    with pytest.raises(InputError, match=f"^{expected}$"):
        Outer(rate="abc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"outer.widths=.*use a list of whole numbers from 1 to 8,192$"):
        Outer(widths=[0])  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"outer.share=0.0: is out of range; use a number above 0 and at most 1"
    ):
        Outer(share=0.0)
    with pytest.raises(InputError, match=r"outer.kind='lefft': unknown; did you mean 'left'"):
        Outer(kind="lefft")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"outer.inner.size=0: is out of range"):
        Outer(inner={"size": 0})  # type: ignore[arg-type]


def test_values_are_converted_to_the_type_of_the_field() -> None:
    made = Outer(rate=1, widths=[8, 4], path="a", either=[1, 2], count=np.int64(3), inner={"size": 2})  # type: ignore[arg-type]
    assert type(made.rate) is float
    assert made.widths == (8, 4)
    assert made.path == Path("a")
    assert made.either == (1.0, 2.0)
    assert type(made.count) is int
    assert made.inner == Inner(size=2)


def test_a_plain_dataclass_can_be_checked() -> None:
    @dataclass
    class Plain:
        size: int = 1

    globals()["Plain"] = Plain
    check_fields(Plain())
    with pytest.raises(InputError, match=r"method.size='a': is not a whole number"):
        check_fields(Plain(size="a"), "method")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"size=1.5"):
        checked_value("size", 1.5, int)


def test_all_hyperparameters_and_options_are_checked() -> None:
    """Every number of every method and problem refuses what is no number, and every default is valid."""
    kinds = {find_options(name) for name in problem_names()}
    for problem in problem_names():
        methods = [find_method(problem, name) for name in method_names(problem)]
        kinds |= {each.hyperparameters for each in methods if isinstance(each, Method)}
    assert len(kinds) > 40
    for kind in kinds:
        assert issubclass(kind, CheckedOptions), kind
        assert kind.prefix in ("method", "problem")
        for each in fields(kind):
            if isinstance(getattr(kind(), each.name), int | float):
                for value in ("abc", math.nan, math.inf):
                    with pytest.raises(InputError, match=rf"^{kind.prefix}\.{each.name}="):
                        kind(**{each.name: value})


@pytest.mark.parametrize(
    ("value", "message"), [(3 * 10**9, "is above 2,147"), (-3 * 10**9, "is below -2,147")]
)
def test_a_whole_number_without_a_range_has_32_bits(value: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_value("number", value, int)
