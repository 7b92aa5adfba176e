"""The inference floor runs where torch is installed and nothing else of ours or theirs is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from router_rl.exports.safetensors import write
from router_rl.routing import TopK

ROOT = Path(__file__).resolve().parents[3]

# numpy is left out: torch itself imports it where it finds it.
BLOCKED = [
    "envs",
    "experts",
    "gymnasium",
    "hypothesis",
    "jinja2",
    "joblib",
    "jsonargparse",
    "matplotlib",
    "pandas",
    "pyarrow",
    "rich",
    "router_rl.methods.agents",
    "router_rl.methods.baselines",
    "router_rl.evaluation",
    "router_rl.exports",
    "router_rl.methods.gates",
    "router_rl.problems.objective",
    "safetensors",
    "scipy",
    "sklearn",
    "stable_baselines3",
    "tensorboard",
]

PROGRAM = """
import json, sys

blocked = set(json.loads(sys.argv[1]))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if any(".".join(parts[:n]) in blocked for n in range(1, len(parts) + 1)):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import safetensors
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")

from router_rl.routing import load
import torch

torch.set_num_threads(1)
router = load(sys.argv[2])
rows = json.loads(sys.stdin.read())
routing = router(torch.tensor(rows["features"]), torch.tensor(rows["state"]))
print(json.dumps([value.tolist() for value in routing]))
assert not blocked & set(sys.modules), blocked & set(sys.modules)
"""


@pytest.mark.slow
def test_loads_and_routes_with_torch_alone(make_router, tmp_path):
    router = make_router("mlp", TopK(k=2), stateful=True, fallback=3)
    write(router, tmp_path / "router")
    features, state = torch.randn(20, 5), torch.rand(20, 4)
    features[7, 2] = float("nan")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(BLOCKED), str(tmp_path / "router")],
        input=json.dumps({"features": features.tolist(), "state": state.tolist()}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    experts, weights, logits, fallback = json.loads(done.stdout)
    with torch.inference_mode():
        expected, folded = router(features, state), router.folded()(features, state)
    assert experts == expected.experts.tolist()
    assert fallback == expected.fallback.tolist()
    assert sum(fallback) == 1
    assert torch.tensor(weights).equal(folded.weights)
    assert torch.tensor(logits).equal(folded.logits)
    torch.testing.assert_close(torch.tensor(logits), expected.logits, atol=1e-5, rtol=1e-5)


def test_the_public_names():
    from router_rl import routing

    assert [name for name in routing.__all__ if not hasattr(routing, name)] == []
    assert {"Router", "RouterError", "Routing", "load"} <= set(routing.__all__)
