"""Builds SGLang's `TopK` layers with the plugin, and routes rows by them: sglang_layers.py REQUEST ANSWER."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Return weights and ids of each case: its exports, its layer's options, and its rows."""
    from sglang.srt.plugins import load_plugins
    from sglang.srt.runtime_context import publish
    from sglang.srt.server_args import ServerArgs

    load_plugins()  # as each of SGLang's processes does
    publish(ServerArgs(model_path="dummy", device="cpu"), role="scheduler")
    answers = []
    for case in request["cases"]:
        os.environ["ROUTER_RL_ROUTER"] = case["router"]
        try:
            answers.append(_route(case))
        except ValueError as error:
            answers.append({"error": str(error)})
    return {"version": version("sglang"), "answers": answers}


def _route(case: dict[str, Any]) -> dict[str, Any]:
    from sglang.srt.layers.moe.topk import TopK

    options = dict(case["options"])
    if options.pop("biased", False):
        options["correction_bias"] = torch.ones(case["experts"])
    topk = TopK(**options)
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
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(asked)), encoding="utf-8")
