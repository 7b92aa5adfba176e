"""A router over LoRA adapters does what the mixture of the merged adapters does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts import InputError
from experts.moe import assemble
from experts.moe.adapted_ffn import AdaptedFFN
from experts.moe.donors import feed_forward, open_base, open_donor
from router_rl.cli.handover_command import handover
from router_rl.exports.transformers import apply_patch, load_adapter_router, write_adapter_router
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, Selection, TopK

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

FFN = ["gate_proj", "up_proj", "down_proj"]
NAMES = ("code", "german", "prose")
LAYERS = [1, 2]


@pytest.fixture(scope="module")
def home(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base and three adapters of its last two layers, of other ranks and parts."""
    import peft
    import transformers

    home = tmp_path_factory.mktemp("adapters")
    dense(home / "base")
    fields: dict[str, dict[str, Any]] = {
        "code": {},
        "german": {"r": 2, "use_rslora": True, "target_modules": ["up_proj", "down_proj"]},
        "prose": {"rank_pattern": {"up_proj": 3}, "target_modules": [*FFN, "q_proj"]},
    }
    for name in NAMES:
        model = transformers.AutoModelForCausalLM.from_pretrained(home / "base")
        given = {"r": 4, "lora_alpha": 6, "target_modules": FFN, "init_lora_weights": False, **fields[name]}
        config = peft.LoraConfig(**given, layers_to_transform=LAYERS)
        torch.manual_seed(sum(map(ord, name)))
        peft.get_peft_model(model, config).save_pretrained(home / name)
    return home


