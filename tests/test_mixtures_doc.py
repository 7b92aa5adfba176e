"""Every code block of docs/mixtures.md runs on the packaged models; the result answers in transformers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from code_blocks import Reader, blocks_of
from safetensors.torch import load_file, save_file

from router_rl.methods.token_moe.grpo import GrpoHyperparameters

PAGE = "docs/mixtures.md"
_FEW = "--problem.train 96 --problem.validation 48"
BUDGETS = {
    "compare": f"{_FEW} --problem.test 60 --seeds 1",
    "train --env token_moe --method grpo": f"{_FEW} --method.iterations 12",
    "train --env token_moe --method right_answers": f"{_FEW} --problem.test 600 --method.rounds 1",
}


def _write_adapters() -> None:
    """Write the differences of the fine-tuned models from their base as LoRA adapters of full rank."""
    base = load_file("models/base/model.safetensors")
    for name in ("reverse", "sort", "sums"):
        factors: dict[str, torch.Tensor] = {}
        for key, tuned in load_file(f"models/{name}/model.safetensors").items():
            u, s, v = torch.linalg.svd(tuned - base[key], full_matrices=False)
            module = f"base_model.model.{key.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = (s.sqrt()[:, None] * v).contiguous()
            factors[f"{module}.lora_B.weight"] = (u * s.sqrt()).contiguous()
        Path("lora", name).mkdir(parents=True)
        save_file(factors, f"lora/{name}/adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 48, "lora_alpha": 48}
        Path("lora", name, "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(600)  # less than two minutes of CPU
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # `compare` takes no hyperparameters: the default itself is smaller here.
    monkeypatch.setitem(GrpoHyperparameters.__init__.__kwdefaults__, "iterations", 8)
    begun = time.process_time()
    reader = Reader(BUDGETS, {"assemble": _write_adapters})
    for block in blocks_of(PAGE):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language in ("sh", "python") and not block.reason:
            reader.run(block)
    seconds = time.process_time() - begun
    assert seconds < 120
    assert reader.used == {*BUDGETS, "assemble"}
    (right,) = re.findall(r"([\d.]+) of the answers are right", capsys.readouterr().out)
    trained = json.loads(Path("runs/grpo/run.json").read_text(encoding="utf-8"))["test"]
    assert float(right) == pytest.approx(trained["utility"], abs=2e-3)  # 600 answers, and rounding
    adapted = json.loads(Path("runs/lora/run.json").read_text(encoding="utf-8"))["test"]
    tokenizer, test, answers = (reader.names[name] for name in ("tokenizer", "test", "adapted_answers"))
    texts = tokenizer.batch_decode(answers)
    share = sum(text == row["reference"] for text, row in zip(texts, test, strict=True)) / len(test)
    assert share == pytest.approx(adapted["utility"], abs=2e-3)
    results = json.loads(Path("runs/compare/results.json").read_text(encoding="utf-8"))
    found = {row["method"]: row["utility_mean"] for row in results["summary"]}
    learned = {"grpo", "right_answers", "straight_through", "softmax_gate"}
    assert set(found) == {*learned, "label", "best_single", "random"}
    assert found["label"] >= max(found.values())
    assert found["best_single"] + 0.1 < trained["utility"] < found["label"]
