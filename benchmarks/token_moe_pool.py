"""Make a pool of token-level experts out of a dense model and texts: branch, train, cache.

    python benchmarks/token_moe_texts.py --out runs/token_moe
    python benchmarks/token_moe_pool.py --base runs/token_moe/model --texts runs/token_moe/texts \
        --out runs/token_moe/pool

`--base` takes any folder in Llama, Mistral or Qwen form, `--texts` any folder of `DOMAIN.jsonl` files (one
JSON string, a document, per line). Documents are split between expert training, router training, validation
and test. Finished experts and parts are kept; an interrupted run resumes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from experts import InputError
from experts.io.atomic import write_json
from experts.io.progress import say
from experts.moe.branch import BranchRecipe, average, branch
from experts.moe.frozen_base import load_base, load_tokenizer
from experts.moe.sequences import Sequences, measure_sequences
from experts.moe.texts import pack, pure_and_mixed, split_documents
from experts.moe.token_pool import GENERAL, TokenPool, read_ffns, write_ffns

TREE = {
    "languages": ("german", "french", "japanese"),
    "formal": ("python", "c", "metamath"),
}
RESERVE = 8  # sequences a domain that mixed ones are cut from


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much text.

    Attributes:
        length: T, tokens predicted in a sequence.
        expert: training sequences per expert.
        train, validation, test: (sequences of one domain for each domain, mixed sequences) of each part.
        segments: domains in a mixed sequence.
    """

    length: int = 128
    expert: int = 120
    train: tuple[int, int] = (10, 36)
    validation: tuple[int, int] = (3, 10)
    test: tuple[int, int] = (10, 36)
    segments: int = 4


def main(
    base: Path = Path("runs/token_moe/model"),
    texts: Path = Path("runs/token_moe/texts"),
    out: Path = Path("runs/token_moe/pool"),
    layers: int = 8,
    sizes: Sizes = Sizes(),
    recipe: BranchRecipe = BranchRecipe(),  # noqa: B008 (frozen)
    dtype: str = "bfloat16",
    threads: int = 1,
) -> None:
    """Build what is missing.

    Args:
        base: folder of the dense model.
        texts: folder of the documents.
        out: folder of the pool.
        layers: how many of the last layers get experts.
        sizes: how much text.
        recipe: how an expert is trained.
        dtype: of the frozen matrix products: float32 or bfloat16.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    numbers: torch.dtype = getattr(torch, dtype)
    domains = [domain for group in TREE.values() for domain in group]
    settings = {
        "base": str(base),
        "layers": layers,
        "sizes": json.loads(json.dumps(asdict(sizes))),
        "recipe": asdict(recipe),
        "dtype": dtype,
        "domains": domains,
    }
    check_same(out / "pool.json", settings)
    write_json(out / "pool.json", settings)
    split = {domain: split_documents(documents(texts, domain)) for domain in domains}
    tokenizer = load_tokenizer(base)
    model = load_base(base, layers)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    seconds: dict[str, Any] = {}
    for domain in domains:
        path = out / "experts" / f"{domain}.safetensors"
        if path.exists():
            continue
        start = time.perf_counter()
        tokens = torch.from_numpy(pack(split[domain]["expert"], encode, sizes.length, sizes.expert))
        hidden = torch.cat([model.trunk(rows[:, :-1], numbers) for rows in tokens.split(16)])
        losses: list[float] = []
        ffns = branch(model, hidden, tokens[:, 1:], recipe, dtype=numbers, on_step=losses.append)
        seconds[domain] = time.perf_counter() - start
        write_ffns(path, {domain: ffns}, seconds=seconds[domain])
        say(f"expert {domain}: loss {losses[0]:.3f} to {np.mean(losses[-3:]):.3f}, {seconds[domain]:.0f} s")
    experts = read_experts(out, domains)
    tail = model.tail({**experts, GENERAL: model.dense()}, numbers)
    for number, part in enumerate(("train", "validation", "test")):
        if (out / part / "sequences.json").exists():
            continue
        pure, mixed = getattr(sizes, part)
        rows = {
            d: pack(split[domain][part], encode, sizes.length, pure + RESERVE, seed=1 + number)
            for d, domain in enumerate(domains)
        }
        tokens, domain = pure_and_mixed(rows, pure, mixed, sizes.segments, seed=number)
        found = measure_sequences(model, tail, tokens, domain, dtype=numbers, doing=part)
        found.save(out / part)
        home = [found.path_loss[(found.domain[:, 0] == d) & ~found.mixed].mean((0, 2)) for d in rows]
        say(f"{part}: loss by domain and expert\n{np.round(np.stack(home), 3)}")


def read_experts(folder: Path, domains: list[str]) -> dict[str, Any]:
    """The trained experts."""
    return {d: read_ffns(folder / "experts" / f"{d}.safetensors")[d] for d in domains}


def open_pool(folder: Path, dtype: str | None = None) -> TokenPool:
    """A finished pool.

    Args:
        folder: of the pool.
        dtype: of the frozen matrix products; that in which the pool was measured if None.

    Raises:
        InputError: it is not finished.
    """
    if not (folder / "pool.json").exists():
        raise InputError("pool", str(folder), "is not there", "run benchmarks/token_moe_pool.py first")
    settings = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
    domains = settings["domains"]
    base = load_base(settings["base"], settings["layers"])
    experts, numbers = read_experts(folder, domains), getattr(torch, dtype or settings["dtype"])
    mean = average(list(experts.values()))
    children = tuple(
        (group, tuple(domains.index(d) for d in members if d in domains)) for group, members in TREE.items()
    )
    return TokenPool(
        name=base.name,
        base=base,
        tail=base.tail({**experts, GENERAL: base.dense()}, numbers),
        average=base.tail({"average": mean, "same": mean}, numbers),
        domains=tuple(domains),
        tree=("text", (*children, len(domains))),
        parts={part: Sequences.load(folder / part) for part in ("train", "validation", "test")},
    )


def documents(folder: Path, domain: str) -> list[str]:
    """The documents of a domain."""
    path = folder / f"{domain}.jsonl"
    if not path.exists():
        raise InputError("texts", str(path), "no such file", "run benchmarks/token_moe_texts.py first")
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix two pools in one folder."""
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise InputError("out", str(path.parent), "holds another pool", "use another folder")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
