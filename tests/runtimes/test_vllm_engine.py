"""Exported routers in vLLM: the tokens, log-probabilities and experts that transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runtimes.runtime_table import Row
from runtimes.served_mixtures import (
    COUNT,
    FORMS,
    PROMPTS,
    ROUTERS,
    Expected,
    expected,
    make_mixtures,
    routers,
    write,
)

from router_rl.exports.served_layers import ServedRouters
from router_rl.exports.transformers import write_routers

ALIVE = (True, False, True)
# Every router in one form, and those that differ most in the others.
EAGER = [
    *(("mixtral", name) for name in ROUTERS),
    ("qwen3_moe", "MLP"),
    *(("deepseek", name) for name in ("linear with bias", "adaptive k", "sigmoid with selection bias")),
]
ROWS = torch.randn(4097, 4, generator=torch.Generator().manual_seed(0)).round(decimals=3)
ROWS[5, 1], ROWS[9, 0] = float("nan"), float("inf")
EDGES = [(0, None), (1, None), (4097, None), (50, ALIVE), (3, (False, False, False))]
COMPILED = [("mixtral", "MLP"), ("deepseek", "adaptive k")]


@pytest.fixture(scope="module")
def mixtures(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the mixtures, by form."""
    return make_mixtures(dense, tmp_path_factory.mktemp("mixtures"))


@pytest.fixture(scope="module")
def patched(mixtures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return copies of the mixtures with routers in their gates' files, as `patch` writes them."""
    folder = tmp_path_factory.mktemp("patched")
    for form in FORMS:
        name = "sigmoid with selection bias" if form == "deepseek" else "linear"
        write_routers(routers(name), mixtures[form], folder / form)
    return {form: folder / form for form in FORMS}


@pytest.fixture(scope="module")
def answers(
    runtime: Callable[[str], Any],
    mixtures: dict[str, Path],
    patched: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Any, Any]:
    """Return vLLM's answer for every case, from one process."""
    found, folder = runtime("vllm"), tmp_path_factory.mktemp("vllm")
    exports = {name: write(routers(name), folder / name.replace(" ", "-"), "vllm") for name in ROUTERS}
    cases = {
        (form, name, how): {
            "model": str(mixtures[form]),
            "router": str(exports[name]),
            "compiled": how == "compiled",
            "alive": ALIVE,
        }
        for how, pairs in (("eager", EAGER), ("compiled", COMPILED))
        for form, name in pairs
    }
    cases |= {(form, "patched", "eager"): {"model": str(patched[form]), "router": None} for form in FORMS}
    one = write(routers("MLP")[:1], folder / "one", "vllm")
    cases["missing"] = {"model": str(mixtures["mixtral"]), "router": str(one)}
    cases |= {
        (name, count, alive): {
            "router": str(
                write(routers(name, inputs=4)[:1], folder / f"rows-{name}".replace(" ", "-"), "vllm")
            ),
            "rows": ROWS[:count].tolist(),
            "features": 4,
            "alive": alive and list(alive),
        }
        for name in ROUTERS
        for count, alive in EDGES
    }
    request = {"cases": list(cases.values()), "prompts": PROMPTS, "tokens": COUNT}
    answer = found.run("vllm_program", request, folder)
    caches = {path.parent.name for path in (folder / "vllm_cache").glob("router_rl_*/torch_compile_cache")}
    own = {f"router_rl_{ServedRouters(exports[name]).digest()}" for _, name in COMPILED}
    return {
        "version": answer["version"],
        "caches": (caches, own),
        **dict(zip(cases, answer["answers"], strict=True)),
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("form", "name"), EAGER)
def test_the_plugin(
    form: str, name: str, answers: dict[Any, Any], mixtures: dict[str, Path], record: Callable[[Row], None]
) -> None:
    answer, want = answers[form, name, "eager"], expected(mixtures[form], routers(name))
    tokens, experts, logits = compare(answer, want)
    assert tokens == (len(PROMPTS) * COUNT,) * 2
    assert experts[0] == experts[1]
    assert logits < 1e-4
    assert all(layer["fallbacks"] == 0 for layer in answer["status"].values())
    assert len(answer["status"]) == 2
    record(
        Row(
            runtime="vLLM",
            format="vllm",
            form=f"{form}, eager",
            router=name,
            loads=True,
            tokens="{} of {}".format(*tokens),
            experts="{} of {}".format(*experts),
            logits=logits,
            version=answers["version"],
        )
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("form", "name", "how"), [(*pair, "eager") for pair in EAGER] + [(*pair, "compiled") for pair in COMPILED]
)
def test_experts_that_die_while_it_serves(
    form: str, name: str, how: str, answers: dict[Any, Any], mixtures: dict[str, Path]
) -> None:
    answer = answers[form, name, how]
    assert answer["layers"] == [2]
    want = expected(mixtures[form], routers(name, allowed=ALIVE)).tokens
    assert answer["tokens_alive"] == [tokens[:16] for tokens in want]
    assert answer["tokens_alive"] != [tokens[:16] for tokens in answer["tokens"]]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("form", "name"), COMPILED)
