"""Tokens a second in vLLM: a model with its own gates, and with exported routers (docs/runtimes_vllm.md).

    PYTHON_OF_VLLM benchmarks/vllm_speed.py --model MODEL --routers FOLDER

MODEL is a mixture; FOLDER holds one folder of exports for each router to measure, with at most the model's k.
One engine runs one copy of the model; between rounds, its layers' router is exchanged, vLLM's own among them,
in another order each round. Eager, on a CPU, in seconds of the process. Ratios are medians over rounds of the
ratio to vLLM's own router in the same round; that router measured twice shows the noise. It needs argparse
alone beside vLLM and router-rl.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

OWN, NOISE = "its own router", "its own router, again"


def main(model: Path, routers: Path, rounds: int, batch: int, steps: int) -> None:
    """Measure and print Markdown.

    Args:
        model: folder of the mixture.
        routers: folder of folders of exports.
        rounds: how often each router is measured.
        batch: sequences.
        steps: tokens for each.
    """
    folders = {path.name: path for path in sorted(routers.iterdir()) if path.is_dir()}
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    import torch
    import vllm

    from router_rl.exports.served_layers import ServedRouters, layers_with_experts

    llm = vllm.LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=batch,
        kv_cache_memory_bytes=2**28,
        distributed_executor_backend="uni",
        enable_prefix_caching=False,
    )
    (layers,) = llm.apply_model(
        lambda loaded: [module for module in loaded.modules() if hasattr(module, "routed_experts")]
    )
    numbers = layers_with_experts(llm.llm_engine.model_config.hf_text_config)
    own = [layer.router for layer in layers]
    from vllm.model_executor.layers.fused_moe.router.custom_routing_router import CustomRoutingRouter

    def exported(folder: Path) -> list[Any]:
        found = ServedRouters(folder)
        served = [
            found.layer(
                found.folder_of(number, numbers),
                segments=1,
                scale=1.0,
                device=torch.device("cpu"),
                trims=True,
            )
            for number in numbers
        ]
        return [
            CustomRoutingRouter(top_k=s.k, global_num_experts=s.experts, custom_routing_function=s)
            for s in served
        ]

    choices = {OWN: own, NOISE: own, **{name: exported(folder) for name, folder in folders.items()}}
    prompts = [{"prompt_token_ids": [1 + n, 5, 9, 20 + n]} for n in range(batch)]
    greedy = vllm.SamplingParams(temperature=0.0, max_tokens=steps, ignore_eos=True, detokenize=False)
    spent: dict[str, list[float]] = {name: [] for name in choices}
    shuffled = random.Random(0)
    for turn in range(rounds + 1):
        for name in shuffled.sample(list(choices), len(choices)):
            for layer, router in zip(layers, choices[name], strict=True):
                layer.router = router
            began = time.process_time()
            llm.generate(prompts, greedy, use_tqdm=False)
            if turn:  # the first round warms up
                spent[name].append(time.process_time() - began)
    print(f"vLLM {vllm.__version__}, {batch} sequences, {steps} tokens each, {rounds} rounds\n")
    print("| router | tokens a CPU second | speed, of its own router's |\n| --- | ---: | ---: |")
    for name, seconds in spent.items():
        ratio = statistics.median(a / b for a, b in zip(spent[OWN], seconds, strict=True))
        print(f"| {name} | {batch * steps / statistics.median(seconds):.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--routers", type=Path, required=True)
    for option, default in (("rounds", 11), ("batch", 8), ("steps", 48)):
        parser.add_argument(f"--{option}", type=int, default=default)
    main(**vars(parser.parse_args()))
