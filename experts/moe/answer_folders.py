"""The packaged models with verifiable answers, written as folders like those of a user's own models.

base/  reverse/  sort/  sums/      a Llama, and three models that were fine-tuned from it
prompts.jsonl                      prompt, reference, group and split of problems of the three tasks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..io.atomic import replacing
from ..io.errors import InputError
from .answer_pool import DEPTH, EXPERTS, FIRST, WEIGHTS, answer_model
from .answer_tasks import TASKS, WORDS, problem_text, right_answer
from .byte_model import byte_base
from .donor_folders import write_donors
from .huggingface import transformers_library
from .token_pool import read_ffns

__all__ = ["write_answer_folders"]


def write_answer_folders(
    folder: Path | str, *, train: int = 128, validation: int = 100, test: int = 200
) -> None:
    """Write the base, its three fine-tuned models and their prompts.

    Args:
        folder: new, or empty.
        train: prompts of each task in the training part.
        validation: prompts of each task in the validation part.
        test: prompts of each task in the test part.

    Raises:
        InputError: the folder has files, or transformers is not installed.
    """
    home = Path(folder)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InputError("folder", str(folder), "is not empty", "give a new folder")
    base = byte_base(answer_model(), WEIGHTS, DEPTH, "base")
    write_donors(base, read_ffns(EXPERTS, TASKS), home, tokenizer=_tokenizer())
    counts = {"train": train, "validation": validation, "test": test}
    with replacing(home / "prompts.jsonl") as temporary, temporary.open("w", encoding="utf-8") as stream:
        for split, count in counts.items():
            for number in range(FIRST[split], FIRST[split] + count):
                for task in TASKS:
                    prompt, digits = problem_text(task, number)
                    row = {"prompt": prompt, "reference": right_answer(task, digits)}
                    stream.write(json.dumps({**row, "group": task, "split": split}) + "\n")


def _tokenizer() -> Any:
    """A tokenizer whose tokens are the characters of ASCII."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    made: Any = Tokenizer(models.WordLevel({chr(code): code for code in range(WORDS)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return transformers_library().PreTrainedTokenizerFast(tokenizer_object=made)
