"""Every code block of docs/mixtures.md runs on the packaged models; the result answers in transformers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from code_blocks import Reader, blocks_of

from router_rl.methods.token_moe.grpo import GrpoHyperparameters

PAGE = "docs/mixtures.md"
_FEW = "--problem.train 96 --problem.validation 48"
BUDGETS = {
    "compare": f"{_FEW} --problem.test 60 --seeds 1",
    "train": f"{_FEW} --method.iterations 12",
}


@pytest.mark.slow
@pytest.mark.timeout(600)  # less than two minutes of CPU
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # `compare` takes no hyperparameters: the default itself is smaller here.
    monkeypatch.setitem(GrpoHyperparameters.__init__.__kwdefaults__, "iterations", 8)
    begun = time.process_time()
    reader = Reader(BUDGETS, {})
    for block in blocks_of(PAGE):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language in ("sh", "python"):
            reader.run(block)
    seconds = time.process_time() - begun
    assert seconds < 120
    assert reader.used == set(BUDGETS)
    (right,) = re.findall(r"([\d.]+) of the answers are right", capsys.readouterr().out)
    trained = json.loads(Path("runs/grpo/run.json").read_text(encoding="utf-8"))["test"]
    assert float(right) == pytest.approx(trained["utility"], abs=2e-3)  # 600 answers, and rounding
    results = json.loads(Path("runs/compare/results.json").read_text(encoding="utf-8"))
    found = {row["method"]: row["utility_mean"] for row in results["summary"]}
    learned = {"grpo", "right_answers", "straight_through", "softmax_gate"}
    assert set(found) == {*learned, "label", "best_single", "random"}
    assert found["label"] >= max(found.values())
    assert found["best_single"] + 0.1 < trained["utility"] < found["label"]
