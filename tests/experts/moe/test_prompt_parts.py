"""Prompts of a user's file as a token-level pool: what a sequence holds, and which answers are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts import InputError
from experts.moe.donor_pool import donor_pool
from experts.moe.prompt_parts import PromptTexts
from experts.moe.text_parts import TextSizes

WORDS = 64
SIZES = TextSizes(length=12, train=6, validation=4, test=4, mixed=0.0)


@pytest.fixture(scope="module")
def folders(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base, two donors, and a tokenizer with an end-of-text token."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    home = tmp_path_factory.mktemp("prompts")
    base = dense(home / "base")
    for name in ("code", "german"):
        dense(home / name, near=base)
    words: Any = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w63")
    tokenizer.save_pretrained(home / "base")
    return home


def texts(**changes: Any) -> PromptTexts:
    """Forty prompts of two to four words, each answered by one or two."""
    prompt = [" ".join(f"w{(row + i) % 60}" for i in range(2 + row % 3)) for row in range(40)]
    reference = [f"w{row % 60}" + " w7" * (row % 2) for row in range(40)]
    group = ["code" if row % 2 else "german" for row in range(40)]

    def score(prompt: str, reference: str | None, answer: str) -> float:
        return float(answer == reference)

    made = PromptTexts(name="mine.jsonl", prompt=prompt, reference=reference, score=score, group=group)
    return replace(made, **changes)


def opened(
    home: Path, asked: PromptTexts, sizes: TextSizes = SIZES, **more: Any
) -> tuple[Any, tuple[str, ...]]:
    return donor_pool(home / "base", [home / "code", home / "german"], asked, sizes, **more)


def test_a_sequence_is_a_prompt_its_reference_and_other_problems_of_its_half(folders: Path) -> None:
    pool, names = opened(folders, texts())
    assert names == pool.domains == ("code", "german")
    asked = {
        tuple(int(word[1:]) for word in prompt.split()): row for row, prompt in enumerate(texts().prompt)
    }
    seen: list[set[int]] = []
    for name, count in (("train", 6), ("validation", 4), ("test", 4)):
        part = pool.parts[name]
        assert len(part) == count
        rows = [
            asked[tuple(tokens[:length])] for tokens, length in zip(part.tokens, part.prompt, strict=True)
        ]
        for place, (row, tokens, domain) in enumerate(zip(rows, part.tokens, part.domain, strict=True)):
            whole: list[int] = []
            groups: list[int] = []
            followers = [rows[(place + 2 * step) % count] for step in range(12)]
            for other in followers:
                own = f"{texts().prompt[other]} {texts().reference[other]} w63".split()
                whole += [int(word[1:]) for word in own]
                groups += [int(other % 2 == 0)] * len(own)
            assert row == followers[0]
            assert tokens.tolist() == whole[: len(tokens)]
            assert domain.tolist() == groups[: len(domain)]
        seen.append(set(rows))
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]


def test_answers_are_scored_as_text_up_to_the_end_token(folders: Path) -> None:
    pool, _ = opened(folders, texts(answer_tokens=3))
    part, problems = pool.parts["train"], pool.problems
    assert (problems.answer, problems.end, problems.pad) == (3, 63, 63)
    lengths = torch.from_numpy(part.prompt)
    longest = int(lengths.max())
    prompts = torch.full((len(part), longest), problems.pad)
    wanted = torch.full((len(part), 3), 63)
    for row, length in enumerate(lengths.tolist()):
        prompts[row, longest - length :] = torch.from_numpy(part.tokens[row, :length])
        reference = part.tokens[row, length : length + 3].tolist()
        wanted[row, : reference.index(63)] = torch.tensor(reference[: reference.index(63)])
    assert problems.verify(prompts, wanted).tolist() == [1.0] * len(part)
    late = wanted.clone()
    late[:, 2] = torch.where(wanted[:, 1] == 63, 5, wanted[:, 2])  # after the end: not read
    assert problems.verify(prompts, late).tolist() == [1.0] * len(part)
    wrong = wanted.clone()
    wrong[:, 0] = 61
    assert problems.verify(prompts, wrong).tolist() == [0.0] * len(part)


def test_the_file_may_split_and_may_have_other_groups(folders: Path) -> None:
    split = ["test" if row < 10 else "validation" if row < 20 else "train" for row in range(40)]
    pool, names = opened(folders, texts(split=split, group=["maths"] * 40))
    assert (names, pool.domains) == (("maths",), ())
    first = [int(tokens[0]) for tokens in pool.parts["test"].tokens]
    assert all(word < 10 for word in first)
    pool, names = opened(folders, texts(group=None))
    assert names == ("mine",)
    again, _ = opened(
        folders, texts(split=split, group=["maths"] * 40, reference=[None] * 40, answer_tokens=2)
    )
    assert again.problems.answer == 2


def test_the_order_of_the_file_does_not_matter(folders: Path) -> None:
    asked = texts()
    turned = texts(
        prompt=asked.prompt[::-1], reference=asked.reference[::-1], group=list(asked.group or ())[::-1]
    )
    one, two = opened(folders, asked)[0], opened(folders, turned)[0]
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(one.parts[name].tokens, two.parts[name].tokens)


def test_measurements_are_kept(folders: Path, tmp_path: Path) -> None:
    first, _ = opened(folders, texts(), keep=tmp_path / "keep")
    again, _ = opened(folders, texts(), keep=tmp_path / "keep")
    np.testing.assert_array_equal(again.parts["test"].dense_loss, first.parts["test"].dense_loss)
    np.testing.assert_array_equal(again.parts["test"].prompt, first.parts["test"].prompt)


@pytest.mark.parametrize(
    ("changes", "sizes", "match"),
    [
        ({"reference": [None] * 40}, {}, r"problem\.answer_tokens=None.*no reference answers"),
        ({"split": ["train"] * 40}, {}, r"problem\.prompts='mine\.jsonl'.*no prompt of the part validation"),
        ({}, {"length": 4}, r"problem\.length=4.*too small for \d+ of 14 prompts.*needs"),
        ({"prompt": ["w1 w2"] * 40}, {}, r"problem\.prompts.*again in row 1, with another reference"),
    ],
)
def test_mistakes_are_named(
    folders: Path, changes: dict[str, Any], sizes: dict[str, int], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        opened(folders, texts(**changes), replace(SIZES, **sizes))
