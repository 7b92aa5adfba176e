"""Hand trained routers over to stock transformers: what the missing bias costs, and a check that it is exact.

    python benchmarks/token_moe_handover.py --out runs/token_moe/handover

Runs on the tiny pool of the package. Stock gates have no bias. Routers are trained with and without bias,
from the same closed-form start, on the same text, each with a learning rate chosen with seed 0 on tuning
text, which no fit validates on. Those without are written into a mixture that transformers then loads. Prints
Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from experts.io.atomic import write_json
from experts.moe.huggingface import transformers_library
from experts.moe.model_costs import model_costs
from experts.moe.tiny import tiny_pool
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe.handover import foldable, hand_over
from router_rl.methods.token_moe.path_outcomes import train_outcome_table
from router_rl.methods.token_moe.token_ridge import RidgeHyperparameters, fit_ridge
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.statistics import interval, paired_difference
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import with_tuning_part
from router_rl.problems.token_moe.token_measurement import measure

RATES = (3e-2, 1e-2, 3e-3)  # learning rates tried, in this order


def main(
    out: Path = Path("runs/token_moe/handover"),
    seeds: int = 5,
    epochs: int = 4,
    prompts: int = 16,
    written: int = 32,
) -> None:
    """Train, hand over, compare.

    Args:
        out: folder for results.json and the mixture of the first seed.
        seeds: of the policy gradient on the outcome table.
        epochs: of its training, over the training text.
        prompts: sequences whose losses are compared, and that our forward and `generate` continue greedily.
        written: tokens generated for each.
    """
    torch.set_num_threads(1)
    known = with_tuning_part(tiny_pool())
    test = known.parts["test"]
    ridge = fit_ridge(known.tail, known.parts["train"], RidgeHyperparameters())
    plain, distillation = foldable(known, ridge)

    def loss(routers: LayerRouters) -> np.ndarray:
        return measure(known.tail, test, routers.choose).loss.mean(axis=1)  # a sequence

    def learn(start: LayerRouters, rate: float, seed: int) -> Fit:
        training = Training(learning_rate=rate, epochs=epochs, seed=seed, checks=2)
        return train_outcome_table(known, start, training)

    def tuning_loss(routers: LayerRouters) -> float:
        return float(measure(known.tail, known.parts["tuning"], routers.choose).loss.mean())

    def best_rate(start: LayerRouters) -> float:
        return min(RATES, key=lambda rate: tuning_loss(learn(start, rate, 0).routers))

    rates = best_rate(ridge), best_rate(plain)
    with_bias, without, imitated, agreement = [], [], [], []
    for seed in range(seeds):
        free, bare = learn(ridge, rates[0], seed).routers, learn(plain, rates[1], seed).routers
        copied, found = foldable(known, free)
        agreement.append(float(np.mean(found.agreement)))
        with_bias.append(loss(free))
        without.append(loss(bare))
        imitated.append(loss(copied))
        if seed == 0:
            exact = _exact(known, bare, out / "mixture", prompts, written)
    a, b, c = np.stack(with_bias), np.stack(without), np.stack(imitated)
    ridge_loss, plain_loss = loss(ridge)[None], loss(plain)[None]
    rows = [
        ["ridge", interval(ridge_loss), None, 1.0],
        [
            "ridge, imitated without bias",
            interval(plain_loss),
            paired_difference(plain_loss, ridge_loss),
            None,
        ],
        ["policy gradient from ridge", interval(a), None, 1.0],
        ["policy gradient without bias", interval(b), paired_difference(b, a), None],
        ["policy gradient from ridge, imitated without bias", interval(c), paired_difference(c, a), None],
    ]
    rows[1][3], rows[4][3] = float(np.mean(distillation.agreement)), float(np.mean(agreement))
    print(_markdown(known, seeds, rows, exact))
    write_json(
        out / "results.json",
        {
            "schema_version": 1,
            "pool": known.name,
            "seeds": seeds,
            "rows": [
                {
                    "router": name,
                    "loss": [value.mean, value.low, value.high],
                    "against_with_bias": None if gap is None else [gap.mean, gap.low, gap.high],
                    "agreement": agreed,
                }
                for name, value, gap, agreed in rows
            ],
            "exact": exact,
        },
    )


def _exact(
    pool: TokenPool, routers: LayerRouters, folder: Path, prompts: int, written: int
) -> dict[str, Any]:
    """Compare the folder with our own forward: losses, tokens, sizes."""
    applied = hand_over(pool, routers, folder)
    model, theirs = _stock(pool, folder)
    tokens = torch.from_numpy(np.asarray(pool.parts["test"].tokens))
    few = torch.arange(0, len(tokens), max(1, len(tokens) // prompts))[:prompts]
    with torch.inference_mode():
        hidden = pool.tail(pool.base.trunk(tokens[few, :-1]), routers.choose)
        ours = pool.tail.loss(hidden, tokens[few, 1:]).numpy()
    same = total = 0
    for row in tokens[few, :16]:
        given = row.unsqueeze(0)
        with torch.inference_mode():
            found = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=written,
                do_sample=False,
                eos_token_id=None,
            )
        same += int((found[0, 16:] == _continued(pool, routers, given, written)[0, 16:]).sum())
        total += written
    segmented = {}
    for segments in (4, 12):
        beside = folder.with_name(f"deepseek-{segments}")
        hand_over(pool, routers, beside, form="deepseek", segments=segments)
        costs = model_costs(beside)
        segmented[f"1 of {segments} segments shared"] = {
            "loss": float(_stock(pool, beside)[1].mean()),
            "parameters": costs.parameters,
            "active_parameters": costs.active_parameters,
        }
    costs = model_costs(folder)
    return {
        "deepseek": segmented,
        "architecture": costs.model_type,
        "parameters": costs.parameters,
        "active_parameters": costs.active_parameters,
        "patch_bytes": applied.patch_bytes,
        "loss": float(theirs.mean()),
        "largest_loss_difference": float(np.abs(theirs[few.numpy()] - ours).max()),
        "tokens_same": same,
        "tokens": total,
    }


def _stock(pool: TokenPool, folder: Path) -> tuple[Any, np.ndarray]:
    """The folder's model as transformers loads it, and its loss of every test token [S, T]."""
    model = transformers_library().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    with torch.inference_mode():
        for rows in torch.from_numpy(np.asarray(pool.parts["test"].tokens)).split(8):
            logits = model(rows[:, :-1]).logits.transpose(1, 2)
            losses.append(torch.nn.functional.cross_entropy(logits, rows[:, 1:], reduction="none").numpy())
    return model, np.concatenate(losses)


