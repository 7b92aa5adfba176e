"""What `compare` reports is what the exported router earns, called as the README says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_scripts import benchmark
from routing_methods import METHODS

from experts import OutcomeTable
from router_rl.problems.feature_config import FeatureConfig
from router_rl.routing import Hard

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("ppo", "a2c", "dqn")  # agents of SB3: `benchmarks/replay.py` has them
MOST_ROWS = 1_000  # of a shared table
TABLES = (
    "llmdrift_math",
    "llmrouter_pool9",
    "mmlupro_pool22",
    "routellm_gsm8k",
    "routellm_mmlu",
    "routellm_mtbench",
    "zeroeval_pool27",
)


replay: Any = benchmark("replay")


def small_table(rows: int = 100) -> OutcomeTable:
    """Prompts whose words and groups say which of three experts is right."""
    rng = np.random.default_rng(0)
    words = (("red", "rose"), ("blue", "sea"), ("grey", "ash"))
    kind = rng.integers(0, 3, rows)
    other = np.where(rng.random(rows) < 0.3, rng.integers(0, 3, rows), kind)  # some prompts mislead
    prompts = [f"{' '.join(rng.choice(words[each], 3))} {row}" for row, each in enumerate(other)]
    return OutcomeTable(
        experts=("small", "middle", "large"),
        query_id=np.array([f"q{row}" for row in range(rows)], dtype=object),
        features=None,
        quality=(rng.random((rows, 3)) < np.where(np.arange(3) == kind[:, None], 0.9, 0.3)).astype(float),
        cost=np.array([1.0, 2.0, 4.0]) * (0.5 + rng.random((rows, 3))),
        split=np.resize(["train", "train", "train", "validation", "validation", "test"], rows),
        prompt=np.array(prompts, dtype=object),
        group=np.array([words[each][0] for each in kind], dtype=object),
    )


def check(found: list[Any], at_least: set[str]) -> None:
    assert {one.method for one in found} >= at_least
    assert [one for one in found if not one.agrees] == []


def test_every_method_earns_what_is_reported(tmp_path: Path) -> None:
    methods = [name for name in METHODS if name not in SLOW and METHODS[name].learns(Hard())]
    found = list(replay.replays(small_table(), methods, (0.1,), folder=tmp_path, alone=True))
    check(found, set(methods))
    for one in found:
        assert one.inputs == (("prompt", "group") if one.method == "group_label" else ("prompt",))


def test_a_router_for_several_weights_serves_the_middle_one(tmp_path: Path) -> None:
    methods = ["priced_pg", "ridge", "random"]
    found = list(replay.replays(small_table(), methods, (0.02, 0.3, 1.5), folder=tmp_path, alone=True))
    check(found, set(methods))
    assert len(found) == 9
    with_weight = {one.case: one.earned for one in found if one.method == "priced_pg"}
    assert len({round(value, 6) for value in with_weight.values()}) == 3


@pytest.mark.parametrize("option", ["group", "infer_group"])
def test_an_explicit_and_an_inferred_group_earn_what_is_reported(option: str, tmp_path: Path) -> None:
    features = replace(FeatureConfig(dimensions=8), **{option: True})
    methods = ["ridge", "softmax_gate", "priced_pg", "group_label"]
    found = list(
        replay.replays(small_table(), methods, (0.1,), folder=tmp_path, features=features, alone=True)
    )
    check(found, set(methods))
    inputs = {one.method: one.inputs for one in found}
    assert inputs["ridge"] == (("prompt", "group") if option == "group" else ("prompt",))
    assert inputs["group_label"] == ("prompt", "group")


@pytest.mark.parametrize("name", TABLES)
def test_routers_on_the_shared_tables_earn_what_is_reported(
    name: str, shared_table: Callable[[str], Path], tmp_path: Path
) -> None:
    table = replay.by_fold(OutcomeTable.read(shared_table(f"{name}.parquet")))
    table = table.take(np.arange(0, len(table), 1 + len(table) // MOST_ROWS))
    methods = ["ridge", "group_label"]
    check(list(replay.replays(table, methods, (0.1,), folder=tmp_path, alone=True)), set(methods))
