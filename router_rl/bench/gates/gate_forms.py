"""A gate in the formats that it is exported to: a runtime's layer, torch.export, AOTInductor, ONNX."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...exports.standalone import StandaloneRouter
from ...routing.kernels import Gate

__all__ = ["FORMS", "missing"]

Form = Callable[[Gate, Path], Callable[[Tensor], Any]]


class _Plain(nn.Module):
    """Returns weights, experts and fallback as a plain tuple, which every runtime supports."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        routed = self.gate(hidden)
        return routed.weights, routed.experts, routed.fallback


def layer(gate: Gate, folder: Path) -> Callable[[Tensor], Any]:
    """The module that the vLLM, SGLang and transformers exports run, in eager torch."""
    rule, (experts, _) = gate.rule, gate.weight.shape
    correction = [] if gate.correction is None else gate.correction.tolist()
    select = {"rule": "scored_topk", **asdict(rule), "bias": correction}
    plain = rule.groups == 1 and rule.by_logit(bool(correction))
    settings = {
        "experts": [str(expert) for expert in range(experts)],
        "select": {"rule": "topk", "k": rule.k} if plain else select,
        "scorer": {"kind": "linear"},
        "fallback": rule.fallback,
    }
    bias = torch.zeros(experts) if gate.bias is None else gate.bias.detach()
    router = StandaloneRouter(settings, {"weight": gate.weight.detach(), "bias": bias}).eval()

    def route(hidden: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = router.custom_routing_function(hidden, None, rule.k, True)
        return (weights if rule.scale == 1 else weights * rule.scale), ids  # a model's layer scales

    return route


def pt2(gate: Gate, folder: Path) -> Callable[[Tensor], Any]:
    """The torch.export program, interpreted by torch."""
    return cast(Callable[[Tensor], Any], _program(gate).module())


def aoti(gate: Gate, folder: Path) -> Callable[[Tensor], Any]:
    """The program compiled by AOTInductor, called without torch's Python wrapper."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    path = aoti_compile_and_package(_program(gate), package_path=str(folder / "gate.pt2"))
    run = cast(Any, aoti_load_package(path)).loader.run
    return lambda hidden: run([hidden])


def onnx(gate: Gate, folder: Path) -> Callable[[Tensor], Any]:
    """The ONNX model in ONNX Runtime, with as many threads as torch."""
    import onnxruntime

    path = folder / "gate.onnx"
    rows = torch.export.Dim("rows")
    torch.onnx.export(
        _Plain(gate).eval(),
        (torch.zeros(3, gate.weight.shape[1]),),
        str(path),
        dynamic_shapes={"hidden": {0: rows}},
        input_names=["hidden"],
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda hidden: session.run(None, {"hidden": hidden.numpy()})


FORMS: dict[str, Form] = {"layer": layer, "pt2": pt2, "aoti": aoti, "onnx": onnx}


def missing(form: str) -> str | None:
    """The missing programs or packages that a form needs, or None if it can be made."""
    if form == "aoti" and shutil.which("g++") is None:
        return "g++"
    if form == "onnx":
        names = [
            name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
        ]
        return ", ".join(names) or None
    return None


def _program(gate: Gate) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    return torch.export.export(
        _Plain(gate).eval(), (torch.zeros(3, gate.weight.shape[1]),), dynamic_shapes={"hidden": {0: rows}}
    )
