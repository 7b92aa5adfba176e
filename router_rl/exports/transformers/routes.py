"""Record which experts a mixture of experts ran for each token, and run the same experts again.

An inference engine and a trainer compute slightly different router logits. Near ties they run other experts
and give different log-probabilities to the same tokens. Replay fixes the experts to the recorded ones. Their
weights are computed from the trainer's own logits, so gradients reach the router.

Source: Ma et al. (2025), "Stabilizing MoE Reinforcement Learning by Aligning Training and Inference Routers"
(rollout routing replay, R3).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from experts import InputError
from experts.io.atomic import replacing

from ...routing import RouterError
from .host import Host, host_of_model

__all__ = ["Routes", "RoutesRecorder", "record_routes", "replay_routes"]

_TOLERANCE = 0.01  # of weights in bfloat16, which have three digits


@dataclass(frozen=True, eq=False)
class Routes:
    """The experts of each token.

    Attributes:
        experts: [N, B, L, k] int64, for the N layers that have a gate, B sequences and L tokens.
    """

    experts: Tensor

    def __post_init__(self) -> None:
        if self.experts.ndim != 4 or self.experts.is_floating_point():
            shape = list(self.experts.shape)
            raise RouterError(f"routes are [layers, sequences, tokens, k] integers, not {shape}")

    @classmethod
    def of_vllm(cls, routed_experts: np.ndarray) -> Routes:
        """Read what vLLM records of one sequence with `enable_return_routed_experts`.

        Args:
            routed_experts: [L, N, k] integers, `CompletionOutput.routed_experts`. vLLM never runs the last
                sampled token, so L is one less than the number of tokens.

        Returns:
            the routes of one sequence.
        """
        if routed_experts.ndim != 3:
            raise RouterError(f"vLLM records [tokens, layers, k] integers, not {list(routed_experts.shape)}")
        return cls(torch.from_numpy(routed_experts.astype(np.int64)).transpose(0, 1).unsqueeze(1))

    def save(self, path: Path | str) -> None:
        """Write the routes to a safetensors file, atomically."""
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(save({"experts": self.experts.cpu().contiguous()}))

    @classmethod
    def load(cls, path: Path | str) -> Routes:
        """Read the routes of a file that `save` wrote.

        Raises:
            InputError: the file does not hold routes.
        """
        try:
            return cls(load(Path(path).read_bytes())["experts"])
        except (OSError, SafetensorError, KeyError, RouterError) as error:
            problem = f"does not hold routes ({error})"
            raise InputError("routes", str(path), problem, "give a file that Routes.save wrote") from error


class RoutesRecorder:
    """Collects the experts of each forward pass while `record_routes` is active."""

    def __init__(self, layers: int) -> None:
        self._parts: list[list[Tensor]] = [[] for _ in range(layers)]

    @property
    def routes(self) -> Routes:
        """The experts of all tokens so far; the tokens of later passes follow those of earlier ones.

        Raises:
            RouterError: nothing was recorded, or the passes had different numbers of sequences.
        """
        if not all(self._parts):
            raise RouterError("no routes were recorded; run the model inside record_routes")
        if len({part.shape[0] for part in self._parts[0]}) > 1:
            raise RouterError("the passes had different numbers of sequences; record each batch on its own")
        return Routes(torch.stack([torch.cat(parts, dim=1) for parts in self._parts]))

    def add(self, layer: int, experts: Tensor) -> None:
        """Append the experts [B, L, k] of a layer's forward pass."""
        self._parts[layer].append(experts.detach().long())


@contextmanager
def record_routes(model: Any) -> Generator[RoutesRecorder, None, None]:
    """Record the experts of every token that a model runs, also in `generate`.

    Args:
        model: a mixture of experts of transformers, of an architecture that `patch` supports.

    Yields:
        the recorder, whose `routes` are those of all passes so far.

    Raises:
        InputError: the architecture is not supported.

    Examples:
        with record_routes(engine) as recorder:
            tokens = engine.generate(prompt, max_new_tokens=64)
        with replay_routes(trainer, recorder.routes):
            logits = trainer(tokens[:, :-1]).logits
    """
    gates = _gates(host_of_model(model), model)
    recorder = RoutesRecorder(len(gates))
    with ExitStack() as hooks:
        current = _Pass()
        _watch(hooks, model, current)
        for at, gate in enumerate(gates):

            def record(_gate: nn.Module, _inputs: Any, outputs: Any, at: int = at) -> None:
                recorder.add(at, outputs[2].view(*current.shape(), -1))

            hooks.callback(gate.register_forward_hook(record).remove)
        yield recorder


