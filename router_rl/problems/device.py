"""The device that training runs on."""

from __future__ import annotations

import torch

from experts import InputError

__all__ = ["device_named"]


def device_named(name: str) -> torch.device:
    """The device of a name, such as `cpu` or `cuda:1`, after a computation on it.

    Args:
        name: as PyTorch spells it.

    Raises:
        InputError: this machine or this PyTorch cannot use it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` has no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise InputError("problem.device", name, f"cannot be used ({reason})", "use cpu") from error
    return device
