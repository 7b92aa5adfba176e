"""A router over LoRA adapters of one base: one base model, adapters of a few MB, an adapter for each token.

The folder holds the adapters as PEFT wrote them and the routers of the last layers; the base stays where it
is. In each routed layer the router reads the input of the feed-forward network and selects the adapters that
the token runs there. It computes what the mixture of the merged adapters computes (`assemble` with the
base's attention), in the memory of the base.

    adapter_router.json         names, layers, and a digest of the base's weights
    routers.safetensors         as `LayerRouters.save` writes them
    adapters/NAME/              adapter_config.json and adapter_model.safetensors
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from torch import Tensor, nn

from experts import InputError
from experts.io.atomic import write_json
from experts.io.json_file import read_json, sealed
from experts.io.owned_folder import check_replaceable, replacing_folder
from experts.moe.adapted_ffn import AdaptedFFN, Factors
from experts.moe.donors import Donor, feed_forward, open_base
from experts.moe.frozen_base import load_base
from experts.moe.lora_adapter import ADAPTER_FILES, AdaptedWeights
from experts.moe.model_files import Checkpoint

from ...routing import Router, RouterError
from .routers_file import read_layer_routers
from .shards import digest_without

__all__ = ["AdapterRouter", "load_adapter_router", "write_adapter_router"]

_DESCRIPTION, _ROUTERS, _ADAPTERS = "adapter_router.json", "routers.safetensors", "adapters"
_FIX = "write it again with handover --adapters"
_PARTS = ("gate_proj", "up_proj", "down_proj")


class _Description(TypedDict):
    """`adapter_router.json`."""

    schema_version: Literal[1]
    base: str
    base_digest: str
    adapters: list[str]
    layers: list[int]
    experts_per_token: int


@dataclass(frozen=True, kw_only=True)
class AdapterRouter:
    """What `write_adapter_router` wrote.

    Attributes:
        folder: of the adapter router.
        base: name of the base, which is not in the folder.
        adapters: names, in the order of the routers' experts.
        layers: layers with a router.
        experts_per_token: adapters that a token runs in each of them.
        adapter_bytes: size of all adapters.
        merged_bytes: size of the feed-forward networks that merged adapters would have.
        warnings: what the adapters change that is not routed.
    """

    folder: str
    base: str
    adapters: tuple[str, ...]
    layers: tuple[int, ...]
    experts_per_token: int
    adapter_bytes: int
    merged_bytes: int
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary."""
        return asdict(self)


def write_adapter_router(
    routers: Path | str, base: Path | str, adapters: Sequence[Path | str], out: Path | str
) -> AdapterRouter:
    """Write trained routers and the adapters that they select as one folder; nothing is merged.

    Args:
        routers: `routers.safetensors` of a run with the same base and adapters.
        base: folder of the base; it is neither changed nor copied.
        adapters: folders of LoRA adapters of the base, as PEFT saves them.
        out: the folder to write; an earlier one of this function is replaced.

    Raises:
        InputError: a file cannot be read, the routers have other experts or layers, or `out` has other files.
        RouterError: the selection rule is unknown, or needs more than a token's own state.
    """
    check_replaceable(Path(out))
    ancestor = open_base(base)
    opened = {
        Path(folder).name: AdaptedWeights(Path(folder), _files(ancestor), "adapters") for folder in adapters
    }
    layered = _read(Path(routers))
    names = layered[0].experts
    if sorted(names) != sorted(opened) or len(opened) < len(adapters):
        problem = (
            f"are {', '.join(Path(folder).name for folder in adapters)}; the routers' are {', '.join(names)}"
        )
        raise InputError("adapters", [str(folder) for folder in adapters], problem, "give the run's adapters")
    total = int(ancestor.config.num_hidden_layers)
    if len(layered) > total or layered[0].features != ancestor.config.hidden_size:
        problem = f"holds {len(layered)} routers of {layered[0].features} features, which the base has not"
        raise InputError("routers", str(routers), problem, "give the base that they were trained on")
    layers = tuple(range(total - len(layered), total))
    routed = {name for layer in layers for name in feed_forward(layer)}
    outside = {name: sorted(set(opened[name].shapes) - routed) for name in names}
    unrouted = sorted({_layer_of(key) for keys in outside.values() for key in keys if ".mlp." in key})
    if unrouted:
        problem = f"change feed-forward networks of layers {unrouted}, which have no router"
        raise InputError("adapters", list(opened), problem, "give the run's adapters")
    warnings = tuple(
        f"{name} also adapts {keys[0]} and {len(keys) - 1} others, which are not routed: the base's are used"
        for name, keys in outside.items()
        if keys
    )
    with replacing_folder(Path(out)) as fresh:
        for name in names:
            (fresh / _ADAPTERS / name).mkdir(parents=True)
            for file in ADAPTER_FILES:
                shutil.copyfile(opened[name].folder / file, fresh / _ADAPTERS / name / file)
        shutil.copyfile(routers, fresh / _ROUTERS)
        described: _Description = {
            "schema_version": 1,
            "base": ancestor.name,
            "base_digest": digest_without(_files(ancestor), ()),
            "adapters": list(names),
            "layers": list(layers),
            "experts_per_token": layered[0].rule.k,
        }
        write_json(fresh / _DESCRIPTION, sealed(described))
    sizes = [_files(ancestor).shapes[name] for name in sorted(routed)]
    element = _files(ancestor).tensor(sorted(routed)[0]).element_size()
    return AdapterRouter(
        folder=str(out),
        base=ancestor.name,
        adapters=names,
        layers=layers,
        experts_per_token=layered[0].rule.k,
        adapter_bytes=sum((Path(out) / _ADAPTERS / name / ADAPTER_FILES[1]).stat().st_size for name in names),
        merged_bytes=len(names) * element * sum(rows * columns for rows, columns in sizes),
        warnings=warnings,
    )


