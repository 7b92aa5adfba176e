"""The table of runtimes is that of the exports as they are."""

from __future__ import annotations

from runtimes.runtime_table import digest_of_exports, digest_on_page


def test_the_table_was_measured_with_these_exports() -> None:
    assert digest_on_page() == digest_of_exports(), (
        "router_rl/exports has changed since docs/benchmarks/runtimes.md was written: make test-runtimes "
        "writes it again"
    )
