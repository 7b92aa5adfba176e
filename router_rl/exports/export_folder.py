"""`export`: write a router or a policy to a folder that inference code loads, after a parity check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from experts import InputError, OutcomeTable
from experts.io.atomic import write_json
from experts.io.owned_folder import check_replaceable, replacing_folder

from ..problems.prompt_features import featurised
from ..routing import POLICIES, Policy, Router, RouterError, load
from . import gguf
from .format import Format
from .parity import (
    Parity,
    PolicyParity,
    check_parity,
    check_policy_parity,
    check_text_parity,
    one_masked,
    parity_inputs,
    synthetic_groups,
)
from .policy_files import check_text, policy_readme, random_observations, write_policy
from .readme import readme
from .registry import find_format

__all__ = ["HasParityRows", "export", "export_layers"]

_FEATURE_ROWS = 2048
_PROMPTS = 256
# Prompts for the parity check without a table: empty, short, symbols, other scripts, repeated words.
_SYNTHETIC_PROMPTS = (
    "",
    "a",
    "What is 12 plus 30?",
    "Write a function in Python that sorts a list of numbers.",
    "def f(x):\n\treturn x ** 2  # ***",
    "Übersetze diesen Satz ins Französische: 猫は寝ています。",
    "word " * 200,
)


class HasParityRows(Protocol):
    """A problem whose rows an export can be compared on."""

    def parity_rows(self) -> OutcomeTable | None:
        """Return real rows of the problem, or None."""
        ...


class _Rows(NamedTuple):
    """Real rows for the parity check; None for what the table lacks."""

    features: Tensor | None = None
    prompts: Sequence[str] | None = None
    groups: Sequence[str] | None = None


def export(
    router: Router | Policy,
    folder: Path | str,
    format: str = "safetensors",
    rows: OutcomeTable | HasParityRows | None = None,
    *,
    also: Mapping[str, Any] | None = None,
    verify: Path | str | None = None,
    table: object = None,
) -> Parity | PolicyParity:
    """Write a router or a policy to a folder, with `parity.json` and a `README.md` that shows how to load it.

    The export is written to a temporary folder, loaded in its runtime and compared with the trained router.
    It replaces `folder` only if the parity check passes.

    Args:
        router: a trained router; or a policy of a class in `router_rl.routing.POLICIES`, which is written as
            `policy.json` and `policy.safetensors` and compared on random observations. If the runtime passes
            no second input, a router with conditions is written at their default values.
        folder: the output folder; an earlier export in it is replaced.
        format: one of `format_names()`; policies support `safetensors` only.
        rows: a table, or a problem, whose rows the router is compared on; random rows if None.
        also: further JSON files to write into the folder, by name.
        verify: a model to run with the exported router in its own runtime, such as a GGUF file in llama.cpp;
            `parity.json` has the comparison as `runtime`.
        table: the name of `rows` in version 1; passing it is an error.

    Returns:
        the result of the parity check, which passed.

    Raises:
        InputError: the format is unknown or needs packages that are not installed, or the folder cannot be
            written, is not an export, or holds files that were added or changed since it was written.
        RouterError: the rows have other experts or features, the parity check failed, or the format does not
            support this router.
    """
    if table is not None:
        raise InputError("table", type(table).__name__, "is called rows since version 2", "pass rows=...")
    folder = Path(folder)
    if not isinstance(router, Router):
        return _export_policy(router, folder, format)
    exporter = _for_model(find_format(format), format, verify)
    _check_exportable(router, format)
    check_replaceable(folder)
    defaults = {} if exporter.takes_state or not router.conditions else router.defaults
    if defaults and len(defaults) == len(router.state):
        router = router.at(**defaults)
    outcomes = _rows_of(rows)
    real = _Rows() if outcomes is None else _checked_rows(router, outcomes)
    with replacing_folder(folder) as fresh:
        exporter.write(router, fresh)
        parity, facts = _compare(router, exporter, fresh, real)
        write_json(
            fresh / "parity.json",
            {
                "format": format,
                "rows_from": "random" if outcomes is None else "table",
                **_at(defaults),
                **facts,
                **_in_runtime(exporter, [router]),
            },
        )
        text = readme(router, format, exporter.usage(router), keeps_text=exporter.keeps_text)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        for name, content in (also or {}).items():
            write_json(fresh / name, content)
    return parity


def export_layers(
    routers: Mapping[int, Router],
    folder: Path | str,
    format: str = "gguf",
    *,
    verify: Path | str | None = None,
) -> dict[int, Parity]:
    """Write the routers of several layers of a model; each passes the parity check of `export`.

    Args:
        routers: routers by layer number.
        folder: the output folder; an earlier export in it is replaced.
        format: `gguf` writes one file for all layers; `vllm`, `sglang` and `transformers` write a folder
            layer-N for each.
        verify: a model, as for `export`.

    Returns:
        the result of each layer's parity check, by layer number.

    Raises:
        InputError: as for `export`; or there is no router, or the format exports single routers only.
        RouterError: a router does not fold into a gate of llama.cpp, the routers differ in form, or the
            parity check failed.
    """
    folder = Path(folder)
    check_replaceable(folder)
    if not routers:
        raise InputError("routers", {}, "has no router", "give one per layer")
    if find_format(format).for_model is None:
        problem = "exports one router, not the layers of a model"
        raise InputError("format", format, problem, "use vllm, sglang, transformers or gguf")
    if format != "gguf":
        return _export_each(routers, folder, format, verify)
    with replacing_folder(folder) as fresh:
        exporter = _for_model(gguf.FORMAT, "gguf", verify)
        gguf.write_layers(routers, fresh, None if verify is None else gguf.architecture_of(Path(verify)))
        parities = {
            layer: check_parity(
                router, gguf.load(fresh, layer), parity_inputs(router, None, non_finite=False)
            )
            for layer, router in sorted(routers.items())
        }
        layers = {str(layer): parity.to_json() for layer, parity in parities.items()}
        verified = _in_runtime(exporter, [routers[layer] for layer in sorted(routers)])
        facts = {"format": "gguf", "rows_from": "random", "layers": layers, **verified}
        write_json(fresh / "parity.json", facts)
        first = routers[min(routers)]
        usage = f"{gguf.usage(first)}\n# Layers, the N of blk.N: {', '.join(layers)}."
        (fresh / "README.md").write_text(readme(first, "gguf", usage), encoding="utf-8")
    return parities


def _export_each(
    routers: Mapping[int, Router], folder: Path, format: str, verify: Path | str | None
) -> dict[int, Parity]:
    """Write a folder layer-N for each router."""
    exporter = _for_model(find_format(format), format, verify)
    parities: dict[int, Parity] = {}
    with replacing_folder(folder) as fresh:
        for layer, router in sorted(routers.items()):
            _check_exportable(router, format)
            own = fresh / f"layer-{layer}"
            own.mkdir()
            exporter.write(router, own)
            parities[layer], _ = _compare(router, exporter, own, _Rows())
            (own / "README.md").write_text(readme(router, format, exporter.usage(router)), encoding="utf-8")
        layers = {str(layer): parity.to_json() for layer, parity in parities.items()}
        verified = _in_runtime(exporter, [routers[layer] for layer in sorted(routers)])
        facts = {"format": format, "rows_from": "random", "layers": layers, **verified}
        write_json(fresh / "parity.json", facts)
    return parities


def _for_model(exporter: Format, name: str, model: Path | str | None) -> Format:
    if model is None:
        return exporter
    if exporter.for_model is None:
        raise InputError("verify", str(model), f"{name} cannot run a router in a model", "leave it out")
    return exporter.for_model(Path(model))


def _in_runtime(exporter: Format, routers: Sequence[Router]) -> dict[str, Any]:
    """The `runtime` entry of `parity.json`; empty for formats whose `load` already uses the runtime."""
    if exporter.for_model is None:
        return {}
    return {"runtime": "contract only" if exporter.verify is None else exporter.verify(routers)}


def _export_policy(policy: Any, folder: Path, format: str) -> PolicyParity:
    kind = getattr(policy, "kind", type(policy).__name__)
    if not isinstance(policy, tuple(POLICIES.values())):
        raise RouterError(f"{kind} cannot be exported; use a Router, {', '.join(sorted(POLICIES))}")
    if format != "safetensors":
        raise InputError("format", format, f"does not support a {kind} policy", "use safetensors")
    check_replaceable(folder)
    with replacing_folder(folder) as fresh:
        write_policy(policy, fresh)
        exported: Any = load(fresh)
        parity = check_policy_parity(policy, exported, random_observations(policy))
        facts = parity.to_json()
        if policy.text is not None:
            difference = check_text(policy, exported, _SYNTHETIC_PROMPTS)
            facts["text"] = {"prompts_from": "synthetic", "max_difference": difference}
        write_json(fresh / "parity.json", {"format": format, "rows_from": "random", **facts})
        (fresh / "README.md").write_text(policy_readme(policy), encoding="utf-8")
    return parity


def _compare(router: Router, exporter: Format, folder: Path, real: _Rows) -> tuple[Parity, dict[str, Any]]:
    """The parity on features, and all numbers for `parity.json`."""
    exported = exporter.load(folder)
    inputs = parity_inputs(router, real.features, non_finite=exporter.guarded)
    parity = check_parity(router, exported, inputs)
    facts = parity.to_json()
    mask = one_masked(router, inputs) if exporter.guarded else None
    if mask is not None:
        facts["with_masked_expert"] = check_parity(router, exported, inputs, action_mask=mask).to_json()
    if exporter.keeps_text and router.defaults and len(router.defaults) == len(router.state):
        facts["without_state"] = check_parity(router, exported, inputs[:1]).to_json()
    if router.text is not None and exporter.keeps_text:
        assert isinstance(exported, Router)
        prompts, groups = real.prompts, real.groups
        if prompts is None:
            prompts, groups = _SYNTHETIC_PROMPTS, synthetic_groups(router, len(_SYNTHETIC_PROMPTS))
        text = check_text_parity(router, exported, prompts, groups)
        facts["text"] = {"prompts_from": "synthetic" if real.prompts is None else "table", **text.to_json()}
    return parity, facts


def _at(defaults: Mapping[str, float]) -> dict[str, Any]:
    return {"at": dict(defaults)} if defaults else {}


def _rows_of(rows: OutcomeTable | HasParityRows | None) -> OutcomeTable | None:
    if rows is None or isinstance(rows, OutcomeTable):
        return rows
    if not hasattr(rows, "parity_rows"):
        raise InputError("rows", type(rows).__name__, "is neither a table nor a problem", "pass one of them")
    return rows.parity_rows()


def _checked_rows(router: Router, table: OutcomeTable) -> _Rows:
    """Evenly spaced rows of a table that has the router's experts and features."""
    with_features = table
    if table.features is None and router.text is not None:
        with_features = featurised(table, router.text)
    values = with_features.features
    router.check_pool(with_features.experts, 0 if values is None else values.shape[1])
    assert values is not None
    features = torch.tensor(values[:: max(1, len(table) // _FEATURE_ROWS)])
    if router.text is None or (table.prompt is None and "prompt" in router.text.inputs):
        return _Rows(features)
    step = max(1, len(table) // _PROMPTS)
    prompts = [""] * len(table) if table.prompt is None else [str(prompt) for prompt in table.prompt]
    prompts = prompts[::step]
    groups = None if table.group is None else [str(group) for group in table.group[::step]]
    return _Rows(features, prompts, groups)


def _check_exportable(router: Router, format: str) -> None:
    if not router.rule.causal:
        raise RouterError(
            f"{router.rule.name} selection reads the whole batch, so it cannot route requests one by one; "
            "train with topk to export"
        )
    reason = router.scorer.unsupported.get(format)
    if reason is not None:
        raise RouterError(reason)
