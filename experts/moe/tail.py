"""The last layers of a frozen language model with N frozen FFNs in each, of which a router selects.

The trunk below is frozen too, so its output on a text is computed once. Routing happens in the tail:

    h <- h + attention(norm(h));  x = norm(h);  h <- h + sum_j w_j E_{e_j}(x)        at each layer
    logits = head(norm(h))                                                          after the last

`x` is the input of a stock gate. Experts are SwiGLU FFNs of the same shape (Llama, Mistral, Qwen). Shared
experts, which every token runs, are added to h before the selected ones.

Legend: S sequences, T tokens, L layers of the tail, N experts, H hidden size, I intermediate size,
V vocabulary size, k experts per token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.errors import InputError
from .expert_ffn import PARTS, ExpertFFN
from .padding import attention_mask, positions

__all__ = ["Choose", "Tail", "ffn_weights"]

# Layer number and gate inputs [S, T, H] to expert ids [S, T, k] int64 (N: no expert) and weights [S, T, k].
Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]

_LOGITS = 2**26  # maximum number of logits in memory


class Tail(nn.Module):
    """L frozen layers whose FFN is selected for each token.

    Args:
        layers: the decoder layers, transformers modules with `input_layernorm`, `self_attn` and
            `post_attention_layernorm`.
        norm: the model's final norm.
        head: [V, H] weight of the language-model head.
        rotary: the model's rotary embedding.
        experts: name -> one state per layer, `{"gate_proj": [I, H], "up_proj": [I, H], "down_proj": [H, I]}`.
        shared: one module per layer, from [..., H] to [..., H]; empty if there are no shared experts.
        dtype: of the frozen matrix products; the residual stream is float32.
        offload: folder for the experts' weights, one file per layer and expert, from which they are read
            while an expert runs; None: they stay in memory.

    Attributes:
        ffns: the experts of each layer.

    Raises:
        InputError: there are fewer than two experts, or an expert lacks an FFN of a layer.
    """

    head: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        norm: nn.Module,
        head: Tensor,
        rotary: nn.Module,
        experts: Mapping[str, Sequence[Mapping[str, Tensor]]],
        *,
        shared: Sequence[nn.Module] = (),
        dtype: torch.dtype = torch.float32,
        offload: Path | None = None,
    ) -> None:
        super().__init__()
        if len(experts) < 2:
            raise InputError("experts", list(experts), "routing needs a choice", "give 2 or more experts")
        wrong = {name: len(states) for name, states in experts.items() if len(states) != len(layers)}
        if wrong:
            raise InputError(
                "experts", wrong, f"the tail has {len(layers)} layers", "give each expert one FFN per layer"
            )
        self.names = tuple(experts)
        self.dtype = dtype
        self.attention = nn.ModuleList(_part(layer, "self_attn").to(dtype) for layer in layers)
        self.norm_in = nn.ModuleList(_part(layer, "input_layernorm").float() for layer in layers)
        self.norm_out = nn.ModuleList(_part(layer, "post_attention_layernorm").float() for layer in layers)
        self.shared = nn.ModuleList(module.to(dtype) for module in shared)
        self.norm = norm.float()
        self.rotary = rotary
        self.register_buffer("head", head.detach().to(dtype))

        def ffn(layer: int, name: str) -> ExpertFFN:
            made = ExpertFFN(experts[name][layer], dtype)
            if offload is not None:
                made.offload(offload / str(layer) / f"{name}.safetensors")
            return made

        rows = ([ffn(layer, name) for name in self.names] for layer in range(len(layers)))
        self.ffns = nn.ModuleList(nn.ModuleList(row) for row in rows)
        self.eval().requires_grad_(False)

    def ffn(self, layer: int, expert: int) -> ExpertFFN:
        """Return the network of one expert in one layer.

        Args:
            layer: 0 to L - 1.
            expert: 0 to N - 1.
        """
        of_layer = self.ffns[layer]
        assert isinstance(of_layer, nn.ModuleList)
        ffn = of_layer[expert]
        assert isinstance(ffn, ExpertFFN)
        return ffn

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.attention)

    @property
    def experts(self) -> int:
        """N, the number of experts."""
        return len(self.names)

    @property
    def largest_input(self) -> float:
        """Bound on the absolute inputs of the gates: RMSNorm's are at most sqrt(H) times its gain."""
        gain = max(float(norm.get_parameter("weight").abs().max()) for norm in self.norm_out)
        return gain * self.hidden**0.5

    @property
    def hidden(self) -> int:
        """H, the hidden size."""
        return self.head.shape[1]

    @property
    def flops(self) -> float:
        """FLOPs of one expert on one token at one layer; a multiply-add counts as 2."""
        return 2.0 * 3.0 * self.ffn(0, 0).width * self.hidden

    def attend(
        self, layer: int, hidden: Tensor, cache: Any = None, first: int = 0, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run a layer up to its FFN.

        Args:
            layer: 0 to L - 1.
            hidden: [S, T, H] float32, the residual stream.
            cache: transformers' cache of keys and values, which this call extends; None: the tokens attend to
                each other only. With earlier tokens in it, T must be 1.
            first: position of the first token, padding included.
            start: [S] int64, padding in front of each sequence; None: none.

        Returns:
            The residual stream after attention and the shared experts, and the gate's input x, both
            [S, T, H] float32.
        """
        normed = self.norm_in[layer](hidden).to(self.dtype)
        places = positions(start, first, hidden.shape[1]).to(hidden.device)
        mask = attention_mask(start, first, hidden.shape[1])
        if mask is not None:
            mask = mask.to(hidden.device, self.dtype)
        rotary: Any = self.rotary(normed, position_ids=places)
        # By position, because the name of the cache's argument depends on the version of transformers.
        mixed = self.attention[layer](normed, rotary, mask, *([] if cache is None else [cache]))[0]
        hidden = hidden + mixed.float()
        x = self.norm_out[layer](hidden)
        if len(self.shared):
            hidden = hidden + self.shared[layer](x.to(self.dtype)).float()
        return hidden, x

    def outputs(self, layer: int, x: Tensor) -> Tensor:
        """Return every expert's output on the same inputs.

        Args:
            layer: 0 to L - 1.
            x: [..., H] float32.

        Returns:
            [..., N, H] float32.
        """
        flat = x.reshape(-1, x.shape[-1])
        every = [self.run(layer, expert, flat) for expert in range(self.experts)]
        return torch.stack(every, dim=1).reshape(*x.shape[:-1], self.experts, -1)

    def run(self, layer: int, expert: int, x: Tensor) -> Tensor:
        """Return one expert's output.

        Args:
            layer: 0 to L - 1.
            expert: 0 to N - 1.
            x: [..., H] float32.

        Returns:
            [..., H] float32.
        """
        return self.ffn(layer, expert)(x.to(self.dtype)).float()

    def mix(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Return `sum_j w_j E_{e_j}(x)`; only the selected experts run.

        Args:
            layer: 0 to L - 1.
            x: [..., H] float32.
            experts: [..., k] int64; the id N stands for no expert.
            weights: [..., k] float32.

        Returns:
            [..., H] float32.
        """
        flat = x.reshape(-1, x.shape[-1])
        k = experts.shape[-1]
        ids, parts = experts.reshape(-1), weights.reshape(-1)
        mixed = torch.zeros_like(flat)
        for expert in range(self.experts):
            slots = (ids == expert).nonzero().squeeze(-1)
            if len(slots):
                rows = slots // k
                out = self.run(layer, expert, flat[rows]) * parts[slots].unsqueeze(-1)
                mixed = mixed.index_add(0, rows, out)
        return mixed.reshape(x.shape)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of the next token.

        Args:
            hidden: [S, T, H] float32, the residual stream after the last layer.
            targets: [S, T] int64, the next tokens.

        Returns:
            [S, T] float32, nats.
        """
        flat, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
        rows = max(1, _LOGITS // len(self.head))
        parts = [
            F.cross_entropy(self.logits(h), t, reduction="none")
            for h, t in zip(flat.split(rows), labels.split(rows), strict=True)
        ]
        return torch.cat(parts).reshape(targets.shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., V] float32 of the next token.

        Args:
            hidden: [..., H] float32, the residual stream after the last layer.
        """
        return F.linear(self.norm(hidden).to(self.dtype), self.head).float()

    def forward(
        self,
        hidden: Tensor,
        choose: Choose,
        cache: Any = None,
        first: int = 0,
        start: Tensor | None = None,
    ) -> Tensor:
        """Run all layers with a router.

        Args:
            hidden: [S, T, H] float32, trunk states.
            choose: the router, see `Choose`.
            cache, first, start: see `attend`.

        Returns:
            [S, T, H] float32, the residual stream after the last layer.
        """
        for layer in range(self.depth):
            hidden, x = self.attend(layer, hidden, cache, first, start)
            hidden = hidden + self.mix(layer, x, *choose(layer, x))
        return hidden

    def along(self, hidden: Tensor, expert: int) -> Tensor:
        """Run all layers with one expert for every token.

        Args:
            hidden: [S, T, H] float32, trunk states.
            expert: 0 to N - 1.

        Returns:
            [S, T, H] float32, the residual stream after the last layer.
        """
        for layer in range(self.depth):
            hidden, x = self.attend(layer, hidden)
            hidden = hidden + self.run(layer, expert, x)
        return hidden

    def fingerprint(self) -> str:
        """Return the SHA-256 of the experts' names and all weights, equal for bit-identical frozen parts."""
        digest = hashlib.sha256("\0".join(self.names).encode())

        def add(name: str, tensor: Tensor) -> None:
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())

        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith("ffns."):
                add(name, tensor)
        for layer in range(self.depth):
            for expert in range(self.experts):
                for part, weight in self.ffn(layer, expert).weights().items():
                    add(f"{layer}.{expert}.{part}", weight)
        return digest.hexdigest()


def ffn_weights(layer: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a decoder layer's FFN, by the names that `Tail` takes.

    Args:
        layer: a transformers decoder layer.

    Raises:
        InputError: the FFN is not SwiGLU, or has biases.
    """
    ffn = _part(layer, "mlp")
    state = {name.removesuffix(".weight"): tensor.detach() for name, tensor in ffn.state_dict().items()}
    act = getattr(ffn, "act_fn", None)
    if set(state) != set(PARTS) or not (act is None or "silu" in type(act).__name__.lower()):
        raise InputError(
            "base", sorted(state), "its FFNs are not SwiGLU", "use a Llama, Mistral or Qwen model"
        )
    return state


def _part(layer: nn.Module, name: str) -> nn.Module:
    part = getattr(layer, name, None)
    if not isinstance(part, nn.Module):
        raise InputError("base", type(layer).__name__, f"has no {name}", "use a Llama, Mistral or Qwen model")
    return part
