"""Prompts whose right answer is how a text goes on: exact completion, for routers trained on accuracy.

    python benchmarks/token_moe_completions.py --texts runs/token_moe/donors/texts \
        --base runs/token_moe/donors/base --out runs/token_moe/completions.jsonl

A prompt is an excerpt of a document, its reference the next tokens, its group the name of the text. Text is
cut where prompt and reference, each encoded alone, are the tokens of the excerpt, so that a model can give
the reference. Documents are split as a whole. Writes a line for each prompt, as `--problem.prompts` reads it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonargparse

from experts import InputError
from experts.io.atomic import replacing
from experts.io.progress import say
from experts.moe.frozen_base import load_tokenizer
from experts.moe.text_parts import read_documents
from experts.moe.texts import split_documents

TRIES = 20  # excerpts of a document


def main(
    texts: Path = Path("runs/token_moe/donors/texts"),
    base: Path = Path("runs/token_moe/donors/base"),
    out: Path = Path("runs/token_moe/completions.jsonl"),
    prompt_tokens: int = 48,
    answer_tokens: int = 3,
    counts: tuple[int, int, int] = (48, 24, 80),
) -> None:
    """Write the prompts.

    Args:
        texts: folder of NAME.jsonl files.
        base: folder of the model, whose tokenizer is used.
        out: file to write.
        prompt_tokens: of each prompt.
        answer_tokens: of each reference.
        counts: prompts of each text for training, validation and test.
    """
    tokenizer = load_tokenizer(base)
    rows: list[dict[str, str]] = []
    for name, documents in read_documents(texts).items():
        parts = split_documents(documents)
        for part, count in zip(("train", "validation", "test"), counts, strict=True):
            found = excerpts(parts[part], tokenizer, prompt_tokens, answer_tokens, count)
            rows += [{**each, "group": name, "split": part} for each in found]
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    say(f"{len(rows)} prompts of {prompt_tokens} tokens: {out}")


def excerpts(
    documents: list[str], tokenizer: Any, prompt_tokens: int, answer_tokens: int, count: int
) -> list[dict[str, str]]:
    """Return excerpts of documents, in turns: prompt and reference.

    Args:
        documents: to cut.
        tokenizer: of the model.
        prompt_tokens: of each prompt.
        answer_tokens: of each reference.
        count: number of excerpts.

    Raises:
        InputError: the documents hold fewer.
    """
    rng = random.Random(0)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    encoded = [encode(document) for document in documents]
    whole = prompt_tokens + answer_tokens
    made: dict[str, str] = {}
    for _ in range(TRIES):
        for ids in encoded:
            if len(made) == count:
                return [{"prompt": prompt, "reference": reference} for prompt, reference in made.items()]
            if len(ids) < whole:
                continue
            start = rng.randrange(len(ids) - whole + 1)
            own = ids[start : start + prompt_tokens], ids[start + prompt_tokens : start + whole]
            prompt, reference = (str(tokenizer.decode(part)) for part in own)
            same = encode(prompt) == own[0] and encode(reference) == own[1]
            if same and reference.strip() and prompt not in made:
                made[prompt] = reference
    raise InputError("counts", count, f"{len(documents)} documents hold {len(made)} excerpts", "use fewer")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
