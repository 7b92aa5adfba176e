"""Pools of frozen experts that answer the same queries, with a fingerprint of their weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..io.atomic import replacing
from ..io.errors import InputError
from ..io.json_types import check_type, parse_json
from .costs import Profile, profile

__all__ = ["Expert", "ExpertPool"]

_METADATA = "router_rl"


@dataclass(frozen=True, eq=False, slots=True)
class Expert:
    """A named module with a cost.

    Args:
        name: distinct within its pool.
        module: maps inputs [B, ...] to class logits [B, C].
        cost: >= 0 for one item, in the same unit for the whole pool (FLOPs in the embedded sources).
        profile: its measured costs, if they were measured.

    Raises:
        InputError: the name is empty, or the cost is negative or not finite.
    """

    name: str
    module: nn.Module
    cost: float
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("name", self.name, "an expert needs one", "name it")
        if not (math.isfinite(self.cost) and self.cost >= 0):
            raise InputError(
                "cost", self.cost, f"expert {self.name!r} needs a finite cost >= 0", "measure it"
            )

    @classmethod
    def measured(cls, name: str, module: nn.Module, example: torch.Tensor) -> Expert:
        """Return an expert whose cost is its FLOPs per item.

        Args:
            name: of the expert.
            module: maps inputs [B, ...] to class logits [B, C].
            example: [B, ...] inputs to measure it on.
        """
        costs = profile(module, example)
        return cls(name, module, costs.flops_per_item, costs)


class ExpertPool:
    """N frozen experts: the pool sets them to evaluation mode and turns their gradients off."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        """Freeze the experts.

        Args:
            experts: N >= 2 experts with distinct names.

        Raises:
            InputError: there are fewer than two experts, or two have the same name.
        """
        names = [expert.name for expert in experts]
        if len(names) < 2:
            raise InputError("experts", names, "routing needs a choice", "give 2 or more experts")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError("experts", twice, "occurs twice", "give each expert its own name")
        self.experts = tuple(experts)
        for expert in self.experts:
            expert.module.eval().requires_grad_(False)

    def __len__(self) -> int:
        return len(self.experts)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in order."""
        return tuple(expert.name for expert in self.experts)

    @property
    def costs(self) -> torch.Tensor:
        """[N] float64: each expert's cost for one item."""
        return torch.tensor([expert.cost for expert in self.experts], dtype=torch.float64)

    def run(self, inputs: torch.Tensor, batch_size: int = 1024) -> torch.Tensor:
        """Return every expert's class logits for every input.

        Args:
            inputs: [T, ...] on any device; each batch is moved to the expert's device.
            batch_size: inputs per forward pass.

        Returns:
            [T, N, C] float32, on the device of `inputs`.

        Raises:
            InputError: there are no inputs, the batch size is below 1, or experts differ in their classes.
        """
        if batch_size < 1:
            raise InputError("batch_size", batch_size, "is below 1", "give 1 or more")
        if len(inputs) == 0:
            raise InputError("inputs", tuple(inputs.shape), "is empty", "give at least one input")
        outputs: list[torch.Tensor] = []
        with torch.inference_mode():
            for expert in self.experts:
                device = next(_tensors(expert.module), inputs).device
                logits = [expert.module(batch.to(device)) for batch in inputs.split(batch_size)]
                outputs.append(torch.cat(logits).to(inputs.device, torch.float32))
        shapes = {name: tuple(output.shape[1:]) for name, output in zip(self.names, outputs, strict=True)}
        if len(set(shapes.values())) > 1:
            raise InputError(
                "experts", shapes, "outputs differ in shape", "give every expert the same classes"
            )
        # Outside inference mode, so that later code may use the result in a graph.
        return torch.stack(outputs, dim=1)

    def profile(self, example: torch.Tensor) -> dict[str, Profile]:
        """Return the costs of each expert by name, measured now.

        Args:
            example: [B, ...] inputs.
        """
        return {expert.name: profile(expert.module, example) for expert in self.experts}

    def fingerprint(self) -> str:
        """Return the SHA-256 of all names, parameters and buffers; it is equal for bit-identical experts."""
        return _fingerprint(self._state())

    def save(self, path: Path | str) -> None:
        """Write all weights to one safetensors file, atomically.

        Args:
            path: the file.
        """
        metadata = {"schema_version": 1, "experts": list(self.names), "fingerprint": self.fingerprint()}
        # safetensors refuses tied parameters, so each is cloned.
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._state().items()}
        with replacing(path) as temporary:
            save_file(state, temporary, metadata={_METADATA: json.dumps(metadata)})

    def load(self, path: Path | str) -> None:
        """Read weights that `save` wrote for experts of the same names and sizes; a bad file changes nothing.

        Args:
            path: the file.

        Raises:
            InputError: the file does not exist, is not safetensors, or belongs to another pool.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError("weights", str(path), "no such file", "pretrain the experts and save them")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = parse_json((file.metadata() or {}).get(_METADATA, "{}").encode())
            check_type(metadata, dict[str, object], "")
            state = load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            problem = f"is not a safetensors file ({error})"
            raise InputError("weights", str(path), problem, "pretrain the experts again") from error
        names = metadata.get("experts")
        if names != list(self.names):
            problem = f"{path} belongs to another pool, this one has {list(self.names)}"
            raise InputError("experts", names, problem, "load the file of this pool")
        own = self._state()
        if _sizes(own) != _sizes(state):
            problem = "holds weights of other shapes or dtypes"
            raise InputError("weights", str(path), problem, "pretrain the experts again")
        if _fingerprint(state) != metadata.get("fingerprint"):
            raise InputError(
                "weights", str(path), "its fingerprint does not match", "pretrain the experts again"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def _state(self) -> dict[str, torch.Tensor]:
        return {
            f"{expert.name}/{name}": tensor
            for expert in self.experts
            for name, tensor in itertools.chain(
                expert.module.named_parameters(remove_duplicate=False),
                expert.module.named_buffers(remove_duplicate=False),
            )
        }


def _sizes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def _fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> itertools.chain[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
