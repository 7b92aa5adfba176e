"""Every format routes as the trained router does, or is not written."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import export, fit
from router_rl.exports import FORMATS, Format, find_format
from router_rl.exports.parity import check_parity, parity_inputs
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import (
    Hard,
    HashScorer,
    KNNScorer,
    LinearScorer,
    MLPScorer,
    Router,
    RouterError,
    Routing,
    ScoredTopK,
    TopK,
)

NAMES = ("red", "green", "blue", "grey")


def _router(kind: str, rule: Hard | TopK) -> Router:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = LinearScorer(4, 4) if kind == "linear" else MLPScorer(4, 4, (8, 8))
        for parameter in scorer.parameters():
            torch.nn.init.normal_(parameter)
        scorer.shift.normal_(3.0)
        scorer.scale.uniform_(0.1, 5.0)
    return Router(scorer, rule, NAMES, fallback=2).eval()


def register(monkeypatch: pytest.MonkeyPatch, name: str, format: Format) -> None:
    """Add a format for one test, as a module that the registry imports."""
    module = ModuleType(f"format_{name}")
    module.FORMAT = format  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(FORMATS.own, name, f"{module.__name__}:FORMAT")


CHEAP = ("safetensors", "vllm", "sglang")  # aoti compiles, so it has its own test
TRACED = ("pt2", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("format", CHEAP)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_every_rule_answers_as_the_router(made, holds, rules, tmp_path: Path, format: str, kind: str) -> None:
    for rule in rules:
        holds(made(kind, rule), tmp_path / rule, format)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hard", "top-all", "adaptive", "tree", "deepseek", "remoe"])
@pytest.mark.parametrize("format", TRACED)
def test_a_traced_rule_answers_as_the_router(made, holds, tmp_path: Path, format: str, rule: str) -> None:
    holds(made("mlp", rule), tmp_path / "out", format)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", *TRACED])
def test_a_state_is_the_second_input(made, holds, tmp_path: Path, format: str) -> None:
    holds(made("linear", "top2", state=True), tmp_path / "load", format)
    holds(made("conditioned", "hard"), tmp_path / "weight", format)


@pytest.mark.slow
@pytest.mark.parametrize("format", [*CHEAP, *TRACED])
def test_barred_experts_stay_so(made, holds, tmp_path: Path, format: str) -> None:
    allowed = [True, False, True, True, True, False]
    router = made("linear", "deepseek", allowed=allowed)
    holds(router, tmp_path / "out", format)
    loaded = find_format(format).load(tmp_path / "out")
    barred_alone = torch.tensor([not value for value in allowed])
    routing = loaded(torch.randn(50, 4), action_mask=barred_alone)
    assert routing.fallback.all()
    assert (routing.experts[:, 0] == router.fallback).all()


@pytest.mark.slow
@pytest.mark.parametrize("format", TRACED)
def test_a_knn_router_goes_out_with_its_queries(holds, tmp_path: Path, format: str) -> None:
    scorer = KNNScorer(4, 6, rows=30, neighbours=3)
    scorer.store(torch.randn(30, 4), torch.rand(30, 6))
    holds(Router(scorer, TopK(k=2), [f"e{n}" for n in range(6)], fallback=2), tmp_path / "out", format)


@pytest.mark.slow
def test_a_hash_router_goes_out_as_a_program(holds, tmp_path: Path) -> None:
    scorer = HashScorer(4, 6)
    scorer.draw(0)
    router = Router(scorer, TopK(k=2), [f"e{n}" for n in range(6)], fallback=2)
    holds(router, tmp_path / "out", "pt2")
    with pytest.raises(RouterError, match="bits of its features, which ONNX cannot; export it as pt2"):
        export(router, tmp_path / "onnx", format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2", "onnx", "vllm", "sglang", "gguf"])
def test_the_readme_runs_as_written(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    router = made("linear", "top2", bias=format != "gguf")
    export(router, tmp_path / "out", format=format)
    text = (tmp_path / "out" / "README.md").read_text()
    assert len([line for line in text.splitlines() if line]) <= 12
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.syspath_prepend(str(tmp_path / "out"))
    names: dict[str, object] = {"features": torch.randn(5, 4)}
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), names)
    sys.modules.pop("routing", None)
    with torch.no_grad():
        expected = router(names["features"])
    if format == "gguf":
        torch.testing.assert_close(
            names["gates"][0].weight,  # type: ignore[index]
            router.folded().scorer.weight.detach(),  # type: ignore[union-attr]
        )
        return
    ids = names.get("ids", names.get("experts"))
    assert torch.as_tensor(ids).long().equal(expected.experts)


def test_parity_is_checked_with_a_masked_expert_too(made, tmp_path: Path) -> None:
    export(made(), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert (written["format"], written["rows"], written["passed"]) == ("safetensors", 1004, True)
    assert written["with_masked_expert"]["passed"]
    export(made("linear", bias=False), tmp_path / "gguf", format="gguf")
    written = json.loads((tmp_path / "gguf" / "parity.json").read_text())
    assert (written["rows"], "with_masked_expert" in written) == (1001, False)


def test_an_export_that_ignores_the_mask_is_refused(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(folder: Path) -> object:
        router = find_format("safetensors").load(folder)
        return lambda *inputs, action_mask=None: router(*inputs)

    register(monkeypatch, "deaf", replace(find_format("safetensors"), load=deaf, keeps_text=False))
    with pytest.raises(RouterError, match="does not agree"):
        export(made(), tmp_path / "out", format="deaf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["onnx", "gguf"])
def test_a_missing_extra_is_named(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs .*; pip install 'router-rl\[export\]'"):
        export(made("linear"), tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["vllm", "sglang", "transformers", "gguf"])
def test_what_a_layer_cannot_give_its_router_is_refused(
    made, kinds: OutcomeTable, tmp_path: Path, format: str
) -> None:
    for router, message in (
        (made("conditioned", "hard"), "fix it at a value"),
        (made("linear", state=True), "also takes load: train it without"),
        (fit("random", RoutingProblem(kinds)), "stochastic"),
        (fit("knn", RoutingProblem(kinds)), "cannot run a knn router: export it as pt2"),
    ):
        with pytest.raises(RouterError, match=message):
            export(router, tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_pt2_program_loads_without_the_toolkit(tmp_path: Path) -> None:
    export(_router("mlp", TopK(k=2)), tmp_path / "out", format="pt2")
    program = torch.export.load(tmp_path / "out" / "router.pt2").module()
    experts, weights, logits, fallback = program(torch.zeros(5, 4))
    assert (experts.shape, weights.shape, logits.shape) == ((5, 2), (5, 2), (5, 4))
    assert not fallback.any()


def test_a_failed_parity_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(_router("linear", Hard()), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    broken = Format(
        write=lambda router, folder: find_format("safetensors").write(_router("mlp", Hard()), folder),
        load=find_format("safetensors").load,
    )
    register(monkeypatch, "broken", broken)
    with pytest.raises(RouterError, match="does not agree"):
        export(_router("linear", Hard()), tmp_path / "out", format="broken")
    with pytest.raises(RouterError, match="does not agree"):
        export(_router("linear", Hard()), tmp_path / "fresh", format="broken")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_ties_within_tolerance_are_no_disagreement() -> None:
    router = _router("linear", Hard())
    with torch.no_grad():
        router.scorer.weight.zero_()  # type: ignore[operator, union-attr]
        router.scorer.bias.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))  # type: ignore[operator, union-attr]

    def other(*inputs: torch.Tensor) -> object:
        routing = router(*inputs)
        nudged = routing.logits + torch.tensor([0.0, 1e-6, 0.0, 0.0])
        return routing._replace(experts=router.rule.select(nudged).experts, logits=nudged)

    parity = check_parity(router, other, parity_inputs(router, None))  # type: ignore[arg-type]
    assert parity.index_agreement < 0.01
    assert parity.ties == 1001  # the made rows and the row of zeros; the fallback rows agree
    assert parity.passed


def test_a_newer_export_replaces_an_older_one(tmp_path: Path) -> None:
    for format in ("pt2", "safetensors"):
        export(_router("linear", Hard()), tmp_path / "out", format=format)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".router_rl.json",
        "README.md",
        "parity.json",
        "router.json",
        "router.safetensors",
    ]


def test_what_is_refused(kinds: OutcomeTable, tmp_path: Path) -> None:
    router = _router("linear", Hard())
    with pytest.raises(InputError, match="format='safetensor': unknown; did you mean 'safetensors'"):
        export(router, tmp_path / "out", format="safetensor")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"did not write \(chapter.txt\)"):
        export(router, tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(router, tmp_path / "file" / "out")
    with pytest.raises(RouterError, match="stochastic"):
        export(fit("random", RoutingProblem(kinds)), tmp_path / "out", format="pt2")
    other = Router(LinearScorer(4, 2), Hard(), ("a", "b"))
    with pytest.raises(RouterError, match="routes between a, b but the table has red"):
        export(other, tmp_path / "out", rows=kinds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_stochastic_router_keeps_its_law(kinds: OutcomeTable, tmp_path: Path) -> None:
    assert export(fit("random", RoutingProblem(kinds)), tmp_path / "out").passed


def test_a_tie_is_one_in_what_the_rule_ranks_by() -> None:
    # Scores 1/2 and 3/4 with biases 1/4 and 0: the logits differ, the choice is a tie.
    scorer = LinearScorer(1, 2)
    with torch.no_grad():
        scorer.bias.copy_(torch.tensor([1.0, 3.0]).log())
    router = Router(scorer, ScoredTopK(k=1, bias=(0.25, 0.0)), ("a", "b"))

    def swapped(*inputs: torch.Tensor) -> Routing:
        routing = router(*inputs)
        other = torch.where(routing.fallback[:, None], routing.experts, 1 - routing.experts)
        return routing._replace(experts=other)

    parity = check_parity(router, swapped, parity_inputs(router, torch.zeros(5, 1)))
    assert parity.passed
    assert parity.ties == 6


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2", "onnx"])
def test_many_threads_get_the_answers_of_one(made, tmp_path: Path, format: str) -> None:
    export(made("mlp", "deepseek"), tmp_path / "out", format=format)
    route = find_format(format).load(tmp_path / "out")
    batches = [torch.randn(rows, 4) for rows in (1, 2, 7, 64)]
    batches[2][3, 1] = float("nan")
    alive = torch.tensor([True, True, False, True, True, True])
    work = [(batch, mask) for batch in batches for mask in ({}, {"action_mask": alive})] * 25

    def once(job: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> Routing:
        with torch.no_grad():  # a setting of its thread
            return route(job[0], **job[1])

    alone = [once(job) for job in work]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(once, work))
    for one, other in zip(alone, together, strict=True):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))
