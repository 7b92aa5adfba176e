"""Run a GGUF model in llama.cpp (package llama-cpp-py-sync) and read its logits and gates.

The model runs on the CPU with a float32 cache, so that its logits can be compared. A `GateTap` reads a
block's gate while the model runs, and can replace its choice.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from experts import InputError

__all__ = ["GateTap", "LlamaCpp", "is_installed", "llama_cpp_version"]

_F32, _MAP_FILE = 0, 1
_NODE = re.compile(r"(.*)-(\d+)")
_WEIGHTS = ("ffn_moe_weights_norm", "ffn_moe_weights_softmax")  # the weights before the model's scale


@dataclass
class GateTap:
    """Records the inputs and outputs of a model's gates, and can replace the outputs.

    Attributes:
        experts: E, number of routed experts of a block.
        k: experts per token.
        route: takes a block and its gate's inputs [T, H]; returns ids [T, k] and weights [T, k] that replace
            the gate's own. None does not change the gates.
        inputs: inputs [T, H] float32 of each batch, by block.
        ids: chosen experts [T, k] int64 of each batch, by block.
        weights: weights [T, k] float32 of each batch before the model's scale, by block.
    """

    experts: int
    k: int
    route: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None = None
    inputs: dict[int, list[Tensor]] = field(default_factory=dict)
    ids: dict[int, list[Tensor]] = field(default_factory=dict)
    weights: dict[int, list[Tensor]] = field(default_factory=dict)
    _last: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    _routed: tuple[Tensor, Tensor] | None = None

    def wants(self, name: str) -> bool:
        """Return whether a node of the graph is needed.

        Args:
            name: name of the node, such as `ffn_moe_topk-3`.
        """
        parts = _NODE.fullmatch(name)
        return parts is not None and (
            parts.group(1).endswith("norm") or parts.group(1) in ("ffn_moe_logits", "ffn_moe_topk", *_WEIGHTS)
        )

    def take(self, name: str, node: _Node) -> None:
        """Read a node that was just computed, and replace its values if `route` is set.

        Args:
            name: name of the node, such as `ffn_moe_topk-3`.
            node: its values.
        """
        operation, block = name.rsplit("-", 1)
        layer = int(block)
        if operation == "ffn_moe_logits":
            # The name of the norm before a gate depends on the architecture, but it is the last norm so far.
            rows = node.size // 4 // self.experts
            inputs = self._last.reshape(rows, -1)
            self.inputs.setdefault(layer, []).append(inputs)
            self._routed = None if self.route is None else self.route(layer, inputs)
        elif operation == "ffn_moe_topk":
            rows = len(self.inputs[layer][-1])
            starts = range(0, rows * self.experts * 4, self.experts * 4)  # a view of the rows of an argsort
            if self._routed is not None:
                for start, row in zip(starts, self._routed[0], strict=True):
                    node.write(row.to(torch.int32), start)
            ids = [node.read(torch.int32, start, self.k) for start in starts]
            self.ids.setdefault(layer, []).append(torch.stack(ids).long())
        elif operation in _WEIGHTS:
            rows = len(self.inputs[layer][-1])
            if self._routed is not None:
                node.write(self._routed[1].float(), 0)
            self.weights.setdefault(layer, []).append(
                node.read(torch.float32, 0, rows * self.k).view(rows, -1)
            )
        else:
            self._last = node.read(torch.float32, 0, node.size // 4)


@dataclass(frozen=True)
class _Node:
    """The memory of a node of llama.cpp's graph."""

    library: Any
    tensor: int

    @property
    def size(self) -> int:
        """Number of bytes from the first to the last element."""
        return int(self.library.ggml_nbytes(self.tensor))

    def read(self, dtype: torch.dtype, start: int, count: int) -> Tensor:
        values = torch.empty(count, dtype=dtype)
        assert start + values.nbytes <= self.size  # ggml ends the process on an access beyond the end
        self.library.ggml_backend_tensor_get(self.tensor, values.data_ptr(), start, values.nbytes)
        return values

    def write(self, values: Tensor, start: int) -> None:
        values = values.contiguous()
        assert start + values.nbytes <= self.size
        self.library.ggml_backend_tensor_set(self.tensor, values.data_ptr(), start, values.nbytes)


def is_installed() -> bool:
    """Return whether llama.cpp can be loaded."""
    return importlib.util.find_spec("llama_cpp_py_sync") is not None


def llama_cpp_version() -> str:
    """Return the installed build of llama.cpp, such as `b11739`."""
    import llama_cpp_py_sync as package

    return str(cast(Any, package).__llama_cpp_tag__)


