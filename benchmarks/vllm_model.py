"""Make a Mixtral of random weights and routers to measure in vLLM, for `vllm_speed.py`.

    python benchmarks/vllm_model.py --out runs/vllm

The routers are random: linear and MLP routers with four experts per token, as in the model; linear routers
with one and two; and adaptive k with at most four, named by its mean number of experts on normal random
hidden states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jsonargparse
import torch
import transformers

from router_rl.exports import export
from router_rl.routing import AdaptiveK, LinearScorer, MLPScorer, Router, Selection, TopK

HIDDEN, INNER, LAYERS, EXPERTS, WORDS, K = 512, 1024, 6, 8, 2048, 4
NULLS = (3.0, 0.5, -3.0)  # logit of the null expert: the higher, the fewer experts run


def main(out: Path = Path("runs/vllm")) -> None:
    """Write `model` and `routers` to a folder.

    Args:
        out: the folder.
    """
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=EXPERTS,
        num_experts_per_tok=K,
        max_position_embeddings=512,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(out / "model")
    write(out / "routers", "linear, 4 experts", lambda: linear(TopK(k=K)))
    write(out / "routers", "MLP, 4 experts", lambda: network(TopK(k=K)))
    for k in (1, 2):
        write(out / "routers", f"linear, {k} expert{'s' * (k > 1)}", lambda k=k: linear(TopK(k=k)))
    for null in NULLS:
        mean = mean_experts(linear(AdaptiveK(k=K), null))
        name = f"adaptive k, {mean:.1f} experts in the mean"
        write(out / "routers", name, lambda null=null: linear(AdaptiveK(k=K), null))


def linear(rule: Selection, null: float | None = None) -> Router:
    """Return a linear router whose logits are standard normal; the null expert's has a constant instead."""
    scorer = LinearScorer(HIDDEN, rule.outputs(EXPERTS))
    torch.nn.init.normal_(scorer.weight, std=HIDDEN**-0.5)
    torch.nn.init.zeros_(scorer.bias)
    if null is not None:
        with torch.no_grad():
            scorer.weight[-1] = 0.0
            scorer.bias[-1] = null
    return router_of(scorer, rule)


def network(rule: Selection) -> Router:
    """Return a router with one hidden layer."""
    return router_of(MLPScorer(HIDDEN, rule.outputs(EXPERTS), (64,)), rule)


def router_of(scorer: LinearScorer | MLPScorer, rule: Selection) -> Router:
    """Return the router of a scorer and a rule."""
    return Router(scorer, rule, [f"expert-{index}" for index in range(EXPERTS)]).eval()


@torch.no_grad()
def mean_experts(router: Router) -> float:
    """Return the mean number of experts that run on normal hidden states."""
    routing = router(torch.randn(4096, HIDDEN, generator=torch.Generator().manual_seed(1)))
    return float((routing.experts < EXPERTS).sum(dim=1).float().mean())


def write(folder: Path, name: str, made: Callable[[], Router]) -> None:
    """Export a router for each layer."""
    for layer in range(LAYERS):
        export(made(), folder / name / f"layer-{layer}", format="vllm")
    print(folder / name)


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
