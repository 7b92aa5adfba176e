"""Assembly of dense models with a common ancestor into a mixture of experts that stock transformers loads.

Attention, embeddings and norms come from the base or are averaged; the feed-forward networks become experts
(sparse upcycling, Komatsuzaki et al. 2023, https://arxiv.org/abs/2212.05055; Branch-Train-MiX, Sukhbaatar et
al. 2024, section 3.2, https://arxiv.org/abs/2403.07816), whole or in segments with shared ones (DeepSeekMoE,
Dai et al. 2024, section 3, https://arxiv.org/abs/2401.06066). One layer at a time is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..io.atomic import write_json
from ..io.errors import InputError, unknown_name
from ..io.owned_folder import check_replaceable, replacing_folder
from ..io.progress import track
from .donors import Donor, feed_forward, open_base, open_donor, survey
from .forms import EMPTY_SHARED_WIDTH, Form, configuration
from .layout import Layout, layout_of
from .model_files import CheckpointWriter
from .segments import FFN, cut, mean

__all__ = ["Assembly", "AssemblyOptions", "assemble"]

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The description of an assembled mixture, written as `assembly.json` in its folder.

    Attributes:
        form: `mixtral` or `deepseek`.
        model_type: the architecture in transformers.
        base: the base's name.
        experts: the donors' names in the order of the experts; with segments, each has `segments - shared`
            consecutive experts.
        moe_layers: layers with a mixture; the others are dense.
        experts_per_token: donors that a token runs, counted in neurons.
        segments: number of segments of an FFN; 1 for whole FFNs.
        shared: number of segments that every token runs.
        trunk: `base` or `average`, the origin of attention and embeddings.
        trunk_distance: by donor, the distance of its attention and embeddings from the base's, relative to
            the base's norm.
        dropped_layers: dense layers in which the donors' FFNs differ; they use the trunk's FFN.
    """

    form: Form
    model_type: str
    base: str
    experts: tuple[str, ...]
    moe_layers: tuple[int, ...]
    experts_per_token: int
    segments: int
    shared: int
    trunk: str
    trunk_distance: dict[str, float]
    dropped_layers: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `assembly.json`."""
        return {"schema_version": 1, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class AssemblyOptions:
    """The form of an assembled mixture.

    Attributes:
        form: `mixtral` (softmax gate, whole experts) or `deepseek` (sigmoid gate with selection bias,
            segments and shared experts).
        layers: the layers with a mixture: `differing` (the donors' FFNs differ), `all`, or layer numbers. The
            others stay dense.
        experts_per_token: donors that a token runs, counted in neurons, 1 to the number of donors.
        segments: number of segments of an FFN in the `deepseek` form; divides the FFN's size.
        shared: number of segments that every token runs in that form, 1 to `segments - 1`.
        trunk: attention, embeddings, norms and dense layers of the base, or the donors' average.
        seed: of the gates.
    """

    form: Form = "mixtral"
    layers: Sequence[int] | Literal["differing", "all"] = "differing"
    experts_per_token: int = 2
    segments: int = 4
    shared: int = 1
    trunk: Literal["base", "average"] = "base"
    seed: int = 0


def assemble(
    base: Path | str,
    experts: Sequence[Path | str],
    out: Path | str,
    *,
    options: AssemblyOptions | None = None,
    progress: bool = True,
    **changes: Any,
) -> Assembly:
    """Write a mixture of experts as a transformers folder: configuration, sharded safetensors, tokenizer.

    Gates are random. In the `deepseek` form the segments of one donor have the same gate row, so that a token
    selects whole donors until the gates are trained.

    Args:
        base: folder of the common ancestor, of Llama, Mistral, Qwen2 or Qwen3 form.
        experts: folders of models fine-tuned from it, or of its LoRA adapters; a folder can hold the trained
            tensors only.
        out: the folder to write; an earlier assembly in it is replaced.
        options: the form of the mixture; the defaults if None.
        progress: show progress on stderr.
        changes: fields of `AssemblyOptions`, in place of those of `options`.

    Returns:
        The description of the mixture.

    Raises:
        InputError: a donor has another form, shape, tokenizer or ancestor, or an option does not fit.
    """
    plan = replace(options or AssemblyOptions(), **changes)
    if plan.form not in ("mixtral", "deepseek"):
        raise unknown_name("form", plan.form, ["mixtral", "deepseek"])
    if plan.trunk not in ("base", "average"):
        raise unknown_name("trunk", plan.trunk, ["average", "base"])
    out = Path(out)
    check_replaceable(out)
    ancestor = open_base(base)
    donors = [open_donor(ancestor, folder) for folder in experts]
    _check_numbers(
        ancestor.config, len(donors), plan.form, plan.experts_per_token, plan.segments, plan.shared
    )
    differences = survey(ancestor, donors, progress=progress)
    moe_layers = _moe_layers(plan.layers, differences.differing, ancestor.config.num_hidden_layers, plan.form)
    if plan.form == "mixtral":
        plan = replace(plan, segments=1, shared=0)
    config = configuration(
        ancestor.config,
        plan.form,
        moe_layers=moe_layers,
        experts=len(donors),
        experts_per_token=plan.experts_per_token,
        segments=plan.segments,
        shared=plan.shared,
    )
    names = _distinct([donor.name for donor in donors])
    result = Assembly(
        form=plan.form,
        model_type=config.model_type,
        base=ancestor.name,
        experts=names,
        moe_layers=moe_layers,
        experts_per_token=plan.experts_per_token,
        segments=plan.segments,
        shared=plan.shared,
        trunk=plan.trunk,
        trunk_distance=dict(zip(names, differences.trunk_distance, strict=True)),
        dropped_layers=tuple(layer for layer in differences.differing if layer not in moe_layers),
    )
    with replacing_folder(out) as fresh:
        _write_weights(fresh, ancestor, donors, config, result, plan.seed, progress)
        config.save_pretrained(fresh)
        for name in _COPIED:
            if (ancestor.weights.folder / name).is_file():
                shutil.copyfile(ancestor.weights.folder / name, fresh / name)
        write_json(fresh / "assembly.json", result.to_json())
    return result


def _write_weights(
    folder: Path, base: Donor, donors: list[Donor], config: Any, plan: Assembly, seed: int, progress: bool
) -> None:
    """Write one file for tensors outside the layers, one for each layer, and one for all gates."""
    layout = layout_of(config)
    count = config.num_hidden_layers
    names: dict[int, list[str]] = {layer: [] for layer in range(-1, count)}
    for name in base.weights.shapes:
        parts = name.split(".")
        if not (name == "lm_head.weight" and config.tie_word_embeddings):
            names[int(parts[2]) if name.startswith("model.layers.") else -1].append(name)
    writer = CheckpointWriter(folder, count + 2)
    sources = donors if plan.trunk == "average" else [base]
    for layer in track(range(-1, count), "assembling", count + 1, shown=progress):
        sparse = layer in plan.moe_layers
        ffn = set(feed_forward(layer)) if sparse else set[str]()
        tensors = {name: _averaged(sources, name) for name in names[layer] if name not in ffn}
        if sparse:
            tensors |= _mixture(layer, donors, config, layout, plan)
        writer.write(tensors)
    writer.write(_gates(config, layout, plan, seed))
    writer.finish()


def _mixture(
    layer: int, donors: list[Donor], config: Any, layout: Layout, plan: Assembly
) -> dict[str, Tensor]:
    """The tensors of one layer's experts by name."""
    ffns = [FFN(*(donor.tensor(name) for name in feed_forward(layer))) for donor in donors]
    tensors: dict[str, Tensor] = {}
    block = f"model.layers.{layer}.{layout.block}"
    if plan.shared:
        common, ffns = cut(ffns, plan.segments, plan.shared)
        for part, tensor in zip(layout.parts, common, strict=True):
            tensors[f"{block}.shared_experts.{part}.weight"] = tensor
    for expert, ffn in enumerate(ffns):
        tensors |= dict(zip(layout.expert(layer, expert), ffn, strict=True))
    if config.model_type == "qwen2_moe":
        dtype, hidden = ffns[0].up.dtype, config.hidden_size
        for part in layout.parts:
            shape = (hidden, EMPTY_SHARED_WIDTH) if part == "down_proj" else (EMPTY_SHARED_WIDTH, hidden)
            tensors[f"{block}.shared_expert.{part}.weight"] = torch.zeros(shape, dtype=dtype)
        tensors[f"{block}.shared_expert_gate.weight"] = torch.zeros(1, hidden, dtype=dtype)
    return tensors


def _gates(config: Any, layout: Layout, plan: Assembly, seed: int) -> dict[str, Tensor]:
    """Random gates in float32, with one row for each donor, repeated for its segments."""
    generator = torch.Generator().manual_seed(seed)
    own = plan.segments - plan.shared
    tensors: dict[str, Tensor] = {}
    for layer in plan.moe_layers:
        rows = torch.randn(len(plan.experts), config.hidden_size, generator=generator)
        weight = (rows * config.initializer_range).repeat_interleave(own, dim=0)
        tensors[layout.gate_weight(layer)] = weight
        if layout.selection_bias:
            tensors[layout.gate_selection_bias(layer)] = torch.zeros(len(weight))
    return tensors


def _averaged(sources: Sequence[Donor], name: str) -> Tensor:
    first = sources[0].tensor(name)
    if len(sources) == 1:
        return first
    return mean(source.tensor(name) for source in sources).to(first.dtype)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, numbered if they repeat: a, a-2."""
    return tuple(
        name if names.index(name) == at else f"{name}-{names[: at + 1].count(name)}"
        for at, name in enumerate(names)
    )


def _check_numbers(
    config: Any, donors: int, form: str, experts_per_token: int, segments: int, shared: int
) -> None:
    if donors < 2:
        raise InputError("experts", donors, "a mixture needs two or more", "give two or more folders")
    if experts_per_token not in range(1, donors + 1):
        raise InputError(
            "experts_per_token", experts_per_token, f"there are {donors} experts", f"use 1 to {donors}"
        )
    if form == "deepseek":
        size = config.intermediate_size
        if segments < 2 or size % segments:
            raise InputError(
                "segments", segments, f"does not divide {size} neurons", "use a divisor, 2 or more"
            )
        if size // segments % 8:  # grouped matrix products need multiples of 16 bytes
            width = size // segments
            raise InputError(
                "segments", segments, f"gives {width} neurons, which is not a multiple of 8", "use fewer"
            )
        if shared not in range(1, segments):
            raise InputError(
                "shared",
                shared,
                f"of {segments} segments some must be shared and some routed",
                f"use 1 to {segments - 1}",
            )


def _moe_layers(
    layers: Sequence[int] | str, differing: tuple[int, ...], count: int, form: str
) -> tuple[int, ...]:
    if layers == "all":
        return tuple(range(count))
    if layers == "differing":
        if not differing:
            raise InputError(
                "layers",
                layers,
                "the experts' FFNs are all equal",
                "use other experts, or all",
            )
        # The deepseek form has dense layers only before the mixtures.
        return tuple(range(differing[0], count)) if form == "deepseek" else differing
    if isinstance(layers, str):
        raise InputError("layers", layers, "unknown", "use differing, all, or layer numbers")
    numbers = tuple(sorted(set(layers)))
    if not numbers or numbers[0] < 0 or numbers[-1] >= count:
        raise InputError("layers", list(layers), f"there are {count} layers", f"use 0 to {count - 1}")
    if form == "deepseek" and numbers != tuple(range(numbers[0], count)):
        raise InputError(
            "layers",
            list(layers),
            "the deepseek form has dense layers first",
            f"use {numbers[0]} to {count - 1}",
        )
    return numbers
