"""One cache, one thread and no flush to disk for all tests; skips only for reasons that stand here."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts import OutcomeTable, open_table
from experts.moe.token_pool import TokenPool

ROOT = Path(__file__).resolve().parents[1]

# A skip for any other reason fails, so that no change of a dependency can mute a suite.
ALLOWED_SKIPS = (
    "chromium or chromedriver is not installed",
    "the Fashion-MNIST files are absent",
    "shared/data/",
    "triton is not installed",
    "ray is not installed",
    "mlflow is not installed",
    "wandb is not installed",
    "g++ is not installed",
    "postgresql is not installed",
    "a file system cannot be mounted",
    "the proxy of LiteLLM is not installed",
    "llama.cpp is not installed",
    "golden numbers need",
    "is not built: ",  # tests/runtimes
)


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter collect everything at its end."""
    gc.unfreeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """Turn a skip that is not on the list into a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that is not on the list: {reason}"


@pytest.fixture(scope="session", autouse=True)
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if "ROUTER_RL_CACHE" not in os.environ:
            base = tmp_path_factory.getbasetemp()
            # Under xdist each worker has its own folder below the run's.
            shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
            patch.setenv("ROUTER_RL_CACHE", str(shared / "router-rl-cache"))
        patch.setattr(os, "fsync", lambda _: None)  # no power cut is tested, and it is slow
        yield


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)  # whatever ran before, and in whichever worker


@pytest.fixture(scope="session")
def digits() -> OutcomeTable:
    """Return the embedded digits table, collected once a run."""
    return open_table("digits", progress=False)


@pytest.fixture(scope="session")
def shared_table() -> Callable[[str], Path]:
    """Return a function that finds a real table beside the repository, or skips the test by name."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"shared/data/{name} is absent")
        return path

    return find


@pytest.fixture(scope="session")
def dense() -> Callable[..., Any]:
    """Return a function that makes a dense model, near another one if asked, and saves it."""

    def make(
        folder: Path, kind: str = "llama", *, near: Any = None, only_ffn: bool = True, **fields: Any
    ) -> Any:
        import transformers

        fields = {"num_hidden_layers": 3, "vocab_size": 64, **fields}
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        if kind == "qwen3":
            sizes["head_dim"] = 16
        config = transformers.CONFIG_MAPPING[kind](
            **{"pad_token_id": 0, "max_position_embeddings": 64, **sizes, **fields}
        )
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        # A hash of a string would differ from run to run.
        generator = torch.Generator().manual_seed(sum(map(ord, folder.name)))
        with torch.no_grad():
            if near is not None:
                model.load_state_dict(near.state_dict())
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if near is None:
                    parameter.copy_(0.2 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
                elif ".mlp." in name:  # every fourth neuron stays as it was
                    noise.movedim(1 if "down" in name else 0, 0)[::4] = 0.0
                    parameter.add_(0.1 * noise)
                elif not only_ffn:
                    parameter.add_(0.1 * noise)
        model.save_pretrained(folder)
        return model

    return make


@pytest.fixture(scope="session")
def family(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Return a folder with `base` and three donors of other feed-forward networks, and the four models.

    The donors agree with the base in a quarter of the neurons.
    """
    folder = tmp_path_factory.mktemp("family")
    base = dense(folder / "base")
    return folder, [base, *(dense(folder / name, near=base) for name in ("code", "german", "prose"))]


@pytest.fixture(scope="session")
def micro_pool() -> TokenPool:
    """Return a token-level pool of random weights: 3 experts, 2 routed layers, 6 sequences of 10 tokens.

    Expert e has seen the text of domain e: its path is the best there.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from experts.moe.branch import BranchRecipe, average, branch
    from experts.moe.frozen_base import Base
    from experts.moe.sequences import measure_sequences

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    base = Base(LlamaForCausalLM(config), 2, "random")

    def text(domain: int, rows: int, seed: int) -> torch.Tensor:
        start = torch.randint(0, 23, (rows, 1), generator=torch.Generator().manual_seed(seed))
        return (start + (2 * domain + 1) * torch.arange(11)) % 23  # each domain counts in steps of its own

    experts = {}
    for domain in range(3):
        tokens = text(domain, 24, seed=domain)
        recipe = BranchRecipe(learning_rate=2e-2, epochs=6, batch=8)
        experts[f"steps of {2 * domain + 1}"] = branch(
            base, base.trunk(tokens[:, :-1]), tokens[:, 1:], recipe
        )
    tail, mean = base.tail(experts), average(list(experts.values()))
    domain = np.repeat(np.repeat(np.arange(3), 2)[:, None], 11, axis=1)
    parts = {
        name: measure_sequences(
            base,
            tail,
            torch.cat([text(d, 2, seed=10 * number + d) for d in range(3)]).numpy(),
            domain,
            doing=None,
        )
        for number, name in enumerate(("train", "validation", "test"), 1)
    }
    return TokenPool(
        name="micro",
        base=base,
        tail=tail,
        average=base.tail({"average": mean, "same": mean}),
        domains=tuple(experts),
        tree=("all", (0, ("larger", (1, 2)))),
        parts=parts,
    )
