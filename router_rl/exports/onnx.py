"""A router as an ONNX graph with a dynamic number of rows, for ONNX Runtime.

Inputs: features [T, D] float32; state [T, S] float32 if the router has state; alive [N] bool, optional, all
true by default. `program` documents the outputs.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError
from experts.io.atomic import replacing, write_json

from ..routing import Router, Routing
from .format import Format
from .program import OUTPUTS, export_program, input_names

__all__ = ["FORMAT", "load", "usage", "write"]

_NEEDS = ("onnx", "onnxscript", "onnxruntime")


def write(router: Router, folder: Path) -> None:
    """Write `router.onnx`, weights included, and the router's description.

    Args:
        router: any deterministic router whose scorer can be written as ONNX.
        folder: the output folder; created if it does not exist.

    Raises:
        InputError: packages are missing.
        RouterError: the router is stochastic.
    """
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            "format", "onnx", f"needs {', '.join(missing)}", "pip install 'router-rl[export]', or use pt2"
        )
    import onnx
    import onnx.numpy_helper

    with _quiet():
        program = torch.onnx.export(
            export_program(router, masked=True),
            dynamo=True,
            opset_version=18,
            input_names=input_names(router, masked=True),
            output_names=list(OUTPUTS),
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    all_alive = torch.ones(len(router.experts), dtype=torch.bool).numpy()
    # An initialiser with an input's name is its default, which a caller may override.
    model.graph.initializer.append(onnx.numpy_helper.from_array(all_alive, "alive"))
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "router.onnx") as temporary:
        temporary.write_bytes(model.SerializeToString())
    inputs = input_names(router, masked=False)
    described = {"schema_version": 1, "format": "onnx", **router.spec(), "inputs": inputs}
    write_json(folder / "router.json", described)


def load(folder: Path) -> Callable[..., Routing]:
    """Load the graph into ONNX Runtime, one thread, as a function that returns a `Routing`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # hide the warning that `alive` has a default, which is intended
    session = onnxruntime.InferenceSession(
        str(folder / "router.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]

    def route(*inputs: Tensor, action_mask: Tensor | None = None) -> Routing:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        if action_mask is not None:
            feed["alive"] = action_mask.numpy()
        return Routing(*(torch.from_numpy(value) for value in session.run(list(OUTPUTS), feed)))

    return route


def usage(router: Router) -> str:
    """Return Python that loads and calls the export."""
    feed = ", ".join(f'"{name}": {name}.numpy()' for name in input_names(router, masked=False))
    return f"""import onnxruntime
onnxruntime.set_default_logger_severity(3)  # hide the warning that `alive` has a default, which is intended
session = onnxruntime.InferenceSession("router.onnx")
experts, weights, logits, fallback = session.run(None, {{{feed}}})
# An optional input "alive", [{len(router.experts)}] bool, says which experts may be chosen.
# On an empty batch, ONNX Runtime before 1.32 raises an error, and before 1.24 it ends the process."""


def _translations() -> dict[Any, Callable[..., Any]]:
    """Translations of operators that torch cannot export, or whose ONNX versions would route differently."""
    import onnxscript

    opset: Any = onnxscript.opset18

    def sort_stable(self: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        # TopK returns equal values by increasing index, as a stable sort does.
        size = opset.Gather(opset.Shape(self), opset.Constant(value_ints=[dim]))
        return opset.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    def sigmoid(self: Any) -> Any:
        # ONNX Runtime's own sigmoid never reaches 0, the score of a masked expert.
        return opset.Reciprocal(opset.Add(1.0, opset.Exp(opset.Neg(self))))

    def log_sigmoid(self: Any) -> Any:
        # The logarithm of a sigmoid of 0 would be NaN in a softmax.
        spread = opset.Log(opset.Add(1.0, opset.Exp(opset.Neg(opset.Abs(self)))))
        return opset.Sub(opset.Min(self, 0.0), spread)

    def amax(self: Any, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
        # ONNX Runtime's own ReduceMax ignores some NaN, so a row with NaN would not go to the fallback.
        axes = opset.Constant(value_ints=list(dim))
        is_nan = opset.Cast(opset.IsNaN(self), to=1)
        has_nan = opset.Greater(opset.ReduceMax(is_nan, axes, keepdims=int(keepdim)), 0.0)
        return opset.Where(has_nan, float("nan"), opset.ReduceMax(self, axes, keepdims=int(keepdim)))

    aten = torch.ops.aten
    return {
        aten.amax.default: amax,
        aten.sort.stable: sort_stable,
        aten.sigmoid.default: sigmoid,
        aten.log_sigmoid.default: log_sigmoid,
    }


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Suppress torch's warnings about packages that routers do not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(before)


FORMAT = Format(write=write, load=load, usage=usage)
