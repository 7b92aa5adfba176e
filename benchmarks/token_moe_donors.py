"""Make experts out of a dense model and texts, as the folders that `compare --env token_moe` takes.

    python benchmarks/token_moe_texts.py --out runs/token_moe
    python benchmarks/token_moe_donors.py --base runs/token_moe/model --texts runs/token_moe/texts \
        --out runs/token_moe/donors

`--base` takes any folder in Llama, Mistral or Qwen form, `--texts` any folder of `DOMAIN.jsonl` files (one
JSON string, a document, per line). Writes `base`, the dense model; a folder for each domain's expert, with
the FFNs of the last layers, which were trained on a part of the domain's documents; `general`, an expert with
the base's own FFNs; and `texts`, the documents that no expert was trained on. Finished experts are kept: an
interrupted run resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from experts import InputError
from experts.io.atomic import replacing, write_json
from experts.io.progress import say
from experts.moe.branch import BranchRecipe, branch
from experts.moe.donor_folders import write_donors
from experts.moe.frozen_base import load_base, load_tokenizer
from experts.moe.text_parts import read_documents
from experts.moe.texts import pack, split_documents
from experts.moe.token_pool import GENERAL, read_ffns, write_ffns

DOMAINS = ("german", "french", "japanese", "python", "c", "metamath")


def main(
    base: Path = Path("runs/token_moe/model"),
    texts: Path = Path("runs/token_moe/texts"),
    out: Path = Path("runs/token_moe/donors"),
    layers: int = 8,
    sequences: int = 120,
    recipe: BranchRecipe = BranchRecipe(),  # noqa: B008 (frozen)
    dtype: str = "bfloat16",
) -> None:
    """Train the experts that are missing, and write the folders.

    Args:
        base: folder of the dense model.
        texts: folder of the documents.
        out: folder for the base, the experts and the texts.
        layers: how many of the last layers get experts.
        sequences: of 128 tokens, training text of each expert.
        recipe: how an expert is trained.
        dtype: of the frozen matrix products: float32 or bfloat16.
    """
    torch.set_num_threads(1)
    numbers: torch.dtype = getattr(torch, dtype)
    settings = {"base": str(base), "layers": layers, "sequences": sequences, "recipe": asdict(recipe)}
    check_same(out / "donors.json", settings)
    write_json(out / "donors.json", settings)
    documents = {name: split_documents(own) for name, own in read_documents(texts).items()}
    tokenizer = load_tokenizer(base)
    model = load_base(base, layers)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    for domain in DOMAINS:
        path = out / "trained" / f"{domain}.safetensors"
        if path.exists():
            continue
        start = time.perf_counter()
        tokens = torch.from_numpy(pack(documents[domain]["expert"], encode, 128, sequences))
        hidden = torch.cat([model.trunk(rows[:, :-1], numbers) for rows in tokens.split(16)])
        losses: list[float] = []
        ffns = branch(model, hidden, tokens[:, 1:], recipe, dtype=numbers, on_step=losses.append)
        seconds = time.perf_counter() - start
        write_ffns(path, {domain: ffns}, seconds=seconds)
        say(f"expert {domain}: loss {losses[0]:.3f} to {np.mean(losses[-3:]):.3f}, {seconds:.0f} s")
    experts: dict[str, Any] = {
        name: read_ffns(out / "trained" / f"{name}.safetensors")[name] for name in DOMAINS
    }
    write_donors(model, {**experts, GENERAL: model.dense()}, out, tokenizer)
    for domain in DOMAINS:
        left = [text for part in ("train", "validation", "test") for text in documents[domain][part]]
        write_documents(out / "texts" / f"{domain}.jsonl", left)


def write_documents(path: Path, documents: Sequence[Any]) -> None:
    """Write a document a line, each as JSON."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix two sets of experts in one folder."""
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
        raise InputError("out", str(path.parent), "holds other experts", "use another folder")


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
