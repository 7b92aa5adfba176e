"""Route rows by SGLang's `TopK`: `python -m router_rl.exports.sglang_program REQUEST ANSWER`.

The program runs in SGLang's environment, where router-rl is installed without its dependencies.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .served_layers import VARIABLE

__all__ = ["main"]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Return the weights and expert ids of each case.

    Args:
        request: `cases`, each with the folder of its `router`, the `options` of its `TopK`, the number of
            `experts` and `features`, its `rows` [T][D], and optionally `alive` and `not_padded`.
    """
    importlib.import_module("sglang.srt.plugins").load_plugins()  # as each of SGLang's processes does
    settings = importlib.import_module("sglang.srt.server_args").ServerArgs(model_path="dummy", device="cpu")
    importlib.import_module("sglang.srt.runtime_context").publish(settings, role="scheduler")
    answers = []
    for case in request["cases"]:
        os.environ[VARIABLE] = case["router"]
        try:
            answers.append(_route(case))
        except ValueError as error:
            answers.append({"error": str(error)})
    return {"version": version("sglang"), "answers": answers}


def _route(case: dict[str, Any]) -> dict[str, Any]:
    options = dict(case["options"])
    if options.pop("biased", False):
        options["correction_bias"] = torch.ones(case["experts"])
    topk = importlib.import_module("sglang.srt.layers.moe.topk").TopK(**options)
    hidden = torch.tensor(case["rows"], dtype=torch.float32).view(-1, case["features"])
    served = topk.topk_config.custom_routing_function
    if served is not None and case.get("alive"):
        served.set_alive(case["alive"])
    padded = case.get("not_padded")
    output = topk.forward_native(
        hidden,
        torch.randn(len(hidden), case["experts"]),
        num_token_non_padded=None if padded is None else torch.tensor(padded),
    )
    return {
        "type": type(output).__name__,
        "weights": output.topk_weights.tolist(),
        "ids": output.topk_ids.tolist(),
        "fallbacks": None if served is None else served.status()["fallbacks"],
    }


if __name__ == "__main__":
    program_request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(program_request)), encoding="utf-8")
