"""Routers in llama.cpp: GGUF models with trained gates, and llama.cpp itself to compare them in."""

from .gguf_patch import PatchedGguf, patch_gguf

__all__ = ["PatchedGguf", "patch_gguf"]
