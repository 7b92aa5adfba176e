"""Small valid inputs of every command, which the bad inputs are made from."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf_mixtures import BLOCKS, EXPERTS, HIDDEN, write_mixture
from safetensors.torch import save_file

import train_router
from experts import OutcomeTable
from experts.table.decision_log import log_decisions
from experts.table.prices import Price
from router_rl import Objective, RoutingProblem, export, fit
from router_rl.serving.chat_request import ChatRequest
from router_rl.serving.decider import Decider
from router_rl.serving.deployments import promote, started_with
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_row import LogRows
from router_rl.serving.log_store import LogStore

__all__ = ["LINES", "make_inputs"]

_MIXTURE = Path(__file__).parents[1] / "fixtures" / "version1" / "mixtures" / "mixtral"
_OUT = ("--out", "out")

LINES: dict[str, tuple[str, ...]] = {
    "demo": ("demo", *_OUT, "--seeds", "1", "--n-trials", "1", "--jobs", "1"),
    "import": ("import", "results.csv", "--out", "out.parquet"),
    "collect": ("collect", "--source", "digits", "--out", "out.parquet"),
    "collect models": (
        *("collect", "--models", "models.yaml", "--prompts", "prompts.csv", "--out", "out.parquet"),
    ),
    "train": (
        *("train", "--table", "table.parquet", "--method", "softmax_gate", "--method.epochs", "1", *_OUT),
    ),
    "train cascade": (
        "train",
        "--env",
        "cascade",
        "--table",
        "table.parquet",
        "--method",
        "thresholds",
        *_OUT,
    ),
    "train queueing": (
        *("train", "--env", "queueing", "--table", "table.parquet", "--method", "round_robin"),
        *("--problem.episodes", "2", "--problem.window", "8", *_OUT),
    ),
    "train caching": (
        *("train", "--env", "caching", "--table", "table.parquet", "--method", "lru"),
        *("--problem.episodes", "2", "--problem.window", "8", "--problem.resident-shares", "[1.0]", *_OUT),
    ),
    "train session": (
        *("train", "--env", "session", "--table", "table.parquet", "--method", "myopic"),
        *("--problem.episodes", "2", "--problem.window", "8", *_OUT),
    ),
    "train token_moe": ("train", "--env", "token_moe", "--method", "uniform", *_OUT),
    "tune": (
        *("tune", "--table", "table.parquet", "--method", "ridge", "--n-trials", "2", "--track", "none"),
        *_OUT,
    ),
    "compare": (
        *("compare", "--table", "table.parquet", "--methods", "ridge", "--seeds", "1", "--n-trials", "1"),
        *_OUT,
    ),
    "evaluate": ("evaluate", "run", "--table", "table.parquet"),
    "evaluate log": ("evaluate", "run", "--log", "log.parquet"),
    "monitor": ("monitor", "run", "--log", "log.parquet", "--table", "table.parquet"),
    "add-expert": (*("add-expert", "run", "--table", "table.parquet", "--probes", "probes.parquet", *_OUT),),
    "export": ("export", "run", *_OUT),
    "bench": ("bench", "router", "--quick", "--out", "out.json"),
    "profile": ("profile", "model", "--context", "16"),
    "assemble": ("assemble", "--base", "base", "--experts", "code,prose", *_OUT),
    "handover": ("handover", "--routers", "routers", "--model", "model", *_OUT),
    "patch": ("patch", "patch", "--model", "model", *_OUT),
    "patch gguf": (*("patch", "--gguf", "model.gguf", "--router", "gates.safetensors", "--out", "new.gguf"),),
    "list": ("list", "--env", "cascade"),
    "runs": ("runs", "list", "run"),
    "serve": ("serve", "--router", "served", "--models", "models.yaml", "--port", "0"),
    "promote": ("promote", "served", "--log", "sqlite:///decisions.db"),
    "rollback": ("rollback", "--log", "sqlite:///decisions.db"),
    "log": ("log", "export", "--log", "sqlite:///decisions.db", "--out", "exported.parquet"),
}
"""A valid command line by name; the first word of a name is the command."""


def make_inputs(folder: Path) -> None:
    """Write the files of `LINES` into a folder.

    Args:
        folder: an existing folder.
    """
    table = _table()
    table.write(folder / "table.parquet")
    _probes(table).write(folder / "probes.parquet")
    log_decisions(table, np.full((len(table), 2), 0.5), seed=0).write(folder / "log.parquet")
    _write_results(folder)
    for name in ("model", "patch", "routers"):
        shutil.copytree(_MIXTURE / name, folder / name)
    _write_dense_models(folder)
    write_mixture(folder / "model.gguf", "llama", gguf.GGMLQuantizationType.F32)
    gates = {
        f"layers.{block}.weight": torch.eye(EXPERTS["llama"], HIDDEN) for block in range(len(BLOCKS["llama"]))
    }
    save_file(gates, folder / "gates.safetensors")
    words = ["train", "--table", str(folder / "table.parquet"), "--method", "softmax_gate"]
    words += ["--method.epochs", "1", "--out", str(folder / "run")]
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        assert train_router.main(words) == 0, quiet.getvalue()
    shutil.rmtree(folder / "run" / "tensorboard", ignore_errors=True)
    _write_served(folder)


def _table() -> OutcomeTable:
    """Return 40 queries of two experts, with everything that any command uses."""
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 2
    return OutcomeTable(
        experts=("left", "right"),
        query_id=[f"q{row}" for row in range(40)],
        prompt=[f"what is {row}?" for row in range(40)],
        group=np.where(kind == 1, "odd", "even"),
        features=np.stack([kind, 1 - kind], axis=1) + rng.normal(0, 0.1, (40, 2)),
        quality=np.stack([kind, 1 - kind], axis=1),
        cost=np.tile([1.0, 2.0], (40, 1)),
        confidence=rng.random((40, 2)),
        latency_s=np.tile([0.5, 1.0], (40, 1)),
        tokens_in=np.full((40, 2), 10.0),
        tokens_out=np.full((40, 2), 20.0),
        split=np.array(["train", "train", "validation", "test"])[np.arange(40) // 2 % 4],
    )


def _write_served(folder: Path) -> None:
    """Write two routers of prompts, and the log of a server to which the second one was promoted."""
    table = _table()
    for name, quality in (("served", table.quality), ("candidate", 1.0 - table.quality)):
        problem = RoutingProblem(
            replace(table, features=None, quality=quality), Objective(compute_weight=0.0)
        )
        export(fit("ridge", problem), folder / name, rows=problem)
    store = LogStore(f"sqlite:///{folder}/decisions.db")
    live = started_with(store, LoadedRouter.of(folder / "served"))
    decider = Decider(live, {name: Price(call=0.001) for name in table.experts}, explore=0.5)
    decider.reseed(0)
    rows = LogRows(b"key")
    for number, prompt in enumerate(map(str, table.prompt)):
        decision = decider.decide(prompt)
        request = ChatRequest(model="auto", prompt=prompt, messages=[])
        row = rows.row(f"d{number}", request, decision.expert, decision)
        ended = {"status": "ok", "at": float(number), "cost_usd": 0.001, "latency_s": 0.1}
        store.write([{**row, **ended, "tokens_in": 10, "tokens_out": 20}], [])
        store.attach(row["id"], number % 2)
    promote(store, folder / "candidate")
    store.close()


def _probes(table: OutcomeTable) -> OutcomeTable:
    """Return answers of `left` and of a new expert to some queries of the table."""
    part = replace(
        table.take(np.arange(12)), confidence=None, latency_s=None, tokens_in=None, tokens_out=None
    )
    return replace(part, experts=("left", "new"))


def _write_results(folder: Path) -> None:
    """Write results in long form as CSV, JSON Lines and JSON, prices, models and prompts."""
    rows = [
        {
            "query_id": f"q{row}",
            "model": name,
            "prompt": f"what is {row}?",
            "score": (row + each) % 2,
            "cost": 1,
        }
        for row in range(20)
        for each, name in enumerate(("left", "right"))
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "prices.yaml").write_text(
        "date: 2024-07-01\nprices:\n  left: {input: 10, output: 30}\n  right: {input: 1, output: 2}\n"
    )
    (folder / "prompts.csv").write_text("prompt,reference\nwhat is 1 + 1?,2\nwhat is 2 + 2?,4\n")
    # Port 9 of this machine discards: a case that is accepted by mistake sends nothing to anybody.
    server = (
        "model: openai/m, api_base: 'http://127.0.0.1:9/v1', retries: 0, timeout: 1, price: {call: 0.001}"
    )
    (folder / "models.yaml").write_text(
        "models:\n" + "".join(f"  - {{name: {name}, {server}}}\n" for name in ("left", "right"))
    )


def _write_dense_models(folder: Path) -> None:
    """Write a small Llama model and two that differ from it in the feed-forward networks."""
    sizes = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 16}
    configuration = {
        **sizes,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (16, 8),
        "model.norm.weight": (8,),
        "lm_head.weight": (16, 8),
        f"{layer}input_layernorm.weight": (8,),
        f"{layer}post_attention_layernorm.weight": (8,),
        **{f"{layer}self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
        f"{layer}mlp.gate_proj.weight": (32, 8),
        f"{layer}mlp.up_proj.weight": (32, 8),
        f"{layer}mlp.down_proj.weight": (8, 32),
    }
    for number, name in enumerate(("base", "code", "prose")):
        generator = torch.Generator()
        tensors = {
            key: torch.randn(shape, generator=generator.manual_seed(7 + (number if ".mlp." in key else 0)))
            for key, shape in shapes.items()
        }
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(configuration))
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
