"""An exported layer on a GPU: the operator, by kernels that a CPU interprets, routes as the file does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from router_rl.exports import export
from router_rl.exports.layer_formats import load_layer
from router_rl.routing import Router
from router_rl.routing.kernels.exported import kernels_for

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
ALLOWED = (True, False, True, True, False, True)


def hidden_states() -> torch.Tensor:
    """Rows that are not finite, and one of zeros, where experts of equal bias tie."""
    hidden = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    hidden[1, 0], hidden[4, 2], hidden[6] = float("nan"), float("-inf"), 0.0
    return hidden


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hard", "top2", "top-all", "softmax", "deepseek"])
@pytest.mark.parametrize("allowed", [None, ALLOWED])
@pytest.mark.parametrize("dead", [(), (2, 3), tuple(range(6))])
def test_it_is_the_files_own_torch(
    made: Callable[..., Router],
    tmp_path: Path,
    rule: str,
    allowed: Sequence[bool] | None,
    dead: Sequence[int],
) -> None:
    export(made("linear", rule, allowed=allowed, bias=False), tmp_path / "out", format="vllm")
    router = load_layer(tmp_path / "out")
    router.alive[list(dead)] = False
    hidden = hidden_states()
    with torch.inference_mode():
        expected = router(hidden)
        router.kernels = kernels_for(router)
        experts, weights, logits, fallback = router(hidden)
        assert type(router.custom_routing_function(hidden, None, router.k, True)) is tuple
    works = expected[1] > 0  # the order of those that do not work is each's own
    if 0 < len(dead) < 6:  # and a row whose fallback is dead goes to any that lives
        works &= ~fallback.unsqueeze(-1)
    assert experts[works].equal(expected[0][works])
    torch.testing.assert_close(weights[works], expected[1][works], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits, expected[2], atol=1e-5, rtol=1e-5)
    assert fallback.equal(expected[3])
    assert int(router.fallbacks) == int(fallback.sum()) > 0


def test_it_is_one_node_of_a_compiled_model(made: Callable[..., Router], tmp_path: Path) -> None:
    export(made("linear", "deepseek"), tmp_path / "out", format="sglang")
    router = load_layer(tmp_path / "out")
    router.kernels = kernels_for(router)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph

    compiled = torch.compile(router, backend=keep, fullgraph=True)
    with torch.no_grad():
        found, expected = compiled(hidden_states()), router(hidden_states())
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert sum("router_rl" in target for target in targets) == 1
    assert not any("linear" in target or "topk" in target for target in targets)


@pytest.mark.parametrize(("kind", "rule"), [("mlp", "top2"), ("linear", "remoe"), ("linear", "tree")])
def test_what_has_no_kernels(made: Callable[..., Router], tmp_path: Path, kind: str, rule: str) -> None:
    export(made(kind, rule), tmp_path / "out", format="vllm")
    assert kernels_for(load_layer(tmp_path / "out")) is None


def test_parameters_that_are_replaced_are_used(made: Callable[..., Router], tmp_path: Path) -> None:
    export(made("linear", "top2"), tmp_path / "out", format="vllm")
    router = load_layer(tmp_path / "out")
    opposite = {name: -value if "layers" in name else value for name, value in router.state_dict().items()}
    router.load_state_dict(opposite, assign=True)
    hidden = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    experts = router(hidden)[0]
    assert experts.equal((hidden @ opposite["layers.0"].T + opposite["layers.1"]).topk(2).indices)
