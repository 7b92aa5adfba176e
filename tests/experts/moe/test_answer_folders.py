"""The packaged models as folders: the same weights, prompts and right answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experts import InputError
from experts.moe.answer_folders import write_answer_folders
from experts.moe.answer_pool import answer_pool
from experts.moe.answer_tasks import PROMPT, TASKS
from experts.moe.donor_pool import donor_pool
from experts.moe.frozen_base import load_tokenizer
from experts.moe.prompt_parts import PromptTexts
from experts.moe.text_parts import TextSizes


def test_the_folders_hold_the_packaged_pool(tmp_path: Path) -> None:
    write_answer_folders(tmp_path / "models", train=2, validation=2, test=2)
    home = tmp_path / "models"
    rows = [json.loads(line) for line in (home / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["split"] for row in rows[:6]] == ["train"] * 6
    assert {row["group"] for row in rows} == set(TASKS)
    tokenizer = load_tokenizer(home / "base")
    for row in rows:
        ids = tokenizer(row["prompt"])["input_ids"]
        assert ids == list(row["prompt"].encode("ascii"))
        assert len(ids) == PROMPT
        assert tokenizer.decode(ids) == row["prompt"]
    texts = PromptTexts(
        name="prompts.jsonl",
        prompt=[row["prompt"] for row in rows],
        reference=[row["reference"] for row in rows],
        score=lambda prompt, reference, answer: float(answer == reference),
        split=[row["split"] for row in rows],
    )
    pool, _ = donor_pool(home / "base", [home / task for task in TASKS], texts, TextSizes(length=40))
    packaged = answer_pool(2, 2, 2)
    assert pool.tail.names == TASKS
    for layer in range(pool.tail.depth):
        for expert in range(len(TASKS)):
            ours, theirs = (tail.ffn(layer, expert).weights() for tail in (pool.tail, packaged.tail))
            assert all(ours[part].equal(theirs[part]) for part in ours)
    assert pool.problems is not None
    assert packaged.problems is not None
    prompts = torch.from_numpy(pool.parts["test"].tokens[:, :PROMPT])
    answers = torch.from_numpy(pool.parts["test"].tokens[:, PROMPT : PROMPT + 4])
    assert pool.problems.verify(prompts, answers).tolist() == [1.0] * 6
    assert packaged.problems.verify(prompts, answers).tolist() == [1.0] * 6


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        write_answer_folders(tmp_path)
