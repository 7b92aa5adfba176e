"""The frozen FFN of one expert in one layer; its weights can stay on disk (accelerate's offloading)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.atomic import replacing
from ..io.errors import InputError

__all__ = ["PARTS", "ExpertFFN"]

PARTS = ("gate_proj", "up_proj", "down_proj")


class ExpertFFN(nn.Module):
    """A SwiGLU network, `down(silu(gate x) * up x)`.

    Source: Shazeer 2020, equation 6, https://arxiv.org/abs/2002.05202.

    Args:
        state: `gate_proj` and `up_proj` [I, H], `down_proj` [H, I].
        dtype: of the weights.

    Attributes:
        width: I, the intermediate size.
    """

    gate_proj: Tensor
    up_proj: Tensor
    down_proj: Tensor

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        for part in PARTS:
            self.register_buffer(part, state[part].detach().to(dtype))
        self.width = len(self.gate_proj)
        self._on_disk: Mapping[str, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [..., H].

        Args:
            x: [..., H], in the dtype of the weights.
        """
        opened = F.silu(F.linear(x, self.gate_proj)) * F.linear(x, self.up_proj)
        return F.linear(opened, self.down_proj)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, from disk if they are there."""
        return {part: self._on_disk[part] if self._on_disk else getattr(self, part) for part in PARTS}

    def offload(self, path: Path) -> None:
        """Move the weights to a file, from which they are mapped into memory while the network runs.

        Args:
            path: the safetensors file, which is written, atomically.

        Raises:
            InputError: accelerate is not installed.
        """
        try:
            from accelerate.hooks import AlignDevicesHook, add_hook_to_module
            from accelerate.utils import OffloadedWeightsLoader
        except ImportError as error:
            problem = "keeps experts on disk, and is not installed"
            raise InputError("accelerate", None, problem, "pip install 'router-rl[moe]'") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file({part: weight.contiguous() for part, weight in self.weights().items()}, temporary)
        files = {part: {"safetensors_file": str(path)} for part in PARTS}
        self._on_disk = OffloadedWeightsLoader(index=files)
        hook = AlignDevicesHook("cpu", offload=True, offload_buffers=True, weights_map=self._on_disk)
        add_hook_to_module(self, hook)
