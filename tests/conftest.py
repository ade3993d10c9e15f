"""What several test files need."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """The program behind `make docs`."""
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
