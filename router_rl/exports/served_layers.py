"""Exported routers as the plugins of vLLM and SGLang serve them; needs torch alone.

The environment variable ROUTER_RL_ROUTER names a folder with one export per layer of the model, `layer-N` for
its layer N, or a single export that routes every layer.
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

__all__ = ["VARIABLE", "ServedLayer", "ServedRouters", "layers_in", "served_routers"]

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
    """

    def __init__(self, router: StandaloneRouter, *, segments: int = 1, scale: float = 1.0) -> None:
        self.router = router
        self.segments = segments
        self.scale = scale
        self.k = router.k * segments
        self.within = torch.arange(segments, dtype=torch.int32, device=router.alive.device)

    def __call__(
        self, hidden_states: Tensor, gating_output: Tensor, topk: int, renormalize: bool
    ) -> tuple[Tensor, Tensor]:
        """Route hidden states [T, D]; the other arguments are the runtime's and not read.

        Returns:
            weights [T, k] float32 and ids [T, k] int32, k as the model counts its experts.
        """
        weights, ids, _ = self.router.chosen(hidden_states)
        if self.scale != 1.0:
            weights = weights * self.scale
        if self.segments == 1:
            return weights, ids
        ids = (ids.unsqueeze(-1) * self.segments + self.within).flatten(1)
        return weights.repeat_interleave(self.segments, dim=-1), ids

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

    def layer(
        self, number: int, *, experts: int, scale: float, applied: bool, device: torch.device
    ) -> ServedLayer:
        """Load the router of a layer.

        Args:
            number: of the layer in the model.
            experts: routed experts of the layer.
            scale: what the weights of a row must sum to.
            applied: the runtime multiplies the experts' outputs by it; otherwise the router must.
            device: of the layer.

        Raises:
            ValueError: there is no export for the layer, or it does not fit the model.
        """
        folder = self.layers.get(number) if self.layers else self.folder
        if folder is None:
            held = ", ".join(map(str, self.layers))
            raise ValueError(f"{self.folder} has routers for layers {held}, but none for layer {number}")
        settings = json.loads((folder / "router.json").read_text(encoding="utf-8"))
        kind = settings["scorer"]["kind"]
        if kind not in ("linear", "mlp", "constant") or settings.get("state") or settings.get("text"):
            raise ValueError(f"{folder} is no router of hidden states alone; export it with --format vllm")
        # Models are built with their own type and device as torch's defaults; a router counts in float32.
        with torch.device("cpu"):
            usual = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
            try:
                router = load(folder)
            finally:
                torch.set_default_dtype(usual)
        segments = _segments(folder, len(router.names), experts, scale)
        return ServedLayer(router.to(device), segments=segments, scale=(1.0 if applied else scale) / segments)


def _segments(folder: Path, rows: int, experts: int, scale: float) -> int:
    """How many of the model's experts one of the router's is."""
    if rows == experts:
        return 1
    each, rest = divmod(experts, rows)
    if rest == 0 and scale == each:  # weights that sum to the number of segments: an assembly's
        return each
    raise ValueError(f"{folder} routes to {rows} experts, but the model's layer has {experts}")
