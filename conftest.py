"""Before any other conftest: what libraries read once, when they are first imported."""

from __future__ import annotations

import os

# A worker for each core: threads of BLAS and of OpenMP would wait for each other. Commands take this over.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton decides then whether it interprets its kernels
