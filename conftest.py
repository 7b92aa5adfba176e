"""Before any other conftest: Triton decides when it is first imported whether it interprets its kernels."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
