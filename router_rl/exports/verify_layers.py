"""Verify exported layer routers in their runtimes: vLLM, SGLang's layers, and transformers.

The reference is the model in transformers with the trained routers in its gates. vLLM and SGLang run in their
own process: with the interpreter that ROUTER_RL_RUNTIME_PYTHON names, else with this one.
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

    Returns:
        the comparison for `parity.json`; the reason if vLLM is not installed.

    Raises:
        RouterError: the decisions differ, the routers do not fit the model, or vLLM cannot run it.
    """
    python = _interpreter("vllm")
    if python is None:
        return _absent("vLLM")
    reference = run_swapped(model, routers)
    with tempfile.TemporaryDirectory() as folder:
        case = {"model": str(model.resolve()), "router": _written(write, routers, Path(folder))}
        request = {
            "cases": [case],
            "prompts": reference.prompts.tolist(),
            "tokens": reference.tokens.shape[1],
        }
        response = run_program(python, "router_rl.exports.vllm_program", request, Path(folder))
    (answer,) = response["answers"]
    if "error" in answer:
        raise RouterError(f"vLLM cannot run the routers: {answer['error']}")
    return _checked(compare_with_run(answer, reference, version=response["version"], model=model.name))


def verify_in_sglang(write: Write, model: Path, routers: Sequence[Router]) -> dict[str, Any]:
    """Compare SGLang's layers, routed by the exports, with the trained routers, on a model's hidden states.

    SGLang's server needs a GPU, so only its layers run here.

    Args:
        write: writes an export.
        model: folder of the model.
        routers: one for each layer that has experts, in order.

    Returns:
        the comparison for `parity.json`; the reason if SGLang is not installed.

    Raises:
        RouterError: the decisions differ, the routers do not fit the model, or SGLang cannot run them.
    """
    python = _interpreter("sglang")
    if python is None:
        return _absent("SGLang")
    reference = run_swapped(model, routers)
    host = reference.host
    scale = float(getattr(host.config, "routed_scaling_factor", 1.0))
    segments = host.segments(len(routers[0].experts))
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            {
                "router": _written(write, routers, Path(folder), host.layers),
                "experts": host.experts,
                "features": host.hidden,
                "rows": reference.inputs[at][:_ROWS].tolist(),
                "options": {
                    "layer_id": layer,
                    "top_k": routers[at].rule.k * segments,
                    "renormalize": True,
                    "routed_scaling_factor": scale,
                    "apply_routed_scaling_factor_on_output": True,
                },
            }
            for at, layer in enumerate(host.layers)
        ]
        response = run_program(python, "router_rl.exports.sglang_program", {"cases": cases}, Path(folder))
    errors = [answer["error"] for answer in response["answers"] if "error" in answer]
    if errors:
        raise RouterError(f"SGLang cannot run the routers: {errors[0]}")
    same: list[bool] = []
    differences: list[torch.Tensor] = []
    for at, answer in enumerate(response["answers"]):
        same += _equal(answer["ids"], reference.chosen(at)[:_ROWS])
        weights = torch.tensor(answer["weights"])
        differences.append((weights - reference.weights[at][:_ROWS]).abs().max())
    return _checked(
        RuntimeParity(
            name="SGLang, its layers",
            version=response["version"],
            model=model.name,
            prompts=len(reference.prompts),
            tokens=0,
            tokens_equal=0,
            decisions=len(same),
            decisions_equal=sum(same),
            weights_max_error=float(torch.stack(differences).max()),  # NaN if a weight is NaN
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

    Returns:
        the comparison for `parity.json`.

    Raises:
        RouterError: the decisions differ, or the routers do not fit the model.
    """
    import transformers

    reference = run_swapped(model, routers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(_written(write, routers, Path(name)))

        def put(loaded: Any) -> None:
            for at, layer in enumerate(reference.host.layers):
                load(folder / f"layer-{at}").put_into(loaded, layer)

        try:
            exported = run_model(model, put, reference.prompts)
        except ValueError as error:
            raise RouterError(f"put_into refuses the routers: {error}") from error
    answer = {
        "tokens": exported.tokens.tolist(),
        "experts": [ids.tolist() for ids in exported.experts],
        "logprobs": exported.logprobs.tolist(),
    }
    return _checked(
        compare_with_run(
            answer, reference, name="transformers", version=transformers.__version__, model=model.name
        )
    )


def compare_with_run(
    answer: dict[str, Any], reference: SwappedRun, *, version: str, model: str, name: str = "vLLM"
) -> RuntimeParity:
    """Compare a runtime's output with the reference.

    Args:
        answer: `tokens` [P][G], `logprobs` [P][L + G - 1][V] and, for each layer, `experts` [P * (L + G)][k].
        reference: the model in transformers with the trained routers.
        version: version of the runtime.
        model: name of the model.
        name: name of the runtime.
    """
    same = [
        equal for layer, ids in enumerate(answer["experts"]) for equal in _equal(ids, reference.chosen(layer))
    ]
    difference = (torch.tensor(answer["logprobs"]) - reference.logprobs).abs().max()
    return RuntimeParity(
        name=name,
        version=version,
        model=model,
        prompts=len(reference.prompts),
        tokens=reference.tokens.numel(),
        tokens_equal=int((torch.tensor(answer["tokens"]) == reference.tokens).sum()),
        decisions=sum(len(weights) for weights in reference.weights),
        decisions_equal=sum(same),
        weights_max_error=None,
        logits_max_error=float(difference / reference.logprobs.abs().max()),
        tolerance=_TOLERANCE,
    )


def run_program(python: str, module: str, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a program of this package in another environment, and return its answer.

    Args:
        python: interpreter of the environment.
        module: name of the program's module.
        request: the request; the program reads it as JSON.
        folder: working directory for the request, the answer and the program's files.

    Returns:
        the program's answer, from JSON.

    Raises:
        InputError: the interpreter cannot be run.
        RouterError: the program failed; the message has its last line.
    """
    request_file, answer_file = folder / "request.json", folder / "answer.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    try:
        process = subprocess.run(
            [python, "-m", module, str(request_file), str(answer_file)],
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
    if process.returncode != 0:
        last = (process.stdout.strip().splitlines() or ["no message"])[-1]
        raise RouterError(f"{module} failed in {python}: {last}")
    answer: dict[str, Any] = json.loads(answer_file.read_text(encoding="utf-8"))
    return answer


def _interpreter(package: str) -> str | None:
    python = os.environ.get(PYTHON)
    if python:
        return python
    return sys.executable if importlib.util.find_spec(package) else None


def _absent(runtime: str) -> dict[str, Any]:
    reason = f"{runtime} is not installed here; set {PYTHON} to the interpreter of its environment"
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
    return [set(row[: len(expected)]) == expected for row, expected in zip(ids, chosen, strict=True)]


def _checked(parity: RuntimeParity) -> dict[str, Any]:
    if not parity.passed:
        raise RouterError(f"the routers decide differently in {parity.name}: {parity.to_json()}")
    return parity.to_json()
