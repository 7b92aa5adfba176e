"""Tiny mixtures in stock architectures, routers for them, and what transformers computes with both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experts.moe import assemble
from router_rl.exports import export
from router_rl.exports.transformers.swapped_run import run_swapped
from router_rl.routing import (
    AdaptiveK,
    Hierarchical,
    LinearScorer,
    MLPScorer,
    Router,
    ScoredTopK,
    Selection,
    TopK,
)

__all__ = [
    "FORMS",
    "HIDDEN",
    "NAMES",
    "PROMPTS",
    "ROUTERS",
    "Expected",
    "expected",
    "make_mixtures",
    "routers",
    "write",
]

HIDDEN, LAYERS, COUNT = 64, 2, 48
NAMES = ["code", "german", "prose"]
PROMPTS = [[1 + i, 5, 9 + i, 20, 33 + i] for i in range(5)]
# Kind of donor and form of the mixture, as `assemble` takes them.
FORMS = {
    "mixtral": ("llama", "mixtral"),
    "qwen3_moe": ("qwen3", "mixtral"),
    "deepseek": ("llama", "deepseek"),
}
_TREE = ("root", (0, ("pair", (1, 2))))
# Scorer, rule, and whether the scorer has a bias.
ROUTERS: dict[str, tuple[str, Selection, bool]] = {
    "linear": ("linear", TopK(k=2), False),
    "linear with bias": ("linear", TopK(k=2), True),
    "MLP": ("mlp", TopK(k=2), True),
    "adaptive k": ("mlp", AdaptiveK(k=3), True),
    "hierarchical": ("mlp", Hierarchical(tree=_TREE), True),
    "sigmoid with selection bias": ("linear", ScoredTopK(k=2, bias=(0.1, 0.0, 0.2)), False),
}


def make_mixtures(dense: Callable[..., Any], folder: Path) -> dict[str, Path]:
    """Assemble a mixture of three donors in each form.

    Args:
        dense: makes a dense model.
        folder: for all of them.
    """
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,  # what vLLM's attention on a CPU takes
        "num_hidden_layers": LAYERS,
        "vocab_size": 96,
        "max_position_embeddings": 128,
    }
    for kind in ("llama", "qwen3"):
        base = dense(folder / kind / "base", kind, **sizes)
        for name in NAMES:
            dense(folder / kind / name, kind, near=base, **sizes)
    for form, (kind, target) in FORMS.items():
        donors = [folder / kind / name for name in NAMES]
        cut = {"segments": 4, "shared": 1} if target == "deepseek" else {}
        assemble(folder / kind / "base", donors, folder / form, form=target, experts_per_token=2, **cut)
    return {form: folder / form for form in FORMS}


def routers(name: str, *, inputs: int = HIDDEN, allowed: tuple[bool, ...] | None = None) -> list[Router]:
    """Return random routers, one a layer.

    Args:
        name: of `ROUTERS`.
        inputs: D, features.
        allowed: experts that may be chosen; all if None.
    """
    kind, rule, biased = ROUTERS[name]
    made = []
    for seed in range(LAYERS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outputs = rule.outputs(len(NAMES))
            scorer = LinearScorer(inputs, outputs) if kind == "linear" else MLPScorer(inputs, outputs, (16,))
            for parameter in scorer.parameters():
                torch.nn.init.normal_(parameter)
            if not biased:
                torch.nn.init.zeros_(scorer.bias)  # type: ignore[arg-type]
        made.append(Router(scorer, rule, NAMES, allowed=allowed).eval())
    return made


def write(made: list[Router], folder: Path, format: str) -> Path:
    """Export routers as layer-0, layer-1, ..., and return the folder.

    Args:
        made: the routers.
        folder: for the exports.
        format: of the exports.
    """
    for layer, router in enumerate(made):
        export(router, folder / f"layer-{layer}", format=format)
    return folder


@dataclass(frozen=True)
class Expected:
    """What transformers computes.

    Attributes:
        tokens: greedy tokens of each prompt.
        logprobs: [S, T - 1, V] of prompts and tokens together.
        experts: by layer, the set of experts that have weight, for each of all tokens.
    """

    tokens: list[list[int]]
    logprobs: torch.Tensor
    experts: list[list[set[int]]]


def expected(model: Path, made: list[Router] | None) -> Expected:
    """Run a mixture in transformers, with these routers in place of its gates.

    Args:
        model: folder of the mixture.
        made: the routers; None: its own gates.
    """
    run = run_swapped(model, made, prompts=torch.tensor(PROMPTS), count=COUNT)
    return Expected(run.tokens.tolist(), run.logprobs, [run.chosen(at) for at in range(len(run.experts))])
