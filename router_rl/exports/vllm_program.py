"""Run models in vLLM, with or without the plugin: `python -m router_rl.exports.vllm_program REQUEST ANSWER`.

All cases share one process, since starting vLLM takes longer than a case. The program runs in vLLM's
environment, where router-rl is installed without its dependencies.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from .served_layers import VARIABLE, ServedRouters

__all__ = ["main"]

_ROUTERS = "vllm.model_executor.layers.fused_moe.router"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens, log-probabilities and expert ids of each case.

    Args:
        request: `prompts`, lists of token ids; `tokens`, the number to generate; and `cases`, each with the
            folder of a `model`, the folder of its `router` or None, and optionally `compiled` and `alive`. A
            case with `rows` [T][D] and no model runs only vLLM's router on these rows.
    """
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CACHE_ROOT": str(Path.cwd() / "vllm_cache"),
    }
    # vLLM registers the plugin only if the variable is set when the process starts.
    os.environ[VARIABLE] = next(case["router"] for case in request["cases"] if case["router"])
    distributed = importlib.import_module("vllm.distributed")

    answers = []
    for case in request["cases"]:
        if case["router"]:
            os.environ[VARIABLE] = case["router"]
        else:
            os.environ.pop(VARIABLE, None)
        if "rows" in case:
            answers.append(_select(case))
            continue
        answers.append(_run(case, request["prompts"], request["tokens"]))
        distributed.cleanup_dist_env_and_memory()
    return {"version": importlib.import_module("vllm").__version__, "answers": answers}


def _run(case: dict[str, Any], prompts: list[list[int]], count: int) -> dict[str, Any]:
    try:
        llm = importlib.import_module("vllm").LLM(
            case["model"],
            dtype=case.get("dtype", "float32"),
            enforce_eager=not case.get("compiled", False),
            skip_tokenizer_init=True,
            max_model_len=128,
            max_num_seqs=8,
            max_num_batched_tokens=512,
            max_logprobs=-1,
            kv_cache_memory_bytes=2**24,
            distributed_executor_backend="uni",
            enable_prefix_caching=False,
        )
    except ValueError as error:
        return {"error": str(error)}
    tokens = _generate(llm, prompts, count)
    answer: dict[str, Any] = {"tokens": tokens}
    if not case.get("compiled", False):
        sequences = [[*prompt, *generated] for prompt, generated in zip(prompts, tokens, strict=True)]
        answer |= _teacher_forced(llm, sequences)
    if case["router"]:
        (answer["status"],) = llm.collective_rpc("router_rl_status")
        if case.get("alive"):
            answer["layers"] = llm.collective_rpc("router_rl_alive", args=(case["alive"],))
            answer["tokens_alive"] = _generate(llm, prompts, min(count, 16))
    return answer


def _select(case: dict[str, Any]) -> dict[str, Any]:
    routers = ServedRouters(Path(case["router"]))
    folder = routers.folder_of(0, [0])
    served = routers.layer(folder, segments=1, scale=1.0, device=torch.device("cpu"))
    served.set_alive(case.get("alive") or [True] * served.experts)
    router = importlib.import_module(f"{_ROUTERS}.custom_routing_router").CustomRoutingRouter(
        top_k=served.k, global_num_experts=served.experts, custom_routing_function=served
    )
    rows = torch.tensor(case["rows"], dtype=torch.float32).view(-1, case["features"])
    weights, ids = router.select_experts(rows, torch.zeros(len(rows), served.experts), torch.int32)
    return {"weights": weights.tolist(), "ids": ids.tolist(), "fallbacks": served.status()["fallbacks"]}


def _generate(llm: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    greedy = importlib.import_module("vllm").SamplingParams(
        temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False
    )
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def _teacher_forced(llm: Any, sequences: list[list[int]]) -> dict[str, Any]:
    """Log-probabilities at every position of given sequences, and the experts of every token and layer."""
    captured: dict[str, list[list[int]]] = {}

    def capture(name: str) -> Any:
        return lambda ids: captured.setdefault(name, []).extend(ids.tolist())

    def tap(model: Any) -> None:
        for name, module in model.named_modules():
            if hasattr(module, "routed_experts") and hasattr(module, "router"):
                module.router.set_capture_fn(capture(name))

    def untap(model: Any) -> None:
        for module in model.modules():
            if hasattr(module, "routed_experts") and hasattr(module, "router"):
                module.router.set_capture_fn(None)

    llm.apply_model(tap)
    every = importlib.import_module("vllm").SamplingParams(
        temperature=0.0, max_tokens=1, prompt_logprobs=-1, ignore_eos=True, detokenize=False
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in sequences], every, use_tqdm=False)
    llm.apply_model(untap)
    logprobs = [
        [[entry[token].logprob for token in sorted(entry)] for entry in output.prompt_logprobs[1:]]
        for output in outputs
    ]
    rows = sum(map(len, sequences))
    experts = [ids[:rows] for _, ids in sorted(captured.items())]
    return {"logprobs": logprobs, "experts": experts}


if __name__ == "__main__":
    program_request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(program_request)), encoding="utf-8")
