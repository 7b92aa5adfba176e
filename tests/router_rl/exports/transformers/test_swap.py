"""Routers put into loaded models."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from router_rl.exports.transformers import swap_routers, write_routers
from router_rl.routing import (
    AdaptiveK,
    ExpertChoice,
    Hard,
    LinearScorer,
    MLPScorer,
    Router,
    RouterError,
    ScoredTopK,
    StateInput,
    TopK,
)

Make = Callable[..., list[Router]]
TOKENS = torch.tensor([[5, 17, 3, 60, 22, 9], [1, 2, 3, 4, 5, 6]])
NAMES = ["a", "b", "c"]


def load(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    return model(TOKENS).logits


def gates_of(model: Any) -> list[Any]:
    return [layer.mlp.gate for layer in model.model.layers]


def networks(rule: Any = None) -> list[Router]:
    torch.manual_seed(3)
    return [Router(MLPScorer(32, 3, (16,)), rule or TopK(k=2), NAMES).eval() for _ in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("recorded_before", [False, True])
@pytest.mark.parametrize(
    ("form", "rule"), [("mixtral", Hard()), ("mixtral", TopK(k=3)), ("deepseek", ScoredTopK(k=2))]
)
def test_a_swap_is_what_the_checkpoint_would_be(
    form: str,
    rule: Any,
    recorded_before: bool,
    mixtures: dict[str, Path],
    linear_routers: Make,
    tmp_path: Path,
) -> None:
    """Also after a pass that recorded router logits, when the hooks that record them are placed."""
    model = load(mixtures[form])
    before = logits(model)
    if recorded_before:
        model(TOKENS, output_router_logits=True)
    routers = linear_routers(rule)
    found = swap_routers(model, routers)
    assert found.layers == found.folded == (0, 1, 2)
    write_routers(routers, mixtures[form], tmp_path / "model")
    written = load(tmp_path / "model")
    assert logits(model).equal(logits(written))
    assert not logits(model).allclose(before)
    outputs = model(TOKENS, labels=TOKENS, output_router_logits=True)
    assert len(outputs.router_logits) == 3
    if form == "mixtral":
        assert found.auxiliary_loss is not None
        assert torch.isfinite(outputs.aux_loss)
        assert outputs.aux_loss.equal(written(TOKENS, output_router_logits=True).aux_loss)
    else:
        assert found.auxiliary_loss is None
    model.save_pretrained(tmp_path / "saved")
    assert logits(load(tmp_path / "saved")).equal(logits(written))
    found.restore()
    assert logits(model).equal(before)
    assert model.config.num_experts_per_tok == load(mixtures[form]).config.num_experts_per_tok


@pytest.mark.parametrize("form", ["mixtral", "deepseek"])
def test_routers_that_do_not_fold_run_as_they_are(form: str, mixtures: dict[str, Path]) -> None:
    model = load(mixtures[form])
    before = logits(model)
    stock_kinds = [type(gate) for gate in gates_of(model)]
    model(TOKENS, output_router_logits=True)
    routers = networks(Hard())
    found = swap_routers(model, routers, tokens=TOKENS)
    assert found.folded == ()
    for gate, kind in zip(gates_of(model), stock_kinds, strict=True):
        assert isinstance(gate, kind)
    after = logits(model)
    # The same choices, written by hand into the stock gate's outputs.
    reference = load(mixtures[form])
    each = 3 if form == "deepseek" else 1
    for gate, router in zip(gates_of(reference), routers, strict=True):
        gate.forward = by_hand(router, each)
    torch.testing.assert_close(after, logits(reference), atol=1e-5, rtol=0)
    parameters = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in parameters for router in routers for parameter in router.parameters())
    loss = model(TOKENS, labels=TOKENS).loss
    loss.backward()
    found.restore()
    assert logits(model).equal(before)
    assert [type(gate) for gate in gates_of(model)] == stock_kinds
    assert set(model.state_dict()) == set(load(mixtures[form]).state_dict())


def test_the_model_counts_the_experts_of_routers_that_do_not_fold(mixtures: dict[str, Path]) -> None:
    """The auxiliary loss reads the number; all layers have the same."""
    model = load(mixtures["mixtral"])
    swap = swap_routers(model, networks(Hard()))
    assert (model.config.num_experts_per_tok, model.num_experts_per_tok) == (1, 1)
    swap.restore()
    assert (model.config.num_experts_per_tok, model.num_experts_per_tok) == (2, 2)
    with pytest.raises(RouterError, match="layers run 1, 2 experts per token; use one number"):
        swap_routers(model, [*networks(Hard())[:2], networks(TopK(k=2))[2]])


def test_a_model_that_would_reload_without_its_gates_is_not_saved(
    mixtures: dict[str, Path], tmp_path: Path
) -> None:
    model = load(mixtures["mixtral"])
    before = logits(model)
    swap = swap_routers(model, networks())
    with pytest.raises(RouterError, match="save_pretrained would save gates without weights"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    swap.restore()
    model.save_pretrained(tmp_path / "saved")
    assert logits(load(tmp_path / "saved")).equal(before)


def by_hand(router: Router, each: int) -> Any:
    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = hidden.reshape(-1, hidden.shape[-1])
        rows = [router(row.unsqueeze(0)) for row in flat]
        ids = [[int(row.experts[0, 0]) * each + part for part in range(each)] for row in rows]
        experts = torch.tensor(ids)
        return torch.zeros(len(flat), 3 * each), torch.ones(experts.shape), experts

    return forward


def test_adaptive_k_skips_experts(mixtures: dict[str, Path]) -> None:
    """A token for which nobody is second runs one expert: as hard selection of the first."""
    model = load(mixtures["mixtral"])
    shy = []
    for seed in range(3):
        torch.manual_seed(seed)
        scorer = LinearScorer(32, 4)
        with torch.no_grad():
            scorer.weight[:3].normal_()
            scorer.bias[3] = 1e4  # nobody comes right after the first
        shy.append(Router(scorer, AdaptiveK(k=2), NAMES))
    swap_routers(model, shy)
    found = logits(model)
    alone = []
    for router in shy:
        scorer = LinearScorer(32, 3)
        with torch.no_grad():
            scorer.weight.copy_(router.scorer.weight[:3])
        alone.append(Router(scorer, Hard(), NAMES))
    other = load(mixtures["mixtral"])
    swap_routers(other, alone)
    torch.testing.assert_close(found, logits(other), atol=1e-5, rtol=0)
    recorded = model(TOKENS, output_router_logits=True)
    assert all(layer.shape == (12, 3) for layer in recorded.router_logits)
    assert torch.isfinite(recorded.aux_loss)


def test_bfloat16(mixtures: dict[str, Path], linear_routers: Make) -> None:
    for routers in (linear_routers(Hard()), networks()):
        model = load(mixtures["mixtral"]).bfloat16()
        swap_routers(model, routers)
        assert logits(model).isfinite().all()


def test_a_swap_without_effect_is_an_error_and_is_taken_back(
    mixtures: dict[str, Path], linear_routers: Make
) -> None:
    model = load(mixtures["mixtral"])
    before = logits(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    gate = gates_of(model)[1]
    stock, kept = type(gate).forward, copy.deepcopy(gate)
    gate.forward = lambda hidden: stock(kept, hidden)  # another library's, which asks a gate of its own
    with pytest.raises(RouterError, match="the logits of layer 1 are not those of its router"):
        swap_routers(model, linear_routers())
    del gate.forward
    assert logits(model).equal(before)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_gates_that_are_not_recorded_are_an_error(mixtures: dict[str, Path], linear_routers: Make) -> None:
    """As where a module was put in a gate's place after the hooks were: the auxiliary loss has no logits."""
    model = load(mixtures["mixtral"])
    model(TOKENS, output_router_logits=True)
    for layer in model.model.layers:
        layer.mlp.gate = copy.deepcopy(layer.mlp.gate)
        layer.mlp.gate._forward_hooks.clear()
    with pytest.raises(RouterError, match="0 of 3 gates are recorded"):
        swap_routers(model, linear_routers())


