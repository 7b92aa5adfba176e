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
    made_groups,
    one_dead,
    parity_inputs,
)
from .policy_files import check_text, policy_readme, random_observations, write_policy
from .readme import readme
from .registry import find_format

__all__ = ["HasParityRows", "export", "export_layers"]

_FEATURE_ROWS = 2048
_PROMPTS = 256
# Prompts to compare on where there are no rows: empty, short, symbols, other scripts, repeated words.
_MADE_PROMPTS = (
    "",
    "a",
    "What is 12 plus 30?",
    "Write a function in Python that sorts a list of numbers.",
    "def f(x):\n\treturn x ** 2  # ***",
    "Übersetze diesen Satz ins Französische: 猫は寝ています。",
    "word " * 200,
)


class HasParityRows(Protocol):
    """A problem that has rows to compare an export on."""

    def parity_rows(self) -> OutcomeTable | None:
        """Real rows of the problem, or None."""
        ...


class _Rows(NamedTuple):
    """Real rows to compare on, where there are any."""

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
    """Write a router or a policy to a folder, with `parity.json` and a `README.md` that says how to load it.

    The export is written beside the folder, loaded in its runtime and compared with the trained router; only
    then it replaces the folder. A failed parity check leaves what was there before.

    Args:
        router: a trained router; or a policy of a class in `router_rl.routing.POLICIES`, which is written as
            `policy.json` and `policy.safetensors` and compared on random observations. A router with
            conditions is written at their defaults in a format whose runtime passes no second input.
        folder: an earlier export in it is replaced.
        format: a name of `format_names()`; policies have `safetensors` only.
        rows: a table, or a problem, whose rows a router is compared on; random rows if None.
        also: further JSON files of the folder, by name.
        verify: a model that the router is put into and run in its own runtime, such as a GGUF file in
            llama.cpp; `parity.json` has the comparison as `runtime`.
        table: the name of `rows` in version 1.

    Returns:
        the result of the parity check, which passed.

    Raises:
        InputError: the format is unknown or needs packages that are not installed, or the folder cannot be
            written, is not an export, or holds files that were added or changed since it was written.
        RouterError: the rows are of other experts or features, parity failed, or the router has no such form.
    """
    if table is not None:
        raise InputError("table", type(table).__name__, "is called rows since version 2", "pass rows=...")
    folder = Path(folder)
    if not isinstance(router, Router):
        return _export_policy(router, folder, format)
    chosen = _for_model(find_format(format), format, verify)
    _check_exportable(router, format)
    check_replaceable(folder)
    defaults = {} if chosen.takes_state or not router.conditions else router.defaults
    if defaults and len(defaults) == len(router.state):
        router = router.at(**defaults)
    given = _rows_of(rows)
    real = _Rows() if given is None else _checked_rows(router, given)
    with replacing_folder(folder) as fresh:
        chosen.write(router, fresh)
        parity, facts = _compare(router, chosen, fresh, real)
        write_json(
            fresh / "parity.json",
            {
                "format": format,
                "rows_from": "random" if given is None else "table",
                **_at(defaults),
                **facts,
                **_in_runtime(chosen, [router]),
            },
        )
        text = readme(router, format, chosen.usage(router), keeps_text=chosen.keeps_text)
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
    """Write the routers of several layers of a model, each checked as by `export`.

    Args:
        routers: by the number of their layer.
        folder: an earlier export in it is replaced.
        format: gguf, one file for all layers; or vllm, sglang or transformers, a folder layer-N for each.
        verify: a model, as for `export`.

    Returns:
        the result of each layer's parity check.

    Raises:
        InputError: as for `export`, there is no router, or the format is for one router.
        RouterError: a router does not fold into a gate of llama.cpp, the routers have different forms, or
            parity failed.
    """
    folder = Path(folder)
    check_replaceable(folder)
    if not routers:
        raise InputError("routers", {}, "holds no router", "give one a layer")
    if find_format(format).for_model is None:
        problem = "has no form for the layers of a model"
        raise InputError("format", format, problem, "use vllm, sglang, transformers or gguf")
    if format != "gguf":
        return _export_each(routers, folder, format, verify)
    with replacing_folder(folder) as fresh:
        chosen = _for_model(gguf.FORMAT, "gguf", verify)
        gguf.write_layers(routers, fresh, None if verify is None else gguf.architecture_of(Path(verify)))
        parities = {
            layer: check_parity(router, gguf.load(fresh, layer), parity_inputs(router, None, odd=False))
            for layer, router in sorted(routers.items())
        }
        layers = {str(layer): parity.to_json() for layer, parity in parities.items()}
        verified = _in_runtime(chosen, [routers[layer] for layer in sorted(routers)])
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
    chosen = _for_model(find_format(format), format, verify)
    parities: dict[int, Parity] = {}
    with replacing_folder(folder) as fresh:
        for layer, router in sorted(routers.items()):
            _check_exportable(router, format)
            own = fresh / f"layer-{layer}"
            own.mkdir()
            chosen.write(router, own)
            parities[layer], _ = _compare(router, chosen, own, _Rows())
            (own / "README.md").write_text(readme(router, format, chosen.usage(router)), encoding="utf-8")
        layers = {str(layer): parity.to_json() for layer, parity in parities.items()}
        verified = _in_runtime(chosen, [routers[layer] for layer in sorted(routers)])
        facts = {"format": format, "rows_from": "random", "layers": layers, **verified}
        write_json(fresh / "parity.json", facts)
    return parities


