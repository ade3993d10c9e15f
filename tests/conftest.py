"""What several test files need."""

from __future__ import annotations

import compileall
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checkpoint_doctor.repair import cross_check
from tests.corpus import HOW_TO_GET_IT, find_corpus

ROOT = Path(__file__).parent.parent

LONGEST = (
    "test_gate.py",
    "test_engines.py",
    "test_faults.py",
    "test_cross_check.py",
    "test_watch.py",
    "test_fixtures.py",
)
"""The files that take longest: several processes begin with them, so that none has one of them left at the end."""

# Even where byte code is unwanted: to compile all tests takes each process longer than all else of its start.
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: hundreds of tests run the command, and each would compile it again."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "checkpoint_doctor", quiet=2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a file: what they share is made once, and not once in each process."""
    if config.getoption("dist") not in ("load", "loadgroup"):  # something else was asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, where files are given to processes as these have time."""
    if hasattr(config, "workerinput"):
        order = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.name, len(order)))


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
