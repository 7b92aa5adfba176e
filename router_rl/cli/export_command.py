"""`export`: export a trained router for inference code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from experts import InputError
from experts.io.value_range import NonNegative

from .command import Command

__all__ = ["COMMAND", "run_export"]


def run_export(
    run: Path,
    *,
    out: Path,
    format: str = "safetensors",
    table: str | None = None,
    at: NonNegative | None = None,
    distil: bool = False,
    verify: Path | None = None,
) -> dict[str, Any]:
    """Export a trained router for inference code, with a parity check.

    Args:
        run: the run folder; or the folder of a comparison, whose recommended router is exported; or the
            routers of a model's layers, for gguf, vllm, sglang and transformers: a folder of exported routers
            named layer-0, layer-1, ..., or a routers.safetensors.
        out: output folder; an earlier export in it is replaced.
        format: export format, see `list`: safetensors, pt2, aoti, onnx, vllm, sglang, transformers, gguf.
        table: table whose rows the parity check uses; random rows without it.
        at: compute weight to fix a conditioned router at; without it the weight stays an input.
        distil: export a linear router distilled from this one, and report its loss on the table's test rows.
        verify: a model of mixtures that the router was trained for, which runs with the router in the
            format's own runtime. For gguf: a GGUF file, in llama.cpp. For vllm, sglang and transformers: a
            folder; ROUTER_RL_RUNTIME_PYTHON names the Python that has vLLM or SGLang, if it is another.
    """
    from experts import open_table

    from ..exports import export, layers_in
    from ..problems.routing.folding import for_objective
    from ..routing import Router
    from ..studies.distillation import distil_for
    from ..studies.recommended_run import is_comparison, read_recommended
    from ..studies.runs import read_run

    layers: dict[int, Path] = layers_in(run)
    if layers or run.suffix == ".safetensors":
        plain = (table, at, distil) == (None, None, False)
        return _export_layers(run, layers, out, format, plain=plain, verify=verify)
    trained = read_recommended(run) if is_comparison(run) else read_run(run)
    rows = None if table is None else open_table(table)
    if not isinstance(trained.policy, Router):
        return _export_policy(trained, out, format, plain=(at, distil, verify) == (None, False, None))
    router = trained.router
    objective = None if at is None and not distil else trained.objective
    if at is not None:
        assert objective is not None
        if not any(part.name == "compute_weight" for part in router.state):
            reason = "no input of this router can be fixed"
            raise InputError("at", at, reason, "leave it out, or train with conditioned_pg or priced_pg")
        objective = replace(objective, compute_weight=at)
        router = for_objective(router, objective)
    figures: dict[str, Any] = {}
    if distil:
        assert objective is not None
        if rows is None:
            raise InputError("table", None, "a linear router is fitted to rows", "give --table with --distil")
        distilled = distil_for(router, rows, objective, trained.scale, bias=format != "gguf")
        router, figures = distilled.router, {"distilled": distilled.to_json()}
    also = {f"{name}.json": facts for name, facts in figures.items()}
    parity = export(router, out, format=format, rows=rows, also=also, verify=verify)
    return {"router": str(out), "format": format, **parity.to_json(), **_in_runtime(out, verify), **figures}


def _export_policy(trained: Any, out: Path, format: str, *, plain: bool) -> dict[str, Any]:
    from ..exports import export

    name = trained.facts["problem"]["name"]
    if trained.policy is None:
        fix = (
            "give handover its router/routers.safetensors" if name == "token_moe" else "train another method"
        )
        raise InputError("run", str(trained.folder), f"has no policy of {name} that can be exported", fix)
    if not plain:
        raise InputError(
            "run", str(trained.folder), f"has a policy of {name}", "leave --at, --distil and --verify out"
        )
    parity = export(trained.policy, out, format=format)
    return {"router": str(out), "format": format, **parity.to_json()}


def _export_layers(
    run: Path, layers: dict[int, Path], out: Path, format: str, *, plain: bool, verify: Path | None
) -> dict[str, Any]:
    if not plain:
        problem = "has one router per layer"
        raise InputError("run", str(run), problem, "leave --table, --at and --distil out, or export each")
    from ..exports import export_layers
    from ..routing import Router
    from .handover_files import read_routers

    read = read_routers(run, "run")
    routers: dict[int, Router] = {}
    for layer, router in zip(layers or range(len(read)), read, strict=True):
        if not isinstance(router, Router):
            problem = "does not say how its routers select experts"
            raise InputError("run", str(run), problem, "train them again, or give the folder of an export")
        routers[layer] = router
    parities = export_layers(routers, out, format, verify=verify)
    parity = {f"layer {layer}": parity.to_json() for layer, parity in parities.items()}
    return {"router": str(out), "format": format, "layers": parity, **_in_runtime(out, verify)}


def _in_runtime(out: Path, verify: Path | None) -> dict[str, Any]:
    """Return the comparison in the runtime itself, if `verify` asks for one, from parity.json."""
    if verify is None:
        return {}
    return {"runtime": json.loads((out / "parity.json").read_text(encoding="utf-8"))["runtime"]}


COMMAND = Command(
    run=run_export,
    positional=(("run", Path, "a run folder of `train`, a comparison, or the routers of a model's layers"),),
    switches=(
        ("distil", "export a linear router distilled from this one, and report its loss; needs --table"),
    ),
)
