"""A pool of models that a user has: the donors of a mixture, and text of the user's own to route.

What the frozen experts make of the text is measured once and kept in a folder where one is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..io.atomic import write_json
from ..io.errors import InputError
from .branch import average
from .donors import Donor, feed_forward, open_base, open_donor, survey
from .frozen_base import load_base, load_tokenizer
from .segments import FFN
from .sequences import Sequences, measure_sequences
from .texts import pack, pure_and_mixed, split_documents
from .token_pool import Ffns, TokenPool

__all__ = ["TextSizes", "donor_pool", "read_documents"]

_SHARES = (0.0, 0.6, 0.15, 0.25)  # of the documents: experts are not trained here
_PARTS = ("train", "validation", "test")
_SEGMENTS, _RESERVE, _EACH = 2, 8, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSizes:
    """How much text.

    Attributes:
        length: T, tokens predicted in a sequence.
        train, validation, test: sequences in each part, the same number of each text.
        mixed: share of them that change from one text to another halfway.
    """

    length: int = 128
    train: int = 192
    validation: int = 48
    test: int = 96
    mixed: float = 0.25

    def __post_init__(self) -> None:
        for name in ("length", *_PARTS):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "not positive", "use 1 or more")
        if not 0.0 <= self.mixed < 1.0:
            raise InputError("mixed", self.mixed, "not a share below 1", "use 0 to 0.9")

    def of(self, part: str, texts: int) -> tuple[int, int]:
        """(sequences of each text, mixed ones) in a part."""
        total: int = getattr(self, part)
        changing = round(self.mixed * total) if texts > 1 else 0
        return max(1, round((total - changing) / texts)), changing


def donor_pool(
    base: Path | str,
    experts: Sequence[Path | str],
    texts: Path | str,
    sizes: TextSizes,
    *,
    keep: Path | None = None,
) -> tuple[TokenPool, tuple[str, ...]]:
    """Open the donors and measure the text under each; everything is held in float32.

    Args:
        base: the common ancestor's folder, of Llama, Mistral, Qwen2 or Qwen3 form, with its tokenizer.
        experts: at least two folders of models fine-tuned from it, as `assemble` takes them.
        texts: a folder of `*.jsonl` files: a document a line, a JSON string or an object with `text`.
        sizes: how much of it.
        keep: folder in which the measurements stay; a later call of the same goes on from there.

    Returns:
        the pool, and the texts' names, which `domain` of its sequences counts. Where every expert has a text
        of its own name, those come first, and the pool's domains are the experts; else it has none.

    Raises:
        InputError: models or texts do not fit; says which and what to do.
    """
    ancestor = open_base(base)
    donors = [open_donor(ancestor, folder) for folder in experts]
    layers = _routed(ancestor, donors)
    model = load_base(base, len(layers))
    ffns: Ffns = {donor.name: [_ffn(donor, layer) for layer in layers] for donor in donors}
    if len(ffns) < len(donors):
        names = [donor.name for donor in donors]
        raise InputError("experts", names, "two folders have one name", "give them different names")
    documents = read_documents(texts)
    # The texts of experts first, in the experts' order, so that domain e is expert e's.
    alike = all(name in documents for name in ffns)
    named = [*ffns, *(name for name in documents if name not in ffns)] if alike else list(documents)
    tokenizer = load_tokenizer(base)
    tail = model.tail(ffns)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    split = {name: split_documents(documents[name], _SHARES) for name in named}
    parts: dict[str, Sequences] = {}
    for number, part in enumerate(_PARTS):
        pure, changing = sizes.of(part, len(named))
        reserve = _RESERVE if changing else 0
        rows = {
            d: pack(split[name][part], encode, sizes.length, pure + reserve, each=_EACH, seed=number)
            for d, name in enumerate(named)
        }
        tokens, domain = pure_and_mixed(rows, pure, changing, _SEGMENTS, seed=number)
        home = None if keep is None else keep / part
        known = {"tail": tail.fingerprint(), "text": hashlib.sha256(tokens.tobytes()).hexdigest()}
        parts[part] = _kept(home, known) or measure_sequences(
            model, tail, tokens, domain, doing=f"{part} text under every expert"
        )
        if home is not None and not (home / "identity.json").exists():
            parts[part].save(home)
            write_json(home / "identity.json", known)
    mean = average(list(ffns.values()))
    pool = TokenPool(
        name=model.name,
        base=model,
        tail=tail,
        average=model.tail({"average": mean, "same": mean}),
        domains=tuple(ffns) if alike else (),
        tree=("experts", tuple(range(len(ffns)))),
        parts=parts,
    )
    return pool, tuple(named)


def read_documents(folder: Path | str) -> dict[str, list[str]]:
    """The documents of every `*.jsonl` file, by its name without the ending.

    Raises:
        InputError: there are none, or a line is neither a string nor an object with `text`.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            found[path.stem] = [_document(path, number, line) for number, line in enumerate(stream, 1)]
    if not found:
        fix = "put a NAME.jsonl in it, a document a line"
        raise InputError("texts", str(folder), "holds no .jsonl file", fix)
    return found


def _document(path: Path, number: int, line: str) -> str:
    try:
        value: Any = json.loads(line)
    except ValueError:
        value = None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        fix = 'write each document as a JSON string or as {"text": ...}'
        raise InputError("texts", f"{path.name}, line {number}", "is no document", fix)
    return text


def _routed(base: Donor, donors: Sequence[Donor]) -> range:
    """The layers that get routers: the last ones, in which the donors differ."""
    if len(donors) < 2:
        raise InputError("experts", [donor.name for donor in donors], "nothing to route", "give two or more")
    differing = survey(base, donors).differing
    if not differing:
        raise InputError("experts", [d.name for d in donors], "are all the same", "give other folders")
    last = range(differing[0], base.config.num_hidden_layers)
    same = [layer for layer in last if layer not in differing]
    if same:
        problem = f"differ in layer {differing[0]} but not in layers {', '.join(map(str, same))} above it"
        raise InputError("experts", [d.name for d in donors], problem, "use models that differ there too")
    return last


def _ffn(donor: Donor, layer: int) -> dict[str, Tensor]:
    """A donor's feed-forward network as a tail takes it."""
    names = zip(FFN._fields, feed_forward(layer), strict=True)
    return {f"{part}_proj": donor.tensor(name).float() for part, name in names}


def _kept(home: Path | None, known: dict[str, str]) -> Sequences | None:
    """What was measured earlier, if it was of the same experts and text."""
    if home is None or not (home / "identity.json").exists():
        return None
    if json.loads((home / "identity.json").read_text(encoding="utf-8")) != known:
        fix = "use another folder, or delete this one"
        raise InputError("keep", str(home.parent), "holds measurements of other experts or texts", fix)
    return Sequences.load(home)