def test_an_infinite_auxiliary_loss_is_an_error(
    mixtures: dict[str, Path], linear_routers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(mixtures["mixtral"])
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(module, "load_balancing_loss_func", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(RouterError, match="auxiliary loss is nan"):
        swap_routers(model, linear_routers())


def test_routers_that_do_not_fit(mixtures: dict[str, Path], linear_routers: Make) -> None:
    model = load(mixtures["mixtral"])
    before = logits(model)

    def refused(message: str, routers: list[Any]) -> None:
        with pytest.raises(RouterError, match=message):
            swap_routers(model, routers)

    refused("2 routers but 3 layers", linear_routers()[:2])
    refused("has 2 experts but the model's layers have 3", [Router(MLPScorer(32, 2), Hard(), ["a", "b"])] * 3)
    refused("takes 5 features", [Router(MLPScorer(5, 3), Hard(), NAMES)] * 3)
    load_state = [StateInput("load", 3, "shares")]
    refused("3 numbers of state", [Router(MLPScorer(35, 3), Hard(), NAMES, state=load_state)] * 3)
    refused("reads later tokens", [Router(MLPScorer(32, 3), ExpertChoice(k=3), NAMES)] * 3)
    refused("no bias on their logits", [(torch.randn(3, 32), torch.randn(3))] * 3)
    refused("layers run 1, 2", [*linear_routers(Hard())[:2], linear_routers()[2]])
    assert logits(model).equal(before)
