"""What all tests share: where the repository is, and a folder of its own for anything that writes a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def ledger_elsewhere(tmp_path_factory: pytest.TempPathFactory):
    """Claims made in tests, and in kernels that tests start, leave nothing in the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESCENTMAPS_LEDGER", str(tmp_path_factory.mktemp("ledger")))
        yield