@torch.inference_mode()
def _continued(pool: TokenPool, routers: LayerRouters, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy decoding by the trunk, the tail and the routers; a whole forward for each token."""
    for _ in range(count):
        hidden = pool.tail(pool.base.trunk(tokens), routers.choose)[:, -1]
        words = torch.nn.functional.linear(pool.tail.norm(hidden).to(pool.tail.dtype), pool.tail.head)
        tokens = torch.cat([tokens, words.argmax(dim=-1, keepdim=True)], dim=1)
    return tokens


def _markdown(pool: TokenPool, seeds: int, rows: Sequence[Sequence[Any]], exact: dict[str, Any]) -> str:
    lines = [
        f"Pool `{pool.name}`: {pool.tail.experts} experts in {pool.tail.depth} layers, hard top-1, "
        f"{len(pool.parts['test'])} test sequences of {pool.parts['test'].length} tokens, {seeds} seeds; "
        f"95% CI over seeds and sequences, paired in the third column.",
        "",
        "| router | loss, nats per token | difference to the one with bias | same choice |",
        "|---|---:|---:|---:|",
    ]
    for name, value, gap, agreed in rows:
        against = "" if gap is None else f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        same = "" if agreed is None else f"{agreed:.1%}"
        lines.append(
            f"| {name} | {value.mean:.4f} ({value.low:.4f} to {value.high:.4f}) | {against} | {same} |"
        )
    lines += [
        "",
        f"Handed over (policy gradient without bias, seed 0) as {exact['architecture']}: "
        f"{exact['parameters']:,} parameters, {exact['active_parameters']:,} active; "
        f"the routers are {exact['patch_bytes']:,} bytes. "
        f"The largest difference of a token's loss to our forward is "
        f"{exact['largest_loss_difference']:.1e} nats; "
        f"{exact['tokens_same']} of {exact['tokens']} greedily generated tokens are the same.",
        "",
        "| the same routers, loaded by transformers | loss | parameters | active |",
        "|---|---:|---:|---:|",
        f"| whole experts | {exact['loss']:.4f} | {exact['parameters']:,} | {exact['active_parameters']:,} |",
    ]
    for name, found in exact["deepseek"].items():
        counts = f"{found['parameters']:,} | {found['active_parameters']:,}"
        lines.append(f"| DeepSeek form, {name} | {found['loss']:.4f} | {counts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
