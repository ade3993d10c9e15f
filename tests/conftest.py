"""What several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus import HOW_TO_GET_IT, find_corpus

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real, published checkpoints (see ``tests/corpus.py``)."""
    folder = find_corpus()
    if folder is None:
        pytest.skip(HOW_TO_GET_IT)
    return folder


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the committed fixtures."""
    return ROOT / "fixtures"
