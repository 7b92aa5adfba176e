"""The text of a token-level pool: documents of JSON lines, split into parts, and cut into sequences.

What is measured on the sequences of a part is kept in a folder if one is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io.atomic import write_json
from ..io.errors import InputError
from ..io.json_file import read_json
from ..io.json_types import parse_json
from .sequences import Sequences
from .tail import Tail
from .texts import cut_sequences, pure_and_mixed, split_documents

__all__ = ["Measure", "TextSizes", "measured_part", "measured_parts", "read_documents"]

# Tokens and domains [S, T + 1] int64 of a part, and its name, to what was measured on them.
Measure = Callable[[np.ndarray, np.ndarray, str], Sequences]

_SHARES = (0.0, 0.6, 0.15, 0.25)  # of the documents: experts are not trained here
_PARTS = ("train", "validation", "test")
_SEGMENTS, _RESERVE, _EACH = 2, 8, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSizes:
    """How much text is used.

    Attributes:
        length: T, tokens predicted in a sequence.
        train: sequences in the training part, the same number of each text.
        validation: sequences in the validation part.
        test: sequences in the test part.
        mixed: fraction of the sequences that change from one text to another halfway, 0 to below 1.

    Raises:
        InputError: a value is out of range; names it as the problem's option, such as `problem.train`.
    """

    length: int = 128
    train: int = 192
    validation: int = 48
    test: int = 96
    mixed: float = 0.25

    def __post_init__(self) -> None:
        for name in ("length", *_PARTS):
            if getattr(self, name) < 1:
                raise InputError(f"problem.{name}", getattr(self, name), "is below 1", "use 1 or more")
        if not 0.0 <= self.mixed < 1.0:
            raise InputError("problem.mixed", self.mixed, "is not a fraction below 1", "use 0 to 0.9")

    def of(self, part: str, texts: int) -> tuple[int, int]:
        """Return the number of sequences of each text, and of mixed sequences, in a part.

        Args:
            part: train, validation or test.
            texts: number of texts; one text alone cannot be mixed.
        """
        total: int = getattr(self, part)
        changing = round(self.mixed * total) if texts > 1 else 0
        return max(1, round((total - changing) / texts)), changing


def measured_parts(
    documents: Mapping[str, Sequence[str]],
    tokenizer: Any,
    sizes: TextSizes,
    tail: Tail,
    measure: Measure,
    *,
    keep: Path | None = None,
) -> dict[str, Sequences]:
    """Return the training, validation and test sequences with what was measured on them.

    Documents shorter than a sequence are packed together, with the tokenizer's end-of-text token after each.

    Args:
        documents: by text; their order gives the ids in `Sequences.domain`.
        tokenizer: of the model.
        sizes: how much text is used.
        tail: the routed layers, which identify kept measurements.
        measure: measures the sequences of a part.
        keep: folder for the measurements; a later call with the same experts and texts reads them.

    Raises:
        InputError: a text is too short, or the folder has measurements of other experts or texts.
    """
    split = {name: split_documents(own, _SHARES) for name, own in documents.items()}
    parts: dict[str, Sequences] = {}
    for number, part in enumerate(_PARTS):
        of_part = {name: split[name][part] for name in documents}
        tokens, domain = _tokens(of_part, tokenizer, sizes, part, seed=number)
        parts[part] = measured_part(tokens, domain, part, tail, measure, keep=keep)
    return parts


def measured_part(
    tokens: np.ndarray, domain: np.ndarray, part: str, tail: Tail, measure: Measure, *, keep: Path | None
) -> Sequences:
    """Return the sequences of one part, measured or read from a folder.

    Args:
        tokens, domain: [S, T + 1] int64.
        part: its name.
        tail: the routed layers, which identify kept measurements.
        measure: measures the sequences.
        keep: folder for the measurements of all parts; None: none.

    Raises:
        InputError: the folder has measurements of other experts or texts.
    """
    folder = None if keep is None else keep / part
    identity = {"tail": tail.fingerprint(), "text": hashlib.sha256(tokens.tobytes()).hexdigest()}
    sequences = _kept(folder, identity) or measure(tokens, domain, part)
    if folder is not None and not (folder / "identity.json").exists():
        sequences.save(folder)
        write_json(folder / "identity.json", identity)
    return sequences


def read_documents(folder: Path | str) -> dict[str, list[str]]:
    """Return the documents of every `*.jsonl` file of a folder, by the file's name without its suffix.

    Raises:
        InputError: there is no such file, or a line is neither a string nor an object with `text`.
    """
    documents: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            documents[path.stem] = [_document(path, number, line) for number, line in enumerate(stream, 1)]
    if not documents:
        fix = "put NAME.jsonl files in it, one document a line"
        raise InputError("problem.texts", str(folder), "holds no .jsonl file", fix)
    return documents


def _document(path: Path, number: int, line: str) -> str:
    try:
        value: Any = parse_json(line.encode())
    except ValueError:
        value = None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        fix = 'write each document as a JSON string or as {"text": ...}'
        raise InputError("problem.texts", f"{path.name}, line {number}", "is not a document", fix)
    return text


def _tokens(
    documents: Mapping[str, Sequence[str]], tokenizer: Any, sizes: TextSizes, part: str, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and domains [S, T + 1] int64 of a part, from the documents of each text in that part."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    pure, changing = sizes.of(part, len(documents))
    count = pure + (_RESERVE if changing else 0)
    rows: dict[int, np.ndarray] = {}
    for domain, (name, own) in enumerate(documents.items()):
        rows[domain] = cut_sequences(
            own, encode, sizes.length, count, each=_EACH, seed=seed, separator=tokenizer.eos_token_id
        )
        if len(rows[domain]) < count:
            mixing = f", {_RESERVE} of them for mixed sequences" if changing else ""
            problem = (
                f"needs {count} sequences of {sizes.length} tokens from {name}.jsonl{mixing}, and its "
                f"{len(own)} {part} documents hold {len(rows[domain])}"
            )
            fix = f"use a smaller problem.{part} or problem.length, or add documents to {name}.jsonl"
            raise InputError(f"problem.{part}", getattr(sizes, part), problem, fix)
    return pure_and_mixed(rows, pure, changing, _SEGMENTS, seed=seed)


def _kept(folder: Path | None, identity: dict[str, str]) -> Sequences | None:
    """The measurements of an earlier call, if they are of the same experts and text."""
    if folder is None or not (folder / "identity.json").exists():
        return None
    stored = folder / "identity.json"
    if read_json("problem.keep", stored, dict[str, Any], fix="delete that folder") != identity:
        fix = "use another folder, or delete this one"
        raise InputError(
            "problem.keep", str(folder.parent), "holds measurements of other experts or texts", fix
        )
    return Sequences.load(folder)
