"""What the packages promise is there, and importing them does nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "router_rl",
        "router_rl.routing",
        "router_rl.routing.kernels",
        "router_rl.exports",
        "envs",
        "experts",
        "experts.llm",
    ],
)
def test_all_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    for exported in module.__all__:
        assert getattr(module, exported) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="router_rl"):
        importlib.import_module("router_rl").nothing  # noqa: B018


def test_importing_everything_brings_neither_litellm_nor_ray() -> None:
    code = (
        "import sys, router_rl, router_rl.cli, experts.llm, train_router; "
        "print([m for m in ('litellm', 'ray', 'aiolimiter') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_importing_the_inference_floor_brings_no_toolkit() -> None:
    code = (
        "import sys, router_rl.routing; "
        "print([m for m in ('gymnasium', 'stable_baselines3', 'pyarrow', 'sklearn', 'experts', 'envs', "
        "'safetensors', 'rich', 'jsonargparse') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
