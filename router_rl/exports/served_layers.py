"""Load exported routers for the plugins of vLLM and SGLang; needs torch alone.

The environment variable ROUTER_RL_ROUTER names a folder. It has an export layer-0, layer-1, ... for each of
the model's layers with experts, in order; or it is a single export, which routes all layers.
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
    """Return the subfolders layer-0, layer-1, ... of a folder by increasing number."""
    if not folder.is_dir():
        return {}
    folders = {
        int(match.group(1)): path
        for path in folder.iterdir()
        if (match := re.fullmatch(r"layer-(\d+)", path.name))
    }
    return dict(sorted(folders.items()))


def layers_with_experts(config: Any) -> list[int]:
    """Return the numbers of a model's layers that have experts.

    Args:
        config: the model's transformers configuration.
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
    """Return the routers that ROUTER_RL_ROUTER names; None if it is not set.

    Raises:
        ValueError: the folder has no export.
    """
    folder = os.environ.get(VARIABLE)
    return ServedRouters(Path(folder)) if folder else None


class ServedLayer:
    """Routes a layer's hidden states to the model's own experts; a `custom_routing_function`.

    In a model that was assembled with each expert cut into segments, one expert of the router is `segments`
    experts of the model.

    Args:
        router: the exported router.
        segments: number of the model's experts per expert of the router.
        scale: multiplies the weights of the model's experts.
        trims: for adaptive k on a CPU outside compiled graphs: return only as many slots as the row with the
            most experts uses, so that empty slots run no expert.
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
            gating_output: [T, E], output of the layer's own gate; only its shape is read.
            topk: not read.
            renormalize: not read.

        Returns:
            weights [T, k] float32 and ids [T, k] int32, with k and ids in the model's own experts.

        Raises:
            ValueError: the layer has another number of experts.
        """
        if gating_output.shape[-1] != self.experts:
            raise ValueError(
                f"the router is for {self.experts} experts, the layer has {gating_output.shape[-1]}"
            )
        weights, ids, _ = self.router.choose(hidden_states)
        if self.trims and weights.is_cpu and len(weights) and not torch.compiler.is_compiling():
            used = int((weights > 0).sum(dim=-1).max())  # unused slots are last
            weights, ids = weights[:, :used], ids[:, :used]
        if self.scale != 1.0:
            weights = weights * self.scale
        if self.segments != 1:
            ids = (ids.unsqueeze(-1) * self.segments + self.within).flatten(1)
            weights = weights.repeat_interleave(self.segments, dim=-1)
        return weights.contiguous(), ids.contiguous()  # vLLM's CPU kernel ignores strides

    def set_alive(self, alive: list[bool]) -> None:
        """Set which experts may be chosen, from the next call on.

        Args:
            alive: [N], True for experts of the router that may be chosen.

        Raises:
            ValueError: its length is not N.
        """
        if len(alive) != len(self.router.names):
            raise ValueError(
                f"alive has {len(alive)} values, but the router has {len(self.router.names)} experts"
            )
        self.router.alive.copy_(torch.tensor(alive, dtype=torch.bool))

    def status(self) -> dict[str, Any]:
        """Return the names of the experts, which of them may be chosen, and the number of fallback rows."""
        return {
            "experts": self.router.names,
            "alive": self.router.alive.tolist(),
            "fallbacks": int(self.router.fallbacks),
        }


class ServedRouters:
    """The exported routers in a folder.

    Args:
        folder: has layer-0, layer-1, ..., or is one export.

    Raises:
        ValueError: the folder has no export.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.layers = layers_in(self.folder)
        if not self.layers and not (self.folder / "router.json").is_file():
            raise ValueError(f"{VARIABLE}={folder} has neither router.json nor layer-0, layer-1, ...")

    def digest(self) -> str:
        """Return 16 hexadecimal digits that change if any of the routers changes."""
        digest = hashlib.sha256()
        for folder in self.layers.values() or [self.folder]:
            digest.update(folder.name.encode() + b"\0" + (folder / "router.json").read_bytes())
        return digest.hexdigest()[:16]

    def folder_of(self, number: int, layers: list[int]) -> Path:
        """Return the export that routes a layer.

        Args:
            number: number of the layer in the model.
            layers: numbers of the layers that have experts.

        Raises:
            ValueError: the exports have neither the numbers of these layers, nor 0, 1, 2, ...
        """
        if not self.layers:
            return self.folder
        numbers = list(self.layers)
        if number not in layers or (numbers != layers and numbers != list(range(len(layers)))):
            present, needed = ", ".join(map(str, numbers)), ", ".join(map(str, layers))
            raise ValueError(
                f"{self.folder} has routers layer-N for N = {present}, but the model's layers with experts "
                f"are {needed}; give one for each"
            )
        return self.layers[number] if numbers == layers else self.layers[layers.index(number)]

    def settings(self, folder: Path) -> dict[str, Any]:
        """Return the content of an export's `router.json`.

        Args:
            folder: folder of the export.

        Raises:
            ValueError: the export reads more than hidden states, or has another scorer.
        """
        settings: dict[str, Any] = json.loads((folder / "router.json").read_text(encoding="utf-8"))
        kind = settings["scorer"]["kind"]
        if kind not in ("linear", "mlp", "constant") or settings.get("state") or settings.get("text"):
            raise ValueError(f"{folder} is not a router of hidden states; export it with --format vllm")
        return settings

    def layer(
        self, folder: Path, *, segments: int, scale: float, device: torch.device, trims: bool = False
    ) -> ServedLayer:
        """Load the router of a layer.

        Args:
            folder: folder of the export.
            segments: number of the model's experts per expert of the router.
            scale: sum of the weights of a row.
            device: device of the layer.
            trims: as for `ServedLayer`.

        Raises:
            ValueError: the export is not a router of hidden states.
        """
        self.settings(folder)
        # Runtimes build models with their own default dtype and device; a router computes in float32.
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                router = load(folder)
        finally:
            torch.set_default_dtype(default_dtype)
        return ServedLayer(router.to(device), segments=segments, scale=scale / segments, trims=trims)

    def segments(self, folder: Path, experts: int, scale: float) -> int:
        """Return the number of the model's experts per expert of the router: an assembly's segments, or 1.

        Args:
            folder: folder of the export.
            experts: number of routed experts of the layer.
            scale: sum of the weights of a row that the model expects.

        Raises:
            ValueError: the numbers of experts do not fit.
        """
        rows = len(self.settings(folder)["experts"])
        segments, rest = divmod(experts, rows)
        if segments == 1 and rest == 0:
            return 1
        if rest == 0 and scale == segments:  # in an assembly, weights sum to the number of segments
            return segments
        raise ValueError(f"{folder} routes to {rows} experts, but the model's layer has {experts}")
