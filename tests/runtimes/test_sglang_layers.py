"""Exported routers in SGLang's own layers, through its plugin; its server does not run on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from runtimes.runtime_table import Row
from runtimes.served_mixtures import NAMES, ROUTERS, routers, write

from router_rl.routing import Router

FEATURES, MANY = 4, 4097
# As the models of SGLang build their layers.
PLAIN: dict[str, Any] = {"renormalize": True}
GROUPED: dict[str, Any] = {
    "renormalize": True,
    "use_grouped_topk": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "biased": True,
    "routed_scaling_factor": 3.0,
    "apply_routed_scaling_factor_on_output": True,
}
ALIVE = [True, False, True]


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Return 4,097 rows, some of them without finite values."""
    rows = torch.randn(MANY, FEATURES, generator=torch.Generator().manual_seed(0)).round(decimals=3)
    rows[5, 1], rows[9, 0] = float("nan"), float("inf")
    return rows


@pytest.fixture(scope="module")
def answers(
    runtime: Callable[[str], Any], rows: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Any, Any]:
    """Return SGLang's answer for every case, from one process."""
    found, folder = runtime("vllm"), tmp_path_factory.mktemp("sglang")
    cases: dict[Any, dict[str, Any]] = {}
    for name in ROUTERS:
        made = routers(name, inputs=FEATURES)
        router = str(write(made, folder / name.replace(" ", "-"), "sglang"))
        plain = {"top_k": made[1].rule.k, "layer_id": 1, **PLAIN}
        case = {"router": router, "features": FEATURES, "experts": 3, "options": plain}
        for count in (0, 1, MANY):
            cases[name, count] = {**case, "rows": rows[:count].tolist()}
        cases[name, "dead"] = {**case, "rows": rows[:50].tolist(), "alive": ALIVE}
        cases[name, "padded"] = {**case, "rows": rows[10:20].tolist(), "not_padded": 7}
        cut = {**GROUPED, "top_k": 3 * made[1].rule.k, "layer_id": 1}
        cases[name, "grouped"] = {**case, "rows": rows[10:60].tolist(), "experts": 9, "options": cut}
    wrong = {**cases["MLP", 1]}
    for what, options in (
        ("layer", {**wrong["options"], "layer_id": 5}),
        ("k", {**wrong["options"], "top_k": 3}),
        ("renormalise", {**wrong["options"], "renormalize": False}),
    ):
        cases[what] = {**wrong, "options": options}
    cases["experts"] = {**wrong, "experts": 8}
    answer = found.run("sglang_program", {"cases": list(cases.values())}, folder)
    return {"version": answer["version"], **dict(zip(cases, answer["answers"], strict=True))}


@pytest.mark.parametrize("name", ROUTERS)
def test_select_experts_routes_by_the_export(
    name: str, answers: dict[Any, Any], rows: torch.Tensor, record: Callable[[Row], None]
) -> None:
    router = routers(name, inputs=FEATURES)[1]
    for count in (0, 1, MANY):
        answer = answers[name, count]
        assert answer["type"] == "StandardTopKOutput"
        check(answer, router, rows[:count])
        assert answer["fallbacks"] == (2 if count == MANY else 0)
    check(answers[name, "dead"], routers(name, inputs=FEATURES, allowed=tuple(ALIVE))[1], rows[:50])
    record(
        Row(
            runtime="SGLang, its layers",
            format="sglang",
            form="TopK",
            router=name,
            loads=True,
            experts=f"{MANY} of {MANY}",
            version=answers["version"],
        )
    )


@pytest.mark.parametrize("name", ROUTERS)
def test_a_grouped_layer_with_segments(
    name: str, answers: dict[Any, Any], rows: torch.Tensor, record: Callable[[Row], None]
) -> None:
    """A layer of GLM's form, whose own gate is grouped and biased: it would not ask a routing function."""
    answer = answers[name, "grouped"]
    with torch.no_grad():
        want = routers(name, inputs=FEATURES)[1](rows[10:60])
    ids, weights = torch.tensor(answer["ids"]), torch.tensor(answer["weights"])
    kept = want.experts < len(NAMES)
    assert (ids[:, ::3] // 3)[kept].equal(want.experts[kept])
    assert (ids.unflatten(1, (-1, 3)) % 3).equal(torch.arange(3).expand(len(ids), kept.shape[1], 3))
    torch.testing.assert_close(weights, want.weights.repeat_interleave(3, dim=-1), atol=1e-5, rtol=1e-5)
    record(
        Row(
            runtime="SGLang, its layers",
            format="sglang",
            form="grouped TopK, 3 segments",
            router=name,
            loads=True,
            experts=f"{len(ids)} of {len(ids)}",
            version=answers["version"],
        )
    )


@pytest.mark.parametrize("name", ROUTERS)
def test_rows_of_padding_are_masked_by_sglang(name: str, answers: dict[Any, Any]) -> None:
    answer = answers[name, "padded"]
    assert all(expert == -1 for row in answer["ids"][7:] for expert in row)
    assert all(expert >= 0 for row in answer["ids"][:7] for expert in row)


def test_what_does_not_fit_ends_the_start(answers: dict[Any, Any]) -> None:
    assert "has routers for layers 0, 1, but none for layer 5" in answers["layer"]["error"]
    assert "layer 1 runs 3 experts per token" in answers["k"]["error"]
    assert '"num_experts_per_tok": 2' in answers["k"]["error"]
    assert "norm_topk_prob is false" in answers["renormalise"]["error"]
    assert "the router is for 3 experts, the layer has 8" in answers["experts"]["error"]


def check(answer: dict[str, Any], router: Router, rows: torch.Tensor) -> None:
    """Assert the router's experts, in order, and weights; empty slots have an expert without weight."""
    with torch.no_grad():
        want = router(rows)
    ids = torch.tensor(answer["ids"], dtype=torch.int64).view(want.experts.shape)
    weights = torch.tensor(answer["weights"]).view(want.weights.shape)
    kept = want.experts < len(NAMES)
    assert ids[kept].equal(want.experts[kept])
    torch.testing.assert_close(weights, want.weights, atol=1e-5, rtol=1e-5)