@contextmanager
def replay_routes(model: Any, routes: Routes) -> Generator[None, None, None]:
    """Make every token run its recorded experts, weighted by the model's own logits.

    Later passes continue where earlier ones ended, so routes recorded token by token can be replayed in one
    pass and vice versa. Without gradient checkpointing, which runs gates again outside the forward pass.

    Args:
        model: a mixture of experts of transformers, of an architecture that `patch` supports.
        routes: the routes to replay, of as many layers as the model has gates.

    Raises:
        InputError: the architecture is not supported.
        RouterError: the routes do not fit the model or the tokens, or the weights of a gate are not the
            normalised scores of its logits, such as those of a swapped router that does not fold.
    """
    host = host_of_model(model)
    gates = _gates(host, model)
    experts = routes.experts.to(model.device)
    if len(experts) != len(gates):
        raise RouterError(f"the routes have {len(experts)} layers, but {len(gates)} layers have gates")
    if experts.numel() and not 0 <= int(experts.min()) <= int(experts.max()) < host.experts:
        raise RouterError(
            f"the routes have experts {int(experts.min())} to {int(experts.max())}, but the model has "
            f"experts 0 to {host.experts - 1}"
        )
    with ExitStack() as hooks:
        current = _Pass()
        _watch(hooks, model, current)
        for at, gate in enumerate(gates):

            def replay(gate: nn.Module, _inputs: Any, outputs: Any, at: int = at) -> tuple[Tensor, ...]:
                logits, weights, own = outputs
                (sequences, tokens), start = current.shape(), current.start
                part = experts[at, :, start : start + tokens]
                if part.shape[:2] != (sequences, tokens):
                    raise RouterError(
                        f"the routes are of {experts.shape[1]} sequences of {experts.shape[2]} tokens; the "
                        f"model runs {sequences} sequences, tokens {start} to {start + tokens - 1}"
                    )
                _check_weights(gate, host.layers[at], logits, weights, own)
                part = part.reshape(-1, part.shape[-1])
                return logits, _weights(gate, logits, part).to(weights.dtype), part

            hooks.callback(gate.register_forward_hook(replay).remove)
        yield


class _Pass:
    """The forward pass that runs now: its numbers of sequences and tokens, and its first token."""

    def __init__(self) -> None:
        self.start = 0
        self._shape: tuple[int, int] | None = None

    def begin(self, shape: tuple[int, int]) -> None:
        self._shape = shape

    def end(self) -> None:
        self.start += self.shape()[1]
        self._shape = None

    def shape(self) -> tuple[int, int]:
        if self._shape is None:
            raise RouterError(
                "a gate ran outside the model's forward pass; switch gradient checkpointing off"
            )
        return self._shape


def _watch(hooks: ExitStack, model: Any, current: _Pass) -> None:
    """Tell `current` when a forward pass begins and ends."""

    def begin(_model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [*inputs[:1], named.get("input_ids"), named.get("inputs_embeds")]
        tokens = next(cast(Tensor, each) for each in given if each is not None)
        current.begin((int(tokens.shape[0]), int(tokens.shape[1])))

    hooks.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
    hooks.callback(model.register_forward_hook(lambda *_: current.end()).remove)


def _gates(host: Host, model: Any) -> list[nn.Module]:
    return [model.get_submodule(host.layout.gate_module(layer)) for layer in host.layers]


def _weights(gate: nn.Module, logits: Tensor, experts: Tensor) -> Tensor:
    """Return the weights [T, k] that a stock gate gives to these experts, in float32."""
    is_sigmoid = hasattr(gate, "e_score_correction_bias")
    scores = logits.float().sigmoid() if is_sigmoid else logits.float().softmax(dim=-1)
    weights = scores.gather(1, experts)
    if getattr(gate, "norm_topk_prob", True):
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return weights * getattr(gate, "routed_scaling_factor", 1.0)


@torch.no_grad()
def _check_weights(gate: nn.Module, layer: int, logits: Tensor, weights: Tensor, experts: Tensor) -> None:
    """Check that `_weights` computes what the gate computes, on the gate's own experts."""
    if not torch.allclose(_weights(gate, logits, experts), weights.float(), atol=_TOLERANCE, rtol=_TOLERANCE):
        raise RouterError(
            f"layer {layer}: the weights of {type(gate).__name__} are not the normalised scores of its logits"
        )