def test_compiled(
    form: str, name: str, answers: dict[Any, Any], mixtures: dict[str, Path], record: Callable[[Row], None]
) -> None:
    want = expected(mixtures[form], routers(name)).tokens
    assert answers[form, name, "compiled"]["tokens"] == want
    whole = f"{len(PROMPTS) * COUNT} of {len(PROMPTS) * COUNT}"
    record(
        Row(
            runtime="vLLM",
            format="vllm",
            form=f"{form}, compiled",
            router=name,
            loads=True,
            tokens=whole,
            version=answers["version"],
        )
    )


@pytest.mark.timeout(900)
def test_a_compiled_graph_of_another_router_is_not_used(answers: dict[Any, Any]) -> None:
    """On a CPU a graph contains the routing, and vLLM's key of a cached graph does not know the router."""
    caches, own = answers["caches"]
    assert caches == own
    assert len(own) == len(COMPILED)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS)
def test_a_patched_model_without_the_plugin(
    form: str, answers: dict[Any, Any], patched: dict[str, Path], record: Callable[[Row], None]
) -> None:
    tokens, experts, logits = compare(answers[form, "patched", "eager"], expected(patched[form], None))
    assert tokens[0] == tokens[1]
    assert experts[0] == experts[1]
    assert logits < 1e-4
    record(
        Row(
            runtime="vLLM",
            format="patch",
            form=f"{form}, eager",
            router="sigmoid with selection bias" if form == "deepseek" else "linear",
            loads=True,
            tokens="{} of {}".format(*tokens),
            experts="{} of {}".format(*experts),
            logits=logits,
            version=answers["version"],
        )
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "alive"), EDGES)
@pytest.mark.parametrize("name", ROUTERS)
def test_edge_cases_in_vllms_router(
    name: str, count: int, alive: tuple[bool, ...] | None, answers: dict[Any, Any]
) -> None:
    """No rows, one, more than a block, NaN and infinities, dead experts, and all of them dead."""
    answer = answers[name, count, alive]
    router = routers(name, inputs=4)[0]
    with torch.no_grad():
        want = router(ROWS[:count], action_mask=None if alive is None else torch.tensor(alive))
    ids = torch.tensor(answer["ids"], dtype=torch.int32).view(want.experts.shape)
    kept = want.experts < len(router.experts)
    assert ids[kept].tolist() == want.experts[kept].tolist()
    weights = torch.tensor(answer["weights"]).view(want.weights.shape)
    torch.testing.assert_close(weights, want.weights, atol=1e-5, rtol=1e-5)
    assert answer["fallbacks"] == int(want.fallback.sum())


@pytest.mark.timeout(900)
def test_a_layer_without_an_export_ends_the_start(answers: dict[Any, Any]) -> None:
    assert "layer-N for N = 0, but the model's layers with experts are 0, 1" in answers["missing"]["error"]


def compare(answer: dict[str, Any], want: Expected) -> tuple[tuple[int, int], tuple[int, int], float]:
    """Return equal and all tokens, equal and all decisions, and the largest difference of a logit."""
    pairs = [
        pair
        for theirs, ours in zip(answer["tokens"], want.tokens, strict=True)
        for pair in zip(theirs, ours, strict=True)
    ]
    same = [
        set(ids[: len(ours)]) == ours  # an adaptive router's empty slots come last, with weight 0
        for theirs, layer in zip(answer["experts"], want.experts, strict=True)
        for ids, ours in zip(theirs, layer, strict=True)
    ]
    difference = (torch.tensor(answer["logprobs"]) - want.logprobs).abs().max()
    tokens = (sum(theirs == ours for theirs, ours in pairs), len(pairs))
    return tokens, (sum(same), len(same)), float(difference)
