"""What several test files need."""

from __future__ import annotations

import compileall
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from checkpoint_doctor.repair import cross_check
from tests.corpus import HOW_TO_GET_IT, find_corpus

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: hundreds of tests run the command, and each would compile it again."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "checkpoint_doctor", quiet=2)


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


class _Shared(cross_check._Torch):
    """The process with torch, which outlives a fix."""

    def stop(self) -> None:
        if self._process.poll() is not None:
            super().stop()


@pytest.fixture(scope="session")
def torch_process() -> Iterator[_Shared]:
    """A process with torch that compares the copies of many fixes: to start one takes longer than most fixes."""
    shared = _Shared()
    yield shared
    cross_check._Torch.stop(shared)


@pytest.fixture
def one_torch(torch_process: _Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fix of a test asks the same process with torch."""
    monkeypatch.setattr(cross_check, "_Torch", lambda: torch_process)
