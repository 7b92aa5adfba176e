"""The comparison of docs/mixtures.md: routers of packaged models, trained on right answers or on the loss.

    python benchmarks/mixtures.py --out runs/mixtures

Writes the models and their prompts, and runs the page's command. Finished trials are kept.
"""

from __future__ import annotations

from pathlib import Path

import jsonargparse
import torch

import train_router
from experts import InputError
from experts.moe.answer_folders import write_answer_folders

METHODS = "grpo,right_answers,straight_through,softmax_gate"
SIZES = {"train": 384, "validation": 300, "test": 600}


def main(out: Path = Path("runs/mixtures"), seeds: int = 5) -> None:
    """Run what is missing and print the table.

    Args:
        out: folder of the models and of the comparison.
        seeds: of every method.
    """
    torch.set_num_threads(1)
    models = out / "models"
    if not models.exists():
        write_answer_folders(models)
    folders = ",".join(str(models / name) for name in ("reverse", "sort", "sums"))
    words = ["compare", "--env", "token_moe", "--problem.base", str(models / "base")]
    words += ["--problem.experts", f"[{folders}]", "--problem.prompts", str(models / "prompts.jsonl")]
    for name, count in SIZES.items():
        words += [f"--problem.{name}", str(count)]
    words += ["--methods", METHODS, "--seeds", str(seeds), "--n-trials", "1", "--out", str(out / "compare")]
    if train_router.main(words):
        raise InputError("out", str(out), "the comparison failed", "read its message")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
