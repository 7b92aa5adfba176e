from __future__ import annotations

import importlib
import pkgutil

import pytest

import experts

MODULES = [
    "experts",
    *(module.name for module in pkgutil.walk_packages(experts.__path__, prefix="experts.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist(name):
    module = importlib.import_module(name)
    assert [item for item in module.__all__ if not hasattr(module, item)] == []
    assert module.__doc__


def test_the_public_names():
    assert set(experts.__all__) == {
        "SOURCES",
        "DecisionLog",
        "Expert",
        "ExpertPool",
        "InputError",
        "OutcomeTable",
        "Profile",
        "collect",
        "epsilon_greedy",
        "import_results",
        "log_decisions",
        "open_table",
        "read_prices",
        "reprice",
    }