class LlamaCpp:
    """A model that llama.cpp has loaded.

    Args:
        path: path of the GGUF file.
        context: maximum number of tokens of a sequence, and of a batch.
        threads: number of threads.
        tap: reads the gates; None runs the model unchanged.

    Attributes:
        tokens: V, size of the vocabulary.

    Raises:
        InputError: llama.cpp is not installed, or cannot load the file.
    """

    def __init__(
        self, path: Path, *, context: int = 512, threads: int = 1, tap: GateTap | None = None
    ) -> None:
        if not is_installed():
            fix = "pip install 'router-rl[llamacpp]'"
            raise InputError("gguf", str(path), "llama.cpp is not installed", fix)
        from llama_cpp_py_sync import _cffi_bindings as bindings

        self._lib: Any = bindings.get_lib()
        self._ffi: Any = bindings.get_ffi()
        self._context = self._model = None
        self._failure: Exception | None = None
        _silence(self._lib, self._ffi)
        self._lib.llama_backend_init()
        model_options = self._lib.llama_model_default_params()
        model_options.n_gpu_layers, model_options.load_mode = 0, _MAP_FILE
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), model_options)
        if self._model == self._ffi.NULL:
            self._model = None
            raise self._load_error(path)
        options = self._lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = _F32
        options.flash_attn_type = 0
        if tap is not None:
            self._callback = self._tapped(bindings.get_backend_base_lib(), tap)
            options.cb_eval = self._callback
        self._context = self._lib.llama_init_from_model(self._model, options)
        if self._context == self._ffi.NULL:
            self._context = None
            raise self._load_error(path)
        vocabulary = self._lib.llama_model_get_vocab(self._model)
        self.tokens = int(self._lib.llama_vocab_n_tokens(vocabulary))

    def __enter__(self) -> LlamaCpp:
        """Return the model; it is freed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the model."""
        if self._context is not None:
            self._lib.llama_free(self._context)
        if self._model is not None:
            self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def logits(self, tokens: Sequence[int], start: int = 0) -> Tensor:
        """Run one batch of tokens that follow `start` earlier ones.

        Args:
            tokens: T token ids.
            start: position of the first token; 0 clears the cache.

        Returns:
            logits [T, V] float32.

        Raises:
            InputError: llama.cpp rejects the batch, such as one without tokens.
        """
        if start == 0:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        batch = self._lib.llama_batch_init(max(len(tokens), 1), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for at, token in enumerate(tokens):
                batch.token[at], batch.pos[at], batch.logits[at] = token, start + at, 1
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
            code = self._lib.llama_decode(self._context, batch)
        finally:
            self._lib.llama_batch_free(batch)
        if self._failure is not None:
            raise self._failure
        if code != 0:
            raise InputError(
                "tokens", len(tokens), f"llama.cpp rejects this batch (code {code})", "use another"
            )
        values = self._lib.llama_get_logits(self._context)
        flat = np.frombuffer(self._ffi.buffer(values, len(tokens) * self.tokens * 4), dtype=np.float32)
        return torch.from_numpy(flat.reshape(len(tokens), self.tokens).copy())

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], Tensor]:
        """Generate tokens by greedy decoding.

        Args:
            prompt: token ids.
            count: number of tokens to generate.

        Returns:
            the tokens, and their logits [count, V] float32.
        """
        generated: list[int] = []
        rows = [self.logits(prompt)[-1]]
        for at in range(count):
            generated.append(int(rows[-1].argmax()))
            if at + 1 < count:
                rows.append(self.logits(generated[-1:], len(prompt) + at)[-1])
        return generated, torch.stack(rows)

    def _tapped(self, base: Any, tap: GateTap) -> Any:
        library = _tensor_functions(base)

        def callback(tensor: Any, ask: bool, _: Any) -> bool:
            address = int(self._ffi.cast("uintptr_t", tensor))
            name = library.ggml_get_name(address).decode(errors="replace")
            if ask:
                return tap.wants(name)
            try:
                if tap.wants(name):
                    tap.take(name, _Node(library, address))
            # An exception cannot pass through C code: end the batch and raise it afterwards.
            except Exception as error:
                self._failure = error
            return self._failure is None

        return self._ffi.callback("bool(struct ggml_tensor *, bool, void *)", callback)

    def _load_error(self, path: Path) -> InputError:
        reasons = [line.strip() for line in _MESSAGES if "error" in line.lower()]
        self.__exit__()
        problem = f"llama.cpp cannot load it ({reasons[0] if reasons else 'no reason given'})"
        return InputError("gguf", str(path), problem, "give another file")


_MESSAGES: list[str] = []
_CALLBACKS: list[Any] = []  # keeps the callback alive, which llama.cpp calls until the process ends


def _silence(library: Any, ffi: Any) -> None:
    """Collect llama.cpp's log messages in a list instead of printing them."""
    _MESSAGES.clear()
    if not _CALLBACKS:

        def keep(_level: int, text: Any, _data: Any) -> None:
            _MESSAGES.append(ffi.string(text).decode(errors="replace"))

        _CALLBACKS.append(ffi.callback("void(enum ggml_log_level, const char *, void *)", keep))
        library.llama_log_set(_CALLBACKS[0], ffi.NULL)


def _tensor_functions(base: Any) -> Any:
    """The functions of ggml that read and write a tensor; the package does not declare them."""
    import ctypes

    import llama_cpp_py_sync as package

    folder = Path(str(package.__file__)).parent
    path = next(path for path in sorted(folder.iterdir()) if "ggml-base" in path.name)
    assert base is not None  # the library is loaded, so CDLL returns the same one
    library: Any = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.ggml_get_name.argtypes, library.ggml_get_name.restype = [pointer], ctypes.c_char_p
    library.ggml_nbytes.argtypes, library.ggml_nbytes.restype = [pointer], size
    for name in ("ggml_backend_tensor_get", "ggml_backend_tensor_set"):
        function = getattr(library, name)
        function.argtypes, function.restype = [pointer, pointer, size, size], None
    return library
