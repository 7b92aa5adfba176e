"""Parity of layer routers in their runtimes: vLLM, SGLang's layers, and transformers.

The reference is the model in transformers with the trained routers in its gates. vLLM and SGLang run in a
process of their own, of the Python that ROUTER_RL_RUNTIME_PYTHON names, or of this one if they are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from experts import InputError

from ..routing import Router, RouterError
from .runtime_parity import RuntimeParity
from .standalone import load
from .transformers.swapped_run import SwappedRun, run_model, run_swapped

__all__ = [
    "PYTHON",
    "compare_with_run",
    "run_program",
    "verify_in_sglang",
    "verify_in_transformers",
    "verify_in_vllm",
]

PYTHON = "ROUTER_RL_RUNTIME_PYTHON"
_TOLERANCE = 1e-4
_ROWS = 64  # of each layer, for SGLang
_SECONDS = 3600

Write = Callable[[Router, Path], None]


def verify_in_vllm(write: Write, model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    """Compare a model in vLLM, routed by the exports, with the trained routers.

    Args:
        write: writes an export.
        model: folder of the model.
        routers: one for each layer that has experts, in order.

    Raises:
        RouterError: they decide otherwise, do not fit the model, or vLLM cannot run it.
    """
    python = _interpreter("vllm")
    if python is None:
        return _absent("vLLM")
    want = run_swapped(model, routers)
    with tempfile.TemporaryDirectory() as folder:
        case = {"model": str(model.resolve()), "router": _written(write, routers, Path(folder))}
        request = {"cases": [case], "prompts": want.prompts.tolist(), "tokens": want.tokens.shape[1]}
        answered = run_program(python, "router_rl.exports.vllm_program", request, Path(folder))
    (answer,) = answered["answers"]
    if "error" in answer:
        raise RouterError(f"vLLM does not take the routers: {answer['error']}")
    return _checked(compare_with_run(answer, want, version=answered["version"], model=model.name))


def verify_in_sglang(write: Write, model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    """Compare SGLang's layers, routed by the exports, with the trained routers, on a model's hidden states.

    SGLang's server needs a GPU, so that its layers are run alone.

    Args:
        write: writes an export.
        model: folder of the model.
        routers: one for each layer that has experts, in order.

    Raises:
        RouterError: they decide otherwise, do not fit the model, or SGLang cannot run them.
    """
    python = _interpreter("sglang")
    if python is None:
        return _absent("SGLang")
    want = run_swapped(model, routers)
    scale = float(getattr(want.host.config, "routed_scaling_factor", 1.0))
    each = want.host.segments(len(routers[0].experts))
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            {
                "router": _written(write, routers, Path(folder), want.host.layers),
                "experts": want.host.experts,
                "features": want.host.hidden,
                "rows": want.inputs[at][:_ROWS].tolist(),
                "options": {
                    "layer_id": layer,
                    "top_k": routers[at].rule.k * each,
                    "renormalize": True,
                    "routed_scaling_factor": scale,
                    "apply_routed_scaling_factor_on_output": True,
                },
            }
            for at, layer in enumerate(want.host.layers)
        ]
        answered = run_program(python, "router_rl.exports.sglang_program", {"cases": cases}, Path(folder))
    errors = [answer["error"] for answer in answered["answers"] if "error" in answer]
    if errors:
        raise RouterError(f"SGLang does not take the routers: {errors[0]}")
    same, difference = [], 0.0
    for at, answer in enumerate(answered["answers"]):
        same += _equal(answer["ids"], want.chosen(at)[:_ROWS])
        difference = max(
            difference, float((torch.tensor(answer["weights"]) - want.weights[at][:_ROWS]).abs().max())
        )
    return _checked(
        RuntimeParity(
            name="SGLang, its layers",
            version=answered["version"],
            model=model.name,
            prompts=len(want.prompts),
            tokens=0,
            tokens_equal=0,
            decisions=len(same),
            decisions_equal=sum(same),
            weights_max_error=difference,
            logits_max_error=None,
            tolerance=_TOLERANCE,
        )
    )


def verify_in_transformers(write: Write, model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    """Compare a model in transformers, with the exports put into it, with the trained routers.

    Args:
        write: writes an export.
        model: folder of the model.
        routers: one for each layer that has experts, in order.

    Raises:
        RouterError: they decide otherwise, or do not fit the model.
    """
    import transformers

    want = run_swapped(model, routers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(_written(write, routers, Path(name)))

        def put(loaded: Any) -> None:
            for at, layer in enumerate(want.host.layers):
                load(folder / f"layer-{at}").put_into(loaded, layer)

        try:
            exported = run_model(model, put, want.prompts)
        except ValueError as error:
            raise RouterError(f"put_into does not take the routers: {error}") from error
    answer = {
        "tokens": exported.tokens.tolist(),
        "experts": [ids.tolist() for ids in exported.experts],
        "logprobs": exported.logprobs.tolist(),
    }
    return _checked(
        compare_with_run(
            answer, want, name="transformers", version=transformers.__version__, model=model.name
        )
    )


def compare_with_run(
    answer: dict[str, Any], want: SwappedRun, *, version: str, model: str, name: str = "vLLM"
) -> RuntimeParity:
    """Compare what a runtime answered with the reference.

    Args:
        answer: `tokens` [P][G], `logprobs` [P][L + G - 1][V] and `experts`, by layer [P * (L + G)][k].
        want: the reference.
        version: of the runtime.
        model: its name.
        name: of the runtime.
    """
    same = [equal for layer, ids in enumerate(answer["experts"]) for equal in _equal(ids, want.chosen(layer))]
    difference = (torch.tensor(answer["logprobs"]) - want.logprobs).abs().max()
    return RuntimeParity(
        name=name,
        version=version,
        model=model,
        prompts=len(want.prompts),
        tokens=want.tokens.numel(),
        tokens_equal=int((torch.tensor(answer["tokens"]) == want.tokens).sum()),
        decisions=sum(len(weights) for weights in want.weights),
        decisions_equal=sum(same),
        weights_max_error=None,
        logits_max_error=float(difference / want.logprobs.abs().max()),
        tolerance=_TOLERANCE,
    )


def run_program(python: str, module: str, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a program of this package in another environment, and return its answer.

    Args:
        python: interpreter of the environment.
        module: of the program.
        request: is written as JSON.
        folder: for the request, the answer, and what the program writes.

    Raises:
        RouterError: it failed; the message has its last line.
    """
    asked, answered = folder / "request.json", folder / "answer.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    try:
        done = subprocess.run(
            [python, "-m", module, str(asked), str(answered)],
            cwd=folder,
            env={**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(PYTHON, python, f"cannot run ({error})", "name the runtime's interpreter") from error
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no message"])[-1]
        raise RouterError(f"{module} failed in {python}: {last}")
    answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return answer


def _interpreter(package: str) -> str | None:
    named = os.environ.get(PYTHON)
    if named:
        return named
    return sys.executable if importlib.util.find_spec(package) else None


def _absent(runtime: str) -> dict[str, Any]:
    reason = f"{runtime} is not installed here; {PYTHON} can name the Python of its environment"
    return {"name": "contract only", "reason": reason}


def _written(
    write: Write, routers: Sequence[Router], folder: Path, layers: Sequence[int] | None = None
) -> str:
    for layer, router in zip(layers or range(len(routers)), routers, strict=True):
        (folder / "routers" / f"layer-{layer}").mkdir(parents=True, exist_ok=True)
        write(router, folder / "routers" / f"layer-{layer}")
    return str(folder / "routers")


def _equal(ids: Sequence[Sequence[int]], chosen: list[set[int]]) -> list[bool]:
    """Whether each token has the same experts; an adaptive router's empty slots come last."""
    return [set(row[: len(want)]) == want for row, want in zip(ids, chosen, strict=True)]


def _checked(parity: RuntimeParity) -> dict[str, Any]:
    if not parity.passed:
        raise RouterError(f"the routers decide otherwise in {parity.name}: {parity.to_json()}")
    return parity.to_json()
