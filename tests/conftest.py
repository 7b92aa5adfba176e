"""One cache and one thread for all tests of a run; skips only for reasons that stand here."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch

from experts import OutcomeTable

ROOT = Path(__file__).resolve().parents[1]

# A skip for any other reason fails, so that no change of a dependency can mute a suite.
ALLOWED_SKIPS = (
    "chromium or chromedriver is not installed",
    "the Fashion-MNIST files are absent",
    "shared/data/",
    "g++ is not installed",
)


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
        yield


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)  # whatever ran before, and in whichever worker


@pytest.fixture(scope="session")
def digits() -> OutcomeTable:
    """Return the embedded digits table, collected once a run."""
    return OutcomeTable.read("digits", progress=False)


@pytest.fixture(scope="session")
def shared_table() -> Callable[[str], Path]:
    """Return a function that finds a real table beside the repository, or skips the test by name."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"shared/data/{name} is absent")
        return path

    return find
