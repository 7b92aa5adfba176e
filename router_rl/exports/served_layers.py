"""Exported routers as the plugins of vLLM and SGLang serve them; needs torch alone.

The environment variable ROUTER_RL_ROUTER names a folder with one export, layer-0, layer-1, ..., for each of
the model's layers that have experts, in order; or a single export that routes them all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .standalone import StandaloneRouter, load

__all__ = ["VARIABLE", "ServedLayer", "ServedRouters", "layers_in", "layers_with_experts", "served_routers"]

VARIABLE = "ROUTER_RL_ROUTER"


def layers_in(folder: Path) -> dict[int, Path]:
    """The folders layer-0, layer-1, ... in a folder, by increasing number; empty where it has none."""
    if not folder.is_dir():
        return {}
    folders = {
        int(match.group(1)): path
        for path in folder.iterdir()
        if (match := re.fullmatch(r"layer-(\d+)", path.name))
    }
    return dict(sorted(folders.items()))


def layers_with_experts(config: Any) -> list[int]:
    """The numbers of a model's layers that have experts.

    Args:
        config: its transformers configuration.
    """
    dense = set(getattr(config, "mlp_only_layers", None) or [])
    first = getattr(config, "first_k_dense_replace", None) or 0
    step = getattr(config, "decoder_sparse_step", None) or 1
    every = getattr(config, "moe_layer_freq", None) or 1
    return [
        layer
        for layer in range(first, config.num_hidden_layers)
        if layer not in dense
        and (layer + 1) % step == 0
        and (every[layer] if isinstance(every, list) else layer % every == 0)
    ]


def served_routers() -> ServedRouters | None:
    """The routers that the environment names, or None where it names none.

    Raises:
        ValueError: the folder holds no export.
    """
    named = os.environ.get(VARIABLE)
    return ServedRouters(Path(named)) if named else None


class ServedLayer:
    """Routes a layer's hidden states to the model's own experts, as `custom_routing_function`.

    Where the model was assembled with each expert cut into segments, an expert of the router is that many
    experts of the model.

    Args:
        router: of the export.
        segments: the model's experts for each of the router's.
        scale: multiplies the weights of the model's experts.
        trims: for adaptive k on a CPU, outside compiled graphs, return no more slots than the row with most
            experts uses, so that the others run no expert.
    """

    def __init__(
        self, router: StandaloneRouter, *, segments: int = 1, scale: float = 1.0, trims: bool = False
    ) -> None:
        self.router = router
        self.segments = segments
        self.scale = scale
        self.k = router.k * segments
        self.experts = len(router.names) * segments
        self.trims = trims and router.rule["rule"] == "adaptive_k"
        self.within = torch.arange(segments, dtype=torch.int32, device=router.alive.device)

    def __call__(
        self, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        """Route hidden states [T, D].

        Args:
            hidden_states: [T, D] float.
            gating_output: [T, E] of the layer's own gate; only its size is read.
            topk: not read.
            renormalize: not read.

        Returns:
            weights [T, k] float32 and ids [T, k] int32, k as the model counts its experts.

        Raises:
            ValueError: the layer has another number of experts.
        """
        if gating_output.shape[-1] != self.experts:
            raise ValueError(
                f"the router is for {self.experts} experts, the layer has {gating_output.shape[-1]}"
            )
        weights, ids, _ = self.router.chosen(hidden_states)
        if self.trims and weights.is_cpu and len(weights) and not torch.compiler.is_compiling():
            used = int((weights > 0).sum(dim=-1).max())  # unused slots are last
            weights, ids = weights[:, :used], ids[:, :used]
        if self.scale != 1.0:
            weights = weights * self.scale
        if self.segments != 1:
            ids = (ids.unsqueeze(-1) * self.segments + self.within).flatten(1)
            weights = weights.repeat_interleave(self.segments, dim=-1)
        return weights.contiguous(), ids.contiguous()  # vLLM's kernel on a CPU does not look at strides

    def set_alive(self, alive: list[bool]) -> None:
        """Say which experts may be chosen, from the next call on.

        Args:
            alive: [N], for the router's experts.

        Raises:
            ValueError: its length is not N.
        """
        if len(alive) != len(self.router.names):
            raise ValueError(
                f"alive has {len(alive)} values, but the router has {len(self.router.names)} experts"
            )
        self.router.alive.copy_(torch.tensor(alive, dtype=torch.bool))

    def status(self) -> dict[str, Any]:
        """The experts' names, which may be chosen, and how many rows took the fallback."""
        return {
            "experts": self.router.names,
            "alive": self.router.alive.tolist(),
            "fallbacks": int(self.router.fallbacks),
        }