def load_adapter_router(folder: Path | str, base: Path | str) -> Any:
    """Return the base as transformers loads it, in float32, with routed adapters in its last layers.

    It generates as any causal language model of transformers; `.to(dtype)` and `.to(device)` move it whole.

    Args:
        folder: of `write_adapter_router`.
        base: folder of the base that it was written for.

    Raises:
        InputError: the folder is damaged, or the base is another one.
    """
    home = Path(folder)
    described = cast(_Description, read_json("folder", home / _DESCRIPTION, _Description, fix=_FIX))
    layered, ancestor = _read(home / _ROUTERS), open_base(base)
    if digest_without(_files(ancestor), ()) != described["base_digest"]:
        problem = f"is not the base that the adapter router was written for, {described['base']}"
        raise InputError("base", str(base), problem, "give its base")
    names, layers = described["adapters"], described["layers"]
    if list(layered[0].experts) != names or len(layered) != len(layers):
        raise InputError("folder", str(folder), "has routers of other adapters or layers", _FIX)
    safe = [Path(name).name == name and name not in ("", ".", "..") for name in names]
    if not all(safe) or layers != list(range(layers[0], ancestor.config.num_hidden_layers)):
        raise InputError("folder", str(folder), "names adapters or layers that cannot be", _FIX)
    opened = [AdaptedWeights(home / _ADAPTERS / name, _files(ancestor), "folder") for name in names]
    model = cast(Any, load_base(base, len(layers)).model)
    for router, layer in zip(layered, layers, strict=True):
        block = model.model.layers[layer]
        adapters = [_factors(weights, layer) for weights in opened]
        block.mlp = _RoutedAdapters(router, AdaptedFFN(block.mlp, adapters))
    return model.eval().requires_grad_(False)


class _RoutedAdapters(nn.Module):
    """The feed-forward network of a layer: its router, and the adapters."""

    def __init__(self, router: Router, adapted: AdaptedFFN) -> None:
        super().__init__()
        self._router = [router]  # no submodule: it stays in float32 when the model is moved to another dtype
        self.adapted = adapted

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., H] to [..., H]."""
        x = hidden.reshape(-1, hidden.shape[-1])
        routing = self._router[0].to(x.device)(x.float())
        return cast(Tensor, self.adapted(x, routing.experts, routing.weights)).reshape(hidden.shape)


def _files(base: Donor) -> Checkpoint:
    """The tensors of a base."""
    assert isinstance(base.weights, Checkpoint)
    return base.weights


def _read(path: Path) -> list[Router]:
    """The routers of all layers, with their rule."""
    routers = [router for router in read_layer_routers(path) if isinstance(router, Router)]
    if not routers:
        problem = "has no selection rule and no names of experts"
        raise InputError("routers", str(path), problem, "give the routers.safetensors of a run")
    for router in routers:
        if not router.rule.causal:
            raise RouterError(f"{router.rule.name} selection reads later tokens, which do not exist yet")
    return routers


def _factors(weights: AdaptedWeights, layer: int) -> Factors:
    """The factors of one layer's projections, as far as the adapter changes them."""
    names = dict(zip(feed_forward(layer), _PARTS, strict=True))
    return {part: weights.factors(name) for name, part in names.items() if name in weights}


def _layer_of(name: str) -> int:
    return int(re.findall(r"\.layers\.(\d+)\.", f".{name}")[0])