def routers(rule: Selection, folder: Path, names: tuple[str, ...] = NAMES, depth: int = 2) -> LayerRouters:
    made = LayerRouters(depth, 32, rule, names)
    with torch.no_grad():
        for scorer in made.scorers:
            scorer.get_parameter("weight").normal_(generator=torch.Generator().manual_seed(4))
    made.save(folder)
    return made


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
def test_it_computes_and_generates_what_the_merged_mixture_does(
    home: Path, tmp_path: Path, rule: Selection
) -> None:
    import transformers

    routers(rule, tmp_path)
    folders = [home / name for name in NAMES]
    written = write_adapter_router(tmp_path / "routers.safetensors", home / "base", folders, tmp_path / "out")
    assemble(
        home / "base", folders, tmp_path / "merged", experts_per_token=rule.k, layers=LAYERS, progress=False
    )
    handover(routers=tmp_path / "routers.safetensors", model=tmp_path / "merged", out=tmp_path / "patch")
    apply_patch(tmp_path / "patch", tmp_path / "merged")
    merged: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    merged.eval()
    routed = load_adapter_router(tmp_path / "out", home / "base")
    tokens = torch.randint(1, 64, (5, 11), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = routed(tokens).logits, merged(tokens).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    with torch.inference_mode():
        half, without = copy.deepcopy(routed).to(torch.bfloat16)(tokens).logits, plain(tokens).logits
    assert float((without - theirs).abs().max()) > 0.1  # the adapters matter
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(routed.generate(tokens, **settings), merged.generate(tokens, **settings))
    assert written.adapters == NAMES
    assert written.layers == (1, 2)
    assert written.experts_per_token == rule.k
    assert written.merged_bytes == 3 * 2 * 3 * 32 * 64 * 4
    assert written.adapter_bytes < written.merged_bytes
    assert [name.split()[0] for name in written.warnings] == ["prose"]
    assert bool(half.isfinite().all())
    assert float((half.float() - theirs).abs().mean()) < 0.1 * float(theirs.abs().mean())


def test_an_adapter_is_its_merged_ffn(home: Path) -> None:
    import transformers

    base = open_base(home / "base")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    donors: list[Any] = [open_donor(base, home / name) for name in NAMES]
    layer, x = 2, torch.randn(13, 32, generator=torch.Generator().manual_seed(0))
    parts = dict(zip(feed_forward(layer), FFN, strict=True))
    factors = [{p: d.weights.factors(n) for n, p in parts.items() if n in d.weights} for d in donors]
    adapted = AdaptedFFN(model.model.layers[layer].mlp, factors)
    outputs = []
    for donor in donors:
        gate, up, down = (donor.tensor(name) for name in parts)
        outputs.append((torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)
    stacked = torch.stack(outputs, dim=1)
    experts = torch.randint(0, 4, (13, 2), generator=torch.Generator().manual_seed(1))  # 3: no expert
    weights = torch.rand(13, 2, generator=torch.Generator().manual_seed(2))
    wanted = torch.zeros(13, 32)
    for row in range(13):
        for slot in range(2):
            if experts[row, slot] < 3:
                wanted[row] += weights[row, slot] * stacked[row, experts[row, slot]]
    torch.testing.assert_close(adapted(x, experts, weights), wanted, atol=1e-5, rtol=1e-4)
    assert adapted(x[:0], experts[:0], weights[:0]).shape == (0, 32)


def test_each_adapter_stays_one_of_peft(home: Path, tmp_path: Path) -> None:
    import peft
    import transformers

    routers(Hard(), tmp_path)
    handover(
        routers=tmp_path / "routers.safetensors",
        model=home / "base",
        out=tmp_path / "out",
        adapters=[str(home / name) for name in reversed(NAMES)],
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "base")
    peft.PeftModel.from_pretrained(model, tmp_path / "out" / "adapters" / "german")
    described = json.loads((tmp_path / "out" / "adapter_router.json").read_text(encoding="utf-8"))
    assert described["adapters"] == list(NAMES)  # the order of the routers' experts
    out = tmp_path / "out"
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.safetensors"))
    assert files == [*(f"adapters/{name}/adapter_model.safetensors" for name in NAMES), "routers.safetensors"]


def test_mistakes_are_named(home: Path, dense: Callable[..., Any], tmp_path: Path) -> None:
    folders, base, path = [home / name for name in NAMES], home / "base", tmp_path / "routers.safetensors"
    routers(Hard(), tmp_path)
    with pytest.raises(InputError, match=r"adapters=.*the routers' are code, german, prose"):
        write_adapter_router(path, base, folders[:2], tmp_path / "out")
    with pytest.raises(InputError, match=r"adapters=.*adapter_config\.json.*cannot be read"):
        write_adapter_router(path, base, [tmp_path / "none"], tmp_path / "out")
    with pytest.raises(InputError, match=r"adapters=.*none'.* is not a folder"):  # before the base is read
        handover(routers=path, model=tmp_path / "no", out=tmp_path / "out", adapters=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"distil=.*no effect with adapters"):
        handover(routers=path, model=base, out=tmp_path / "out", adapters="a,b", distil=tmp_path / "d")
    with pytest.raises(InputError, match=r"temperature=.*no effect with adapters"):
        handover(routers=path, model=base, out=tmp_path / "out", adapters="a,b", temperature=2.0)
    routers(Hard(), tmp_path, depth=1)
    with pytest.raises(InputError, match=r"adapters=.*layers \[1\], which have no router"):
        write_adapter_router(path, base, folders, tmp_path / "out")
    routers(Hard(), tmp_path, depth=4)
    with pytest.raises(InputError, match=r"routers=.*4 routers of 32 features"):
        write_adapter_router(path, base, folders, tmp_path / "out")
    save_file(load_file(path), path)
    with pytest.raises(InputError, match=r"routers=.*no selection rule"):
        write_adapter_router(path, base, folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    routers(Hard(), tmp_path)
    write_adapter_router(path, base, folders, tmp_path / "out")
    dense(tmp_path / "other")
    with pytest.raises(
        InputError, match=r"base=.*is not the base that the adapter router was written for, base"
    ):
        load_adapter_router(tmp_path / "out", tmp_path / "other")
    described = tmp_path / "out" / "adapter_router.json"
    described.write_text(described.read_text(encoding="utf-8").replace("prose", "../x"), encoding="utf-8")
    with pytest.raises(InputError, match=r"changed after it was written"):
        load_adapter_router(tmp_path / "out", base)
    with pytest.raises(InputError, match=r"out=.*were changed since"):
        write_adapter_router(path, base, folders, tmp_path / "out")
