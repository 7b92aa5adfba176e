"""Hand a trained router to inference code: one file a format, each checked against the trained router."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experts import InputError, OutcomeTable
from experts.io.atomic import writable_folder, write_json
from experts.io.errors import unknown_name

from ..problems.prompt_features import featurised
from ..routing import Router, RouterError
from . import aoti, gguf, onnx, pt2, safetensors, sglang, vllm
from .layers import layers_in
from .parity import Parity, check_parity, one_dead, parity_rows
from .readme import readme
from .transformers import layer_export as layer

__all__ = ["FORMATS", "Format", "Parity", "export", "export_layers", "layers_in"]


@dataclass(frozen=True)
class Format:
    """A way to write a router to a folder and to read it back, in its runtime, for the parity check.

    Attributes:
        write: writes the router to a folder.
        load: reads it back as a function of features, of state where the router has one, and of
            `action_mask`.
        about: one line.
        usage: Python that loads and calls it, run in the folder.
        guarded: whether a row that is not finite takes the fallback and an expert can be masked; a stock
            runtime's own gate does neither.
    """

    write: Callable[[Router, Path], None]
    load: Callable[[Path], Callable[..., Any]]
    about: str
    usage: Callable[[Router], str] = lambda router: ""
    guarded: bool = True


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        safetensors.write, safetensors.load, "weights and JSON; loaded with torch alone", safetensors.usage
    ),
    "pt2": Format(pt2.write, pt2.load, "torch.export programs with a dynamic number of rows", pt2.usage),
    "aoti": Format(aoti.write, aoti.load, "compiled for this CPU; loaded from C++ or Python", aoti.usage),
    "onnx": Format(onnx.write, onnx.load, "a graph for ONNX Runtime", onnx.usage),
    "vllm": Format(vllm.write, vllm.load, "a custom_routing_function: one file and weights", vllm.usage),
    "sglang": Format(sglang.write, sglang.load, "SGLang's top-k output: one file and weights", sglang.usage),
    "transformers": Format(
        layer.write,
        layer.load,
        "into a layer of a loaded transformers model: one file and weights",
        layer.usage,
        guarded=False,
    ),
    "gguf": Format(gguf.write, gguf.load, "a linear gate's tensors for llama.cpp", gguf.usage, guarded=False),
}


def export(
    router: Router, out: Path | str, *, format: str = "safetensors", table: OutcomeTable | None = None
) -> Parity:
    """Write a router to a folder, with `parity.json` and a `README.md` that says how to load it.

    The export is written next to the folder, loaded in its runtime, compared, and only then moved in place:
    a failed parity leaves what was there before.

    Args:
        router: a trained router.
        out: the folder; an earlier export in it is replaced.
        format: a name in `FORMATS`.
        table: rows to compare on; made ones if None.

    Raises:
        InputError: the format is unknown or needs what is not installed, or the folder cannot be written or
            holds something else.
        RouterError: the table is another router's, parity failed, or the router has no such form.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if not router.rule.causal:
        raise RouterError(
            f"{router.rule.name} selection looks at the whole batch, so it cannot route one request after "
            "another; train with topk to export"
        )
    out = Path(out)
    _check_replaceable(out)
    features = None
    if table is not None:
        if table.features is None and router.text is not None:
            table = featurised(table, router.text)
        router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
        assert table.features is not None
        features = torch.tensor(table.features[:: max(1, len(table) // 2048)])
    chosen = FORMATS[format]
    with _replacing_folder(out) as fresh:
        chosen.write(router, fresh)
        exported = chosen.load(fresh)
        inputs = parity_rows(router, features, odd=chosen.guarded)
        parity = check_parity(router, exported, inputs)
        facts = {
            "format": format,
            "rows_from": "table" if table is not None else "made",
            **parity.to_json(),
        }
        dead = one_dead(router, inputs) if chosen.guarded else None
        if dead is not None:
            facts["with_a_dead_expert"] = check_parity(router, exported, inputs, action_mask=dead).to_json()
        write_json(fresh / "parity.json", facts)
        (fresh / "README.md").write_text(readme(router, format, chosen.usage(router)), encoding="utf-8")
    return parity


def export_layers(routers: Mapping[int, Router], out: Path | str) -> dict[int, Parity]:
    """Write the routers of several layers of a model into one GGUF file, each checked as by `export`.

    Args:
        routers: by the number of their layer.
        out: the folder; an earlier export in it is replaced.

    Raises:
        InputError: as `export`, or there is no router.
        RouterError: one does not fold into a gate of llama.cpp, has another form, or parity failed.
    """
    out = Path(out)
    _check_replaceable(out)
    if not routers:
        raise InputError("routers", {}, "holds no router", "give one a layer")
    with _replacing_folder(out) as fresh:
        gguf.write_layers(routers, fresh)
        found = {
            layer: check_parity(router, gguf.load(fresh, layer), parity_rows(router, None, odd=False))
            for layer, router in sorted(routers.items())
        }
        layers = {str(layer): parity.to_json() for layer, parity in found.items()}
        write_json(fresh / "parity.json", {"format": "gguf", "rows_from": "made", "layers": layers})
        first = routers[min(routers)]
        usage = f"{gguf.usage(first)}\n# Layers, the N of blk.N: {', '.join(layers)}."
        (fresh / "README.md").write_text(readme(first, "gguf", usage), encoding="utf-8")
    return found


@contextmanager
def _replacing_folder(out: Path) -> Generator[Path]:
    """A folder beside `out` that takes its place when all went well."""
    parent = writable_folder("out", out.parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.") as temporary:
        fresh = Path(temporary) / "export"
        yield fresh
        if out.exists():
            out.rename(Path(temporary) / "before")
        fresh.rename(out)


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and (not any(out.iterdir()) or (out / "parity.json").exists()):
        return
    if out.exists():
        raise InputError("out", str(out), "exists and is not an export", "choose another folder")
