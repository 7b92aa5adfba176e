"""What ONNX Runtime computes otherwise than torch, and the graph's optional input."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from router_rl.exports import export, find_format
from router_rl.routing import LinearScorer, Router, ScoredTopK, TopK


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Router, Path]:
    """Return a router of 37 features, which fill vector lanes and leave a remainder, and its export."""
    scorer = LinearScorer(37, 5)
    with torch.no_grad():
        scorer.weight.normal_(generator=torch.Generator().manual_seed(0))
    router = Router(scorer, ScoredTopK(k=2, bias=(0.1, 0.0, 0.2, 0.0, 0.0)), list("abcde"), fallback=3)
    folder = tmp_path_factory.mktemp("onnx") / "router"
    export(router, folder, format="onnx")
    return router, folder


@pytest.mark.slow
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_an_odd_number_is_seen_wherever_it_stands(wide: tuple[Router, Path], odd: float) -> None:
    router, folder = wide
    features = torch.randn(37, 37, generator=torch.Generator().manual_seed(1))
    features.fill_diagonal_(odd)
    routing = find_format("onnx").load(folder)(features)
    assert routing.fallback.all()
    with torch.no_grad():
        assert routing.experts.equal(router(features).experts)


def test_scores_of_zero_stay_zero(wide: tuple[Router, Path]) -> None:
    # Logits of minus several hundred: a sigmoid that does not come to 0 would rank by the bias alone.
    router, folder = wide
    features = 300.0 * torch.randn(200, 37, generator=torch.Generator().manual_seed(2))
    routing = find_format("onnx").load(folder)(features)
    with torch.no_grad():
        expected = router(features)
    assert routing.experts.equal(expected.experts)
    torch.testing.assert_close(routing.weights, expected.weights, atol=1e-4, rtol=1e-4)


def test_the_mask_may_be_left_out(wide: tuple[Router, Path]) -> None:
    _, folder = wide
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "router.onnx"), options)
    assert [value.name for value in session.get_inputs()] == ["features"]
    assert [value.name for value in session.get_overridable_initializers()] == ["alive"]
    assert [value.name for value in session.get_outputs()] == ["experts", "weights", "logits", "fallback"]


def test_one_file_holds_all(tmp_path: Path) -> None:
    router = Router(LinearScorer(700, 400), TopK(k=4), [f"e{n}" for n in range(400)])
    export(router, tmp_path / "out", format="onnx")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".router_rl.json", "README.md", "parity.json", "router.json", "router.onnx"]