class ServedRouters:
    """The exports of a folder.

    Args:
        folder: with layer-0, layer-1, ..., or one export.

    Raises:
        ValueError: it holds no export.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.layers = layers_in(self.folder)
        if not self.layers and not (self.folder / "router.json").is_file():
            raise ValueError(f"{VARIABLE}={folder} holds neither router.json nor layer-0, layer-1, ...")

    def digest(self) -> str:
        """16 hexadecimal digits that change with any of the routers."""
        digest = hashlib.sha256()
        for folder in self.layers.values() or [self.folder]:
            digest.update(folder.name.encode() + b"\0" + (folder / "router.json").read_bytes())
        return digest.hexdigest()[:16]

    def folder_of(self, number: int, layers: list[int]) -> Path:
        """The export that routes a layer.

        Args:
            number: of the layer in the model.
            layers: those that have experts.

        Raises:
            ValueError: the exports are neither numbered as the layers with experts are, nor in order.
        """
        if not self.layers:
            return self.folder
        named = list(self.layers)
        if number not in layers or (named != layers and named != list(range(len(layers)))):
            held, needed = ", ".join(map(str, named)), ", ".join(map(str, layers))
            raise ValueError(
                f"{self.folder} has routers layer-N for N = {held}, but the model's layers with experts are "
                f"{needed}; give one for each"
            )
        return self.layers[number] if named == layers else self.layers[layers.index(number)]

    def settings(self, folder: Path) -> dict[str, Any]:
        """What an export says of its router.

        Args:
            folder: of the export.

        Raises:
            ValueError: it is of another kind than a layer's router.
        """
        settings: dict[str, Any] = json.loads((folder / "router.json").read_text(encoding="utf-8"))
        kind = settings["scorer"]["kind"]
        if kind not in ("linear", "mlp", "constant") or settings.get("state") or settings.get("text"):
            raise ValueError(f"{folder} is no router of hidden states alone; export it with --format vllm")
        return settings

    def layer(
        self, folder: Path, *, segments: int, scale: float, device: torch.device, trims: bool = False
    ) -> ServedLayer:
        """Load the router of a layer.

        Args:
            folder: of the export.
            segments: the model's experts for each of the router's.
            scale: what the weights of a row sum to.
            device: of the layer.
            trims: as for `ServedLayer`.

        Raises:
            ValueError: the export is of another kind.
        """
        self.settings(folder)
        # Models are built with their own type and device as torch's defaults; a router counts in float32.
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                router = load(folder)
        finally:
            torch.set_default_dtype(usual)
        return ServedLayer(router.to(device), segments=segments, scale=scale / segments, trims=trims)

    def segments(self, folder: Path, experts: int, scale: float) -> int:
        """How many of the model's experts one expert of the router is: an assembly's segments, or 1.

        Args:
            folder: of the export.
            experts: routed experts of the layer.
            scale: what the model expects the weights of a row to sum to.

        Raises:
            ValueError: the numbers of experts do not fit.
        """
        rows = len(self.settings(folder)["experts"])
        each, rest = divmod(experts, rows)
        if each == 1 and rest == 0:
            return 1
        if rest == 0 and scale == each:  # weights that sum to the number of segments: an assembly's
            return each
        raise ValueError(f"{folder} routes to {rows} experts, but the model's layer has {experts}")
