"""A model to patch: its gates, and whether they are the original ones.

The folder of a patched model has a record, `router_patch.json`: the description of the patch, and a digest of
the original gates. An undo can be written only while the model has no record; later the digest identifies it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experts import InputError
from experts.moe import Checkpoint

from .host import Host, host_of_folder
from .patch_files import DESCRIPTION, SCHEMA_VERSION, Patch, read_description, read_patch, seal
from .shards import digest_without, raw, stored_dtype

__all__ = ["PatchTarget", "gate_names", "read_target"]

_HEADER = 1 << 16


@dataclass(frozen=True, kw_only=True)
class PatchTarget:
    """A model and its gates.

    Attributes:
        folder: folder of the model.
        host: the function that its gates compute.
        weights: all tensors.
        gates: the current gates by name, in the stored dtype.
        record: record of the model's patch, empty if it is damaged; None if the model is not patched.
    """

    folder: Path
    host: Host
    weights: Checkpoint
    gates: dict[str, Tensor]
    record: dict[str, Any] | None

    @cached_property
    def applies_to(self) -> str:
        """The digest of all tensors except the gates."""
        return digest_without(self.weights, self.gates)

    def original(self, coming: Patch | None = None, stored: Mapping[str, Tensor] | None = None) -> str | None:
        """Return the digest of the original gates; None if the model is patched and they are unknown.

        Args:
            coming: the patch to apply next. A model that has its gates is already patched, even without a
                record.
            stored: gates of that patch in the model's dtype.
        """
        if self.record is not None:
            return self.record.get("original")
        if coming is not None and stored is not None and not coming.restores and self.has(stored):
            return None
        return self.digest(self.gates, self.host.k)

    def digest(self, gates: Mapping[str, Tensor], k: int) -> str:
        """Return the digest of gates of this model.

        Args:
            gates: gates by name, in the stored dtype.
            k: experts per token.
        """
        digest = hashlib.sha256(str(k).encode())
        for name in sorted(gates):
            digest.update(json.dumps([name, str(gates[name].dtype), list(gates[name].shape)]).encode())
            digest.update(raw(gates[name]))
        return digest.hexdigest()

    def has(self, gates: Mapping[str, Tensor]) -> bool:
        """Return whether the current gates are equal to these, bit for bit."""
        return all(raw(self.gates[name]) == raw(tensor) for name, tensor in gates.items())

    def read(self, field: str, folder: Path) -> tuple[Patch, dict[str, Tensor]]:
        """Read a patch and check that it fits this model.

        Args:
            field: name of the option, for errors.
            folder: folder of the patch.

        Returns:
            the patch, and its gates in the model's dtype.

        Raises:
            InputError: the patch is damaged or was made for another model.
        """
        largest = _HEADER + sum(512 + 8 * tensor.numel() for tensor in self.gates.values())
        return self.fitted(field, folder, read_patch(field, folder, largest))

    def fitted(self, field: str, folder: Path, patch: Patch) -> tuple[Patch, dict[str, Tensor]]:
        """Check that a patch was made for this model.

        Args:
            field: name of the option, for errors.
            folder: folder of the patch, for errors.
            patch: the patch.

        Returns:
            the patch, and its gates in the model's dtype.

        Raises:
            InputError: the patch was made for another model, or overflows in the model's dtype.
        """

        def refuse(problem: str, fix: str = "give its own model") -> InputError:
            return InputError(field, str(folder), problem, fix)

        model_type = self.host.config.model_type
        if patch.model_type != model_type:
            problem = f"was made for {patch.model_type} but the model is {model_type}"
            raise refuse(problem, "give the model that its routers were trained on")
        shapes = {name: tensor.shape for name, tensor in patch.tensors.items()}
        if shapes != {name: tensor.shape for name, tensor in self.gates.items()}:
            raise refuse("has other gates than the model")
        if (patch.layers, patch.experts) != (self.host.layers, self.host.experts):
            raise refuse("has other layers or experts than the model")
        if patch.applies_to != self.applies_to:
            raise refuse(
                f"was made for the weights {patch.applies_to[:12]}, the model has {self.applies_to[:12]}"
            )
        stored = {name: tensor.to(stored_dtype(self.weights, name)) for name, tensor in patch.tensors.items()}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                raise refuse(f"has values in {name} that overflow in {tensor.dtype}", "scale the routers")
        return patch, stored

    def fields(self, k: int, restores: bool) -> dict[str, Any]:
        """Return the fields of a patch's description for this model.

        Args:
            k: experts per token.
            restores: whether the patch has the original gates.
        """
        return {
            "model_type": self.host.config.model_type,
            "architecture": self.host.architecture,
            "layers": list(self.host.layers),
            "experts": self.host.experts,
            "experts_per_token": k,
            "applies_to": self.applies_to,
            "restores": restores,
        }

    def record_of(self, patch: Patch, stored: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return the record that the model has with a patch; None if the patch restores the original gates.

        Args:
            patch: a patch for this model.
            stored: its gates in the model's dtype.
        """
        original = self.original(patch, stored)
        if original == self.digest(stored, patch.k) or (original is None and patch.restores):
            return None
        fields = self.fields(patch.k, restores=False)
        record = {"schema_version": SCHEMA_VERSION, **fields, "patch": patch.digest, "original": original}
        return seal(record)


def read_target(model: Path) -> PatchTarget:
    """Read a model's gates and its record.

    Args:
        model: folder of a mixture of experts.

    Raises:
        InputError: the model cannot be read.
    """
    host, weights = host_of_folder(model)
    names = gate_names(host, weights)
    record = None
    if os.path.lexists(model / DESCRIPTION):
        try:
            record = read_description("model", model)
        except InputError:
            record = {}  # the undo can still be applied
    gates = {name: weights.tensor(name) for name in names}
    return PatchTarget(folder=model, host=host, weights=weights, gates=gates, record=record)


def gate_names(host: Host, weights: Checkpoint) -> list[str]:
    """Return the names of all tensors of the gates in the model's files.

    Args:
        host: the model.
        weights: tensors of the model.
    """
    names = [
        name(layer)
        for layer in host.layers
        for name in (host.layout.gate_weight, host.layout.gate_bias, host.layout.gate_selection_bias)
    ]
    return [name for name in names if name in weights]
