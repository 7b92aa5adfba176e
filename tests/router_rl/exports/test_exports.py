"""Every format gives the trained router's answers, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl import Objective, export, fit
from router_rl.exports import FORMATS, Format
from router_rl.exports.parity import check_parity, parity_rows
from router_rl.routing import (
    Hard,
    LinearScorer,
    MLPScorer,
    Router,
    RouterError,
    Routing,
    ScoredTopK,
    StateInput,
    TopK,
)

NAMES = ("red", "green", "blue", "grey")


def _router(kind: str, rule: Hard | TopK, *, state: bool = False) -> Router:
    inputs = 4 + 4 * state
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = LinearScorer(inputs, 4) if kind == "linear" else MLPScorer(inputs, 4, (8, 8))
        for parameter in scorer.parameters():
            torch.nn.init.normal_(parameter)
        scorer.shift.normal_(3.0)
        scorer.scale.uniform_(0.1, 5.0)
    parts = (StateInput("load", 4, "counts / W"),) if state else ()
    return Router(scorer, rule, NAMES, state=parts, fallback=2).eval()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), TopK(k=4)])
@pytest.mark.parametrize("state", [False, True])
def test_the_export_answers_as_the_router(
    tmp_path: Path, format: str, kind: str, rule: Hard | TopK, state: bool
) -> None:
    router = _router(kind, rule, state=state)
    parity = export(router, tmp_path / "out", format=format)
    assert parity.passed
    assert parity.index_agreement == 1.0
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert written["format"] == format
    assert written["passed"]
    assert written["rows"] == 1004
    loaded = FORMATS[format].load(tmp_path / "out")
    for rows in (0, 1, 2, 7):
        inputs = [torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))]
        if state:
            inputs.append(torch.rand(rows, 4))
        found, expected = loaded(*inputs), router(*inputs)
        assert torch.equal(found.experts, expected.experts)
        torch.testing.assert_close(found.weights, expected.weights, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-4)


def test_odd_rows_take_the_fallback_in_every_format(tmp_path: Path) -> None:
    odd = torch.tensor([[float("nan"), 0, 0, 0], [float("inf"), 0, 0, 0]])
    for format in FORMATS:
        export(_router("mlp", Hard()), tmp_path / format, format=format)
        found = FORMATS[format].load(tmp_path / format)(odd)
        assert found.experts.flatten().tolist() == [2, 2]
        assert found.fallback.all()


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
        write=lambda router, folder: FORMATS["safetensors"].write(_router("mlp", Hard()), folder),
        load=FORMATS["safetensors"].load,
        about="",
    )
    monkeypatch.setitem(FORMATS, "broken", broken)
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

    parity = check_parity(router, other, parity_rows(router, None))  # type: ignore[arg-type]
    assert parity.index_agreement < 0.01
    assert parity.ties == 1001  # the made rows and the row of zeros; the fallback rows agree
    assert parity.passed


def test_a_newer_export_replaces_an_older_one(tmp_path: Path) -> None:
    for format in ("pt2", "safetensors"):
        export(_router("linear", Hard()), tmp_path / "out", format=format)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
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
    with pytest.raises(InputError, match="is not an export"):
        export(router, tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(router, tmp_path / "file" / "out")
    with pytest.raises(RouterError, match="stochastic"):
        export(fit("random", kinds, Objective()), tmp_path / "out", format="pt2")
    other = Router(LinearScorer(4, 2), Hard(), ("a", "b"))
    with pytest.raises(RouterError, match="routes between a, b but the table has red"):
        export(other, tmp_path / "out", table=kinds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_stochastic_router_keeps_its_law(kinds: OutcomeTable, tmp_path: Path) -> None:
    assert export(fit("random", kinds, Objective()), tmp_path / "out").passed


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

    parity = check_parity(router, swapped, parity_rows(router, torch.zeros(5, 1)))
    assert parity.passed
    assert parity.ties == 6
