"""Short texts are packed into sequences, within their text and their part; errors name the option."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from experts import InputError
from experts.moe.donor_pool import donor_pool
from experts.moe.text_parts import TextSizes
from experts.moe.texts import cut_sequences, pack, split_documents
from experts.moe.tiny import tiny_pool

EOT = 0
SIZES: dict[str, Any] = {"length": 9, "train": 12, "validation": 6, "test": 6, "mixed": 0.5}


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@pytest.fixture(scope="module")
def base(family: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the family's base with a tokenizer of 64 words, the first of which ends a text."""
    import transformers

    words: Any = Tokenizer(models.WordLevel({"</s>": 0, **{f"{i}": i for i in range(1, 64)}}, unk_token="1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = shutil.copytree(family[0] / "base", tmp_path_factory.mktemp("short") / "base")
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


def write_texts(folder: Path, count: int) -> dict[str, set[str]]:
    """Write two texts of distinct documents of three words, each shorter than a sequence."""
    texts: dict[str, set[str]] = {}
    for number, name in enumerate(("low", "high")):
        first = 1 + 31 * number
        documents = [f"{first + i % 31} {first + i // 31 % 31} {first + i % 7}" for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(text) for text in documents))
        texts[name] = set(documents)
    return texts


def test_texts_shorter_than_a_sequence_are_packed(
    base: Path, family: tuple[Path, Any], tmp_path: Path
) -> None:
    texts = write_texts(tmp_path, 400)
    donors = [family[0] / "code", family[0] / "prose"]
    pool, names = donor_pool(base, donors, tmp_path, TextSizes(**SIZES))
    assert names == ("high", "low")
    split = split_documents(sorted(texts["low"] | texts["high"]), (0.0, 0.6, 0.15, 0.25))
    for part, sequences in pool.parts.items():
        assert (sequences.tokens == EOT).sum(axis=1).min() >= 2  # several documents in every sequence
        ends = sequences.tokens[:, :-1] == EOT
        wrong = (sequences.tokens[:, :-1] > 31) != (sequences.domain == 0)
        assert not (wrong & ~ends).any()  # each token has its text's domain
        assert sequences.mixed.sum() == round(0.5 * SIZES[part])
        whole = " ".join(f"{token}" for row in sequences.tokens[~sequences.mixed] for token in (*row, -1))
        seen = {match.strip() for match in re.findall(r"(?<= 0 )\d+ \d+ \d+(?= 0 )", whole)}
        assert seen
        assert seen <= set(split[part])  # no document of another part


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_too_little_text_names_the_option(
    base: Path, family: tuple[Path, Any], tmp_path: Path, part: str
) -> None:
    write_texts(tmp_path, 400)
    donors = [family[0] / "code", family[0] / "prose"]
    sizes = TextSizes(**{**SIZES, part: 500})
    with pytest.raises(
        InputError, match=rf"problem\.{part}=500: needs .* smaller problem\.{part} or problem\.length"
    ):
        donor_pool(base, donors, tmp_path, sizes)


@pytest.mark.parametrize(("field", "value"), [("length", 0), ("test", 0), ("mixed", 1.0)])
def test_sizes_out_of_range_name_the_option(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"problem\.{field}={value}"):
        TextSizes(**{**SIZES, field: value})


def test_the_packaged_model_has_a_longest_sequence() -> None:
    with pytest.raises(InputError, match=r"problem\.length=513: .* use 512 or less"):
        tiny_pool(2, 0, 513)


def test_short_and_long_documents_keep_their_order_and_their_tokens() -> None:
    documents = ["1 2 3", "4 5 6 7 8 9 10 11", "12", "", "13 14 15 16 17 18"]
    rows = cut_sequences(documents, encode, 3, 99, separator=EOT)
    assert rows.shape == (4, 4)
    whole = {tuple(row) for row in rows.tolist()}
    assert {(4, 5, 6, 7), (8, 9, 10, 11), (13, 14, 15, 16)} <= whole
    assert sorted(whole - {(4, 5, 6, 7), (8, 9, 10, 11), (13, 14, 15, 16)})[0] in {
        (1, 2, 3, 0),
        (12, 0, 1, 2),
    }
    np.testing.assert_array_equal(rows, cut_sequences(documents, encode, 3, 99, separator=EOT))


def test_without_a_separator_documents_are_joined() -> None:
    rows = cut_sequences(["1 2", "3 4"], encode, 3, 9)
    assert rows.tolist() in ([[1, 2, 3, 4]], [[3, 4, 1, 2]])
    assert cut_sequences([], encode, 3, 9).shape == (0, 4)
    with pytest.raises(InputError, match="count=2: 2 documents hold 1 sequences of 3 tokens"):
        pack(["1 2", "3 4"], encode, 3, 2)
