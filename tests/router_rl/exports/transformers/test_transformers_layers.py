"""A router put into a layer of a transformers model by the file it is exported with."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experts import InputError
from router_rl.cli.handover_command import handover
from router_rl.cli.patch_command import patch
from router_rl.exports import export
from router_rl.exports.layer_formats import load_layer, put_into_small_model
from router_rl.exports.transformers import swap_routers, write_routers
from router_rl.routing import Hard, LinearScorer, MLPScorer, Router, ScoredTopK, Selection, TopK

from .test_swap import TOKENS, load, logits

Make = Callable[..., list[Router]]
RULES = ["hard", "top2", "top-all", "soft", "adaptive", "tree", "softmax", "deepseek", "remoe"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_checked_in_a_model(
    made: Callable[..., Router], tmp_path: Path, kind: str, rule: str
) -> None:
    parity = export(made(kind, rule), tmp_path / "out", format="transformers")
    assert parity.passed
    assert parity.index_agreement >= 1 - 1 / 1001  # the row of zeros may tie
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert (written["format"], written["rows"]) == ("transformers", 1001)


@pytest.mark.parametrize(
    ("form", "rule", "how"),
    [
        ("mixtral", TopK(k=2), "folded"),
        ("mixtral", Hard(), "folded"),
        ("deepseek", ScoredTopK(k=3, bias=(0.1, 0.0, 0.2) * 3), "folded"),
        ("mixtral", ScoredTopK(k=2, score="sigmoid"), "attached"),
        ("deepseek", TopK(k=3), "attached"),
    ],
)
def test_it_routes_as_the_toolkits_own_swap(
    mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path, form: str, rule: Selection, how: str
) -> None:
    experts = 9 if form == "deepseek" else 3
    routers = linear_routers(rule, experts=experts)
    model, reference = load(mixtures[form]), load(mixtures[form])
    model(TOKENS, output_router_logits=True)  # what records the logits holds on to the gates from here on
    for layer, router in enumerate(routers):
        export(router, tmp_path / f"layer-{layer}", format="transformers")
        assert load_layer(tmp_path / f"layer-{layer}").put_into(model, layer) == how
    outputs = model(TOKENS, output_router_logits=True)
    assert [tuple(part.shape) for part in outputs.router_logits] == [(12, experts)] * 3
    if form == "deepseek" and how == "attached":
        return  # the toolkit refuses: nine experts, each weighed by the model's scale, are no three donors
    swap_routers(reference, routers)
    torch.testing.assert_close(outputs.logits, logits(reference), atol=1e-5, rtol=1e-5)


def test_the_readme_runs_and_the_model_is_saved(
    mixtures: dict[str, Path],
    linear_routers: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    routers = linear_routers()
    for layer, router in enumerate(routers):
        export(router, tmp_path / "routers" / f"layer-{layer}", format="transformers")
    text = (tmp_path / "routers" / "layer-0" / "README.md").read_text()
    assert len([line for line in text.splitlines() if line]) <= 12
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.syspath_prepend(str(tmp_path / "routers" / "layer-0"))
    names: dict[str, object] = {}
    exec(compile(block.replace("MODEL", str(mixtures["mixtral"])), "README.md", "exec"), names)
    sys.modules.pop("routing", None)
    assert capsys.readouterr().out.split()[-1] == "folded"
    model = names["model"]
    for layer in (1, 2):
        load_layer(tmp_path / "routers" / f"layer-{layer}").put_into(model, layer)
    model.save_pretrained(tmp_path / "saved")  # type: ignore[attr-defined]
    write_routers(routers, mixtures["mixtral"], tmp_path / "written")
    assert logits(load(tmp_path / "saved")).equal(logits(load(tmp_path / "written")))
    # And the way over files that the README names.
    handover(routers=tmp_path / "routers", model=mixtures["mixtral"], out=tmp_path / "patch")
    patch(tmp_path / "patch", model=mixtures["mixtral"], out=tmp_path / "patched")
    assert logits(load(tmp_path / "patched")).equal(logits(load(tmp_path / "written")))


def test_a_model_that_asks_a_router_is_not_saved(mixtures: dict[str, Path], tmp_path: Path) -> None:
    """It would reload with a gate of random weights."""
    torch.manual_seed(0)
    router = Router(MLPScorer(32, 3, (8,)), TopK(k=2), ["a", "b", "c"]).eval()
    export(router, tmp_path / "out", format="transformers")
    model = load(mixtures["mixtral"])
    assert load_layer(tmp_path / "out").put_into(model, 1) == "attached"
    with pytest.raises(ValueError, match="save_pretrained would lose the attached routers"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_what_it_is_not_put_into(mixtures: dict[str, Path], linear_routers: Make, tmp_path: Path) -> None:
    export(linear_routers(experts=4)[0], tmp_path / "out", format="transformers")
    router, model = load_layer(tmp_path / "out"), load(mixtures["mixtral"])
    before = logits(model)
    with pytest.raises(ValueError, match=r"the gate of layer 0 is \[3, 32\], the router \[4, 32\]"):
        router.put_into(model, 0)
    model.model.layers[0].mlp.gate.norm_topk_prob = False
    export(linear_routers()[0], tmp_path / "three", format="transformers")
    with pytest.raises(ValueError, match="norm_topk_prob is false"):
        load_layer(tmp_path / "three").put_into(model, 0)
    model.model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(ValueError, match="layer 1 of MixtralForCausalLM has no gate"):
        router.put_into(model, 1)
    assert before.isfinite().all()


def test_without_transformers_it_says_so(
    made: Callable[..., Router], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; pip install 'router-rl\[llm\]'"):
        export(made("linear"), tmp_path / "out", format="transformers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("biased", [False, True])  # Mixtral's gate and GPT-OSS's
def test_ties_of_a_folded_gate_go_to_the_lowest_id(tmp_path: Path, biased: bool) -> None:
    scorer = LinearScorer(4, 40)
    with torch.no_grad():
        scorer.weight.copy_(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).repeat(4, 1))
        scorer.bias.fill_(0.5 * biased)
    router = Router(scorer, TopK(k=5), [f"expert {n}" for n in range(40)])
    export(router, tmp_path / "out", format="transformers")
    gate, how = put_into_small_model(load_layer(tmp_path / "out"))
    assert how == "folded"
    hidden = torch.cat([torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 4)])
    with torch.no_grad():
        _, weights, experts = gate(hidden)
        expected = router(hidden)
    assert experts.equal(expected.experts)
    assert experts[-1].tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(weights, expected.weights)
