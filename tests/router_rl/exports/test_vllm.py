"""The file that goes to vLLM and SGLang keeps their contract, alone with torch."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from router_rl.exports import export

PROGRAM = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("router_rl", "experts", "envs", "safetensors", "vllm", "sglang"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
from routing import load
import torch

torch.set_num_threads(1)
route = load().custom_routing_function
weights, ids = route(
    hidden_states=torch.tensor(json.loads(sys.stdin.read())), gating_output=None, topk=2, renormalize=True
)
print(json.dumps([weights.tolist(), ids.tolist()]))
"""


@pytest.mark.slow
def test_it_routes_with_torch_alone(made, tmp_path: Path) -> None:
    router = made("mlp", "deepseek")
    export(router, tmp_path / "out", format="vllm")
    features = torch.randn(9, 4)
    features[3, 1] = float("nan")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "out")],
        input=json.dumps(features.tolist()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    weights, ids = json.loads(done.stdout)
    with torch.no_grad():
        expected = router(features)
    assert ids == expected.experts.tolist()
    torch.testing.assert_close(torch.tensor(weights), expected.weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("format", ["vllm", "sglang"])
def test_the_readme_names_what_the_runtimes_have(made, tmp_path: Path, format: str) -> None:
    """vLLM has no class FusedMoE; an output in place of SGLang's TopK would skip padding and remapping."""
    export(made("mlp", "top2"), tmp_path / "out", format=format)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "ROUTER_RL_ROUTER=" in text
    assert not [name for name in ("FusedMoE", "topk_output", "in place of its gate") if name in text]


def test_the_contract(made, exported, tmp_path: Path) -> None:
    export(made("mlp", "top2"), tmp_path / "out", format="vllm")
    router = exported(tmp_path / "out").load()
    route = router.custom_routing_function
    assert list(inspect.signature(route).parameters) == [
        "hidden_states",
        "gating_output",
        "topk",
        "renormalize",
    ]
    hidden, own = torch.randn(5, 4, dtype=torch.bfloat16), torch.randn(5, 6, dtype=torch.bfloat16)
    weights, ids = route(hidden, own, 2, True)
    assert (weights.dtype, ids.dtype, weights.shape) == (torch.float32, torch.int32, (5, 2))
    for other in (
        route(hidden, -own, 2, True),
        route(hidden, own, 2, False),
        route(hidden.float(), own, 2, True),
    ):
        assert other[1].equal(ids)
        assert other[0].equal(weights)
    with pytest.raises(ValueError, match=r"topk=4 but the router was trained to choose 2; set top_k to that"):
        route(hidden, own, 4, True)


def test_it_counts_its_fallbacks_and_masks_the_dead(made, exported, tmp_path: Path) -> None:
    export(made("mlp", "top2"), tmp_path / "out", format="vllm")
    router = exported(tmp_path / "out").load()
    hidden = torch.randn(6, 4)
    hidden[1, 0], hidden[4, 2] = float("nan"), float("inf")
    for calls in (1, 2):
        _, ids = router.custom_routing_function(hidden, None, 2, True)
        assert int(router.fallbacks) == 2 * calls
    assert ids[[1, 4], 0].tolist() == [2, 2]
    busiest = int(ids.flatten().bincount().argmax())
    router.alive[busiest] = False
    _, ids = router.custom_routing_function(hidden, None, 2, True)
    assert busiest not in ids.tolist()[0] + ids.tolist()[2]


def test_slots_of_nobody_hold_an_expert_of_no_weight(made, exported, tmp_path: Path) -> None:
    router = made("mlp", "adaptive")
    export(router, tmp_path / "out", format="vllm")
    features = torch.randn(200, 4)
    weights, ids = exported(tmp_path / "out").load().custom_routing_function(features, None, 3, True)
    with torch.no_grad():
        nobody = router(features).experts == 6
    assert nobody.any()
    assert (weights[nobody] == 0).all()
    assert (ids < 6).all()  # an id past the experts would be read from memory that is not theirs
    assert all(len(set(row)) == 3 for row in ids.tolist())


def test_weights_of_another_export_are_refused(made, exported, tmp_path: Path) -> None:
    for name, rule in (("a", "top2"), ("b", "top2")):
        export(made("mlp" if name == "a" else "linear", rule), tmp_path / name, format="vllm")
    (tmp_path / "a" / "router.safetensors").write_bytes((tmp_path / "b" / "router.safetensors").read_bytes())
    with pytest.raises(ValueError, match="are not from one export; export again"):
        exported(tmp_path / "a").load()


@pytest.mark.slow
def test_it_compiles_in_one_graph(made, exported, tmp_path: Path) -> None:
    export(made("mlp", "deepseek"), tmp_path / "out", format="vllm")
    router = exported(tmp_path / "out").load()
    compiled = torch.compile(router.custom_routing_function, fullgraph=True, backend="eager", dynamic=True)
    for rows in (4, 9):
        hidden = torch.randn(rows, 4)
        for found, expected in zip(
            compiled(hidden, None, 2, True),
            router.custom_routing_function(hidden, None, 2, True),
            strict=True,
        ):
            assert found.equal(expected)