def _for_model(chosen: Format, name: str, model: Path | str | None) -> Format:
    if model is None:
        return chosen
    if chosen.for_model is None:
        raise InputError("verify", str(model), f"{name} has no models to run a router in", "leave it out")
    return chosen.for_model(Path(model))


def _in_runtime(chosen: Format, routers: Sequence[Router]) -> dict[str, Any]:
    """What `parity.json` says of the runtime itself; nothing for formats whose `load` runs in it."""
    if chosen.for_model is None:
        return {}
    return {"runtime": "contract only" if chosen.verify is None else chosen.verify(routers)}


def _export_policy(policy: Any, folder: Path, format: str) -> PolicyParity:
    kind = getattr(policy, "kind", type(policy).__name__)
    if not isinstance(policy, tuple(POLICIES.values())):
        raise RouterError(f"{kind} has no exported form; known: a Router, {', '.join(sorted(POLICIES))}")
    if format != "safetensors":
        raise InputError("format", format, f"a {kind} policy has no such form", "use safetensors")
    check_replaceable(folder)
    with replacing_folder(folder) as fresh:
        write_policy(policy, fresh)
        exported: Any = load(fresh)
        parity = check_policy_parity(policy, exported, random_observations(policy))
        facts = parity.to_json()
        if policy.text is not None:
            difference = check_text(policy, exported, _MADE_PROMPTS)
            facts["text"] = {"prompts_from": "made", "max_difference": difference}
        write_json(fresh / "parity.json", {"format": format, "rows_from": "random", **facts})
        (fresh / "README.md").write_text(policy_readme(policy), encoding="utf-8")
    return parity


def _compare(router: Router, chosen: Format, folder: Path, real: _Rows) -> tuple[Parity, dict[str, Any]]:
    """The parity of features, and all figures for `parity.json`."""
    exported = chosen.load(folder)
    inputs = parity_inputs(router, real.features, odd=chosen.guarded)
    parity = check_parity(router, exported, inputs)
    facts = parity.to_json()
    dead = one_dead(router, inputs) if chosen.guarded else None
    if dead is not None:
        facts["with_a_dead_expert"] = check_parity(router, exported, inputs, action_mask=dead).to_json()
    if chosen.keeps_text and router.defaults and len(router.defaults) == len(router.state):
        facts["without_state"] = check_parity(router, exported, inputs[:1]).to_json()
    if router.text is not None and chosen.keeps_text:
        assert isinstance(exported, Router)
        prompts, groups = real.prompts, real.groups
        if prompts is None:
            prompts, groups = _MADE_PROMPTS, made_groups(router, len(_MADE_PROMPTS))
        text = check_text_parity(router, exported, prompts, groups)
        facts["text"] = {"prompts_from": "made" if real.prompts is None else "table", **text.to_json()}
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
    """Rows of a table at even steps, after a check that the table is of the router's experts and features."""
    own = table
    if table.features is None and router.text is not None:
        own = featurised(table, router.text)
    router.check_pool(own.experts, 0 if own.features is None else own.features.shape[1])
    assert own.features is not None
    features = torch.tensor(own.features[:: max(1, len(table) // _FEATURE_ROWS)])
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
            f"{router.rule.name} selection reads the whole batch, so it cannot route one request after "
            "another; train with topk to export"
        )
    reason = router.scorer.unsupported.get(format)
    if reason is not None:
        raise RouterError(reason)
