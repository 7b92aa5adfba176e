"""Fine-tune a pretrained model into experts of tasks, and write prompts whose answers are verified.

    python benchmarks/token_moe_texts.py --out runs/token_moe --domains '[]'
    python benchmarks/token_moe_skills.py --base runs/token_moe/model --out runs/token_moe/skills

The problems are those of `experts/moe/answer_tasks.py`. Each task's expert is fine-tuned on right answers
(the loss is of the answers' tokens), `general` on the text of all tasks, in which most answers have a common
mistake. Only the FFNs of the last layers differ. Writes the folders that `compare --env token_moe` takes,
`prompts.jsonl`, whose references are the text's answers, and `right.jsonl`, whose references are right.
Finished experts are kept: an interrupted run resumes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from token_moe_donors import check_same, write_documents
from torch import Tensor

from experts.io.atomic import write_json
from experts.io.progress import say
from experts.moe.answer_pool import FIRST
from experts.moe.answer_tasks import MISTAKEN, text_of
from experts.moe.branch import BranchRecipe, branch
from experts.moe.donor_folders import write_donors
from experts.moe.frozen_base import Base, load_base, load_tokenizer
from experts.moe.token_pool import GENERAL, read_ffns, write_ffns

TRAINED_ON = 100_000  # problems from here on train the experts; those below are for routers


def main(
    base: Path = Path("runs/token_moe/model"),
    out: Path = Path("runs/token_moe/skills"),
    tasks: tuple[str, ...] = ("reverse", "sort"),
    layers: int = 8,
    problems: int = 3_000,
    counts: tuple[int, int, int] = (192, 96, 240),
    recipe: BranchRecipe = BranchRecipe(batch=16),  # noqa: B008 (frozen)
    dtype: str = "bfloat16",
) -> None:
    """Train the experts that are missing, and write the folders and the prompts.

    Args:
        base: folder of the pretrained model.
        out: folder of the experts and prompts.
        tasks: names in `answer_tasks.TASKS`; `sums` needs more problems than the others.
        layers: how many of the last layers get experts.
        problems: that each expert is trained on.
        counts: prompts of each task for training, validation and test of routers.
        recipe: how an expert is trained.
        dtype: of the frozen matrix products: float32 or bfloat16.
    """
    torch.set_num_threads(1)
    settings = {"base": str(base), "tasks": tasks, "layers": layers, "problems": problems}
    settings["recipe"] = asdict(recipe)
    check_same(out / "donors.json", settings)
    write_json(out / "donors.json", settings)
    tokenizer, model, numbers = load_tokenizer(base), load_base(base, layers), getattr(torch, dtype)
    for name in (*tasks, GENERAL):
        path = out / "trained" / f"{name}.safetensors"
        if path.exists():
            continue
        start, losses = time.perf_counter(), list[float]()
        hidden, targets = training_text(name, tasks, problems, model, tokenizer, numbers)
        ffns = branch(model, hidden, targets, recipe, dtype=numbers, on_step=losses.append)
        seconds = time.perf_counter() - start
        write_ffns(path, {name: ffns}, seconds=seconds)
        say(f"expert {name}: loss {losses[0]:.3f} to {np.mean(losses[-10:]):.3f}, {seconds:.0f} s")
    experts: dict[str, Any] = {
        name: read_ffns(out / "trained" / f"{name}.safetensors")[name] for name in (*tasks, GENERAL)
    }
    write_donors(model, experts, out, tokenizer)
    write_prompts(out / "prompts.jsonl", tasks, counts, MISTAKEN)
    write_prompts(out / "right.jsonl", tasks, counts, 0.0)


def training_text(
    name: str, tasks: Sequence[str], problems: int, model: Base, tokenizer: Any, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return an expert's training text: trunk states [S, T, H] float32 and targets [S, T] int64.

    Args:
        name: a task, whose answers are right and have the loss; `general` has all tasks' text.
        tasks: all of them.
        problems: S.
        model: the base.
        tokenizer: of the base.
        dtype: of the trunk's matrix products.
    """
    rows, prompts = list[list[int]](), list[int]()
    for number in range(problems):
        task = tasks[number % len(tasks)] if name == GENERAL else name
        mistaken = MISTAKEN if name == GENERAL else 0.0
        prompt, answer = (encoded(tokenizer, part) for part in text_of(task, TRAINED_ON + number, mistaken))
        rows.append([*prompt, *answer])
        prompts.append(0 if name == GENERAL else len(prompt) - 1)
    longest = max(map(len, rows))  # padding behind a text changes nothing before it
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    place, length = torch.arange(longest - 1), torch.tensor([[len(row)] for row in rows])
    counted = (place >= torch.tensor(prompts).unsqueeze(1)) & (place < length - 1)
    hidden = torch.cat([model.trunk(part[:, :-1], dtype) for part in tokens.split(64)])
    return hidden, tokens[:, 1:].masked_fill(~counted, -100)


def encoded(tokenizer: Any, text: str) -> Sequence[int]:
    """Return the tokens of a text alone."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def write_prompts(path: Path, tasks: Sequence[str], counts: tuple[int, int, int], mistaken: float) -> None:
    """Write prompts of all tasks, as `--problem.prompts` reads them.

    Args:
        path: of the file.
        tasks: all of them.
        counts: of each task, by part.
        mistaken: share of the references with the common mistake.
    """
    rows = [
        {"prompt": prompt, "reference": answer, "group": task, "split": part}
        for (part, first), count in zip(FIRST.items(), counts, strict=True)
        for number in range(count)
        for task in tasks
        for prompt, answer in (text_of(task, first + number, mistaken),)
    ]
    write_documents(path, rows)
    say(f"{len(rows)} prompts: {path}")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
